"""The run of ``trueline generate``: its batches, what each picture leaves in the folder, and the sheet at the end."""

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trueline.chat.answered import Answered
from trueline.commands._engine import recorded_end
from trueline.commands._model import load_pipeline, warnings_as_lines
from trueline.commands._planners import PLANS, Planning, not_as_asked
from trueline.engine import Engine, Phase, Shard, batched, carry_out
from trueline.errors import redacted
from trueline.exits import NOT_AS_WANTED
from trueline.files import (
    Bundle,
    Job,
    OtherRun,
    Outcome,
    RunFolder,
    json_digest,
    json_lines,
    pixel_hash,
    read_json_object,
)
from trueline.layout import Layout, read_layouts
from trueline.models.lora import shipped
from trueline.pictures import contact_sheet, open_picture, overlay
from trueline.sampling.heat_maps import HeatMaps
from trueline.sampling.loop import check_layouts
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import Pipeline

MAX_ON_SHEET = 64  #: pictures; a contact sheet of more is too large to be looked at
LOADING = ("model", "revision", "lora", "dtype", "device")
PLANNED_AT_ONCE = 16  #: prompts in a unit of planning
SHEET = "contact.png"


@dataclass(frozen=True)
class NamedLayout:
    """One picture to make: its files' name, a layout that says its seed, and its place among all."""

    name: str
    layout: Layout
    index: int


class BatchFiles(Bundle):
    """What a batch leaves in the folder: NAME.png and NAME.json of each picture, and what else is written here."""

    def __init__(self, made_with: Mapping[str, Any], with_overlay: bool):
        super().__init__()
        self.failed: dict[str, str] = {}  #: pictures that could not be made, and why
        self.made_with, self._overlay = made_with, with_overlay

    def keep(
        self,
        picture: NamedLayout,
        image: Image.Image,
        record: Mapping[str, Any],
        maps: HeatMaps | None = None,
    ) -> None:
        file = f"{picture.name}.png"
        about = {
            **record,
            "index": picture.index,
            "made_with": self.made_with,
            "file": file,
            "sha256": pixel_hash(image),
        }
        self.write_png(file, image, about)
        if self._overlay:
            self.write_png(f"{picture.name}-overlay.png", overlay(image, picture.layout))
        if maps is not None:
            phrases = np.array(maps.phrases, dtype=np.str_)
            self.write(
                f"{picture.name}-maps.npz",
                lambda file: np.savez_compressed(file, phrases=phrases, shares=maps.shares),
            )
            self.write_png(f"{picture.name}-maps.png", maps.sheet(image, picture.layout))
        self.write_json(f"{picture.name}.json", about)

    def lose(self, picture: NamedLayout, why: str, record: Mapping[str, Any] | None = None) -> None:
        """A picture that could not be made has its record only."""
        self.failed[picture.name] = why
        if record is not None:
            self.write_json(
                f"{picture.name}.json", {**record, "index": picture.index, "made_with": self.made_with}
            )


#: Makes the pictures of a batch with options for the pipeline, and keeps them; returns what the journal shall say
#: besides, such as who answered.
Make = Callable[[Sequence[NamedLayout], Mapping[str, Any], BatchFiles], Mapping[str, Any]]


