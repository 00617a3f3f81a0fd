"""The recipe of HCMA, in stages.

align: the alignment net alone, on noisy latents of real pictures, over the timesteps in which it guides.
joint: the paper's step: z_t is moved by the net of stage align, and the U-Net learns to denoise what comes out.
control: the same without the move: GLIGEN fine-tuned on the same data for the same steps, which the paper lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from trueline.errors import FieldError, Frozen
from trueline.layout import Layout
from trueline.methods import make
from trueline.methods.hcma import HCMA
from trueline.models.alignment import AlignmentNet, load_net, misfit
from trueline.models.alignment_loss import alignment_gradient, ideal_displacement, step_of, targets
from trueline.models.backbone import Backbone
from trueline.models.pretrained import Checkpoint
from trueline.models.shipped import shipped_folder
from trueline.seeds import seed_torch
from trueline.training.data.examples import bytes_of, digest
from trueline.training.losses.denoising import DenoisingObjective
from trueline.training.losses.hcma import AlignmentObjective
from trueline.training.recipes.recipe import Recipe, Task, checksum
from trueline.training.settings import Count, Training

#: Settings of the net that are its own defaults unless they are given here.
NET = (
    "patch",
    "width",
    "depth",
    "heads",
    "mlp",
    "token_mlp",
    "head_mlp",
    "frequencies",
    "fusion",
    "pooling",
    "timed",
)


class HcmaObjectiveSettings(Frozen):
    """What HCMA has to set besides the loop. A setting that the stage has no use for is refused (``STAGES_OF``).

    Args:
        patch ... timed: of the alignment net, as ``AlignmentNet`` explains them; None = its default. Stage align.
        clip: whose text projection makes the common space: a folder or Hub id of a CLIP that has the checkpoint's
            own text encoder; None = the world's CLIP for the world, no projection for others. Stage align.
        global_weight, local_weight: lambda_1 and lambda_2 of the net's loss. Stage align.
        alignment: folder of the alignment net. Stage joint.
        guidance: settings of the method ``hcma`` (beta, rule, weighting, every, ...) by which z_t is moved in stage
            joint, and with which pictures are drawn on the way (also in stage align).
        sampling_steps: of the run for which the U-Net is trained (the paper: 50): the step of the rule "norm" is as
            long as one of its steps, and start, stop and every count them. Stage joint.
        corrected: aim at the noise of the moved latents; False = at the noise that was added (the paper). Stage
            joint.
        snr_gamma: weight of min-SNR in stages joint and control; None = the plain mean (GLIGEN).
    """

    patch: Count | None = None
    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    mlp: Count | None = None
    token_mlp: Count | None = None
    head_mlp: Count | None = None
    frequencies: Count | None = None
    fusion: Literal["concat", "add", "multiply"] | None = None
    pooling: Literal["box", "grid"] | None = None
    timed: bool | None = None
    clip: str | None = None
    global_weight: Annotated[float, Field(ge=0)] = 1.0
    local_weight: Annotated[float, Field(ge=0)] = 1.0
    alignment: str | None = None
    guidance: dict[str, Any] = Field(default_factory=dict)
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    corrected: bool = False
    snr_gamma: Annotated[float, Field(gt=0)] | None = None


#: Settings without effect in the other stages.
STAGES_OF = {
    **{f"objective.{name}": ("align",) for name in (*NET, "clip", "global_weight", "local_weight")},
    **{f"objective.{name}": ("joint",) for name in ("alignment", "sampling_steps", "corrected")},
    "objective.guidance": ("align", "joint"),
    "objective.snr_gamma": ("joint", "control"),
    **{name: ("joint", "control") for name in ("part", "position_net", "lora")},
}


class HcmaSettings(Training):
    """Of ``trueline train hcma``."""

    stage: Literal["align", "joint", "control"] = "align"
    objective: HcmaObjectiveSettings = HcmaObjectiveSettings()

    @model_validator(mode="after")
    def _of_this_stage(self) -> HcmaSettings:
        for key, stages in STAGES_OF.items():
            group, name = (self.objective, key.partition(".")[2]) if "." in key else (self, key)
            default = type(group).model_fields[name].get_default(call_default_factory=True)
            if self.stage not in stages and getattr(group, name) != default:
                others = " or ".join(stages)
                raise FieldError(
                    key, f"has no effect in stage {self.stage}; leave it out, or choose stage {others}"
                )
        if not (self.objective.global_weight or self.objective.local_weight):
            raise FieldError(
                "objective.global_weight",
                "it and local_weight are 0, so the net learns nothing; set one of them above 0",
            )
        return self


def prepare(settings: HcmaSettings, backbone: Backbone, folder: Path) -> Task:
    """The task of ``settings.stage``. ``folder``: the run's, for what pictures on the way need.

    Raises:
        ValueError: a net that is not there or does not fit, settings of the net that do not fit each other, or a move
            that moves nothing.
    """
    if settings.stage == "align":
        return _align(settings, backbone, folder)
    if settings.stage == "control":
        objective = DenoisingObjective(snr_gamma=settings.objective.snr_gamma)
        return Task(settings, backbone, objective)
    return _joint(settings, backbone)


RECIPE = Recipe(HcmaSettings, prepare)


@dataclass(kw_only=True)
class AlignTask(Task):
    """Trains and writes the alignment net. Pictures on the way are drawn with it as it is, by way of ``folder``."""

    settings: HcmaSettings
    net: AlignmentNet
    folder: Path

    def save(self, target: Path) -> None:
        self.net.save_pretrained(target)

    def methods(self) -> Sequence[HCMA]:
        self.net.save_pretrained(self.folder)
        return [_method(self.settings, self.folder)]


def _align(settings: HcmaSettings, backbone: Backbone, folder: Path) -> AlignTask:
    net = make_net(settings, backbone)
    _method(settings, folder)  # what is wrong with objective.guidance is said now
    return AlignTask(
        settings=settings,
        backbone=backbone,
        objective=AlignmentObjective(settings.objective.global_weight, settings.objective.local_weight),
        further={"alignment": net},
        part="none",
        identity={"text_projection": digest(bytes_of(net.text_projection))},  # of objective.clip
        net=net,
        folder=folder / "shown",
    )


@dataclass(kw_only=True)
class JointTask(Task):
    """The U-Net is trained behind the alignment net: they belong together, and are written together."""

    aligner: Aligner

    def save(self, target: Path) -> None:
        super().save(target)
        self.aligner.net.save_pretrained(target / "alignment")

    def methods(self) -> Sequence[HCMA]:
        return [self.aligner.method]


def _joint(settings: HcmaSettings, backbone: Backbone) -> JointTask:
    folder = settings.objective.alignment
    if folder is None:
        raise ValueError("objective.alignment: give the folder of the net that stage align made")
    net = load_net(folder).to(backbone.device)
    if problem := misfit(net.config, backbone, backbone.latent_size()):
        raise ValueError(f"objective.alignment: the net in {folder} {problem}")
    method = _method(settings, Path(folder))
    aligner = Aligner(net, backbone, method, settings.objective.sampling_steps)
    if problem := _unmoved(settings, aligner):
        raise ValueError(f"{problem}; or train stage control, which moves nothing")
    objective = DenoisingObjective(aligner, settings.objective.corrected, settings.objective.snr_gamma)
    return JointTask(settings, backbone, objective, identity={"alignment": checksum(net)}, aligner=aligner)


def _method(settings: HcmaSettings, folder: Path) -> HCMA:
    if "weights" in settings.objective.guidance:
        raise ValueError("objective.guidance.weights: give the net as objective.alignment")
    try:
        return make("hcma", settings.objective.guidance | {"weights": str(folder)})
    except ValueError as error:
        raise ValueError(f"objective.guidance: {str(error).removeprefix('hcma.')}") from None


def _unmoved(settings: HcmaSettings, aligner: Aligner) -> str | None:
    """Why no latents would ever be moved; None: some are."""
    method, (first, past) = aligner.method, aligner.net.config.timesteps
    if not method.size:
        name = "strength" if not method.strength else "beta" if method.rule == "norm" else "eta"
        return f"objective.guidance.{name}: is 0, so nothing is moved; set it above 0"
    if not (method.global_weight or method.local_weight):
        return "objective.guidance.global_weight: it and local_weight are 0, so nothing is moved; set one above 0"
    drawn = f"t is drawn from {settings.t_low} to below {settings.t_high}"
    if max(settings.t_low, first) >= min(settings.t_high, past):
        return (
            f"t_low: {drawn}, but the net in {settings.objective.alignment} was trained for {first} <= t < {past}, "
            "so nothing is moved; let the two meet"
        )
    if not aligner.acting(torch.arange(settings.t_low, settings.t_high)).any():
        return (
            f"objective.guidance.start: {drawn}, where start, stop and every align none of the {aligner.steps} steps "
            "(objective.sampling_steps), so nothing is moved; widen them"
        )
    return None


def make_net(settings: HcmaSettings, backbone: Backbone) -> AlignmentNet:
    """An untrained alignment net, the same for the same seed.

    Raises:
        ValueError: sizes that do not fit each other, or a CLIP whose text encoder is another.
    """
    given = settings.objective.model_dump(include=set(NET), exclude_none=True)
    given["timesteps"] = (settings.t_low, settings.t_high)
    projection = text_projection(settings, backbone)
    with torch.random.fork_rng(devices=[]):
        seed_torch(settings.seed)
        try:
            return AlignmentNet.for_backbone(backbone, projection, **given)
        except ValueError as error:
            raise ValueError(f"objective.{error}") from None


def text_projection(settings: HcmaSettings, backbone: Backbone) -> Float[Tensor, "text_width d_t"] | None:
    """The projection of ``objective.clip``, or of the world's CLIP for the world.

    Raises:
        ValueError: it cannot be read, or its text encoder is not the checkpoint's.
    """
    from transformers import CLIPTextModelWithProjection

    name: str | Path | None = settings.objective.clip
    if name is None and settings.model == "world":
        name = shipped_folder("clip")
    if name is None:
        return None
    clip = Checkpoint(name).model(CLIPTextModelWithProjection, "cpu", "float32")
    own, its = (dict(net.named_parameters()) for net in (backbone.nets()["text_encoder"], clip))
    its = {key.removeprefix("text_model."): value for key, value in its.items()}
    for key, value in own.items():
        other = its.get(key.removeprefix("text_model."))
        # Weights may have been stored in float16.
        if (
            other is None
            or other.shape != value.shape
            or not torch.allclose(other, value.cpu().float(), atol=2e-2)
        ):
            raise ValueError(
                f"objective.clip: the text encoder of {name} is not that of the model ({key} differs), so its "
                "projection does not fit; give the CLIP that the model was made with, or leave it out"
            )
    return clip.text_projection.weight.detach().T.contiguous()


@dataclass(frozen=True)
class Aligner:
    """z_t -> z_t^(a) as the method ``hcma`` moves latents, at each row's own t; for ``DenoisingObjective``.

    The norm rule's reference is the ideal displacement of DDIM from t to the timestep that a run of ``steps`` visits
    next. Rows outside the net's timesteps, or at a step that such a run would not align (the method's ``start``,
    ``stop`` and ``every``), are left where they are.
    """

    net: AlignmentNet
    backbone: Backbone
    method: HCMA
    steps: int = 50

    def __call__(
        self, z: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"], layouts: Sequence[Layout]
    ) -> Float[Tensor, "batch c h w"]:
        method = self.method
        wanted = targets(self.net, self.backbone, layouts)
        weights = (method.global_weight, method.local_weight)
        _, gradient = alignment_gradient(self.net, z, t, wanted, weights, method.weighting)
        step = step_of(gradient, method.rule, self.displacement(t))
        acts = self.acting(t).view(-1, 1, 1, 1)
        return torch.where(acts, z - method.size * step.to(z), z)

    def acting(self, t: Int[Tensor, " batch"]) -> Tensor:
        """Which rows are moved."""
        (first, past), due = self.net.config.timesteps, self.method.steps(self.steps)
        # The step of the run that visits t or, where it visits none, the next timestep below: the last one is the
        # lowest. Some of the highest timesteps lie before the first step, where strides do not fill the schedule.
        index = (self.steps - 1 - t // self.stride).clamp(min=0)
        aligned = (index >= due.start) & (index < due.stop) & ((index - due.start) % due.step == 0)
        return aligned & (t >= first) & (t < past)

    @property
    def stride(self) -> int:
        """Timesteps from one step of the run to the next."""
        return self.backbone.timesteps // self.steps

    def displacement(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """RMS of the ideal step from t."""
        now, after = (self.backbone.noise_level(at) for at in (t, (t - self.stride).clamp(min=0)))
        return ideal_displacement(*(part.flatten() for part in (*now, *after)))
