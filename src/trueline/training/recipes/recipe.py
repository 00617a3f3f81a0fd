"""What a recipe is: its settings, and how they become an objective and nets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from trueline.layout import Layout
from trueline.models import lora
from trueline.models.backbone import Backbone
from trueline.sampling.method import Method
from trueline.training.data.examples import bytes_of, digest
from trueline.training.loop import Objective
from trueline.training.parts import ADAPTER
from trueline.training.recipes import RECIPES
from trueline.training.settings import Part, Training


@dataclass(frozen=True)
class Task:
    """One training task.

    Args:
        part: of the U-Net that learns. ``further``: nets beside it, by name; of them learns what requires a gradient.
        save: write the result into a folder.
        methods: with which pictures are drawn on the way; they are asked for each time.
        facts: what else ``train.json`` should say.
        identity: checksums, by name, of nets and tensors that the result depends on and that are neither of the
            backbone nor in ``further`` (whose frozen ones are summed by themselves). A run goes on with the same.
        view: (a picture drawn on the way, its layout) -> another for a second sheet, such as where attention is.
        look: (the pictures drawn on the way, their layouts) -> scores by name, for the log; the nets stay as they
            were.
        fits: refuses, with a ValueError, a layout whose picture ``view`` or ``look`` cannot take.
        pictures: whether it trains on the data's pictures; if not, they are neither read nor encoded.
        best: the score, larger is better, whose best step is kept and that ends the run when it no longer rises.
    """

    objective: Objective
    part: Part
    save: Callable[[Path], None]
    further: Mapping[str, nn.Module] = field(default_factory=dict)
    methods: Callable[[], Sequence[Method]] = tuple
    facts: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    view: Callable[[Image, Layout], Image] | None = None
    look: Callable[[Sequence[Image], Sequence[Layout]], Mapping[str, float]] | None = None
    fits: Callable[[Layout], None] = lambda layout: None
    best: str | None = None
    pictures: bool = True


def recipe(name: str) -> ModuleType:
    """The module of that recipe: ``Settings`` (a kind of ``Training``) and ``prepare(settings, backbone, folder)``.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return import_module(f"trueline.training.recipes.{name}")


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
        backbone.unet.save_lora_adapter(target, adapter_name=ADAPTER)
        lora.stamp(target, lora.base_of(backbone.unet, backbone.source, backbone.revision))
    else:
        backbone.save_pretrained(target)
