"""The phases in which judges look at a run's pictures: one for each judge."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from trueline.engine import Phase
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.judgements import Judgement
from trueline.evaluation.run import REFERENCE, EvaluationRun, Judge, part_of_unit
from trueline.files import Bundle, Job, Outcome, json_digest
from trueline.pictures import BrokenPicture, open_picture


def judging(run: EvaluationRun, methods: Sequence[str], judge: Judge) -> Phase:
    """The shard's pictures of these methods, batch by batch, of which a method has any. ``run.failed`` must be known.

    Its jobs raise ValueError: a picture is broken, or the judge gives a number that is not finite.
    """

    def look(job: Job) -> Outcome:
        method, number = job.spec
        return _looked(run, method, judge, number)

    found = [_jobs(run, method, judge, number) for method in methods for number in run.mine]
    return Phase(f"{judge.name} judging", [job for jobs in found for job in jobs], lambda: look)


def seen(run: EvaluationRun, method: str, judge: Judge) -> list[Judgement]:
    """What the judge saw in the shard's pictures, in their order; {} for one that the method does not have."""
    of: dict[str, Judgement] = {}
    for number in run.mine:
        if there := _there(run, method, number):
            of |= zip((p.name for p in there), _load(run, method, judge, number, len(there)), strict=True)
    return [of.get(picture.name, {}) for number in run.mine for picture in run.batches[number]]


def _there(run: EvaluationRun, method: str, number: int) -> list[Wanted]:
    return [picture for picture in run.batches[number] if run.exists_for(method, picture)]


def _about(run: EvaluationRun, method: str, judge: Judge, there: Sequence[Wanted]) -> dict[str, Any]:
    """Who looked by which rules, at what."""
    about: dict[str, Any] = {"protocol": judge.protocol, "names": [picture.name for picture in there]}
    if method in run.elsewhere:  # pictures that others may change
        about["sha256"] = [run.elsewhere[method].digest(picture) for picture in there]
    return about


def _jobs(run: EvaluationRun, method: str, judge: Judge, number: int) -> list[Job]:
    """One; none where there is no picture."""
    there = _there(run, method, number)
    digest = json_digest(_about(run, method, judge, there))[:8]
    unit = f"look/{part_of_unit(method)}/{part_of_unit(judge.name)}/{number:05d}-{digest}"
    names = tuple(f"{method}/{picture.name} ({judge.name})" for picture in there)
    return [Job(unit, (method, number), names)] if there else []


def _file(method: str, judge: Judge, number: int) -> str:
    return f"seen/{method}/{judge.name}/{number:05d}.npz"


def _looked(run: EvaluationRun, method: str, judge: Judge, number: int) -> Outcome:
    there, files = _there(run, method, number), Bundle()
    images = [_open(run, method, picture) for picture in there]
    found = judge.look([picture.example for picture in there], images)
    _refuse_nan(method, judge, there, found)
    arrays: dict[str, Any] = {
        f"{row}/{key}": array for row, each in enumerate(found) for key, array in each.items()
    }
    arrays["about"] = np.array(json.dumps(_about(run, method, judge, there)))
    files.write(_file(method, judge, number), lambda file: np.savez(file, **arrays))
    return Outcome(files.files)


def _load(run: EvaluationRun, method: str, judge: Judge, number: int, count: int) -> list[Judgement]:
    found: list[Judgement] = [{} for _ in range(count)]
    with np.load(run.out / _file(method, judge, number)) as file:
        for key in file.files:
            row, slash, name = key.partition("/")
            if slash:
                found[int(row)][name] = file[key]
    return found


def _open(run: EvaluationRun, method: str, picture: Wanted) -> Image.Image:
    if method == REFERENCE:
        image = run.benchmark.reference(picture.example)
        if image is None:
            raise ValueError(f"{run.benchmark.name}: {picture.example.id} has no reference picture")
        return image
    try:
        return open_picture(run.path(method, picture))
    except BrokenPicture as error:
        cure = "make it again" if method in run.elsewhere else "run the same command again to draw it"
        raise ValueError(f"{error.problem}; {cure}") from None


def _refuse_nan(method: str, judge: Judge, pictures: Sequence[Wanted], found: Sequence[Judgement]) -> None:
    bad = [
        (picture.name, key)
        for picture, each in zip(pictures, found, strict=True)
        for key, array in each.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if bad:
        raise ValueError(
            f"{judge.name}: {len({name for name, _ in bad})} pictures of {method} give numbers that are not finite, "
            f"first {bad[0][0]} ({bad[0][1]}); load the model with another dtype, or leave it out"
        )
