"""What the nets for perception learn from: renders, and renders as the VAE gives them back, disturbed.

A generated picture comes out of the VAE's decoder, from latents that are those of no render. So a share of the
examples went through the VAE with noise on their latents, and half of all have their colours shifted, their edges
softened and some noise on their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from trueline.world.scenes import Scene, make_scene, render
from trueline.world.vae import to_tensor

FIRST = 1_000_000  #: training scenes from here on go through the VAE; fresh renders are of those before
SHARE = 0.4  #: of the examples that went through the VAE
LATENT_NOISE = 0.35  #: most noise on latents, as a share of their standard deviation


@torch.no_grad()
def round_trips(vae: AutoencoderKL, scenes: Sequence[Scene], noise: float = 0.0) -> np.ndarray:
    """The scenes' pictures after the VAE, uint8 (scenes, SIZE, SIZE, 3).

    The latents of each get Gaussian noise, its strength drawn evenly from 0 to ``noise`` of their standard
    deviation.
    """
    generator = torch.Generator().manual_seed(12)
    done = []
    for first in range(0, len(scenes), 16):
        part = scenes[first : first + 16]
        pictures = to_tensor(np.stack([render(s) for s in part]))
        latent = vae.encode(pictures.to(vae.device)).latent_dist.mean
        strength = noise * torch.rand(len(part), 1, 1, 1, generator=generator) * latent.std().cpu()
        moved = latent.cpu() + strength * torch.randn(latent.shape, generator=generator)
        again = vae.decode(moved.to(latent)).sample.float().cpu().clamp(-1, 1)
        done.append(((again + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(done)


@dataclass(frozen=True)
class Trips:
    """Pictures of the training scenes ``FIRST``, ``FIRST`` + 1, ... that went through the VAE once and are kept."""

    pictures: np.ndarray  # uint8 (count, SIZE, SIZE, 3)

    @classmethod
    def make(cls, vae: AutoencoderKL, count: int) -> Trips:
        scenes = [make_scene("train", FIRST + i) for i in range(count)]
        return cls(round_trips(vae, scenes, LATENT_NOISE))

    @classmethod
    def load(cls, path: Path) -> Trips:
        return cls(load_file(path)["pictures"].numpy())

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        save_file({"pictures": torch.from_numpy(self.pictures)}, temporary)
        temporary.rename(path)

    def batch(self, step: int, size: int, seed: int) -> tuple[list[Scene], np.ndarray]:
        """The scenes of one training step and their pictures, uint8 (size, SIZE, SIZE, 3)."""
        rng = np.random.default_rng([seed, step])
        scenes, pictures = [], []
        for _ in range(size):
            if rng.random() < SHARE:
                kept = int(rng.integers(len(self.pictures)))
                scenes.append(make_scene("train", FIRST + kept))
                pictures.append(self.pictures[kept])
            else:
                scenes.append(make_scene("train", int(rng.integers(FIRST))))
                pictures.append(render(scenes[-1]))
        return scenes, np.stack(pictures)


def disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """About half of the pictures, (batch, 3, h, w) in -1..1, with other colours, softer edges and noisy pixels.

    Per channel a gain of 1 +- 0.06 and a shift of +- 0.05, little enough that no colour becomes another.
    """
    batch = len(pictures)

    def draw(channels: int) -> Tensor:
        return torch.rand(batch, channels, 1, 1, generator=generator)

    touched = (draw(1) < 0.5).float()
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    changed = pictures.lerp(soft, touched * draw(1))
    changed = changed * (1 + touched * 0.12 * (draw(3) - 0.5)) + touched * 0.1 * (draw(3) - 0.5)
    changed = changed + touched * 0.06 * draw(1) * torch.randn(pictures.shape, generator=generator)
    return changed.clamp(-1, 1)
