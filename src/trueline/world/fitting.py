"""How the nets of the world are trained: by the one training loop, on scenes that are drawn anew at every step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from trueline.training.accelerator import make_accelerator
from trueline.training.loop import TrainingLoop
from trueline.training.objective import Losses
from trueline.training.settings import Fraction, Optimisation

PROBE_EVERY = 100  #: steps between two probes


class StageSettings(Optimisation):
    """How long and how fast a stage trains.

    Args:
        warmup: steps in which the rate rises linearly to ``lr``; then it is flat.
        decay: share of all steps, at the end, over which the rate falls along half a cosine.
        precision: stays fp32: the losses use bfloat16 themselves, in the nets only, where it is fast.
    """

    decay: Fraction = 0.25
    weight_decay: float = 0.01
    precision: Literal["fp32"] = "fp32"
    save_every: int = 200

    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    def rate(self, step: int) -> float:
        up = min(1.0, (step + 1) / max(1, self.warmup))
        down = min(1.0, (self.steps - step) / max(1.0, self.steps * self.decay))
        return self.lr * up * (0.5 - 0.5 * math.cos(math.pi * down))


@dataclass(frozen=True)
class StepDraws:
    """What a loss gets in place of a batch: the step, and a generator from which all that is random in it comes."""

    step: int
    generator: torch.Generator

    def about(self) -> Mapping[str, Any]:
        return {"seed": self.generator.initial_seed()}


@dataclass(frozen=True)
class StepStream:
    """One generator for each step: a run that was stopped goes on as if it had not been."""

    seed: int

    def batch(self, step: int, places: range) -> StepDraws:
        return StepDraws(step, torch.Generator().manual_seed(self.seed * 1_000_003 + step))


Fitting = TrainingLoop[StepDraws]


def fit(
    folder: Path,
    net: nn.Module,
    settings: StageSettings,
    loss: Callable[[int, torch.Generator], Losses],
    seed: int,
    probe: Callable[[], Losses] | None = None,
) -> Fitting:
    """The training of what learns in ``net``, in ``folder``, where its device is; iterate over it for the log lines.

    Args:
        loss: (step, generator) -> named scalars; "total" is minimised.
        probe: more to log, every ``PROBE_EVERY`` steps.
    """
    trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}

    def observe() -> dict[str, float]:
        due = loop.finished or loop.step % PROBE_EVERY == 0
        return {name: float(value) for name, value in probe().items()} if probe and due else {}

    loop = Fitting(
        folder,
        lambda draws: loss(draws.step, draws.generator),
        {"net": net},
        trained,
        StepStream(seed),
        settings,
        make_accelerator(settings, next(net.parameters()).device),
        observe=observe,
    )
    return loop


def finished(loop: Fitting) -> Any:
    """The net of a training that is done, with its averaged weights."""
    if loop.average:
        loop.average.copy_to(loop.trained)
    return loop.modules["net"].eval()
