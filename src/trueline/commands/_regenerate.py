"""``trueline generate --regenerate``: a recorded picture once more, and whether every pixel is the same."""

import argparse
from pathlib import Path
from typing import Any

import torch

from trueline.commands._model import load_pipeline, warnings_as_lines
from trueline.commands._parser import DTYPES
from trueline.errors import FieldError
from trueline.files import Folder, pixel_hash, read_json
from trueline.layout import Layout
from trueline.methods import of_record
from trueline.pictures import overlay
from trueline.sampling.records import RECORD_SCHEMA, versions

NEEDED = {"layout": dict, "seed": int, "model": dict, "batch": dict, "made_with": dict, "sha256": str}
MAX_BATCH = 1000  #: pictures; a record that asks for more was not written here


def regenerate(options: argparse.Namespace) -> int:
    """Write NAME-again.png beside its new record, and compare: 0 when every pixel is equal, else 1."""
    path = Path(options.regenerate)
    old, folder = read_record(path), Folder(options.out)
    with warnings_as_lines():
        picture = _remake(old)
    name, sha = f"{path.stem}-again", pixel_hash(picture.image)
    record = picture.record | {"made_with": old["made_with"], "file": f"{name}.png", "sha256": sha}
    target = folder.write_png(record["file"], picture.image, record)
    if options.overlay:
        folder.write_png(f"{name}-overlay.png", overlay(picture.image, Layout.from_record(old["layout"])))
    folder.write_json(f"{name}.json", record)
    same = sha == old["sha256"]
    print(f"{target}: {'the same picture, bit for bit' if same else _difference(old)}")
    return 0 if same else 1


def _remake(old: dict[str, Any]) -> Any:
    made_with = old["made_with"]
    torch.set_num_threads(made_with["threads"])
    # The commit that was loaded then, not what the branch or tag means today.
    pipe = load_pipeline(made_with | {"revision": old["model"]["revision"] or made_with["revision"]})
    try:
        return pipe.remake(old, methods=of_record(old["methods"]))
    except (KeyError, TypeError, FieldError) as error:
        raise ValueError(f"--regenerate: the record is not whole ({type(error).__name__}: {error})") from None


def read_record(path: Path) -> dict[str, Any]:
    """The record in a file, checked as far as it steers what happens before sampling."""
    try:
        record = read_json(path, "give the NAME.json next to a picture")
    except ValueError as error:
        raise ValueError(f"--regenerate: {error}") from None
    if problem := _problem(record):
        raise ValueError(f"--regenerate: {path} is no record of trueline generate: {problem}")
    return record


def _problem(record: Any) -> str | None:
    """What is wrong with the parts that choose weights, threads and batch; None if nothing is."""
    if not isinstance(record, dict) or record.get("schema") != RECORD_SCHEMA:
        return f"its schema is not {RECORD_SCHEMA}"
    for name, kind in NEEDED.items():
        if not isinstance(record.get(name), kind):
            return f"its {name} is missing or of another type"
    made_with, batch = record["made_with"], record["batch"]
    wrong = {
        "made_with.threads": not _whole(made_with.get("threads"), 1, 4096),
        "made_with.dtype": made_with.get("dtype") not in DTYPES,
        "made_with.model": not isinstance(made_with.get("model"), str),
        "batch.size": not _whole(batch.get("size"), 1, MAX_BATCH),
        "batch.row": not _whole(batch.get("row"), 0, MAX_BATCH),
    }
    return next((f"its {name} is missing or out of range" for name, found in wrong.items() if found), None)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _difference(old: dict[str, Any]) -> str:
    """The verdict, with what is known to change pixels."""
    then, now = old.get("versions", {}), versions()
    changed = [
        f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]
    ]
    why = "; ".join(changed) or "same versions: another machine, or other weights"
    return f"NOT the same pixels ({why})"
