"""The recipe of GLIGEN: grounding layers for a plain Stable Diffusion checkpoint, whose own weights stay.

Source: Li et al., "GLIGEN" (CVPR 2023), and its code (gligen/GLIGEN): only the gated layers and the position net
learn, by the noise loss, with captions and boxes left out now and then. What differs: both are dropped for each
picture by itself (its code drops the boxes of a whole batch); whether boxes have an effect is measured on the way.
The loss does not show it (IGLIGEN's issue 5), and gates near zero are what users report (GLIGEN's issue 97).
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from trueline.errors import FieldError, Frozen
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.grounding_layers import gates, prepare_grounding, with_grounding
from trueline.pictures import BrokenPicture
from trueline.seeds import generator_of, seed_torch
from trueline.training.data.examples import Examples, Refused, check_pictured, open_examples
from trueline.training.data.latents import encode_pictures
from trueline.training.losses.denoising import DenoisingObjective, ground, noised
from trueline.training.objective import Batch, Losses, Nets
from trueline.training.recipes.recipe import Recipe, Task
from trueline.training.settings import Count, Fraction, Training

NOISES = (0.95, 0.85, 0.7, 0.5, 0.25)  #: shares of the timesteps at which the gap is measured
PHRASED = 2000  #: layouts whose phrases whiten the position net
MEASURED = "grounding.json"  #: beside the result: what boxes do in it


class GligenObjectiveSettings(Frozen):
    """What GLIGEN has to set besides the loop.

    Args:
        start: of the grounding layers. "gligen": as published, gates at 0 (100,000 steps and more on Stable
            Diffusion); "prepared": phrases whitened, variances kept, gates at 1 (so the world learns boxes in hours);
            "given": those that the checkpoint has. The first two leave a checkpoint's own grounding layers behind.
        t_from, t_share: this share of the timesteps is drawn from t_from on (below ``t_high``), the rest as ever:
            where noise is high the layout of a picture is decided. 0 = none (GLIGEN).
        snr_gamma: weight of min-SNR; None = the plain mean (GLIGEN).
        gap_every: steps between measurements of the gap: how much smaller the loss is with boxes than with null
            boxes, in %, on ``gap_n`` pictures of the data with the same noise each time. 0 = only at the end.
        warn_after: steps after which gates whose mean |tanh| is below ``least_gate``, or a mean gap below
            ``least_gap`` %, are warned of.
    """

    start: Literal["gligen", "prepared", "given"] = "gligen"
    t_from: Annotated[int, Field(ge=0)] = 0
    t_share: Fraction = 0.0
    snr_gamma: Annotated[float, Field(gt=0)] | None = None
    gap_every: Annotated[int, Field(ge=0)] = 500
    gap_n: Annotated[int, Field(ge=1, le=512)] = 32
    warn_after: Annotated[int, Field(ge=0)] = 5000
    least_gate: Annotated[float, Field(ge=0, le=1)] = 0.01
    least_gap: Annotated[float, Field(ge=0)] = 0.5


class GligenSettings(Training):
    """Of ``trueline train gligen``."""

    part: Literal["fusers"] = "fusers"
    lora: Annotated[int, Field(ge=0, le=0)] = 0
    steps: Count = 100_000
    warmup: Annotated[int, Field(ge=0)] = 10_000
    objective: GligenObjectiveSettings = GligenObjectiveSettings()

    @model_validator(mode="after")
    def _a_share_of_some_timesteps(self) -> GligenSettings:
        low = self.objective.t_from
        if self.objective.t_share and not self.t_low <= low < self.t_high:
            span = f"{self.t_low} to {self.t_high}"
            raise FieldError("objective.t_from", f"must be from t_low to below t_high, {span} (got {low})")
        if low and not self.objective.t_share:
            raise FieldError("objective.t_from", "has no effect while objective.t_share is 0; set both")
        if self.data.drop_boxes == 1 or not self.data.max_boxes:
            name = "drop_boxes" if self.data.drop_boxes == 1 else "max_boxes"
            raise FieldError(f"data.{name}", "leaves no box to learn from")
        return self


@dataclass
class GligenTask(Task):
    """With the result it writes what boxes do in it."""

    objective: GroundingObjective

    def save(self, target: Path) -> None:
        super().save(target)
        measured = self.objective.measure(self.backbone)
        steps = self.settings.steps
        if steps >= self.objective.settings.warn_after:
            self.objective.warn(measured, f"the checkpoint of {steps} steps")
        rounded = {name: round(value, 4) for name, value in measured.items()}
        (target / MEASURED).write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


def prepare(settings: GligenSettings, backbone: Backbone, folder: Path) -> GligenTask:
    """The task; the backbone gets its grounding layers here. ``folder`` is not used.

    Raises:
        ValueError: a U-Net that cannot have such layers, or lacks those that are asked for; data without boxes.
    """
    own = settings.objective
    slots = min(settings.data.max_boxes, backbone.max_regions)
    examples = open_examples(settings.data, backbone.picture_size(None, None), slots)
    check_pictured(examples, settings.data.source)
    add_layers(settings, backbone, examples)
    probe = Probe.of(backbone, examples, own.gap_n, settings.batch, settings.seed)
    denoising = DenoisingObjective(snr_gamma=own.snr_gamma)
    objective = GroundingObjective(denoising, probe, own, (settings.t_low, settings.t_high))
    facts = {"slots": backbone.max_regions, "start": own.start}
    return GligenTask(settings, backbone, objective, facts=facts)


RECIPE = Recipe(GligenSettings, prepare)


def add_layers(settings: GligenSettings, backbone: Backbone, examples: Examples) -> None:
    """Give the backbone the grounding layers of ``objective.start``, as many slots as a picture has boxes at most."""
    start = settings.objective.start
    if start == "given":
        if not backbone.grounded:
            raise ValueError(
                f"objective.start: {settings.model} has no grounding layers; use gligen or prepared to make some"
            )
        return
    backbone.settings["max_regions"] = min(settings.data.max_boxes, backbone.max_regions)
    backbone.denoiser = with_grounding(backbone.denoiser, settings.seed)
    if start == "prepared":
        layouts = examples.samples(PHRASED)
        phrases = list(
            dict.fromkeys(region.grounding_phrase for layout in layouts for region in layout.regions)
        )
        if len(phrases) < 2:
            raise ValueError(
                "objective.start: prepared needs at least two different phrases in the data "
                f"(found {len(phrases)} in {len(layouts)} layouts); use gligen"
            )
        parts = [backbone.encode_phrases(phrases[i : i + 64]) for i in range(0, len(phrases), 64)]
        with torch.random.fork_rng(devices=[]):
            seed_torch(settings.seed)
            _prepare(backbone, torch.cat(parts).float())


def _prepare(backbone: Backbone, phrases: Float[Tensor, "phrases width"]) -> None:
    """On the CPU, so that the layers are the same wherever they are trained."""
    device = backbone.denoiser.device
    prepare_grounding(backbone.denoiser.to("cpu"), phrases.cpu())
    backbone.denoiser.to(device)


@dataclass(frozen=True)
class Probe:
    """Pictures with boxes, and noise, that stay the same: what the gap is measured on, at these shares of the
    timesteps. ``rows``: pictures at once."""

    latents: Float[Tensor, "batch c h w"]
    layouts: tuple[Layout, ...]
    noise: Float[Tensor, "batch c h w"]
    rows: int
    shares: tuple[float, ...] = NOISES

    @classmethod
    def of(cls, backbone: Backbone, examples: Examples, count: int, rows: int, seed: int) -> Probe:
        """The first ``count`` examples that have boxes and can be read.

        Raises:
            Refused: there is none.
        """
        pictures, layouts, broken = [], [], 0
        for index in range(len(examples)):
            try:
                picture = examples.picture(index)
            except BrokenPicture as error:  # counted and named where the data is encoded, if it comes to that
                examples.left_out.add("broken pictures", f"example {index}", str(error))
                broken += 1
                continue
            layout = examples.layout(index, generator_of(seed, "gap", index))
            if layout.regions:
                pictures.append(picture)
                layouts.append(layout)
            if len(layouts) == count:
                break
        if not layouts:
            why = f"{broken} of {len(examples)} pictures cannot be read" if broken else "no picture has a box"
            why += " and no other has a box" if 0 < broken < len(examples) else ""
            raise Refused(
                f"data.source: {why}, so that nothing about boxes can be learned; give pictures with boxes",
                examples.left_out,
            )
        spans = range(0, len(pictures), rows)
        latents = torch.cat([encode_pictures(backbone, np.stack(pictures[i : i + rows])) for i in spans])
        noise = torch.randn(latents.shape, generator=generator_of(seed, "gap"))
        return cls(latents.cpu(), tuple(layouts), noise, rows)

    @torch.no_grad()
    def gaps(self, backbone: Backbone) -> dict[str, float]:
        """By timestep ("gap/950"), how much smaller the loss is with boxes than with null boxes, in %; "gap": their
        mean."""
        timesteps = backbone.timesteps
        gaps = {}
        for share in self.shares:
            t = int(share * timesteps)
            given, null = (self._error(backbone, t, boxed) for boxed in (True, False))
            gaps[f"gap/{t}"] = 100 * (1 - given / null)
        return {"gap": sum(gaps.values()) / len(gaps)} | gaps

    def _error(self, backbone: Backbone, t: int, boxed: bool) -> float:
        total = 0.0
        for start in range(0, len(self.layouts), self.rows):
            span = slice(start, start + self.rows)
            latents, noise = (part[span].to(backbone.device) for part in (self.latents, self.noise))
            layouts = self.layouts[span]
            times = torch.full((len(layouts),), t)
            batch = Batch(latents, layouts, noise, times, boxed=torch.full((len(layouts),), boxed))
            prediction = backbone.predict(
                noised(latents, noise, backbone.noise_level(times)),
                times.to(backbone.device),
                backbone.encode(batch.captions),
                ground(backbone, batch),
            )
            error = (prediction - backbone.target(latents, noise, times)).square().flatten(1).mean(1)
            total += float(error.sum())
        return total / len(self.layouts)


@dataclass
class GroundingObjective:
    """The noise loss at the timesteps of ``settings``; now and then the gap, logged with it, and warnings of layers
    that stay shut. ``times``: from the first to below the second timestep is drawn."""

    denoising: DenoisingObjective
    probe: Probe
    settings: GligenObjectiveSettings
    times: tuple[int, int] = (0, 1000)
    _measured: int = field(default=-1, init=False)  # the step, so that accumulated batches measure once
    _warned: bool = field(default=False, init=False)

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        settings, step = self.settings, batch.step
        losses = self.denoising(self.timed(batch), nets)
        if settings.gap_every and step % settings.gap_every == 0 and step != self._measured:
            self._measured = step
            measured = self.measure(nets.backbone)
            if step >= settings.warn_after and step and not self._warned:
                self._warned = self.warn(measured, f"after {step} steps")
            losses |= {n: torch.tensor(value) for n, value in measured.items() if n.startswith("gap")}
        return losses

    def timed(self, batch: Batch) -> Batch:
        """The batch with ``t_share`` of its timesteps drawn anew from ``t_from`` on."""
        if not self.settings.t_share:
            return batch
        chosen, place = torch.rand(2, len(batch.t), generator=batch.generator)
        low, high = self.settings.t_from, self.times[1]
        anew = low + (place * (high - low)).long()
        return replace(batch, t=torch.where(chosen < self.settings.t_share, anew, batch.t))

    def measure(self, backbone: Backbone) -> dict[str, float]:
        """The gaps, and the gates of attention and feed-forward as the log has them."""
        return self.probe.gaps(backbone) | gates(backbone)

    def warn(self, measured: dict[str, float], when: str) -> bool:
        """Warn where gates or gap are near zero; whether there was anything to warn of."""
        gate = max(measured["gate_attn"], measured["gate_ff"])
        problems = []
        if gate < self.settings.least_gate:
            problems.append(f"the gates are near zero (mean |tanh| {gate:.2g})")
        if measured["gap"] < self.settings.least_gap:
            problems.append(f"the loss is no smaller with boxes than without (gap {measured['gap']:.2g} %)")
        if problems:
            warnings.warn(
                f"objective.warn_after: {when}: {' and '.join(problems)}, so boxes have next to no effect; on Stable "
                f"Diffusion they came after 50,000 to 150,000 steps; else try {' or '.join(self._cures())}",
                stacklevel=2,
            )
        return bool(problems)

    def _cures(self) -> list[str]:
        """What is not tried yet."""
        cures = ["a larger lr or batch", "a larger data.drop_captions"]
        if self.settings.start == "gligen":
            cures.append("objective.start=prepared")
        if not self.settings.t_share:
            cures.append("objective.t_share=0.7 with objective.t_from=600")
        return cures
