"""``trueline merge``: join the folders of shards that were drawn on several machines."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trueline.commands._parser import Parser

if TYPE_CHECKING:
    from trueline.files import Folder

PARTS = ("pictures", "seen")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="trueline merge", description="Join the folders of shards of one evaluation.")
    top.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="folders of trueline evaluate --shard"
    )
    top.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the whole; may hold parts already"
    )
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    copied = merge(options.folders, options.out)
    print(
        f"{copied} files into {options.out}; now give the evaluate command with it as --out and without --shard"
    )
    return 0


def merge(folders: Sequence[Path], out: Path) -> int:
    """Copy every file of the shards' pictures and of what was seen in them; returns their number.

    Everything is checked before anything is copied. What one shard has twice over is copied once.

    Raises:
        ValueError: a folder is no evaluation or one with other settings, or two hold different bytes under one name.
    """
    from trueline.files import Folder

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
        _copy(path, Folder((out / name).parent), name.name)
    return len(todo)


def _copy(path: Path, folder: "Folder", name: str) -> None:
    with open(path, "rb") as source:
        folder.write(name, lambda file: shutil.copyfileobj(source, file))


def _manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder}: no folder of trueline evaluate (run.json: {error.strerror})") from None
    except ValueError:
        raise ValueError(f"{folder}/run.json: not whole JSON; copy it again from where it was made") from None
    return manifest


def _files(folder: Path) -> list[Path]:
    """Pictures and what was seen, without what a killed process left half written."""
    found = (path for part in PARTS for path in sorted((folder / part).rglob("*")))
    return [path for path in found if path.is_file() and not path.name.endswith(".tmp")]
