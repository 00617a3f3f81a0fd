"""The folder that ``trueline generate`` fills: pictures, records and a sheet, fit to be used whenever it stops."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trueline import __version__
from trueline.commands._model import load_pipeline, warnings_as_lines
from trueline.errors import redacted
from trueline.exits import NOT_AS_WANTED, stop_code
from trueline.files import Folder, pixel_hash
from trueline.layout import Layout
from trueline.models.lora import shipped
from trueline.pictures import contact_sheet, overlay
from trueline.planner.layouts import planned_by
from trueline.sampling.options import Sampling

MAX_ON_SHEET = 64  #: pictures; a contact sheet of more is too large to be looked at
LOADING = ("model", "revision", "lora", "dtype", "device")


def draw(
    layouts: Sequence[Layout],
    sampling: Sampling,
    settings: dict[str, Any],
    options: argparse.Namespace,
    methods: Sequence[Any] = (),
    make: "Callable[[PictureFolder, bool | None], None] | None" = None,
) -> int:
    """Make all pictures; the exit code. What needs no model is checked before the model is loaded.

    Args:
        settings: for run.json, besides ``sampling``.
        make: what draws them, from the folder and whether to show progress; None: each once.
    """
    wanted = named(layouts, settings["n"], settings["seed"])
    state = PictureFolder(Folder(options.out), wanted, sampling, settings, options.overlay, methods)
    progress = False if options.quiet else None
    try:
        with warnings_as_lines():
            if make is not None:
                make(state, progress)
            else:
                pipe = load_pipeline(settings)
                made_with = loading_settings(settings) | {"device": str(pipe.backbone.device)}
                for picture in pipe.stream(
                    [one.layout for one in wanted], methods=methods, progress=progress, **state.how
                ):
                    record = picture.record | {"made_with": made_with}
                    if picture.failed:
                        state.lose(wanted[picture.index], picture.failed, record)
                    else:
                        state.keep(wanted[picture.index], picture.image, record)
    except KeyboardInterrupt as stop:
        state.close("stopped")
        print(f"trueline: stopped: {state.summary()}", file=sys.stderr)
        return stop_code(stop)
    except BaseException:
        if state.done:
            state.close("failed")
        raise
    state.close("complete")
    print(state.summary())
    return state.failures()


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
    return redacted(loading) | {"threads": torch.get_num_threads()}


@dataclass(frozen=True)
class NamedLayout:
    """One picture to make: its files' name, and a layout that says its seed."""

    name: str
    layout: Layout


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
            pictures.append(NamedLayout(f"{stem}-{copy}", seeded))
            name = pictures[-1].name.casefold()  # some file systems do not tell upper from lower case
            if name in taken:
                raise ValueError(f"--layout: the id {layout.id!r} stands twice; give each layout its own id")
            taken.add(name)
    return pictures


@dataclass
class PictureFolder:
    """What is wanted, what is done. Pictures beyond the contact sheet's room are not kept in memory."""

    folder: Folder
    wanted: Sequence[NamedLayout]
    sampling: Sampling
    settings: dict[str, Any]
    overlay: bool
    methods: Sequence[Any] = ()
    started: float = field(default_factory=time.monotonic)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  #: pictures that could not be made, and why
    answered: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  #: who answered what, counted, besides plans
    shown: dict[str, tuple[Image.Image, NamedLayout]] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, Any]:
        """Options for the pipeline."""
        return {"sampling": self.sampling, "batch_size": self.settings["batch_size"]}

    def keep(self, picture: NamedLayout, image: Image.Image, record: dict[str, Any]) -> None:
        """Write one picture and its record. The record comes last: where it is, the picture is whole."""
        record = record | {"file": f"{picture.name}.png", "sha256": pixel_hash(image)}
        self.folder.write_png(record["file"], image, record)
        if self.overlay:
            self.folder.write_png(f"{picture.name}-overlay.png", overlay(image, picture.layout))
        self.folder.write_json(f"{picture.name}.json", record)
        self.done.append(picture.name)
        if len(self.shown) < MAX_ON_SHEET:
            self.shown[picture.name] = (image, picture)

    def lose(self, picture: NamedLayout, why: str, record: dict[str, Any] | None = None) -> None:
        """Write the record of a picture that could not be made; no older picture stays beside it."""
        self.failed[picture.name] = why
        (self.folder.path / f"{picture.name}.png").unlink(missing_ok=True)
        if record is not None:
            self.folder.write_json(f"{picture.name}.json", record)

    def failures(self) -> int:
        """Name the pictures that could not be made; the exit code."""
        for name, why in self.failed.items():
            print(f"trueline: {name} could not be made: {why}", file=sys.stderr)
        return NOT_AS_WANTED if self.failed else 0

    def close(self, status: str) -> None:
        """Write run.json (also of a run that was stopped) and the contact sheet of what there is."""
        missing = [picture.name for picture in self.wanted if picture.name not in set(self.done)]
        settings = redacted(self.settings) | dict(self.sampling)
        about = {
            "status": status,
            "trueline": __version__,
            "settings": settings,
            "answered": self._answered(),
        }
        seconds = round(time.monotonic() - self.started, 1)
        self.folder.write_json(
            "run.json",
            about | {"seconds": seconds, "done": self.done, "missing": missing, "failed": self.failed},
        )
        if self.shown:
            shown = [self.shown[picture.name] for picture in self.wanted if picture.name in self.shown]
            images, pictures = zip(*shown, strict=True)
            captions = [f"{picture.name}: {picture.layout.prompt}" for picture in pictures]
            sheet = contact_sheet(images, [picture.layout for picture in pictures], captions)
            self.folder.write_png("contact.png", sheet)

    def _answered(self) -> dict[str, dict[str, int]]:
        planners = Counter(filter(None, (planned_by(picture.layout) for picture in self.wanted)))
        return ({"plans": dict(planners)} if planners else {}) | self.answered

    def summary(self) -> str:
        place = self.folder.path
        wanted = len(self.wanted)
        if len(self.done) < wanted:
            return f"{len(self.done)} of {wanted} pictures in {place}; {place / 'run.json'} lists the rest"
        pictures = "1 picture" if wanted == 1 else f"{wanted} pictures"
        which = f"the first {MAX_ON_SHEET}" if wanted > MAX_ON_SHEET else "all"
        return f"{pictures} in {place}; {which} with boxes: {place / 'contact.png'}"
