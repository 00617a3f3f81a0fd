"""HCMA (Wang et al. 2025, arXiv 2505.06512): each step's latents are aligned with caption and boxes by a small net.

Net, losses and gradients are those of ``models.alignment`` and ``models.alignment_loss``; here is when and how far.
Written from the paper's description (its code cannot be had).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import Float
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from trueline.layout import Layout
from trueline.models.alignment import AlignmentNet, load_net, misfit, net_config
from trueline.models.alignment_loss import (
    AlignmentTargets,
    Rule,
    Weighting,
    alignment_gradient,
    ideal_displacement,
    step_of,
    targets,
)
from trueline.models.backbone import Backbone
from trueline.models.checkpoint import CheckpointError
from trueline.models.schedulers import Stepper
from trueline.models.shipped import shipped_folder
from trueline.sampling.guidance import LossAndGradient, move
from trueline.sampling.method import Context, Method


class HCMA(Method):
    """Before each prediction the latents take one step towards fitting the caption (global) and, in each box, the
    region's phrase (local): z - eta grad(lambda_1 L_G + lambda_2 L_L), in float32, by a net trained for it
    (``trueline train hcma``). The U-Net takes no part in that. On a GLIGEN checkpoint the boxes also ground, as in
    the paper; on others they act through the local loss alone.

    As published: one step before every prediction, lambda fixed. The paper gives neither lambda nor eta_t; 1 and 1,
    and the rule "norm", are judged, and beta was chosen on the world (docs/results_hcma.md). "norm" makes a step beta
    times as long as the scheduler's own ideal one from this noise level to the next (``ideal_displacement``; not
    as the picture's last real one, of which the first step has none, and which holds the guidance of words and of
    other methods); "constant" is the paper's letter, with one eta for all steps. Both are steps in latents of unit
    variance, which Euler and LMS scale.

    Steps at noise levels that the net was not trained for are left out, and the record says how many. A picture
    without regions is aligned as a whole only. A box below one patch counts as the part of the patch that it covers.
    A step whose loss or gradient is not finite is left out for that picture, and counted. Masks and negative phrases
    of regions are not used.

    Raises, before the first picture is begun:
        ValueError: no net at ``weights``, or one for latents or text features of another size.
    """

    strength: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="times the step, whatever the rule; 0 is plain sampling"
    )
    weights: str = Field("world", min_length=1, description='the alignment net: "world" or a folder')
    global_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="lambda_1, of the loss on the caption"
    )
    local_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="lambda_2, of the loss on the boxes"
    )
    weighting: Weighting = Field(
        "fixed", description='of the two: "fixed", "gradient" (equal norms) or "complexity" (number of boxes)'
    )
    rule: Rule = Field("norm", description='size of a step: "norm" (by beta) or "constant" (by eta)')
    beta: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="norm: length of a step in the scheduler's ideal steps"
    )
    eta: float = Field(1.0, ge=0, allow_inf_nan=False, description="constant: factor of the gradient")
    start: float = Field(0.0, ge=0, le=1, description="fraction of the steps before which nothing is aligned")
    stop: float = Field(
        1.0,
        ge=0,
        le=1,
        validate_default=True,
        description="fraction of the steps from which on nothing is aligned",
    )
    every: int = Field(1, ge=1, description="align at every k-th step, from start on")

    @field_validator("stop")
    @classmethod
    def _after_start(cls, stop: float, info: ValidationInfo) -> float:
        if stop <= info.data.get("start", 0.0):
            raise ValueError(f"must be greater than start ({info.data['start']:g})")
        return stop

    @property
    def size(self) -> float:
        """Of a step, in the unit of the rule."""
        return self.strength * (self.beta if self.rule == "norm" else self.eta)

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        if not self.size:
            return f"{'beta' if self.rule == 'norm' else 'eta'} is 0"
        if not (self.global_weight or self.local_weight):
            return "global_weight and local_weight are 0"
        with self._named_errors():
            config = net_config(self.folder)
        if problem := misfit(config, backbone, backbone.latent_size(layout.width, layout.height)):
            raise ValueError(
                f"hcma.weights: the net in {self.folder} {problem}; give the folder of one trained for this model "
                "and size of picture (trueline train hcma)"
            )
        return None if layout.regions or self.global_weight else "the layout has no regions"

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: Context) -> Float[Tensor, "batch c h w"]:
        if not (self.size and (self.global_weight or self.local_weight)):
            return z
        net, wanted, due = ctx.once(self, lambda: self._prepared(ctx))
        if ctx.index not in due:
            return z
        loss, gradient = alignment_gradient(
            net, ctx.stepper.net_input(z), ctx.t.expand(len(z)).to(z.device), wanted,
            (self.global_weight, self.local_weight), self.weighting,
        )  # fmt: skip
        step = step_of(gradient, self.rule, displacement(ctx.stepper))
        return move(z, LossAndGradient(loss, step), self.size, "raw", ctx, None, "hcma")

    def steps(self, count: int) -> range:
        """The indices of the steps at which a run of so many is aligned, where its net was trained for them."""
        first, past = (
            sum(i / count < fraction for i in range(count)) for fraction in (self.start, self.stop)
        )
        return range(first, past, self.every)

    @property
    def folder(self) -> Path:
        """Where the net is."""
        if self.weights == "world":
            return shipped_folder("hcma")
        return Path(self.weights)

    def _due(self, net: AlignmentNet, ctx: Context) -> list[int]:
        """The indices of the steps that are aligned; and notes about those that are not."""
        (first, past), times = net.config.timesteps, ctx.stepper.timesteps.tolist()
        wanted = self.steps(ctx.steps)
        able = [index for index in wanted if first <= times[index] < past]
        for row, layout in enumerate(ctx.layouts):
            if not wanted:
                ctx.note(
                    row, f"hcma: no step of {ctx.steps} is between start and stop, so nothing is aligned"
                )
            if len(able) < len(wanted):
                ctx.note(
                    row,
                    f"hcma: {len(wanted) - len(able)} of {len(wanted)} steps are not aligned, for the net was "
                    f"trained for {first} <= t < {past} only",
                )
            if able and self.global_weight and self.local_weight and not layout.regions:
                ctx.note(row, "hcma: the layout has no regions, so it is aligned with its caption only")
        return able

    def _prepared(self, ctx: Context) -> tuple[AlignmentNet, AlignmentTargets, list[int]]:
        """The net, what it aligns the pictures with, and the steps at which it does."""
        with self._named_errors():
            net = load_net(self.folder).to(ctx.backbone.device)
        return net, targets(net, ctx.backbone, ctx.layouts), self._due(net, ctx)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Errors of reading the net name the setting."""
        if self.weights == "world" and not self.folder.is_dir():
            raise CheckpointError(
                "hcma.weights: the embedded world has no alignment net here; run `trueline train hcma` and give the "
                "folder that it writes"
            )
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"hcma.weights: {error}") from error


def displacement(stepper: Stepper) -> float:
    """``ideal_displacement`` of the scheduler's present step, in latents of unit variance."""
    return float(ideal_displacement(*stepper.alpha_sigma(), *stepper.alpha_sigma(ahead=1)))
