"""diffusers' schedulers, made fresh for each run and made safe for latents that methods move."""

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, LMSDiscreteScheduler, PNDMScheduler
from jaxtyping import Bool, Float
from torch import Tensor

from trueline.models.schedules import SCHEDULERS

#: Class name -> class: those of ``SCHEDULERS`` and two that checkpoints come with.
SCHEDULER_CLASSES: dict[str, Any] = {
    name: getattr(diffusers, name)
    for name in (*SCHEDULERS.values(), "DDPMScheduler", "EulerAncestralDiscreteScheduler")
}

#: alpha and sigma: what the denoiser reads is alpha x0 + sigma noise.
Level = tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]


def make_scheduler(name: str | None, like: Any) -> Any:
    """A fresh scheduler with the betas and prediction type of ``like``: one of ``SCHEDULERS``, or its own
    kind for None.

    Raises:
        ValueError: an unknown name.
    """
    if name is not None and name not in SCHEDULERS:
        raise ValueError(f"scheduler: unknown name {name!r}; choose from {', '.join(SCHEDULERS)}")
    kind: Any = type(like) if name is None else SCHEDULER_CLASSES[SCHEDULERS[name]]
    return kind.from_config(like.config, **_missing(kind, like.config))


def _missing(kind: Any, config: Any) -> dict[str, Any]:
    """What a config of another kind does not say, and where diffusers' own default is wrong for Stable
    Diffusion.

    DDIM would clip latents to -1..1; PNDM would begin with Runge-Kutta steps, which no Stable Diffusion uses.
    """
    usual = {"clip_sample": False, "skip_prk_steps": True}
    accepted = inspect.signature(kind.__init__).parameters
    return {key: value for key, value in usual.items() if key in accepted and key not in config}


def x0_of(
    predicts: str, prediction: Float[Tensor, "rows c h w"], z: Float[Tensor, "rows c h w"], level: Level
) -> Float[Tensor, "rows c h w"]:
    """The clean latents that a prediction at z = alpha x0 + sigma noise means.

    For noise (z - sigma eps) / alpha; for velocity alpha z - sigma v (Salimans & Ho 2022, arXiv 2202.00512). Either
    way an error of the noise comes out sigma / alpha as large: 0.34 at t = 100, 14.6 at t = 999 of Stable Diffusion.

    Raises:
        ValueError: a prediction type other than "epsilon", "v_prediction" and "sample".
    """
    alpha, sigma = level
    if predicts == "epsilon":
        return (z - sigma * prediction) / alpha
    if predicts == "v_prediction":
        return alpha * z - sigma * prediction
    if predicts == "sample":
        return prediction
    raise ValueError(f"model: nothing is known of a model that predicts {predicts!r}")


def target_of(
    predicts: str, x0: Float[Tensor, "rows c h w"], noise: Float[Tensor, "rows c h w"], level: Level
) -> Float[Tensor, "rows c h w"]:
    """What is to be predicted: the noise, the velocity alpha noise - sigma x0, or x0.

    Raises:
        ValueError: as ``x0_of``.
    """
    alpha, sigma = level
    if predicts == "epsilon":
        return noise
    if predicts == "v_prediction":
        return alpha * noise - sigma * x0
    if predicts == "sample":
        return x0
    raise ValueError(f"model: nothing is known of a model that predicts {predicts!r}")


