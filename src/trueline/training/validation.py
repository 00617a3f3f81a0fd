"""Validation on the way: when pictures are drawn and scored, which step was best, and when to stop.

Any recipe may score the pictures (``Task.scores``) and say which score makes a step the best (``Task.best``); why,
and what can be scored besides a reward, is in ``training.early_stop``.
"""

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueline.files import Folder, disk_full_said
from trueline.training.early_stop import Best
from trueline.training.log import SCORES
from trueline.training.settings import Validation

BEST, ABOUT = "best", "best.json"
COMPARED = "diversity"  #: a score of this name is also logged as a share of the base's own


@dataclass
class Validator:
    """When to validate, what came of it, and the best step's weights.

    Args:
        settings: ``every``, ``patience`` and ``least``.
        draw: (step, TensorBoard's writer or None) -> scores of what was drawn, larger is better; {} or None = none.
            It must leave the nets as they were.
        scored: there are scores: validate before the first step too, at the base that later ones are compared with.
        score: the one that makes a step the best, whose weights ``save`` writes into ``home``/best; None = none.
        depends_on: what the scores depend on besides the weights. Where a run goes on with another one, the best
            begins anew.
    """

    settings: Validation
    draw: Callable[[int, Any], Mapping[str, float] | None]
    scored: bool = False
    score: str | None = None
    save: Callable[[Path], None] | None = None
    home: Path | None = None
    depends_on: str = ""

    best: Best = field(init=False)
    last: int = field(default=-1, init=False)  #: the last step that was validated
    base: dict[str, float] = field(default_factory=dict, init=False)  #: scores of step 0

    def __post_init__(self) -> None:
        self.best = Best(self.settings.patience, self.settings.least)

    def due(self, step: int) -> bool:
        """Whether this step is validated, and was not yet."""
        every = self.settings.every
        if not every or step <= self.last or step % every:
            return False
        return step > 0 or self.scored

    @property
    def stale(self) -> bool:
        return self.best.stale

    def take(self, step: int, scores: Mapping[str, float]) -> tuple[bool, dict[str, float]]:
        """Whether the step is the best so far, and what is to be logged.

        Raises:
            ValueError: ``score`` is not among the scores.
        """
        self.last = step
        if step == 0:
            self.base = dict(scores)
        logged = dict(scores)
        if (was := self.base.get(COMPARED)) and COMPARED in logged:
            logged[f"{COMPARED}_kept"] = logged[COMPARED] / was
        better = False
        if self.score is not None:
            if self.score not in logged:
                raise ValueError(f"validation: there is no score {self.score!r}, only {', '.join(logged)}")
            better = self.best.take(step, logged[self.score])
        return better, {SCORES + name: value for name, value in logged.items()}

    def sentence(self, step: int, logged: Mapping[str, float]) -> str:
        """What ``take`` logged, and the best so far."""
        values = (f"{name.removeprefix(SCORES)} {value:.4g}" for name, value in logged.items())
        sentence = f"validation at step {step}: {', '.join(values)}"
        if self.score is None or self.best.step is None:
            return sentence
        return f"{sentence}; best {self.score} {self.best.score:.4g} at step {self.best.step}"

    # The best step's weights

    def keep(self) -> None:
        """Write what is in the nets as the best; it appears whole, and the one before stays until then."""
        if self.save is None or self.home is None:
            return
        target, temporary = self.home / BEST, self.home / f".{BEST}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with disk_full_said(target):
            self.save(temporary)
        Folder(temporary).write_json(ABOUT, self.about())
        replace_folder(temporary, target)

    def lost(self, step: int) -> bool:
        """Whether the folder lacks the best step's weights, and the weights of now, of ``step``, are those: the run
        was killed before they were written. Warns where they are not."""
        if self.score is None or self.best.step is None or self.save is None or self.home is None:
            return False
        try:
            written = json.loads((self.home / BEST / ABOUT).read_text(encoding="utf-8"))["step"]
        except (OSError, ValueError, KeyError, TypeError):
            written = None
        if written is None and self.best.step != step:
            warnings.warn(
                f"{self.home / BEST} is gone, and with it the weights of the best step, {self.best.step}; it is "
                "written again at the next better score",
                stacklevel=2,
            )
        return written != self.best.step == step

    def about(self) -> dict[str, Any]:
        """For the record: the best step, its score, and how many validations were not better since."""
        best = self.best
        value = best.score if math.isfinite(best.score) else None
        return {"score": self.score, "step": best.step, "value": value, "waited": best.waited}

    # Stopping and going on

    def state(self) -> dict[str, Any]:
        own = {"depends_on": self.depends_on, "last": self.last, "base": dict(self.base)}
        return own | {"best": self.best.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        if state["depends_on"] != self.depends_on:
            if self.scored:
                warnings.warn(
                    "validation: its pictures are other ones than those the run began with, so their scores cannot "
                    "be compared; the best step is sought anew",
                    stacklevel=2,
                )
            return
        self.last, self.base = state["last"], dict(state["base"])
        self.best.load(state["best"])


def replace_folder(temporary: Path, target: Path) -> None:
    """Let the folder ``temporary`` take the place of ``target``, which is there in full until it does."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)
