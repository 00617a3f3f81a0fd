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
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from trueline.errors import FieldError, Frozen
from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded
from trueline.models.grounding import Grounding, alpha_schedule
from trueline.models.lora import without_lora
from trueline.models.pixels import Images
from trueline.models.schedulers import Stepper
from trueline.models.schedules import SCHEDULERS
from trueline.seeds import generator_of
from trueline.training.early_stop import drift
from trueline.training.losses.denoising import DenoisingObjective, decoded, ground, noised
from trueline.training.objective import Batch, Losses, Nets
from trueline.training.rewards.reward import Reward, Scores
from trueline.training.rewards.weighted import Rewards
from trueline.training.settings import Count

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


class ReflSettings(Frozen):
    """What is drawn, and what is minimised.

    Args:
        scale: lambda. margin, phi: of the loss of a score.
        sampling_steps: T of a whole run (RealignDiff: 50; ImageReward's code: 40).
        first, last: the late step is one of these, of 0..sampling_steps-1; the last has the least noise.
        draft: DRaFT-K: all steps are done, and the last K calls have a gradient, in place of the late step; None =
            ReFL.
        backprop: calls of the U-Net with gradient, the late step the last of them.
        detach: no gradient through the input of the U-Net, only through its output (DRTune; for ``backprop`` > 1).
        bounded: a picture's gradient at the steps before is no longer than at its x0. Through many guided calls it
            may grow a hundredfold for one picture of a batch, whose step that picture then is (ours).
        scheduler: of ``SCHEDULERS``; None = the checkpoint's own. eta: of DDIM; 1 is as noisy as ImageReward's DDPM.
        guidance_scale: None, or at most 1 = without classifier-free guidance (ImageReward's code), as the picture is
            trained; else its strength, also in the calls with gradient, where the checkpoint wants guidance.
        boxes: draw with the layouts' boxes, for a grounded U-Net.
        preserve: "prior": MSE to the base's noise at a z_t of the batch's t made of the drawn x0; "pictures": the
            noise loss on the batch's latents (eq. 3); "none". The data may be prompts alone (``data.source`` a .txt)
            unless it is "pictures".
        weight: of L_pre.
    """

    scale: Annotated[float, Field(gt=0)] = 1e-3
    margin: float = 2.0
    phi: Phi = "relu"
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    first: Annotated[int, Field(ge=0)] = 30
    last: Annotated[int, Field(ge=0)] = 49
    draft: Count | None = None
    backprop: Count = 1
    detach: bool = False
    bounded: bool = False
    scheduler: str | None = "ddim"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    guidance_scale: Annotated[float, Field(ge=0)] | None = None
    boxes: bool = False
    preserve: Preserve = "prior"
    weight: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _steps_fit(self) -> ReflSettings:
        steps, (first, last) = self.sampling_steps, self.span
        if self.draft is not None and self.draft > steps:
            raise FieldError("draft", f"must be at most the {steps} sampling_steps (got {self.draft})")
        if not first <= last < steps:
            span = f"must be at most last, and last below the {steps} sampling_steps"
            raise FieldError("first", f"{span} (got {first} and {last})")
        if self.calls > first + 1:
            calls = f"must be 1 to {first + 1}, the calls up to the first late step"
            raise FieldError("backprop", f"{calls} (got {self.backprop})")
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            known = ", ".join(SCHEDULERS)
            raise FieldError("scheduler", f"unknown name {self.scheduler!r}; choose from {known}")
        return self

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last late step."""
        end = self.sampling_steps - 1
        return (self.first, self.last) if self.draft is None else (end, end)

    @property
    def calls(self) -> int:
        """Calls with gradient."""
        return self.backprop if self.draft is None else self.draft


@dataclass(frozen=True)
class ReFL:
    """lambda mean phi(R) + weight L_pre, a mean over the pictures of the batch.

    The batch's prompts are all read, whether or not it drops them; its noise is the first noise of the pictures, so
    that a picture does not depend on its batch mates. Its latents count with ``preserve`` = "pictures" alone.

    Args:
        rewards: named rewards with weights. held_out: a score that is not trained on, for the log.
        seed: of the late step, with the training step.

    Nets: with "prior" and without a LoRA, ``nets["base"]``, a frozen copy of the U-Net.

    Logged: "reward" (what phi reads), "reward/NAME" and "held_out" (raw), "refl" (mean phi), "preserve" (L_pre), with
    "prior" also "drift" (relative RMS), "late" (the step).

    Raises, when called:
        RewardError: a reward without a gradient.
    """

    rewards: Rewards
    settings: ReflSettings
    seed: int = 0
    held_out: Reward | None = None
    _probed: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        backbone = nets.backbone
        prompts = [layout.prompt for layout in batch.layouts]
        late = drawn_step(self.seed, batch.step, self.settings.span)
        drawn = self.draw(backbone, batch, late)
        self.check(backbone, (drawn.images.shape[-2], drawn.images.shape[-1]))
        captioning = own_generators(batch.noise, "captions")
        with torch.autocast(
            drawn.images.device.type, enabled=False
        ):  # the rewards' nets have a dtype of their own
            parts = self.rewards.parts(drawn.images, prompts, captioning)
        self.rewards.take(parts)
        scores = self.rewards.combine(parts)
        loss = phi(self.settings.phi, scores, self.settings.margin).mean()
        named = {f"reward/{name}": found.detach().mean() for name, found in parts.items()}
        named |= {"reward": scores.detach().mean(), "refl": loss.detach(), "late": torch.tensor(float(late))}
        if self.held_out is not None:
            with torch.no_grad(), torch.autocast(drawn.images.device.type, enabled=False):
                named["held_out"] = self.held_out(drawn.images.detach(), prompts, captioning).mean()
        total = self.settings.scale * loss
        if self.settings.preserve != "none" and self.settings.weight:
            kept, more = self.kept(batch, nets, drawn.clean.detach())
            total = total + self.settings.weight * kept
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
        stepper = backbone.stepper(self.settings.scheduler, self.settings.sampling_steps)
        if late >= len(stepper.timesteps):
            raise ValueError(f"span: {late} is past the {len(stepper.timesteps)} steps of the scheduler")
        z = stepper.start(batch.noise.to(backbone.device))
        text = backbone.encode([layout.prompt for layout in batch.layouts])
        negative, strength = None, self.settings.guidance_scale or 1.0
        if strength > 1:  # as ``sample`` has it
            negative = backbone.encode([layout.negative_prompt for layout in batch.layouts])
        calls = _Calls(backbone, stepper, text, negative, strength)
        if self.settings.boxes:
            calls.grounding = ground(backbone, batch)
            calls.boxed = torch.tensor([float(bool(layout.regions)) for layout in batch.layouts])
        still = torch.zeros(len(z), dtype=torch.bool)
        noises = own_generators(batch.noise, "steps")
        bound = _Bound() if self.settings.bounded else None
        for index in range(late):
            with torch.set_grad_enabled(index > late - self.settings.calls):
                prediction = calls.predict(z.detach() if self.settings.detach else z)
                z = stepper.step(prediction, z, still, noises, self.settings.eta)
                if bound and z.requires_grad:
                    z.register_hook(bound.keep)
        prediction = calls.predict(z.detach() if self.settings.detach else z)
        clean = stepper.x0(prediction, z)
        if bound and clean.requires_grad:
            clean.register_hook(bound.see)
        return DrawnClean(clean, decoded(backbone, clean, through=True))

    # What is to stay

    def kept(self, batch: Batch, nets: Nets, clean: Latents) -> tuple[Tensor, Losses]:
        """L_pre, and what else of it is logged."""
        if self.settings.preserve == "pictures":
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
        text, grounding = (
            backbone.encode(batch.captions),
            ground(backbone, batch) if self.settings.boxes else None,
        )
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
