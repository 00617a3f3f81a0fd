"""Joins the folders of shards of one evaluation that were drawn on several machines."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trueline.files import Folder, read_json_object


def merge(folders: Sequence[Path], out: Path) -> int:
    """Copy every file of the shards' pictures and of what was seen in them; returns their number.

    Everything is checked before anything is copied. What one shard has twice over is copied once.

    Raises:
        ValueError: a folder is no evaluation or one with other settings, or two hold different bytes under one name.
    """
    manifests = {folder: _manifest(folder) for folder in folders}
    if (out / "run.json").exists():
        manifests = {out: _manifest(out)} | manifests
    first, manifest = next(iter(manifests.items()))
    if strange := [folder for folder, other in manifests.items() if other != manifest]:
        raise ValueError(
            f"{strange[0]}: is a run with other settings than {first}; merge parts of one run only"
        )
    sources: dict[Path, Path] = {}
    for folder in manifests:
        for path in _files(folder):
            name = path.relative_to(folder)
            other = sources.setdefault(name, path)
            if other is not path and other.read_bytes() != path.read_bytes():
                raise ValueError(f"{path}: differs from {other}; one of the two was made with other software")
    Folder(out).write_json("run.json", manifest)
    todo = {name: path for name, path in sources.items() if not (out / name).exists()}
    for name, path in todo.items():
        with open(path, "rb") as source:
            Folder((out / name).parent).write(name.name, partial(shutil.copyfileobj, source))
    return len(todo)


def _manifest(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / "run.json", "give whole folders of trueline evaluate")


def _files(folder: Path) -> list[Path]:
    """Pictures and what was seen, without what a killed process left half written."""
    found = (path for part in ("pictures", "seen") for path in sorted((folder / part).rglob("*")))
    return [path for path in found if path.is_file() and not path.name.endswith(".tmp")]
