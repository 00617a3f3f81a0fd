"""The denoising loss of a grounded diffusion model, on latents that may have been moved before.

Source: Ho et al. 2020 (arXiv 2006.11239) for the noise loss, Salimans & Ho 2022 (arXiv 2202.00512) for velocity, Hang
et al. 2023 (arXiv 2303.09556) for the weight min-SNR; the moved latents are HCMA's joint step (``recipes.hcma``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.grounding import Grounding
from trueline.models.schedulers import Level
from trueline.training.objective import Batch, Losses, Nets

Latents = Float[Tensor, "batch c h w"]
Align = Callable[[Latents, Int[Tensor, " batch"], Sequence[Layout]], Latents]


def noised(latents: Latents, noise: Latents, level: Level) -> Latents:
    """z_t = alpha x0 + sigma noise, at ``Backbone.noise_level``."""
    alpha, sigma = level
    return alpha * latents + sigma * noise


def corrected_noise(noise: Latents, z: Latents, moved: Latents, level: Level) -> Latents:
    """The noise that the moved latents hold, if the clean ones stay: noise + (z^a - z) / sigma."""
    return noise + (moved - z) / level[1]


def snr_weight(kind: str, snr: Float[Tensor, " batch"], gamma: float) -> Float[Tensor, " batch"]:
    """min(SNR, gamma) over the weight of x0 that the loss of this prediction type has by itself."""
    own = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
    return snr.clamp(max=gamma) / own


def ground(backbone: Backbone, batch: Batch) -> Grounding | None:
    """The batch's boxes as grounding tokens; null tokens where they are dropped or there are none.

    None for a U-Net without grounding layers. As in GLIGEN's training the layers run in every row.
    """
    if not backbone.grounded:
        return None
    grounding = backbone.ground(batch.layouts)
    if batch.boxed is None:
        return grounding
    return Grounding(grounding.boxes, grounding.masks * batch.boxed[:, None], grounding.embeddings)


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


@dataclass(frozen=True)
class DenoisingObjective:
    """Squared error of the U-Net's prediction at z_t, or at the latents that ``align`` makes of it.

    Without ``align`` it is GLIGEN's loss: the control of HCMA, fine-tuned on the same data for the same steps. With
    it, HCMA's joint step: || eps - eps_theta(z^a, t, c, boxes) ||^2, no gradient through z^a. Rows that ``align``
    leaves without finite latents stay where they are and are counted ("unmoved").

    Settings:
        align: (z_t, t, layouts) -> z^a; it sees captions and boxes also where the U-Net is not shown them, as in
            sampling, where one moved latent serves both branches of classifier-free guidance.
        corrected: aim at the noise that z^a holds instead of the noise that z_t held (the paper's letter; after the
            move it is no longer the noise of z^a).
        snr_gamma: weight each row by min(SNR, gamma) as said in ``snr_weight``; None = the plain mean.

    Logged: "noise" (the mean without weights), "noise_low" and "noise_high" (timesteps below, and from, the middle),
    with ``align`` also "moved" (RMS of the move) and "unmoved" (share of rows).
    """

    align: Align | None = None
    corrected: bool = False
    snr_gamma: float | None = None

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        backbone = nets.backbone
        level = backbone.noise_level(batch.t)
        latents, noise, t = (part.to(backbone.device) for part in (batch.latents, batch.noise, batch.t))
        z = noised(latents, noise, level)
        moved, more = self._moved(z, t, batch)
        aim = corrected_noise(noise, z, moved, level) if self.corrected else noise
        wanted = backbone.target(latents, aim, batch.t)
        text, grounding = backbone.encode(batch.captions), ground(backbone, batch)
        with backbone.recomputed():
            prediction = backbone.predict(moved, t, text, grounding)
        error = (prediction - wanted).square().flatten(1).mean(1)
        weight: Tensor | float = 1.0
        if self.snr_gamma is not None:
            weight = snr_weight(backbone.predicts, backbone.snr(batch.t), self.snr_gamma)
        return {"total": (weight * error).mean(), **_terms(error.detach(), t, backbone), **more}

    def _moved(self, z: Latents, t: Int[Tensor, " batch"], batch: Batch) -> tuple[Latents, Losses]:
        if self.align is None:
            return z, {}
        moved = self.align(z, t, batch.layouts).detach()
        finite = moved.flatten(1).isfinite().all(1)
        moved = torch.where(finite.view(-1, 1, 1, 1), moved, z)
        return moved, {"moved": (moved - z).square().mean().sqrt(), "unmoved": 1 - finite.float().mean()}


def _terms(error: Float[Tensor, " batch"], t: Int[Tensor, " batch"], backbone: Backbone) -> Losses:
    half = backbone.timesteps // 2
    named = {"noise": error, "noise_low": error[t < half], "noise_high": error[t >= half]}
    return {name: rows.mean() for name, rows in named.items() if len(rows)}
