"""One run of ``trueline generate``: layouts in, files out, fit to be used whenever it stops."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trueline import __version__
from trueline.commands._model import load, warnings_as_lines
from trueline.files import Folder, pixel_hash
from trueline.layout import Layout
from trueline.models.lora import shipped
from trueline.pictures import contact_sheet, overlay
from trueline.sampling.options import Sampling
from trueline.sampling.request import Request

MAX_ON_SHEET = 64  #: pictures; a contact sheet of more is too large to be looked at
SAMPLING = (*Sampling.model_fields, "batch_size")
LOADING = ("model", "revision", "lora", "dtype", "device")


def run(
    layouts: Sequence[Layout],
    settings: dict[str, Any],
    options: argparse.Namespace,
    methods: Sequence[Any] = (),
    make: "Callable[[Run, bool | None], None] | None" = None,
) -> int:
    """Make all pictures; the exit code. What needs no model is checked before the model is loaded.

    ``make``: what draws them, from the run and whether to show progress; None: one picture a job.
    """
    jobs = jobs_of(layouts, settings["n"], settings["seed"])
    Request.of([job.layout for job in jobs], {name: settings[name] for name in SAMPLING})
    state = Run(Folder(options.out), jobs, settings, options.overlay, methods)
    try:
        with warnings_as_lines():
            (make or _make)(state, False if options.quiet else None)
    except KeyboardInterrupt:
        state.close("stopped")
        print(f"trueline: stopped: {state.summary()}", file=sys.stderr)
        return 130
    except BaseException:
        if state.done:
            state.close("failed")
        raise
    state.close("complete")
    print(state.summary())
    return 0


def _make(state: "Run", progress: bool | None) -> None:
    pipe = load(state.settings)
    sampling = {name: state.settings[name] for name in SAMPLING}
    made_with = loading_settings(state.settings) | {"device": str(pipe.backbone.device)}
    for picture in pipe.stream(
        [job.layout for job in state.jobs], methods=state.methods, progress=progress, **sampling
    ):
        state.keep(state.jobs[picture.index], picture.image, picture.record | {"made_with": made_with})


def loading_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """How to load the same pipeline again from anywhere on this machine, with as many threads.

    Threads share sums out among them, so another number of them may round differently.
    """
    loading = {name: settings[name] for name in LOADING}
    for name in ("model", "lora"):
        named = loading[name] in (None, "world") or (
            name == "lora" and shipped(loading["lora"], loading["model"]) is not None
        )
        if not named and Path(loading[name]).exists():
            loading[name] = str(Path(loading[name]).resolve())
    return loading | {"threads": torch.get_num_threads()}


@dataclass(frozen=True)
class Job:
    """One picture to make: its files' name, and a layout that says its seed."""

    name: str
    layout: Layout


def jobs_of(layouts: Sequence[Layout], n: int, seed: int) -> list[Job]:
    """``n`` pictures of each layout with consecutive seeds, from the layout's own seed where it has one.

    Names come from ids and places in the list only, never from a prompt.
    """
    jobs = []
    for place, layout in enumerate(layouts):
        first = seed if layout.seed is None else layout.seed
        stem = layout.id or f"{place:04d}"
        for copy in range(n):
            seeded = Layout.from_record(layout.to_record() | {"seed": first + copy})
            jobs.append(Job(f"{stem}-{copy}", seeded))
    _refuse_equal_names(jobs)
    return jobs


def _refuse_equal_names(jobs: Sequence[Job]) -> None:
    seen: set[str] = set()
    for job in jobs:
        name = job.name.casefold()  # some file systems do not tell upper from lower case
        if name in seen:
            raise ValueError(f"--layout: the id {job.layout.id!r} stands twice; give each layout its own id")
        seen.add(name)


@dataclass
class Run:
    """What is wanted, what is done. Pictures beyond the contact sheet's room are not kept in memory."""

    folder: Folder
    jobs: Sequence[Job]
    settings: dict[str, Any]
    overlay: bool
    methods: Sequence[Any] = ()
    started: float = field(default_factory=time.monotonic)
    done: list[str] = field(default_factory=list)
    shown: dict[str, tuple[Image.Image, Job]] = field(default_factory=dict)

    def keep(self, job: Job, image: Image.Image, record: dict[str, Any]) -> None:
        """Write one picture and its record. The record comes last: where it is, the picture is whole."""
        record = record | {"file": f"{job.name}.png", "sha256": pixel_hash(image)}
        self.folder.write_png(record["file"], image, record)
        if self.overlay:
            self.folder.write_png(f"{job.name}-overlay.png", overlay(image, job.layout))
        self.folder.write_json(f"{job.name}.json", record)
        self.done.append(job.name)
        if len(self.shown) < MAX_ON_SHEET:
            self.shown[job.name] = (image, job)

    def close(self, status: str) -> None:
        """Write run.json (also of a run that was stopped) and the contact sheet of what there is."""
        missing = [job.name for job in self.jobs if job.name not in set(self.done)]
        about = {"status": status, "trueline": __version__, "settings": self.settings}
        seconds = round(time.monotonic() - self.started, 1)
        self.folder.write_json(
            "run.json", about | {"seconds": seconds, "done": self.done, "missing": missing}
        )
        if self.shown:
            shown = [self.shown[job.name] for job in self.jobs if job.name in self.shown]
            images, jobs = zip(*shown, strict=True)
            captions = [f"{job.name}: {job.layout.prompt}" for job in jobs]
            sheet = contact_sheet(images, [job.layout for job in jobs], captions)
            self.folder.write_png("contact.png", sheet)

    def summary(self) -> str:
        place = self.folder.path
        wanted = len(self.jobs)
        if len(self.done) < wanted:
            return f"{len(self.done)} of {wanted} pictures in {place}; {place / 'run.json'} lists the rest"
        pictures = "1 picture" if wanted == 1 else f"{wanted} pictures"
        which = f"the first {MAX_ON_SHEET}" if wanted > MAX_ON_SHEET else "all"
        return f"{pictures} in {place}; {which} with boxes: {place / 'contact.png'}"