@dataclass
class PictureRun:
    """What ``trueline generate`` was asked for, checked as far as that needs no model, and the folder of it.

    Args:
        settings: all but ``sampling`` that decides the pictures, and the device.
        planning: who makes boxes that are missing; None: nobody.
        redrawing: of --realign, else None.
    """

    out: str
    layouts: Sequence[Layout]
    sampling: Sampling
    settings: dict[str, Any]
    methods: Sequence[Any]
    engine: Engine
    shard: Shard
    planning: Planning | None = None
    redrawing: Any = None
    overlay: bool = False
    quiet: bool = False
    overwrite: bool = False

    def __call__(self) -> int:
        """Make all pictures that are not there yet; the exit code."""
        if self.shard.count > 1 and self.planning is not None and not self.planning.repeatable:
            raise ValueError(
                f"--shard: {self.planning.spec} may plan otherwise in each shard; make the boxes first, with "
                "trueline plan, and give them as --layout"
            )
        self.wanted = named(self.layouts, self.settings["n"], self.settings["seed"])
        self.jobs = self._picture_jobs()
        names = [one.name for one in self.wanted]
        try:
            self.run = RunFolder(self.out, "generate", self._manifest(), names, overwrite=self.overwrite)
        except OtherRun as error:
            raise ValueError(f"{error}; --overwrite removes its pictures first") from None
        with warnings_as_lines(), recorded_end(self._stopped):
            if not carry_out(self.run, self._phases(), self.engine, self.quiet):
                return 0
            self._end("complete")
        print(self._summary())
        if self.redrawing is not None:
            told = self.redrawing.told([self.run.about(job) for job in self.jobs])
            print(f"trueline: {told}", file=sys.stderr)
        failed = self.run.failed(self.jobs)
        for name, why in failed.items():
            print(f"trueline: {name} could not be made: {why}", file=sys.stderr)
        return max(NOT_AS_WANTED if failed else 0, not_as_asked(self._answered()))

    def _manifest(self) -> dict[str, Any]:
        about = {name: value for name, value in self.settings.items() if name not in ("device", "offload")}
        about |= {"overlay": self.overlay, "layouts": json_digest([one.to_record() for one in self.layouts])}
        return about | self.sampling.to_record()

    # The work

    def _phases(self) -> Iterator[Phase]:
        if self.planning is not None:
            jobs = self._plan_jobs()
            yield Phase("planning", jobs, lambda: self._plan)
            planned = [layout for job in jobs for layout in read_layouts(self.run.path / f"{job.id}.jsonl")]
            self.planning.look_at(self.layouts, planned)
            self.wanted = named(planned, self.settings["n"], self.settings["seed"])
        yield Phase("drawing", self.jobs, self._prepare)

    def _plan_jobs(self) -> list[Job]:
        firsts = range(0, len(self.layouts), PLANNED_AT_ONCE)
        return [Job(f"plans/{number:05d}", first) for number, first in enumerate(firsts)]

    def _plan(self, job: Job) -> Outcome:
        assert self.planning is not None
        planned = self.planning.plan(self.layouts[job.spec : job.spec + PLANNED_AT_ONCE], job.spec)
        return Outcome({f"{job.id}.jsonl": json_lines([layout.to_record() for layout in planned])})

    def _picture_jobs(self) -> list[Job]:
        def size(place: int) -> tuple[int | None, int | None]:
            layout = self.wanted[place].layout
            return layout.width, layout.height

        groups = batched(range(len(self.wanted)), self.settings["batch_size"], size)
        return [
            Job(f"pictures/{number:05d}", places, tuple(self.wanted[place].name for place in places))
            for number, places in enumerate(groups)
            if self.shard.takes(number)
        ]

    def _prepare(self) -> Callable[[Job], Outcome]:
        pipe = load_pipeline(self.settings)
        made_with = loading_settings(self.settings) | {"device": str(pipe.backbone.device)}
        layouts = [one.layout for one in self.wanted]
        check_layouts(pipe.backbone, layouts, self.methods, strict=self.sampling.strict)
        make = (
            partial(drawn_once, pipe)
            if self.redrawing is None
            else self.redrawing.prepare(pipe, self.settings)
        )
        bar = None if len(self.jobs) == 1 and self.engine.local and not self.quiet else False
        how = {"sampling": self.sampling, "methods": self.methods, "checked": True, "progress": bar}
        if self.settings.get("maps"):
            how["maps"] = True

        def do(job: Job) -> Outcome:
            files = BatchFiles(made_with, self.overlay)
            with _named_in_warnings(job.makes):
                about = make(
                    [self.wanted[place] for place in job.spec], how | {"batch_size": len(job.spec)}, files
                )
            return Outcome(files.files, files.failed, about)

        return do

    # The end

    def _stopped(self, status: str) -> None:
        if self.run.forget():
            return  # the error says it all
        self._end(status)
        print(f"trueline: {status}: {self._summary()}", file=sys.stderr)

    def _end(self, status: str) -> None:
        """Write the contact sheet of what there is, and state.json."""
        with self.run.alone("end", wait=True):
            answered = {what: dict(each.by) for what, each in self._answered().items() if each is not None}
            self.run.close(status, self.jobs, {"answered": answered})
            missing = {*self.run.missing(self.jobs), *self.run.failed(self.jobs)}
            mine = [name for job in self.jobs for name in job.makes]
            if shown := [name for name in mine if name not in missing][:MAX_ON_SHEET]:
                records = [
                    read_json_object(self.run.path / f"{name}.json", "draw it again") for name in shown
                ]
                layouts = [Layout.from_record(record["layout"]) for record in records]
                captions = [f"{name}: {layout.prompt}" for name, layout in zip(shown, layouts, strict=True)]
                images = [open_picture(self.run.path / f"{name}.png") for name in shown]
                self.run.write_png(SHEET, contact_sheet(images, layouts, captions))

    def _answered(self) -> dict[str, Answered | None]:
        """Who answered what, of what is done."""
        plans = {} if self.planning is None else {PLANS: self.planning.answered}
        if self.redrawing is None:
            return plans
        return plans | self.redrawing.answered([self.run.about(job) for job in self.jobs])

    def _summary(self) -> str:
        place, missing = self.run.path, len(self.run.missing(self.jobs))
        wanted = sum(len(job.makes) for job in self.jobs)
        if missing:
            return (
                f"{wanted - missing} of {wanted} pictures in {place}; {place / 'state.json'} lists the rest"
            )
        pictures = "1 picture" if wanted == 1 else f"{wanted} pictures"
        if self.shard.count > 1:
            return (
                f"shard {self.shard} is done: {pictures} in {place}; trueline merge joins the shards' folders"
            )
        which = f"the first {MAX_ON_SHEET}" if wanted > MAX_ON_SHEET else "all"
        shown = "it" if wanted == 1 else f"{which} of them"
        return f"{pictures} in {place}; {place / SHEET} shows {shown}, with the boxes that were asked for"


