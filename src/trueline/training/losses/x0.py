"""The clean picture that one prediction means, with gradients: from a U-Net's output to pixels.

Source: GOAL, eq. 4: ``xhat_0 = D((z_t - sqrt(1 - a_t) eps) / sqrt(a_t))``; for velocity Salimans & Ho 2022 (arXiv
2202.00512).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trueline.models.attention import recomputed
from trueline.models.devices import at_least_float32

Latents = Float[Tensor, "batch c h w"]
Signal = Float[Tensor, "batch 1 1 1"]  # abar: the share of the clean latents in the variance


def clean_latents(kind: str, z: Latents, prediction: Latents, signal: Signal) -> Latents:
    """The x0 that the prediction at z_t (of unit variance) means, in a single step.

    For noise (z - sqrt(1 - abar) eps) / sqrt(abar), for velocity sqrt(abar) z - sqrt(1 - abar) v. Whatever the kind,
    an error of the noise comes out sqrt((1 - abar) / abar) as large: 0.34 at t = 100, 14.6 at t = 999 of Stable
    Diffusion.

    Raises:
        ValueError: a prediction type other than "epsilon", "v_prediction" and "sample".
    """
    if kind == "epsilon":
        return (z - (1 - signal).sqrt() * prediction) / signal.sqrt()
    if kind == "v_prediction":
        return signal.sqrt() * z - (1 - signal).sqrt() * prediction
    if kind == "sample":
        return prediction
    raise ValueError(f"objective: cannot train a model that predicts {kind!r}")


def decoded(
    vae: Any, clean: Latents, checkpointing: bool = False, through: bool = False
) -> Float[Tensor, "batch 3 height width"]:
    """Pictures in 0..1 of clean, scaled latents; gradients reach the latents.

    ``through``: clamped pixels keep their gradient, which is 0 otherwise: a bright picture, whose pixels lie above 1,
    could not be made darker.

    ``checkpointing``: keep only the inputs of the decoder's blocks and run those again. Under autocast to float16 the
    VAE computes in its own dtype all the same: Stable Diffusion's overflows there.
    """
    device = clean.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    guard: AbstractContextManager[Any] = torch.autocast(device, enabled=False) if half else nullcontext()
    with guard, recomputed(vae) if checkpointing else nullcontext():
        pixels = vae.decode((clean / vae.config.scaling_factor).to(vae.dtype)).sample
    pixels = at_least_float32(pixels) / 2 + 0.5
    clamped = pixels.clamp(0, 1)
    return pixels + (clamped - pixels).detach() if through else clamped
