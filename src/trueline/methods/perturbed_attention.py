"""Perturbed-attention guidance: away from what the net predicts where its places do not look at each other.

Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance" (arXiv 2403.17377): in a
further pass the self-attention of some layers is the identity, and the prediction moves away from that one,
``+ s (cond - perturbed)``, beside classifier-free guidance.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.models.attention import Site
from trueline.sampling.method import Context, Method


def to_itself(
    _site: Site, logits: Float[Tensor, "batch heads queries keys"]
) -> Float[Tensor, "batch heads queries keys"]:
    """Logits by which each place attends to itself alone."""
    own = torch.eye(logits.shape[-2], logits.shape[-1], dtype=torch.bool, device=logits.device)
    return torch.zeros_like(logits).masked_fill(~own, -torch.inf)


class PerturbedAttention(Method):
    """Add ``strength`` x ``scale`` x (conditional prediction - perturbed one) to the prediction.

    Settings as published and in diffusers: the layers of the middle block, scale 3, all steps. It is the same for
    nets that predict noise and velocity, for both are linear in each other. It does without boxes; regions, their
    masks and their negative phrases are not looked at.

    What differs: the perturbed pass has the prompt and the grounding of the conditional one, and no edits of other
    methods. With classifier-free guidance off it acts as with it.
    """

    strength: float = Field(1.0, ge=0, le=10, description="times the scale; 0 is plain sampling")
    scale: float = Field(3.0, ge=0, le=50, description="how far from the perturbed prediction")
    until: float = Field(
        1.0, ge=0, le=1, description="fraction of the steps, the first ones, that are guided"
    )
    place: Literal["down", "mid", "up"] = Field(
        "mid", description="the block whose self-attention is perturbed"
    )

    needs_regions: ClassVar[bool] = False

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "batch c h w"]:
        if ctx.progress >= self.until:
            return prediction
        chosen = {site for site in ctx.sites if site.kind == "self" and site.place == self.place}
        if not chosen:
            raise ValueError(
                f"place: this backbone has no self-attention in its {self.place} block; choose another"
            )
        with ctx.backbone.tapped(chosen.__contains__, [to_itself], record=lambda _site: False):
            perturbed = ctx.predict(z, ctx.text, ctx.grounding)
        return prediction + self.strength * self.scale * (cond - perturbed)
