"""Looks on the way: pictures drawn every so many steps, their scores, the best step kept, and when to stop.

Any recipe may score the pictures (``Task.look``) and say which score is the best's (``Task.best``); why, and what can
be scored beside a reward, is in ``objectives.watch``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from trueline.files import Folder
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.pictures import contact_sheet
from trueline.sampling.pipeline import Pipeline
from trueline.training.early_stop import Best
from trueline.training.log import LOOK
from trueline.training.recipes.recipe import Task
from trueline.training.settings import Validation

BEST, ABOUT = "best", "best.json"
COMPARED = "diversity"  #: a score of this name is also logged as a share of the base's own
ON_SHEET = 64  #: pictures


def as_shown(step: int, writer: Any) -> Mapping[str, float]:
    """A look that draws nothing."""
    return {}


@dataclass
class Looks:
    """When to look, what came of it, and the best step's weights.

    Args:
        take: (step, TensorBoard's writer or None) -> scores of what was drawn, larger is better; {} = none. It must
            leave the nets as they were.
        every: steps between looks.
        scored: there are scores: look before the first step too, at the base that later ones are compared with.
        score: the one that makes a step the best, whose weights ``save`` writes into ``home``/best; None = none.
        patience: looks without a better one after which to stop; 0 = never. ``least``: what counts as better.
        of: what the scores depend on beside the weights. Where a run goes on with another one, the best begins anew.
        say: hears of each look in a sentence.
    """

    take: Callable[[int, Any], Mapping[str, float] | None] = as_shown
    every: int = 0
    scored: bool = False
    score: str | None = None
    patience: int = 0
    least: float = 0.0
    save: Callable[[Path], None] | None = None
    home: Path | None = None
    of: str = ""
    say: Callable[[str], None] = lambda sentence: None

    best: Best = field(init=False)
    last: int = field(default=-1, init=False)  #: the last step that was looked at
    base: dict[str, float] = field(default_factory=dict, init=False)  #: scores of step 0

    def __post_init__(self) -> None:
        self.best = Best(self.patience, self.least)

    def due(self, step: int) -> bool:
        """Whether this step is looked at, and was not yet."""
        if not self.every or step <= self.last or step % self.every:
            return False
        return step > 0 or self.scored

    @property
    def stale(self) -> bool:
        return self.best.stale

    def see(self, step: int, scores: Mapping[str, float]) -> tuple[bool, dict[str, float]]:
        """Whether the step is the best so far, and what is to be logged.

        Raises:
            ValueError: ``score`` is not among the scores.
        """
        self.last = step
        if step == 0:
            self.base = dict(scores)
        found = dict(scores)
        if (was := self.base.get(COMPARED)) and COMPARED in found:
            found[f"{COMPARED}_kept"] = found[COMPARED] / was
        better = False
        if self.score is not None:
            if self.score not in found:
                raise ValueError(
                    f"validation: the look gave no score {self.score!r}, only {', '.join(found)}"
                )
            better = self.best.see(step, found[self.score])
        if found:
            self.say(self._sentence(step, found))
        return better, {LOOK + name: value for name, value in found.items()}

    def _sentence(self, step: int, found: Mapping[str, float]) -> str:
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        if self.score is None or self.best.step is None:
            return f"look at step {step}: {told}"
        return (
            f"look at step {step}: {told}; best {self.score} {self.best.score:.4g} at step {self.best.step}"
        )

    # The best step's weights

    def keep(self) -> None:
        """Write what is in the nets as the best; it appears whole, and the one before stays until then."""
        if self.save is None or self.home is None:
            return
        target, beside = self.home / BEST, self.home / f".{BEST}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        self.save(beside)
        Folder(beside).write_json(ABOUT, self.about())
        put(beside, target)

    def lost(self, step: int) -> bool:
        """Whether the folder lacks the best step's weights, and the weights of now, of ``step``, are those: the run
        was killed before they were written. Warns where they are not."""
        if self.score is None or self.best.step is None or self.save is None or self.home is None:
            return False
        try:
            kept = json.loads((self.home / BEST / ABOUT).read_text(encoding="utf-8"))["step"]
        except (OSError, ValueError, KeyError, TypeError):
            kept = None
        if kept is None and self.best.step != step:
            warnings.warn(
                f"{self.home / BEST} is gone, and with it the weights of the best step, {self.best.step}; it is "
                "written again at the next better look",
                stacklevel=2,
            )
        return kept != self.best.step == step

    def about(self) -> dict[str, Any]:
        """For the record: the best step, its score, and how many looks were not better since."""
        best = self.best
        value = best.score if math.isfinite(best.score) else None
        return {"score": self.score, "step": best.step, "value": value, "waited": best.waited}

    # Stopping and going on

    def state(self) -> dict[str, Any]:
        return {"of": self.of, "last": self.last, "base": dict(self.base), "best": self.best.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        if state["of"] != self.of:
            if self.scored:
                warnings.warn(
                    "validation: its pictures are other ones than those the run began with, so their scores cannot "
                    "be compared; the best step is sought anew",
                    stacklevel=2,
                )
            return
        self.last, self.base = state["last"], dict(state["base"])
        self.best.load(state["best"])


def put(beside: Path, target: Path) -> None:
    """Let the folder ``beside`` take the place of ``target``, which is there in full until it does."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(beside, target)
    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Pictures:
    """Draws the same layouts from the same noise each time, ``wish.each`` pictures of each, as a contact sheet in
    ``validation``; and lets the task score them."""

    task: Task
    backbone: Backbone
    layouts: Sequence[Layout]
    wish: Validation
    home: Folder

    def __call__(self, step: int, writer: Any) -> Mapping[str, float]:
        layouts = self._copies
        images = Pipeline(self.backbone)(layouts, **self._options()).images
        self._write(step, writer, "validation", images, layouts)
        if self.task.view:
            views = [self.task.view(*pair) for pair in zip(images, layouts, strict=True)]
            self._write(step, writer, "attention", views, layouts)
        return self.task.look(images, layouts) if self.task.look else {}

    def check(self) -> None:
        """
        Raises:
            ValueError: a layout that the model, its methods or the task's view cannot take.
        """
        where = ""
        try:
            Pipeline(self.backbone).stream(self._copies, **self._options())  # draws nothing until it is asked
            for number, layout in enumerate(self.layouts, start=1):
                where = f"layout {number}: "
                self.task.fits(layout)
        except ValueError as error:
            raise ValueError(
                f"validation.layouts: {where}{error}; give layouts that this run can draw"
            ) from None

    @property
    def _copies(self) -> list[Layout]:
        return [layout for layout in self.layouts for _ in range(self.wish.each)]

    def _options(self) -> dict[str, Any]:
        wish, count = self.wish, len(self.layouts)
        return {
            "methods": self.task.methods(),
            "steps": wish.steps,
            "guidance_scale": wish.guidance_scale,
            # The first picture of a layout has the same noise whatever ``each`` is.
            "seeds": [
                wish.seed + place + copy * count for place in range(count) for copy in range(wish.each)
            ],
            "progress": False,
        }

    def _write(
        self, step: int, writer: Any, name: str, images: Sequence[Image], layouts: Sequence[Layout]
    ) -> None:
        """``name``: in TensorBoard; files have none but for other sheets than the pictures'."""
        sheet = contact_sheet(images[:ON_SHEET], layouts[:ON_SHEET])
        kind = "" if name == "validation" else f"-{name}"
        Folder(self.home.path / "validation").write_png(f"step-{step:08d}{kind}.png", sheet)
        if writer is not None:
            writer.add_image(name, np.asarray(sheet), step, dataformats="HWC")
