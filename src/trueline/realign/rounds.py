"""What a refinement gives back: each picture with what was found in it, and which of them is the result."""

from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image
from torch import Tensor

from trueline.layout import Layout
from trueline.realign.check import Check
from trueline.realign.observation import Observation


@dataclass(frozen=True)
class Round:
    """One picture of a refinement; round 0 is stage one. ``record`` makes it again, as ``Pipeline.remake`` does.

    ``observation`` and ``check``: what was found in it, None where nothing depends on that (the last round).
    ``before`` and ``after``: each phrase's attention map (height, width) without and with the modulation; empty where
    there was none. ``restart``: drawn from other noise, as stage one is, and not led by the picture before.
    """

    image: Image
    record: dict[str, Any]
    layout: Layout
    observation: Observation | None = None
    check: Check | None = None
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    restart: bool = False

    def about(self) -> dict[str, Any]:
        """For records."""
        return {
            "looked": self.observation and self.observation.record(),
            "check": self.check and self.check.record(),
        }


@dataclass(frozen=True)
class Realignment:
    """All rounds of one picture; ``kept`` is the place of the final one among them. ``notes``: what went wrong;
    ``failed``: by an error, so that a picture stands in for the one that was asked for."""

    index: int
    layout: Layout
    rounds: tuple[Round, ...]
    kept: int
    notes: tuple[str, ...] = ()
    failed: bool = False

    @property
    def image(self) -> Image:
        return self.rounds[self.kept].image

    @property
    def record(self) -> dict[str, Any]:
        """The record of the final picture, with what led to it under "realign"."""
        return self.rounds[self.kept].record | {"realign": self.about()}

    def about(self) -> dict[str, Any]:
        rounds = [each.about() for each in self.rounds]
        return {"round": self.kept, "rounds": rounds, "notes": list(self.notes)}
