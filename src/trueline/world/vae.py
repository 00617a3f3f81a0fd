"""The world's VAE: pictures of 128 x 128 pixels to latents of 4 x 16 x 16 and back (f8, as Stable Diffusion's)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trueline.models.devices import autocast
from trueline.training.objective import Losses
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.scenes import SIZE, Scene, make_scene, masks, render

CROP = 64  #: side of the pieces that training begins with, pixels
KL = 1e-4  #: weight of the KL term


UNSCALED = 0.18215  #: diffusers' ``scaling_factor`` of a VAE that says none


def make_vae() -> AutoencoderKL:
    """An untrained VAE of the world's size (about 2.3 M parameters)."""
    return AutoencoderKL(
        block_out_channels=(24, 48, 80, 112),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (batch, h, w, 3) -> float32 (batch, 3, h, w) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def crop_around(scene: Scene, rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A piece of the picture that shows (part of) a random thing, and a weight for each of its pixels.

    Shapes (side, side, 3) and (side, side); ``side`` = SIZE is the whole picture.
    """
    thing = scene.things[int(rng.integers(len(scene.things)))]
    shift = rng.integers(-side // 3, side // 3 + 1, 2)
    x, y = np.clip(np.array(thing.centre) + shift - side // 2, 0, SIZE - side).astype(int)
    piece = np.s_[y : y + side, x : x + side]
    covered = masks(scene).max(axis=0)[piece]
    return render(scene)[piece], 1 + covered.astype(np.float32)


def reconstruction_loss(picture: Tensor, again: Tensor, weight: Tensor) -> Tensor:
    """Mean over pixels of weight * (L1 + 2 L2), on -1..1 pictures."""
    error = again - picture
    return (weight * (error.abs() + 2 * error.square())).sum() / (weight.sum() * picture.shape[1])


@dataclass(frozen=True)
class Autoencoding:
    """The VAE's loss on fresh pieces of scenes, ``side`` pixels wide."""

    vae: AutoencoderKL
    device: torch.device
    batch: int
    side: int
    frozen_encoder: bool

    def __call__(self, step: int, generator: torch.Generator) -> Losses:
        rng = np.random.default_rng([7, self.side, step])
        scenes = (make_scene("train", step * self.batch + i) for i in range(self.batch))
        pieces, weights = zip(*(crop_around(s, rng, self.side) for s in scenes), strict=True)
        picture = to_tensor(np.stack(pieces)).to(self.device, memory_format=torch.channels_last)
        weight = torch.from_numpy(np.stack(weights))[:, None].to(self.device)
        with autocast(self.device):
            with torch.set_grad_enabled(not self.frozen_encoder):
                latent = self.vae.encode(picture).latent_dist
            z = latent.mean + latent.std * torch.randn(latent.mean.shape, generator=generator).to(latent.mean)
            again = self.vae.decode(z).sample
        error = reconstruction_loss(picture, again.float(), weight)
        kl = latent.kl().float().mean() / latent.mean[0].numel()
        return {"total": error if self.frozen_encoder else error + KL * kl, "error": error, "kl": kl}


def train_vae(
    folder: Path,
    settings: StageSettings,
    device: torch.device,
    side: int = SIZE,
    frozen_encoder: bool = False,
    start: Path | None = None,
) -> Fitting:
    """Train in ``folder``, on pieces ``side`` pixels wide, from scratch or from the VAE saved in ``start``.

    With ``frozen_encoder`` only the decoder learns, so that cached latents stay what they are.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(start) if start else make_vae()
    vae = vae.to(device=device, memory_format=torch.channels_last)
    if frozen_encoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    return fit(folder, vae, settings, Autoencoding(vae, device, settings.batch, side, frozen_encoder), seed=1)


@torch.no_grad()
def psnr(vae: AutoencoderKL, scenes: list[Scene], device: torch.device) -> np.ndarray:
    """Peak signal to noise ratio in dB of each scene's picture after encode (mean) and decode, float32."""
    values = []
    for scene in scenes:
        picture = to_tensor(render(scene)[None]).to(device)
        again = vae.decode(vae.encode(picture).latent_dist.mean).sample.clamp(-1, 1)
        values.append(10 * np.log10(4 / float((again - picture).square().mean())))
    return np.array(values)


@torch.no_grad()
def standardise(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold "subtract ``mean``, divide by ``std``" of each latent channel into the 1 x 1 convolutions at its door.

    Pictures come out the same to rounding; the latents then have mean 0 and variance 1 in every channel, which is
    what the noise that sampling starts from has too. Both have shape (4,).
    """
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[None, :, None, None]
