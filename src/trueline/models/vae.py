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
from torch import Tensor

from trueline.models.devices import widened

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


def pictures_of(
    vae: AutoencoderKL, latents: Latents, report: Report | None = None, partial: bool = False
) -> Pictures:
    """Pictures in 0..1, float32; see ``Backbone.decode``."""
    pictures = _decode(vae, latents).float()
    half = torch.finfo(vae.dtype).bits < 32
    broken = _broken(pictures)
    if broken and half:
        with widened(vae):
            pictures[broken] = _decode(vae, latents[broken]).float()
    lost = _broken(pictures)
    if lost and not partial:
        where = ", in float32 too" if half else f" in {str(vae.dtype).removeprefix('torch.')}"
        raise DecodeError(f"the VAE gave non-finite pixels{where}; the latents or the weights are broken")
    for row in set(broken).difference(lost):
        (report or _warn_row)(row, f"the VAE gave non-finite pixels in {vae.dtype}; decoded in float32")
    pictures = (pictures / 2 + 0.5).clamp(0, 1)
    pictures[lost] = torch.nan  # infinity was clamped
    return pictures


@contextmanager
def tiled(backbone: Any, tile: int | None) -> Iterator[None]:
    """Within, it decodes in overlapping tiles of so many latents a side; 0 is whole pictures, None as it is set."""
    vae = backbone.vae
    names = ("use_tiling", "tile_latent_min_size", "tile_sample_min_size")
    before = {name: getattr(vae, name) for name in names}
    try:
        if tile is not None:
            vae.use_tiling = tile > 0
        if tile:
            vae.tile_latent_min_size = tile
            vae.tile_sample_min_size = tile * 2 ** (len(vae.config.block_out_channels) - 1)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def tile_of(backbone: Any, height: int, width: int) -> int:
    """Latents of a tile's side where latents of that size are decoded in tiles; else 0."""
    vae = backbone.vae
    cut = vae.use_tiling and max(height, width) > vae.tile_latent_min_size
    return vae.tile_latent_min_size if cut else 0


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


def _broken(pictures: Pictures) -> list[int]:
    """Rows that are not finite."""
    return [row for row, picture in enumerate(pictures) if not picture.isfinite().all()]


def _warn_row(row: int, sentence: str) -> None:
    warnings.warn(f"picture {row}: {sentence}", stacklevel=3)
