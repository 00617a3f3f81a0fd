"""The clean picture that one prediction means, with gradients: from latents to pixels.

Source: GOAL, eq. 4: ``xhat_0 = D((z_t - sqrt(1 - a_t) eps) / sqrt(a_t))``; the latents are ``Backbone.x0``'s.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from trueline.models.backbone import Backbone


def decoded(
    backbone: Backbone, clean: Float[Tensor, "batch c h w"], through: bool = False
) -> Float[Tensor, "batch 3 height width"]:
    """Pictures in 0..1 of clean latents; gradients reach the latents.

    ``through``: clamped pixels keep their gradient, which is 0 otherwise: a bright picture, whose pixels lie above 1,
    could not be made darker.
    """
    pixels = backbone.decode_with_gradient(clean)
    clamped = pixels.clamp(0, 1)
    return pixels + (clamped - pixels).detach() if through else clamped
