"""ReFL: train a text-to-image model by a reward of what it draws, through its last steps.

Source: Xu et al., "ImageReward" (arXiv 2304.05977), algorithm 1 and THUDM/ImageReward@c1392c6 ``ReFL.py``; its use in
Fang et al., "RealignDiff" (arXiv 2305.19599), eq. 5; DRaFT-K of Clark et al. (arXiv 2309.17400); the detached input
of Wu et al., "DRTune" (arXiv 2405.00760).

    x_m       : m steps without gradient, from noise
    x0'       = (x_m - sigma eps_theta(x_m)) / alpha,   picture = decode(x0')
    L         = lambda mean phi(R(picture, prompt)) + L_pre,    phi(r) = relu(margin - r)

What differs, and why: eq. 5 as it is printed minimises relu(R), that is, lowers the reward: phi is ReFL's own. Its
L_pre needs pictures, while the paper trains on captions alone: here L_pre is the noise loss on given pictures, or
prior preservation, the squared distance to the noise that the frozen base predicts. Both terms make one step: under
AdamW lambda would do nothing to a reward that has a step of its own. m is one number for all pictures and processes,
so that none waits for another. Pixels outside 0..1 keep their gradient.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded
from trueline.models.grounding import Grounding, alpha_schedule
from trueline.models.lora import without_lora
from trueline.models.pixels import Images
from trueline.models.schedulers import Stepper
from trueline.seeds import generator_of
from trueline.training.early_stop import drift
from trueline.training.losses.denoising import DenoisingObjective, decoded, ground, noised
from trueline.training.objective import Batch, Losses, Nets
from trueline.training.rewards.reward import Reward, Scores
from trueline.training.rewards.weighted import Rewards

Latents = Float[Tensor, "batch c h w"]
Preserve = Literal["prior", "pictures", "none"]
Phi = Literal["relu", "linear"]


def phi(kind: Phi, scores: Scores, margin: float) -> Scores:
    """ReFL's relu(margin - r), or margin - r. Below the margin, as cosines are below 2, they are one; a standardised
    score may be above it, and its picture has no gradient then."""
    left = margin - scores
    return left.clamp(min=0) if kind == "relu" else left


def drawn_step(seed: int, step: int, span: tuple[int, int]) -> int:
    """The late step of training step ``step``: uniform in ``span``, both ends included; the same in all processes."""
    low, high = span
    return low + int(torch.randint(high - low + 1, (), generator=generator_of(seed, "late step", step)))


class _Bound:
    """Of one backward pass: the gradient of each picture's x0, and of what was before it, no longer than that."""

    longest: Tensor

    def see(self, gradient: Latents) -> None:
        self.longest = gradient.flatten(1).norm(dim=1)

    def keep(self, gradient: Latents) -> Latents:
        length = gradient.flatten(1).norm(dim=1)
        share = (self.longest / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)
        return gradient * share[:, None, None, None]


@dataclass
class _Calls:
    """One run's calls of the U-Net, as ``sample`` makes them: guidance in the checkpoint's own interval, boxes after
    its own schedule, null grounding and scale 0 where there are none."""

    backbone: Backbone
    stepper: Stepper
    text: Encoded
    negative: Encoded | None
    guidance_scale: float
    grounding: Grounding | None = None
    boxed: Float[Tensor, " batch"] | None = None  # 1 for each picture with boxes

    def predict(self, z: Latents) -> Latents:
        """At the stepper's present step."""
        backbone, index, count = self.backbone, self.stepper.index, len(self.stepper.timesteps)
        net_input, t = self.stepper.net_input(z), self.stepper.timesteps[index]
        alpha = alpha_schedule(count, backbone.grounding_schedule)[index]
        scale = torch.zeros(len(z)) if self.boxed is None else alpha * self.boxed
        start, stop = backbone.guidance_interval
        with backbone.recomputed() if torch.is_grad_enabled() else nullcontext():
            if self.negative is None or not start <= index / count < stop:
                return backbone.predict(net_input, t, self.text, self.grounding, scale)
            both = None
            if self.grounding is not None:
                both = Grounding.cat([self.grounding.null(), self.grounding])
            rows, text = torch.cat([net_input, net_input]), Encoded.cat([self.negative, self.text])
            uncond, cond = backbone.predict(rows, t, text, both, scale.repeat(2)).chunk(2)
        return uncond + self.guidance_scale * (cond - uncond)


