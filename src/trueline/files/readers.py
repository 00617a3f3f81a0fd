"""Strict readers of text, JSON and tables.

A reader's ``cure`` ends the sentence that says what is wrong with a file: "take the file of SOMEWHERE".
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueline.errors import FieldError, unique_keys


def read_text(path: Path, cure: str) -> str:
    """The file as UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot read it ({error.strerror}); {cure}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: not UTF-8 (line {line}, byte {error.start}); convert it, or {cure}"
        ) from None


def read_lines(path: Path, cure: str) -> list[str]:
    """The lines without their ends (LF or CRLF) and without white space around them; some may be empty."""
    return [line.strip() for line in io.StringIO(read_text(path, cure))]


def read_json(path: Path, cure: str) -> Any:
    """The JSON value of a whole file.

    Raises:
        ValueError: it cannot be read, or is not JSON.
    """
    return parse_json(read_text(path, cure), f"{path}", cure)


def read_json_list(path: Path, cure: str) -> list[dict[str, Any]]:
    """A JSON list of objects."""
    rows = read_json(path, cure)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must be a list of objects; {cure}")
    return rows


def read_json_object(path: Path, cure: str) -> dict[str, Any]:
    """A JSON object."""
    value = read_json(path, cure)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be an object; {cure}")
    return value


def read_json_lines(path: Path, cure: str) -> list[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and JSON object of each line that is not empty."""
    rows = []
    for number, line in enumerate(read_lines(path, cure), start=1):
        if line:
            row = parse_json(line, f"{path}, line {number}", cure)
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be an object; {cure}")
            rows.append((number, row))
    return rows


def read_table(
    path: Path, cure: str, columns: Sequence[str], tabs: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Line number and row of each row of a CSV file with a header (``tabs``: of a TSV file without quotes).

    Every row must have a value, which may be empty, in each of the header's columns.

    Raises:
        ValueError: it cannot be read, one of ``columns`` is missing, or a row is longer or shorter than the header.
    """
    text = io.StringIO(read_text(path, cure), newline="")
    reader = (
        csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.DictReader(text, strict=True)
    )
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: has no column {', '.join(missing)}; {cure}")
        for row in reader:
            if None in row or None in row.values():
                problem = f"must have {len(reader.fieldnames or ())} columns, as the header"
                raise ValueError(f"{path}, line {reader.line_num}: {problem}; {cure}")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        problem = f"not {'TSV' if tabs else 'CSV'} ({error})"
        raise ValueError(f"{path}, line {reader.reader.line_num}: {problem}; {cure}") from None
    return rows


def parse_json(text: str, where: str, cure: str) -> Any:
    """The JSON value of a text; ``where`` it stands begins the sentence of a ValueError."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except FieldError as error:
        raise ValueError(f"{where}: {error}, or {cure}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}: not whole JSON ({place}); {cure}") from None
    except (RecursionError, ValueError):
        # nested too deep, or a number of too many digits
        raise ValueError(f"{where}: not JSON that can be read; {cure}") from None
