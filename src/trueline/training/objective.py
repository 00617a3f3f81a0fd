"""What a training term sees and gives: a batch and nets in, named losses out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trueline.layout import Layout
from trueline.models.backbone import Backbone

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What an objective sees at once. ``latents``: clean, scaled by the VAE's factor; ``t``: timesteps, 0 = cleanest.

    ``captioned``, ``boxed``: False where the U-Net does not read the caption (the boxes), so that classifier-free
    guidance works; the layouts hold both all the same. None = all rows. ``generator``: for whatever else is random,
    on the CPU, of this batch alone. ``examples``: their numbers in the data, for reports.
    """

    latents: Float[Tensor, "batch c h w"]
    layouts: tuple[Layout, ...]
    noise: Float[Tensor, "batch c h w"]
    t: Int[Tensor, " batch"]
    captioned: Bool[Tensor, " batch"] | None = None
    boxed: Bool[Tensor, " batch"] | None = None
    step: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)
    examples: tuple[int, ...] = ()

    @property
    def captions(self) -> list[str]:
        """What the U-Net reads: the prompt, or "" where the caption is dropped."""
        shown = [True] * len(self.layouts) if self.captioned is None else self.captioned.tolist()
        return [layout.prompt if keep else "" for layout, keep in zip(self.layouts, shown, strict=True)]

    def about(self) -> dict[str, Any]:
        """For a report of steps that failed."""
        return {"examples": list(self.examples), "timesteps": self.t.tolist()}


@dataclass(frozen=True)
class Nets:
    """The backbone, and further nets of an objective by name (``nets["alignment"]``)."""

    backbone: Backbone
    further: Mapping[str, nn.Module] = field(default_factory=dict)

    def __getitem__(self, name: str) -> nn.Module:
        return self.further[name]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Those that may learn, by name."""
        return {"unet": self.backbone.denoiser, **self.further}


class Objective(Protocol):
    """A training term. Named scalars, all of them logged; "total" is what is minimised, a mean over the batch."""

    def __call__(self, batch: Batch, nets: Nets) -> Losses: ...
