"""Data and nets small enough to train in a test: examples in memory, a net of three layers, pictures on disk."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from trueline.layout import Layout, Region
from trueline.models.backbone import Backbone
from trueline.training.accelerator import make_accelerator
from trueline.training.data.examples import LeftOut
from trueline.training.data.stream import Shuffled
from trueline.training.loop import TrainingLoop
from trueline.training.objective import Batch, Losses, Nets
from trueline.training.settings import Optimisation

CPU = torch.device("cpu")
CAPTIONS = ("a red apple", "a blue car", "the green chair", "a cat and a clock", "a cat")
BOXES = ((0.1, 0.1, 0.5, 0.6), (0.4, 0.3, 0.9, 0.9), (0.0, 0.5, 0.4, 1.0))


class After:
    """Says stop at its n-th question: questions come before each batch."""

    def __init__(self, questions: int):
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@dataclass
class Memory:
    """``count`` layouts with one or two boxes, and latents drawn once."""

    count: int = 5
    fingerprint: str = "memory"
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return self.count

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        said = CAPTIONS[int(torch.randint(len(CAPTIONS), (), generator=generator))]
        return Layout(said, [Region("a red apple", BOXES[index % 3]), Region("cat", BOXES[(index + 1) % 3])])


class Table:
    """Latents in memory."""

    def __init__(self, count: int = 5):
        self.rows = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(11))
        self.examples = list(range(count))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Tensor:
        return self.rows[place]


def stream(
    seed: int = 0, count: int = 5, drops: tuple[float, float] = (0.2, 0.2), times=(0, 1000)
) -> Shuffled:
    return Shuffled(Memory(count), Table(count), seed, *drops, times)  # type: ignore[arg-type]


class Guess(nn.Module):
    """Guesses the noise of a few cells; dropout draws from torch's global generator, as nets do."""

    def __init__(self, dropout: float = 0.3):
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 64))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        if self.training:
            self.seen += len(z)
        return self.layers(z)


@dataclass
class Guessing:
    """Mean squared error of ``nets["guess"]``, with a draw of its own; broken at the steps that are named."""

    broken: dict[int, str] = field(default_factory=dict)  #: step -> "loss" or "gradient"

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        cells = batch.latents[:, 0].flatten(1)
        jitter = torch.randn(cells.shape, generator=batch.generator)
        guess = nets["guess"](cells + 0.1 * jitter)
        error = (guess - batch.noise[:, 0].flatten(1)).square().mean()
        terms = {"total": error, "error": error.detach()}
        how = self.broken.get(batch.step)
        if how == "loss":
            terms["total"] = error * float("nan")
        if how == "gradient":  # sqrt has an infinite slope at 0; the loss itself is finite
            terms["total"] = error + (guess * 0).sum().abs().sqrt()
        return terms


def loop_of(folder, objective, nets: Nets, trained, source, plan, **more) -> TrainingLoop:
    """The loop as a run makes it: on the CPU, the nets bound to the objective."""
    bound = partial(objective, nets=nets)
    return TrainingLoop(
        folder, bound, nets.modules, trained, source, plan, make_accelerator(plan, CPU), **more
    )


def fit(
    folder: Path, backbone: Backbone, plan: Optimisation, objective: Guessing | None = None, **more: object
) -> tuple[TrainingLoop, Guess]:
    """A run of ``Guessing``, its net made anew."""
    net = Guess()
    trained = {f"guess.{name}": weight for name, weight in net.named_parameters()}
    nets = Nets(backbone, {"guess": net})
    made = loop_of(folder, objective or Guessing(), nets, trained, stream(plan.seed), plan, **more)
    return made, net


def twin(backbone: Backbone) -> Backbone:
    """A copy whose weights may change."""
    return copy.deepcopy(backbone)
