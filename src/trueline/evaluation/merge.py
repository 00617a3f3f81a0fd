"""Joins the folders of shards of one run that were made on several machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.files import Job, Journal, Outcome, RunFolder, read_json_object

MANIFEST, DONE = "run.json", ("progress", "done")
OF_ONE_PROCESS = ("begun",)  #: what the manifests of one run's shards need not have in common


@dataclass(frozen=True)
class Merged:
    """``files``: that were copied. ``broken``: units of a shard whose files are not what it wrote."""

    files: int
    broken: tuple[str, ...]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Copy every unit that the shards' journals call done, and note it as done in ``out``.

    Everything is checked before anything is copied. What one shard has twice over is copied once.

    Raises:
        ValueError: a folder is no run or one with other settings, or two hold different bytes under one name.
    """
    manifests = {folder: _manifest(folder) for folder in folders}
    if (out / MANIFEST).exists():
        manifests = {out: _manifest(out)} | manifests
    first, manifest = next(iter(manifests.items()))
    if strange := [folder for folder, other in manifests.items() if other != manifest]:
        raise ValueError(
            f"{strange[0]}: is a run with other settings than {first}; merge parts of one run only"
        )
    journals = {folder: Journal(folder.joinpath(*DONE), folder) for folder in manifests}
    _refuse_differing(journals)
    run = RunFolder(out, manifest["command"], manifest["settings"], manifest["ids"])
    copied = 0
    for folder, journal in journals.items():
        copied += sum(_copy(run, folder, line) for unit in journal.lines if (line := journal.done(unit)))
    broken = [
        f"{folder}: {unit}"
        for folder, journal in journals.items()
        for unit in journal.lines
        if not run.done(Job(unit))
    ]
    return Merged(copied, tuple(broken))


def _manifest(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: there is none of a run of today.
    """
    found = read_json_object(folder / MANIFEST, "give whole folders of trueline generate or evaluate")
    if not {"command", "settings", "ids"} <= found.keys():
        raise ValueError(f"{folder}: holds a run of another version of Trueline; merge it with that version")
    return {name: value for name, value in found.items() if name not in OF_ONE_PROCESS}


def _refuse_differing(journals: dict[Path, Journal]) -> None:
    sources: dict[str, Path] = {}
    for folder, journal in journals.items():
        names = dict.fromkeys(n for lines in journal.lines.values() for line in lines for n in line["files"])
        for path in (folder / name for name in names if (folder / name).exists()):
            other = sources.setdefault(str(path.relative_to(folder)), path)
            if other is not path and other.read_bytes() != path.read_bytes():
                raise ValueError(f"{path}: differs from {other}; one of the two was made with other software")


def _copy(run: RunFolder, folder: Path, line: dict[str, Any]) -> int:
    """The number of files; 0 where they are there already."""
    job = Job(line["unit"])
    with run.unit(job) as claim:
        if claim is None:
            return 0
        about = {name: value for name, value in line.items() if name not in ("unit", "files", "failed")}
        files = {name: (folder / name).read_bytes() for name in line["files"]}
        run.keep(claim, job, Outcome(files, line.get("failed", {}), about), about.get("seconds", 0.0))
        return len(files)
