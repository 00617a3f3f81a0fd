"""Reading the files of others: whatever is wrong is one sentence that names file, row, field and cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 30  #: of one file; COCO's largest has half a gigabyte
MAX_VALUE = 1e9  #: of a coordinate
MAX_SIDE = 100_000  #: pixels


def read_text(path: Path, format: str, form: str) -> str:
    """The file as UTF-8, with or without a byte order mark, line ends as \\n.

    Raises:
        ValueError: it is a folder, too large, or not UTF-8.
    """
    if path.is_dir():
        raise mismatch(path, format, form, "a folder")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: has more than {MAX_BYTES >> 30} GiB; split it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise mismatch(path, format, form, f"bytes that are no UTF-8 (at byte {error.start})") from None
    return text.replace("\r\n", "\n")


def read_json(path: Path, format: str, form: str) -> Any:
    """The JSON value of a whole file."""
    text = read_text(path, format, form)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise mismatch(path, format, form, f"no whole JSON ({place})") from None
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        raise mismatch(path, format, form, "JSON too deep or too long to be one") from None


def read_rows(path: Path, format: str, form: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """A JSON list of objects with these keys; an object alone is a list of one."""
    content = read_json(path, format, form)
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise mismatch(path, format, form, found(content))
    if any(key not in rows[0] for key in keys):
        raise mismatch(path, format, form, found(content))
    return rows


def json_files(path: Path, format: str, form: str) -> list[Path]:
    """The file, or the folder's JSON files in the order of their names."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise mismatch(path, format, form, "a folder without .json files")
    return files


def mismatch(path: Path, format: str, form: str, what: str) -> ValueError:
    return ValueError(f"{path}: {format} is {form}; found {what}; name the format that the file has")


def found(value: Any) -> str:
    """A JSON value in a few words."""
    if isinstance(value, dict):
        return f"an object with {_keys(value)}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"a list of objects, the first with {_keys(value[0])}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the value {short(value)}"


def _keys(value: dict[str, Any]) -> str:
    names = list(value)[:8]
    return (
        f"the keys {', '.join(map(short, names))}{', ...' if len(value) > 8 else ''}" if names else "no keys"
    )


def short(value: Any) -> str:
    text = value if isinstance(value, str) and value.isidentifier() else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def field_of(
    row: Any, key: str, kind: type | tuple[type, ...], what: str, where: str, default: Any = None
) -> Any:
    """``row[key]``, which must be of that kind; ``default`` where it is missing or null."""
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        got = "it is missing" if key not in row else f"got {short(value)}"
        raise ValueError(f"{where}, {key}: must be {what} ({got})")
    return value


def numbers(value: Any, count: int, what: str, where: str) -> list[float]:
    """So many finite numbers; ``what`` they are, for the message."""
    right = isinstance(value, list | tuple) and len(value) == count and all(map(is_number, value))
    if not right:
        raise ValueError(f"{where}: must be {what} (got {short(value)})")
    return [float(number) for number in value]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_VALUE


def side(row: dict[str, Any], key: str, where: str) -> int:
    """A width or height in pixels; 640.0 is 640."""
    value: Any = row.get(key)
    if not is_number(value) or value != int(value) or not 1 <= value <= MAX_SIDE:
        got = "it is missing" if key not in row else f"got {short(value)}"
        raise ValueError(f"{where}, {key}: must be a whole number of pixels ({got})")
    return int(value)
