"""What a recipe is: its settings, and how they become an objective and nets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from trueline.layout import Layout
from trueline.models import lora
from trueline.models.backbone import Backbone
from trueline.sampling.method import Method
from trueline.training.data.examples import bytes_of, digest
from trueline.training.objective import Objective
from trueline.training.parts import ADAPTER
from trueline.training.recipes import RECIPES
from trueline.training.settings import Part, Training


@dataclass
class Task:
    """One training task: what is trained, what is written, and what is drawn and scored on the way.

    Args:
        part: of the U-Net that learns; None = that of the settings.
        further: nets besides the backbone, by name; of them learns what requires a gradient.
        statistics: a module whose buffers belong to the run, besides those of nets that learn.
        facts: what else ``train.json`` says.
        identity: checksums, by name, of nets and tensors that the result depends on and that are neither of the
            backbone nor in ``further`` (whose frozen ones are summed by themselves). A run goes on with the same.
        pictures: whether it trains on the data's pictures; if not, they are neither read nor encoded.
        best: the score, larger is better, whose best step is kept and that ends the run when it no longer rises.
    """

    settings: Training
    backbone: Backbone
    objective: Objective
    further: Mapping[str, nn.Module] = field(default_factory=dict)
    part: Part | None = None
    statistics: nn.Module | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = True
    best: str | None = None

    def __post_init__(self) -> None:
        if self.part is None:
            self.part = self.settings.part

    def save(self, target: Path) -> None:
        """Write the result into a folder."""
        save_backbone(self.settings, self.backbone, target)

    def methods(self) -> Sequence[Method]:
        """With which pictures are drawn on the way; they are asked for each time."""
        return ()

    def check(self, layout: Layout) -> None:
        """
        Raises:
            ValueError: a layout whose picture ``sheets`` or ``scores`` cannot take.
        """

    def sheets(self, images: Sequence[Image], layouts: Sequence[Layout]) -> Mapping[str, Sequence[Image]]:
        """Further contact sheets of the pictures drawn on the way, by name, such as where attention is."""
        return {}

    @property
    def scored(self) -> bool:
        """Whether ``scores`` gives any."""
        return False

    def scores(self, images: Sequence[Image], layouts: Sequence[Layout]) -> Mapping[str, float]:
        """Of the pictures drawn on the way, by name, for the log. The nets stay as they were."""
        return {}


@dataclass(frozen=True)
class Recipe:
    """A kind of training. ``prepare(settings, backbone, folder)`` makes its task; ``folder`` is the run's."""

    settings: type[Training]
    prepare: Callable[[Any, Backbone, Path], Task]


def recipe(name: str) -> Recipe:
    """
    Raises:
        ValueError: there is none of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    found: Recipe = import_module(f"trueline.training.recipes.{name}").RECIPE
    return found


def checksum(net: nn.Module) -> str:
    """Of the weights as ``lora.checksum`` samples them, so that large nets take no time, and of all buffers that are
    kept with them."""
    weights = {name for name, _ in net.named_parameters()}
    buffers = {name: value for name, value in net.state_dict().items() if name not in weights}
    parts = [part for name in sorted(buffers) for part in (name, bytes_of(buffers[name]))]
    return digest(lora.checksum(net, torch.float32), *parts)


def save_backbone(settings: Training, backbone: Backbone, target: Path) -> None:
    """The LoRA that was trained, with the checksum of its base, or the whole checkpoint."""
    if settings.lora and settings.part != "none":
        backbone.denoiser.save_lora_adapter(target, adapter_name=ADAPTER)
        lora.stamp(target, lora.base_of(backbone.denoiser, backbone.source, backbone.revision))
    else:
        backbone.save_pretrained(target)
