"""How HCMA's alignment net is trained."""

from dataclasses import dataclass
from typing import Any

from trueline.models.alignment_loss import alignment_losses, targets
from trueline.training.losses.denoising import noised
from trueline.training.objective import Batch, Losses, Nets


@dataclass(frozen=True)
class AlignmentObjective:
    """Stage A: teach the alignment net (``nets["alignment"]``) to read noisy latents of real pictures.

    total = lambda_1 L_G + lambda_2 L_L, the loss of (12) itself: how the net is trained the paper does not say. The
    caption and all boxes of a layout count, also where the U-Net would not be shown them. Timesteps have to be drawn
    from the net's own range (``timesteps`` of its config), the one in which it guides. Logged: ``global``, ``local``
    (its mean over pictures with regions; 0 if none has any).

    Raises, when called:
        ValueError: a timestep outside the net's range.
    """

    global_weight: float = 1.0
    local_weight: float = 1.0

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        net = nets["alignment"]
        own: Any = getattr(net, "module", net)  # without the wrapper of a distributed run
        first, past = own.config.timesteps
        if batch.t.min() < first or batch.t.max() >= past:
            raise ValueError(
                f"timesteps: the alignment net is for {first} <= t < {past}, and a batch has t from "
                f"{int(batch.t.min())} to {int(batch.t.max())}; draw t from that range"
            )
        wanted = targets(own, nets.backbone, batch.layouts)
        device = own.text_projection.device
        latents, noise = batch.latents.to(device), batch.noise.to(device)
        alpha, sigma = (part.to(latents) for part in nets.backbone.noise_level(batch.t))
        z = noised(latents, noise, (alpha, sigma))
        aligned = net(z, batch.t.to(device), wanted.boxes, wanted.present)
        globe, local = alignment_losses(aligned, wanted.caption, wanted.labels, wanted.present)
        total = (self.global_weight * globe + self.local_weight * local).mean()
        boxed = wanted.present.any(1)
        return {
            "total": total,
            "global": globe.mean(),
            "local": (local * boxed).sum() / boxed.sum().clamp(min=1),
        }