class DrawnClean(NamedTuple):
    """What was drawn: x0 with gradient, and its pixels."""

    clean: Latents
    images: Images


@dataclass(frozen=True)
class ReFL:
    """lambda mean phi(R) + weight L_pre, a mean over the pictures of the batch.

    The batch's prompts are all read, whether or not it drops them; its noise is the first noise of the pictures, so
    that a picture does not depend on its batch mates. Its latents count with ``preserve`` = "pictures" alone.

    Settings:
        rewards: named rewards with weights.
        seed: of the late step, with the training step.
        scale: lambda (1e-3). margin, phi: of the loss of a score (2, "relu").
        steps: T of a whole run (RealignDiff: 50; ImageReward's code: 40). scheduler: of ``SCHEDULERS``; None = the
            checkpoint's own. eta: of DDIM; 1 is as noisy as ImageReward's DDPM.
        span: (first, last) late step, of 0..steps-1; the last has the least noise.
        backprop: calls of the U-Net with gradient, the late step the last of them. ``draft`` gives DRaFT-K.
        detach: no gradient through the input of the U-Net, only through its output (DRTune; for ``backprop`` > 1).
        bounded: a picture's gradient at the steps before is no longer than at its x0. Through many guided calls it
            may grow a hundredfold for one picture of a batch, whose step that picture then is (ours).
        guidance_scale: None, or at most 1 = without classifier-free guidance (ImageReward's code), as the picture is
            trained; else its strength, also in the calls with gradient, where the checkpoint wants guidance.
        boxes: draw with the layouts' boxes, for a grounded U-Net.
        preserve: "prior": MSE to the base's noise at a z_t of the batch's t made of the drawn x0; "pictures": the
            noise loss on the batch's latents (eq. 3); "none".
        weight: of L_pre.
        held_out: a score that is not trained on, for the log.

    Nets: with "prior" and without a LoRA, ``nets["base"]``, a frozen copy of the U-Net.

    Logged: "reward" (what phi reads), "reward/NAME" and "held_out" (raw), "refl" (mean phi), "preserve" (L_pre), with
    "prior" also "drift" (relative RMS), "late" (the step).

    Raises, when made or called:
        ValueError: settings that do not fit each other; RewardError: a reward without a gradient.
    """

    rewards: Rewards
    seed: int = 0
    scale: float = 1e-3
    margin: float = 2.0
    phi: Phi = "relu"
    steps: int = 50
    scheduler: str | None = "ddim"
    eta: float = 0.0
    span: tuple[int, int] = (30, 49)
    backprop: int = 1
    detach: bool = False
    bounded: bool = False
    guidance_scale: float | None = None
    boxes: bool = False
    preserve: Preserve = "prior"
    weight: float = 1.0
    held_out: Reward | None = None
    _probed: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        first, last = self.span
        if not 0 <= first <= last < self.steps:
            raise ValueError(
                f"span: must be first <= last of the steps 0 to {self.steps - 1} (got {first} and {last})"
            )
        if not 1 <= self.backprop <= first + 1:
            raise ValueError(
                f"backprop: must be 1 to {first + 1}, the calls up to the first late step (got {self.backprop})"
            )
        if self.scale <= 0:
            raise ValueError(f"scale: must be above 0 (got {self.scale:g})")

    @staticmethod
    def draft(k: int, steps: int) -> dict[str, Any]:
        """Settings of DRaFT-K: all steps are done, and the last ``k`` calls have a gradient."""
        return {"steps": steps, "span": (steps - 1, steps - 1), "backprop": k}

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        backbone = nets.backbone
        prompts = [layout.prompt for layout in batch.layouts]
        late = drawn_step(self.seed, batch.step, self.span)
        drawn = self.draw(backbone, batch, late)
        self.check(backbone, (drawn.images.shape[-2], drawn.images.shape[-1]))
        captioning = own_generators(batch.noise, "captions")
        with torch.autocast(
            drawn.images.device.type, enabled=False
        ):  # the rewards' nets have a dtype of their own
            parts = self.rewards.parts(drawn.images, prompts, captioning)
        self.rewards.take(parts)
        scores = self.rewards.combine(parts)
        loss = phi(self.phi, scores, self.margin).mean()
        named = {f"reward/{name}": found.detach().mean() for name, found in parts.items()}
        named |= {"reward": scores.detach().mean(), "refl": loss.detach(), "late": torch.tensor(float(late))}
        if self.held_out is not None:
            with torch.no_grad(), torch.autocast(drawn.images.device.type, enabled=False):
                named["held_out"] = self.held_out(drawn.images.detach(), prompts, captioning).mean()
        total = self.scale * loss
        if self.preserve != "none" and self.weight:
            kept, more = self.kept(batch, nets, drawn.clean.detach())
            total = total + self.weight * kept
            named |= {"preserve": kept.detach(), **more}
        return {"total": total, **named}

    def check(self, backbone: Backbone, size: tuple[int, int]) -> None:
        """Probe the rewards' gradients, once for pictures of a size (height, width).

        Raises:
            RewardError: one that counts has none.
        """
        if size not in self._probed:
            vae: Any = backbone.nets()["vae"]
            dtype = torch.promote_types(vae.dtype, torch.float32)
            with torch.autocast(backbone.device.type, enabled=False):
                self.rewards.probe(size, backbone.device, dtype)
            self._probed.append(size)

    # Drawing

    def draw(self, backbone: Backbone, batch: Batch, late: int) -> DrawnClean:
        """x0 of step ``late``, as its prediction means it, and the picture."""
        stepper = backbone.stepper(self.scheduler, self.steps)
        if late >= len(stepper.timesteps):
            raise ValueError(f"span: {late} is past the {len(stepper.timesteps)} steps of the scheduler")
        z = stepper.start(batch.noise.to(backbone.device))
        text = backbone.encode([layout.prompt for layout in batch.layouts])
        negative, strength = None, self.guidance_scale or 1.0
        if strength > 1:  # as ``sample`` has it
            negative = backbone.encode([layout.negative_prompt for layout in batch.layouts])
        calls = _Calls(backbone, stepper, text, negative, strength)
        if self.boxes:
            calls.grounding = ground(backbone, batch)
            calls.boxed = torch.tensor([float(bool(layout.regions)) for layout in batch.layouts])
        still = torch.zeros(len(z), dtype=torch.bool)
        noises = own_generators(batch.noise, "steps")
        bound = _Bound() if self.bounded else None
        for index in range(late):
            with torch.set_grad_enabled(index > late - self.backprop):
                prediction = calls.predict(z.detach() if self.detach else z)
                z = stepper.step(prediction, z, still, noises, self.eta)
                if bound and z.requires_grad:
                    z.register_hook(bound.keep)
        prediction = calls.predict(z.detach() if self.detach else z)
        clean = stepper.x0(prediction, z)
        if bound and clean.requires_grad:
            clean.register_hook(bound.see)
        return DrawnClean(clean, decoded(backbone, clean, through=True))

    # What is to stay

    def kept(self, batch: Batch, nets: Nets, clean: Latents) -> tuple[Tensor, Losses]:
        """L_pre, and what else of it is logged."""
        if self.preserve == "pictures":
            terms = DenoisingObjective()(batch, nets)
            return terms["total"], {}
        ours, base = self.predictions(batch, nets, clean)
        return (ours - base).square().mean(), {"drift": drift(ours.detach(), base).mean()}

    def predictions(self, batch: Batch, nets: Nets, clean: Latents) -> tuple[Latents, Latents]:
        """Of the U-Net and of its base at z_t of ``clean``, with noise that the pictures were not drawn from."""
        backbone = nets.backbone
        fresh = torch.stack(
            [
                torch.randn(row.shape, generator=made)
                for row, made in zip(batch.noise, own_generators(batch.noise, "preserve"), strict=True)
            ]
        ).to(clean)
        t = batch.t.to(backbone.device)
        alpha, sigma = (part.to(clean) for part in backbone.noise_level(batch.t))
        z = noised(clean, fresh, (alpha, sigma))
        text, grounding = backbone.encode(batch.captions), ground(backbone, batch) if self.boxes else None
        with backbone.recomputed():
            ours = backbone.predict(z, t, text, grounding)
        if "base" in nets.further:
            base = copy.copy(backbone)
            base.denoiser = nets["base"]
            with torch.no_grad():
                return ours, base.predict(z, t, text, grounding)
        with torch.no_grad(), without_lora(backbone.denoiser):
            return ours, backbone.predict(z, t, text, grounding)


def own_generators(noise: Latents, purpose: str) -> Sequence[torch.Generator]:
    """One a picture, from its first noise: other draws than that, and the same whatever batch mates it has."""
    digests = [hashlib.sha256(row.cpu().contiguous().numpy().tobytes()).hexdigest() for row in noise]
    return [generator_of(0, purpose, digest) for digest in digests]