class Stepper:
    """One run of one scheduler.

    Multistep solvers mix the last predictions into each step. When a method has moved a picture's latents,
    those predictions belong to another trajectory, so that row's history is replaced by its present: with a
    constant history DPM-Solver++'s differences vanish and LMS's weights sum to one, so the step of that row
    is first-order, exactly, and its batch mates keep their order. PNDM keeps the *latents* of an earlier step
    and would throw the move away: it is refused.
    """

    def __init__(self, scheduler: Any, steps: int, device: torch.device | str):
        self.scheduler = scheduler
        scheduler.set_timesteps(steps, device=device)
        self.timesteps: Tensor = scheduler.timesteps
        trained = int(scheduler.config.num_train_timesteps)
        if float(self.timesteps.max()) > trained - 1:
            raise ValueError(
                f"steps: this model has {trained} timesteps, too few for {steps} steps; take fewer"
            )
        self.index = 0

    def start(self, noise: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Unit noise scaled to the scheduler's first noise level."""
        return noise * self.scheduler.init_noise_sigma

    def net_input(self, z: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows c h w"]:
        """``z`` at this step as the U-Net expects it (unit variance: alpha x0 + sigma noise)."""
        return self.scheduler.scale_model_input(z, self.timesteps[self.index])

    def x0(
        self, prediction: Float[Tensor, "batch c h w"], z: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch c h w"]:
        """The clean latents that a raw prediction at ``z`` means, be it noise or velocity."""
        return x0_of(self.scheduler.config.prediction_type, prediction, self.net_input(z), self.alpha_sigma())

    def alpha_sigma(self, ahead: int = 0) -> Level:
        """Signal and noise level of ``net_input`` at this step, or so many steps ``ahead``: alpha^2 + sigma^2 = 1.

        After the last step it is the level at which the scheduler ends.
        """
        index = self.index + ahead
        if hasattr(self.scheduler, "sigmas"):  # in units of x0: Euler, LMS, DPM-Solver
            ratio = self.scheduler.sigmas[index]
            alpha = (1 + ratio**2) ** -0.5
            return alpha, ratio * alpha
        if index < len(self.timesteps):
            signal = self.scheduler.alphas_cumprod[self.timesteps[index].long().cpu()]
        else:
            signal = getattr(self.scheduler, "final_alpha_cumprod", torch.tensor(1.0))
        return signal**0.5, (1 - signal) ** 0.5

    def step(
        self,
        prediction: Float[Tensor, "batch c h w"],
        z: Float[Tensor, "batch c h w"],
        moved: Bool[Tensor, " batch"],
        generators: Sequence[torch.Generator],
        eta: float = 0.0,
    ) -> Float[Tensor, "batch c h w"]:
        """The latents of the next step. ``moved`` marks pictures that were edited since the last one.

        Noise of stochastic schedulers comes from each picture's own generator.

        Raises:
            ValueError: latents were moved under PNDM.
        """
        if moved.any():
            self._forget(prediction, z, moved)
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"eta": eta, "generator": list(generators)}
        options = {name: value for name, value in options.items() if name in accepted}
        t = self.timesteps[self.index]
        self.index += 1
        return self.scheduler.step(prediction, t, z, **options).prev_sample

    def _forget(
        self,
        prediction: Float[Tensor, "batch c h w"],
        z: Float[Tensor, "batch c h w"],
        rows: Bool[Tensor, " batch"],
    ) -> None:
        """Replace these rows' history by the present, in the solver's own terms."""
        refuse_moves(self.scheduler)
        if isinstance(self.scheduler, LMSDiscreteScheduler):
            history = self.scheduler.derivatives
            present = (z - self.x0(prediction, z)) / self.scheduler.sigmas[self.index]
        elif isinstance(self.scheduler, DPMSolverMultistepScheduler):
            history = self.scheduler.model_outputs
            # Before its first step the solver has no index to convert with, and no history to replace.
            present = self.scheduler.convert_model_output(prediction, sample=z) if self.index else None
        else:
            return
        for age, past in enumerate(history):
            if past is not None:
                history[age] = torch.where(rows.view(-1, 1, 1, 1), present, past)


def refuse_moves(scheduler: Any) -> None:
    """A ValueError for the scheduler that loses latents moved between its steps."""
    if isinstance(scheduler, PNDMScheduler):
        cure = "use ddim, dpmsolver++, euler or lms"
        raise ValueError(
            f"scheduler: pndm goes back to latents of an earlier step and would lose a method's move; {cure}"
        )
