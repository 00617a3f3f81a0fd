"""Reading the files of a benchmark, which are the user's: every failure names the file and where to get it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "TRUELINE_DATA"


@dataclass(frozen=True)
class Source:
    """Where the files of a benchmark come from; said when one is missing."""

    repository: str
    commit: str
    licence: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit} ({self.licence})"


def data_folder(given: str | Path | None = None, source: Source | None = None) -> Path:
    """``given``, or the folder that the environment variable names.

    Raises:
        ValueError: neither is there, or it is not a folder.
    """
    named = given or os.environ.get(VARIABLE)
    files = f"the files of {source}" if source else "the benchmarks' files"
    if not named:
        raise ValueError(f"--data: say where {files} are, with --data DIR or {VARIABLE}=DIR")
    folder = Path(named)
    if not folder.is_dir():
        raise ValueError(
            f"--data: {folder} is not a folder; it must hold {files} ({VARIABLE} can name it too)"
        )
    return folder


def read_text(path: Path, source: Source) -> str:
    """The file as UTF-8, with or without a byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read it ({error.strerror}); it is a file of {source}, below --data DIR or {VARIABLE}"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: not UTF-8 (line {line}, byte {error.start}); convert it, or take the file of {source}"
        ) from None


def read_lines(path: Path, source: Source) -> list[str]:
    """The lines without their ends (LF or CRLF, the last one may lack it) and outer white space; some are empty."""
    return [line.strip() for line in io.StringIO(read_text(path, source))]


def read_json(path: Path, source: Source) -> Any:
    """The JSON value of a whole file."""
    return _parse(read_text(path, source), f"{path}", source)


def read_json_list(path: Path, source: Source) -> list[dict[str, Any]]:
    """A JSON list of objects."""
    rows = read_json(path, source)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must be a list of objects; take the file of {source}")
    return rows


def read_json_object(path: Path, source: Source) -> dict[str, Any]:
    """A JSON object."""
    value = read_json(path, source)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be an object; take the file of {source}")
    return value


def read_json_lines(path: Path, source: Source) -> list[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and JSON object of each line that is not empty."""
    rows = []
    for number, line in enumerate(read_lines(path, source), start=1):
        if line:
            row = _parse(line, f"{path}, line {number}", source)
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be an object; take the file of {source}")
            rows.append((number, row))
    return rows


def read_table(
    path: Path, source: Source, columns: Sequence[str], tabs: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Line number and row of each row of a CSV file with a header (``tabs``: of a TSV file without quotes).

    Every row must have a value, which may be empty, in each of the header's columns.
    """
    text = io.StringIO(read_text(path, source), newline="")
    reader = (
        csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.DictReader(text, strict=True)
    )
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: has no column {', '.join(missing)}; take the file of {source}")
        for row in reader:
            if None in row or None in row.values():
                problem = f"must have {len(reader.fieldnames or ())} columns, as the header"
                raise ValueError(f"{path}, line {reader.line_num}: {problem}; take the file of {source}")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        problem = f"not {'TSV' if tabs else 'CSV'} ({error})"
        raise ValueError(
            f"{path}, line {reader.reader.line_num}: {problem}; take the file of {source}"
        ) from None
    return rows


def _parse(text: str, where: str, source: Source) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}: not whole JSON ({place}); take the file of {source}") from None
    except (RecursionError, ValueError):  # nested or a number too deep or long to be one of the benchmark's
        raise ValueError(f"{where}: not JSON that can be read; take the file of {source}") from None
