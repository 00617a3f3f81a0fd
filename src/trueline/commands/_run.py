"""One run of ``trueline generate``: layouts in, files out, in a state that can be trusted whenever it stops."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from trueline import __version__
from trueline.commands._folder import Folder, pixel_hash
from trueline.layout import Layout
from trueline.sheet import contact_sheet, overlay

MAX_ON_SHEET = 64  #: pictures; a contact sheet of more is too large to be looked at


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
        self.folder.write_json("run.json", about | {"seconds": seconds, "done": self.done, "missing": missing})
        if self.shown:
            shown = [self.shown[job.name] for job in self.jobs if job.name in self.shown]
            images, jobs = zip(*shown, strict=True)
            captions = [f"{job.name}: {job.layout.prompt}" for job in jobs]
            sheet = contact_sheet(images, [job.layout for job in jobs], captions)
            self.folder.write_png("contact.png", sheet)

    def summary(self) -> str:
        place = self.folder.path
        if len(self.done) < len(self.jobs):
            return f"{len(self.done)} of {len(self.jobs)} pictures in {place}; {place / 'run.json'} lists the rest"
        pictures = "1 picture" if len(self.jobs) == 1 else f"{len(self.jobs)} pictures"
        return f"{pictures} in {place}, all of them with their boxes on {place / 'contact.png'}"
