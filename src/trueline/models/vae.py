"""The VAE between pictures and latents: where latents are scaled and shifted, and what to do when float16 overflows.

``AutoencoderKL`` of diffusers serves all families. Latents outside this file have unit variance:
(mean - shift_factor) * scaling_factor.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

Latents = Float[Tensor, "batch c h w"]
Pictures = Float[Tensor, "batch 3 height width"]
Report = Callable[[int, str], None]


class DecodeError(RuntimeError):
    """The VAE gave numbers that are not finite, in float32 too."""


def latents_of(vae: AutoencoderKL, pictures: Pictures) -> Latents:
    """Pictures in -1..1 as latents of unit variance, float32: the means of the posterior."""
    mean = vae.encode(pictures.to(vae.dtype)).latent_dist.mean
    shift = vae.config.shift_factor
    return ((mean if shift is None else mean - shift) * vae.config.scaling_factor).float()


def reconstructed(vae: AutoencoderKL, pictures: Pictures) -> Pictures:
    """See ``Backbone.reconstruct``."""
    return vae.decode(vae.encode(pictures.to(vae.dtype)).latent_dist.mean).sample


def pictures_of(vae: AutoencoderKL, latents: Latents, report: Report | None = None) -> Pictures:
    """Pictures in 0..1, float32; see ``Backbone.decode``."""
    pictures = _decode(vae, latents).float()
    broken = [row for row, picture in enumerate(pictures) if not picture.isfinite().all()]
    if broken:
        pictures[broken] = _decode_in_float32(vae, latents[broken])
        for row in broken:
            (report or _warn_row)(row, f"the VAE gave non-finite pixels in {vae.dtype}; decoded in float32")
    return (pictures / 2 + 0.5).clamp(0, 1)


def pixels_of(vae: AutoencoderKL, latents: Latents) -> Pictures:
    """Pictures of about 0..1, not clamped, in float32 at least; gradients reach the latents.

    Under autocast to float16 the VAE computes in its own dtype all the same: Stable Diffusion's overflows there.
    """
    device = latents.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    guard: AbstractContextManager[Any] = torch.autocast(device, enabled=False) if half else nullcontext()
    with guard:
        pixels = _decode(vae, latents)
    return pixels.to(torch.promote_types(pixels.dtype, torch.float32)) / 2 + 0.5


def _decode(vae: AutoencoderKL, latents: Latents) -> Pictures:
    """Pictures in -1..1, in the VAE's dtype."""
    unscaled, shift = latents / vae.config.scaling_factor, vae.config.shift_factor
    return vae.decode((unscaled if shift is None else unscaled + shift).to(vae.dtype)).sample


def _decode_in_float32(vae: AutoencoderKL, latents: Latents) -> Pictures:
    if vae.dtype == torch.float32:
        raise DecodeError("the VAE gave non-finite pixels in float32; the latents or the weights are broken")
    with _in_float32(vae):
        pictures = _decode(vae, latents)
    if not pictures.isfinite().all():
        raise DecodeError(
            "the VAE gave non-finite pixels, in float32 too; the latents or the weights are broken"
        )
    return pictures


@contextmanager
def _in_float32(net: nn.Module) -> Iterator[None]:
    """The former weights come back as they were, whatever happens inside."""
    before = {name: weight.data for name, weight in net.named_parameters()}
    try:
        net.float()
        yield
    finally:
        for name, weight in net.named_parameters():
            weight.data = before[name]


def _warn_row(row: int, sentence: str) -> None:
    warnings.warn(f"picture {row}: {sentence}", stacklevel=3)
