"""The denoising loss of a grounded diffusion model, on latents that may have been moved before.

Source: Ho et al. 2020 (arXiv 2006.11239) for the noise loss, Salimans & Ho 2022 (arXiv 2202.00512) for velocity, Hang
et al. 2023 (arXiv 2303.09556) for the weight min-SNR; the moved latents are HCMA's joint step (``objectives.hcma``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trueline.layout import Layout
from trueline.models.attention import recomputed
from trueline.models.backbone import Backbone
from trueline.models.grounding import Grounding, pack
from trueline.training.objective import Batch, Losses, Nets

Latents = Float[Tensor, "batch c h w"]
Signal = Float[Tensor, "batch 1 1 1"]  # abar: the share of the clean latents in the variance
Align = Callable[[Latents, Int[Tensor, " batch"], Sequence[Layout]], Latents]


def signal_of(backbone: Backbone, t: Int[Tensor, " batch"]) -> Signal:
    """abar of timesteps, float32, on the backbone's device.

    Raises:
        ValueError: a timestep that the scheduler does not have.
    """
    signal = backbone.scheduler.alphas_cumprod.float()
    if int(t.max()) >= len(signal):
        raise ValueError(f"t_high: this model has {len(signal)} timesteps (got t = {int(t.max())})")
    return signal[t.cpu()].to(backbone.device).view(-1, 1, 1, 1)


def noised(latents: Latents, noise: Latents, signal: Signal) -> Latents:
    """z_t = sqrt(abar) x0 + sqrt(1 - abar) noise."""
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def target(kind: str, latents: Latents, noise: Latents, signal: Signal) -> Latents:
    """What the U-Net shall predict: the noise, the velocity sqrt(abar) noise - sqrt(1 - abar) x0, or x0.

    Raises:
        ValueError: a prediction type other than "epsilon", "v_prediction" and "sample".
    """
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return signal.sqrt() * noise - (1 - signal).sqrt() * latents
    if kind == "sample":
        return latents
    raise ValueError(f"objective: cannot train a model that predicts {kind!r}")


def corrected_noise(noise: Latents, z: Latents, moved: Latents, signal: Signal) -> Latents:
    """The noise that the moved latents hold, if the clean ones stay: noise + (z^a - z) / sqrt(1 - abar)."""
    return noise + (moved - z) / (1 - signal).sqrt()


def snr_weight(kind: str, signal: Signal, gamma: float) -> Float[Tensor, " batch"]:
    """min(SNR, gamma) over the weight of x0 that the loss of this prediction type has by itself."""
    signal = signal.flatten()
    snr = signal / (1 - signal)
    own = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
    return snr.clamp(max=gamma) / own


def ground(backbone: Backbone, batch: Batch) -> Grounding | None:
    """The batch's boxes as grounding tokens; null tokens where they are dropped or there are none.

    None for a U-Net without grounding layers. As in GLIGEN's training the layers run in every row.
    """
    if not backbone.grounded:
        return None
    width = backbone.unet.config.cross_attention_dim
    grounding = pack(batch.layouts, backbone.encode_phrases, backbone.max_regions, width)
    if batch.boxed is None:
        return grounding
    return Grounding(grounding.boxes, grounding.masks * batch.boxed[:, None], grounding.embeddings)


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
        kind = backbone.scheduler.config.prediction_type
        signal = signal_of(backbone, batch.t)
        latents, noise, t = (part.to(backbone.device) for part in (batch.latents, batch.noise, batch.t))
        z = noised(latents, noise, signal)
        moved, more = self._moved(z, t, batch)
        aim = corrected_noise(noise, z, moved, signal) if self.corrected else noise
        wanted = target(kind, latents, aim, signal)
        text, grounding = backbone.encode(batch.captions), ground(backbone, batch)
        with recomputed(backbone.unet) if backbone.checkpointing else nullcontext():
            prediction = backbone.predict(moved, t, text, grounding)
        error = (prediction - wanted).square().flatten(1).mean(1)
        weight = 1.0 if self.snr_gamma is None else snr_weight(kind, signal, self.snr_gamma)
        return {"total": (weight * error).mean(), **_terms(error.detach(), t, backbone), **more}

    def _moved(self, z: Latents, t: Int[Tensor, " batch"], batch: Batch) -> tuple[Latents, Losses]:
        if self.align is None:
            return z, {}
        moved = self.align(z, t, batch.layouts).detach()
        finite = moved.flatten(1).isfinite().all(1)
        moved = torch.where(finite.view(-1, 1, 1, 1), moved, z)
        return moved, {"moved": (moved - z).square().mean().sqrt(), "unmoved": 1 - finite.float().mean()}


def _terms(error: Float[Tensor, " batch"], t: Int[Tensor, " batch"], backbone: Backbone) -> Losses:
    half = backbone.scheduler.config.num_train_timesteps // 2
    named = {"noise": error, "noise_low": error[t < half], "noise_high": error[t >= half]}
    return {name: rows.mean() for name, rows in named.items() if len(rows)}
