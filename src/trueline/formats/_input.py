"""Reading files: whatever is wrong is one sentence that names file, row, field and cure."""

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from trueline import files
from trueline.errors import short
from trueline.formats._conversion import IMAGE, Options

MAX_BYTES = 1 << 30  #: of one file; COCO's largest has half a gigabyte
MAX_VALUE = 1e9  #: what a coordinate must stay below
MAX_SIDE = 100_000  #: pixels


def read_text(path: Path, options: Options) -> str:
    r"""The file as UTF-8, with or without a byte order mark, line ends as \n.

    Raises:
        ValueError: it is a folder, too large, or not UTF-8.
    """
    if path.is_dir():
        raise mismatch(path, options, "a folder")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: has more than {MAX_BYTES >> 30} GiB; split it")
    return files.read_text(path, options.cure).replace("\r\n", "\n")


def read_json(path: Path, options: Options) -> Any:
    """The JSON value of a whole file."""
    return files.parse_json(read_text(path, options), str(path), options.cure)


def read_rows(path: Path, options: Options, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A JSON list of objects, the first of which has these keys; an object alone is a list of one."""
    content = read_json(path, options)
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise mismatch(path, options, describe(content))
    if any(key not in rows[0] for key in keys):
        raise mismatch(path, options, describe(content))
    return rows


def json_files(path: Path, options: Options) -> list[Path]:
    """The file, or the folder's JSON files in the order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.json"))
    if not found:
        raise mismatch(path, options, "a folder without .json files")
    return found


def mismatch(path: Path, options: Options, found: str) -> ValueError:
    return ValueError(
        f"{path}: {options.format} is {options.form}; found {found}; name the format that the file has"
    )


def describe(value: Any) -> str:
    """A JSON value in a few words."""
    if isinstance(value, dict):
        return f"an object with {_keys(value)}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"a list of objects, the first with {_keys(value[0])}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the value {short(value)}"


def _keys(row: dict[str, Any]) -> str:
    names = [name if name.isidentifier() else short(name) for name in list(row)[:8]]
    return f"the keys {', '.join(names)}{', ...' if len(row) > 8 else ''}" if names else "no keys"


def objects(rows: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """The rows, which must all be JSON objects; ``where`` the list stands."""
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{where}[{place}]: must be an object (got {short(row)})")
    return list(rows)


def image_of(file: str, folder: Path, options: Options) -> dict[str, str]:
    """What ``meta.picture`` says of a picture that is there: its path. ``file``: as another file names it, by a
    path of any system; ``folder``: where the format keeps it."""
    name = PureWindowsPath(file)
    places = [folder / name.as_posix()]
    if options.pictures:
        places = [options.pictures / name.as_posix(), options.pictures / name.name]
    found = (place for place in places if "\0" not in file and place.is_file())
    return next(({IMAGE: str(place)} for place in found), {})


def field_of(
    row: dict[str, Any],
    key: str,
    kind: type | tuple[type, ...],
    what: str,
    where: str,
    default: Any = None,
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
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_VALUE


def side(row: dict[str, Any], key: str, where: str) -> int:
    """A width or height in pixels; 640.0 is 640."""
    value: Any = row.get(key)
    if not is_number(value) or value != int(value) or not 1 <= value <= MAX_SIDE:
        got = "it is missing" if key not in row else f"got {short(value)}"
        raise ValueError(f"{where}, {key}: must be a whole number of pixels ({got})")
    return int(value)
