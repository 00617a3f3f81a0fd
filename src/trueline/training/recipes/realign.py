"""The recipe of RealignDiff's coarse stage: ReFL on the caption reward, or on others, with a pre-training term.

From the paper: lambda 1e-3, T = 50 with the late step from 30 on, 1e-5 for a whole U-Net. From ImageReward's code:
phi, weight decay 1e-2, 100 steps, no classifier-free guidance in training. Judged here: a LoRA of rank 16 at 1e-4,
prior preservation, standardised rewards (``losses.refl`` says what of the paper cannot be taken literally).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL.Image import Image
from pydantic import Field
from torch import Tensor, nn

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.shipped import WORLD
from trueline.seeds import generator_of
from trueline.training.clip import FrozenCLIP
from trueline.training.data.latents import encode_pictures
from trueline.training.early_stop import diversity, drift
from trueline.training.losses.refl import ReFL, ReflSettings
from trueline.training.objective import Batch, Nets
from trueline.training.recipes.recipe import Recipe, Task
from trueline.training.rewards.models import RewardModels, RewardSettings
from trueline.training.rewards.reward import RewardError
from trueline.training.rewards.weighted import Rewards
from trueline.training.settings import Count, Part, Training


class RealignObjectiveSettings(ReflSettings, RewardSettings):
    """What ReFL has to set besides the loop, and its rewards."""


class RealignSettings(Training):
    """Of ``trueline train realign``."""

    steps: Count = 100
    lr: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    part: Part = "attention"
    lora: Annotated[int, Field(ge=0, le=1024)] = 16
    objective: RealignObjectiveSettings = RealignObjectiveSettings()


@dataclass(kw_only=True)
class RealignTask(Task):
    """Scores its pictures by the rewards, and by what guards against hacking them."""

    measures: PictureMeasures | None

    @property
    def scored(self) -> bool:
        return self.measures is not None

    def scores(self, images: Sequence[Image], layouts: Sequence[Layout]) -> dict[str, float]:
        return {} if self.measures is None else self.measures(images, layouts)


def prepare(settings: RealignSettings, backbone: Backbone, folder: Path) -> RealignTask:
    """The task; ``folder`` is not used.

    Raises:
        ValueError: a model that is not given or cannot be read, a reward without a gradient, or settings that do not
            fit each other.
    """
    own = settings.objective
    if settings.validation.patience and not own.held_out:
        raise ValueError("validation.patience: there is no score to wait for; give objective.held_out")
    models = RewardModels(own, settings.model == WORLD, str(backbone.device))
    objective = refl(settings, backbone, models)
    further: dict[str, nn.Module] = {"rewards": objective.rewards}
    if isinstance(objective.held_out, nn.Module):
        further["held_out"] = objective.held_out.to(backbone.device).eval().requires_grad_(False)
    if own.preserve == "prior" and own.weight and not settings.lora:
        further["base"] = copy.deepcopy(backbone.denoiser).requires_grad_(False)
    facts: dict[str, Any] = {"rewards": {name: models.described(name) for name in own.rewards}}
    measures = None
    if settings.validation.every:
        has_base = bool(settings.lora) or "base" in further
        measures = PictureMeasures(objective, Nets(backbone, further), models.features(), has_base)
        facts["look"] = measures.about()
    return RealignTask(
        settings=settings,
        backbone=backbone,
        objective=objective,
        further=further,
        # A run that was stopped goes on with the same estimates.
        statistics=objective.rewards.running,
        facts=facts,
        measures=measures,
        best="held_out" if own.held_out else None,
        pictures=own.preserve == "pictures" and own.weight > 0,
    )


RECIPE = Recipe(RealignSettings, prepare)


def refl(settings: RealignSettings, backbone: Backbone, models: RewardModels) -> ReFL:
    """The objective; its rewards have a gradient.

    Raises:
        ValueError: as ``prepare``'s.
    """
    own = settings.objective
    weighted = {name: (models.reward(name), weight) for name, weight in own.rewards.items()}
    held_out = models.reward(own.held_out) if own.held_out else None
    _warn_if_shared(own, models)
    try:
        rewards = Rewards(weighted, own.standardise).to(backbone.device)
        made = ReFL(rewards, own, settings.seed, held_out)
        width, height = backbone.picture_size(None, None)
        made.check(backbone, (height, width))
    except ValueError as error:
        kind = RewardError if isinstance(error, RewardError) else ValueError
        raise kind(f"objective.{error}") from None
    return made


def _warn_if_shared(settings: RealignObjectiveSettings, models: RewardModels) -> None:
    trained = [name for name, weight in settings.rewards.items() if weight]
    if settings.held_out and (known := models.shared(settings.held_out, trained)):
        warnings.warn(
            f"objective.held_out: {settings.held_out} reads {known}, and so does a reward that is trained on: it is "
            "no independent score",
            stacklevel=4,
        )


CHUNK = 8  #: pictures that are measured at once
DRIFT_AT = (
    0.25,
    0.5,
    0.75,
)  #: shares of the timesteps at which drift is measured, each picture at one of them


@dataclass(frozen=True)
class PictureMeasures:
    """Measures pictures drawn on the way: "held_out"; "reward/NAME", raw, of what is trained on; "diversity" of the
    pictures of one prompt by a CLIP's features (``early_stop.diversity``); "drift" from the base's predictions at z_t
    of those pictures (``early_stop.drift``).

    ``features``: None = without diversity. ``has_base``: there is a base to measure the drift from.
    """

    objective: ReFL
    nets: Nets
    features: FrozenCLIP | None
    has_base: bool

    def about(self) -> dict[str, Any]:
        """What is not measured, and why, for the record."""
        without = {}
        if self.features is None:
            without["diversity"] = "there is no objective.models.clip"
        if not self.has_base:
            without["drift"] = "there is no base: neither a LoRA nor objective.preserve=prior"
        return {"without": without}

    @torch.no_grad()
    def __call__(self, images: Sequence[Image], layouts: Sequence[Layout]) -> dict[str, float]:
        scores: dict[str, list[float]] = {}
        features: dict[int, Tensor] = {}
        for places in _chunks(images):
            shown = np.stack([np.asarray(images[place].convert("RGB")) for place in places])
            about = [layouts[place] for place in places]
            for name, values in self._scores(shown, about, places, features).items():
                scores.setdefault(name, []).extend(values.tolist())
        found = {name: sum(values) / len(values) for name, values in scores.items()}
        if self.features is not None:
            rows = torch.stack([features[place] for place in range(len(images))])
            found["diversity"] = diversity(rows, [layout.prompt for layout in layouts])
        return found

    def _scores(
        self, shown: np.ndarray, layouts: list[Layout], places: list[int], features: dict[int, Tensor]
    ) -> dict[str, Tensor]:
        """Of pictures of one size, one number each; into ``features`` their CLIP's."""
        objective, backbone = self.objective, self.nets.backbone
        prompts = [layout.prompt for layout in layouts]
        pixels = torch.from_numpy(shown).to(backbone.device).permute(0, 3, 1, 2) / 255
        draws = [generator_of(0, "look", place) for place in places]
        with torch.autocast(backbone.device.type, enabled=False):
            parts = objective.rewards.parts(pixels, prompts, draws)
            found = {f"reward/{name}": values for name, values in parts.items()}
            if objective.held_out is not None:
                found["held_out"] = objective.held_out(pixels, prompts, draws)
            if self.features is not None:
                rows = self.features.images(self.features.fitted(pixels)).float().cpu()
                features |= dict(zip(places, rows, strict=True))
        if self.has_base:
            found["drift"] = self._drift(shown, layouts, places)
        return found

    def _drift(self, shown: np.ndarray, layouts: list[Layout], places: list[int]) -> Tensor:
        backbone = self.nets.backbone
        latents = encode_pictures(backbone, shown)
        made = [generator_of(0, "look's noise", place) for place in places]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in made])
        timesteps = backbone.timesteps
        t = torch.tensor([int(DRIFT_AT[place % len(DRIFT_AT)] * timesteps) for place in places])
        batch = Batch(latents, tuple(layouts), noise, t)
        return drift(*self.objective.predictions(batch, self.nets, latents.to(backbone.device)))


def _chunks(images: Sequence[Image]) -> Iterator[list[int]]:
    """Places of pictures of one size, at most ``CHUNK`` at once."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        by_size.setdefault(image.size, []).append(place)
    for places in by_size.values():
        yield from (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))