def drawn_once(
    pipe: Pipeline, batch: Sequence[NamedLayout], how: Mapping[str, Any], files: BatchFiles
) -> Mapping[str, Any]:
    """The pictures of a batch, each once."""
    for picture in pipe.stream([one.layout for one in batch], **how):
        if picture.failed:
            files.lose(batch[picture.index], picture.failed, picture.record)
        else:
            files.keep(batch[picture.index], picture.image, picture.record, picture.maps)
    return {}


@contextmanager
def _named_in_warnings(names: Sequence[str]) -> Iterator[None]:
    """The pipeline counts the pictures of its batch; people know them by name."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    for each in seen:
        text = re.sub(r"^picture (\d+)(?=: )", lambda match: names[int(match[1])], str(each.message))
        warnings.warn_explicit(text, each.category, each.filename, each.lineno)


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
    spared = {name: True for name in ("offload", "vae_tiling") if settings.get(name)}
    return redacted(loading) | spared | {"threads": torch.get_num_threads()}


def named(layouts: Sequence[Layout], n: int, seed: int) -> list[NamedLayout]:
    """``n`` pictures of each layout with consecutive seeds, from the layout's own seed where it has one.

    Names come from ids and places in the list only, never from a prompt.
    """
    pictures: list[NamedLayout] = []
    taken: set[str] = set()
    for place, layout in enumerate(layouts):
        first = seed if layout.seed is None else layout.seed
        stem = layout.id or f"{place:04d}"
        for copy in range(n):
            seeded = Layout.from_record(layout.to_record() | {"seed": first + copy})
            pictures.append(NamedLayout(f"{stem}-{copy}", seeded, len(pictures)))
            name = pictures[-1].name.casefold()  # some file systems do not tell upper from lower case
            if name in taken:
                raise ValueError(f"--layout: the id {layout.id!r} stands twice; give each layout its own id")
            taken.add(name)
    return pictures
