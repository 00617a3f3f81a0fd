"""The recipe of RealignDiff's coarse stage: ReFL on the caption reward, or on others, with a pre-training term.

From the paper: lambda 1e-3, T = 50 with the late step from 30 on, 1e-5 for a whole U-Net. From ImageReward's code:
phi, weight decay 1e-2, 100 steps, no classifier-free guidance in training. Judged here: a LoRA of rank 16 at 1e-4,
prior preservation, standardised rewards (``objectives.refl`` says what of the paper cannot be taken literally).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL.Image import Image
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import CLIPModel

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.pretrained import Checkpoint
from trueline.models.schedules import SCHEDULERS
from trueline.perception import load
from trueline.perception.caption_nets import load_blip2_text, load_captioner
from trueline.perception.plugins import TARGET
from trueline.seeds import generator_of
from trueline.training.data.latents import encode_pictures
from trueline.training.early_stop import diversity, drift
from trueline.training.loop import Batch, Nets
from trueline.training.losses.dsalign import FrozenCLIP
from trueline.training.losses.refl import ReFL
from trueline.training.recipes.recipe import Task, save_backbone
from trueline.training.rewards.caption import CaptionReward, Cosine, PromptLikelihood
from trueline.training.rewards.scores import (
    ClipReward,
    MatchReward,
    PluginReward,
    Reward,
    RewardError,
    Rewards,
)
from trueline.training.settings import Count, Frozen, Part, Training
from trueline.world.perception import CAPTIONER_FOLDER, CLIP_FOLDER, MATCHER_FOLDER, net_of_the_world

WORLD = "world"
MATCHERS = ("blip-itm", "blip-itc", "blip2-itm", "blip2-itc")
#: What the world has of its own, and where it is packed: what ``objective.models`` calls "world".
PACKED = {
    "clip": CLIP_FOLDER, "captioner": CAPTIONER_FOLDER, "blip-itm": MATCHER_FOLDER, "blip-itc": MATCHER_FOLDER,
}  # fmt: skip
KNOWN = ("caption", "prompt_likelihood", "clip", *MATCHERS)
STATISTICS = "reward_statistics"  #: under this name the U-Net holds them while it is trained


class Objective(Frozen):
    """What ReFL has to set beside the loop; ``ReFL``, ``CaptionReward`` and ``Rewards`` say more of each.

    Args:
        rewards: weight by name: caption, prompt_likelihood, clip, blip-itm, blip-itc, blip2-itm, blip2-itc, or a name
            of one's own that ``models`` explains. Weight 0: logged, not trained on.
        models: which model is meant, by name: "captioner" (BLIP or BLIP-2), "text_encoder" (of eq. 4: BLIP-2's
            retrieval model, or "clip"), "clip", each matcher by its own name: folders or Hub ids; "world" for the
            world's own captioner, clip, blip-itm and blip-itc, which a model of the world also takes where none is
            given. A name of one's own: package.module:function.
        held_out: a reward by name that is not trained on and is logged as held_out; of the pictures drawn on the way
            too, where it says which step was best and when to stop (``validation.patience``).
        dtype: of the rewards' nets.
        gradient, captions, longest, temperature, prefix: of the caption reward.
        standardise: each reward by its running mean and spread.
        scale, margin, phi: lambda and the loss of a score. sampling_steps: T. first, last: the late step.
        draft: DRaFT-K: all steps, the last K with gradient, in place of the late step; None = ReFL.
        backprop, detach, bounded: more calls with gradient; none through their inputs; its length limited.
        scheduler, eta, guidance_scale, boxes: how pictures are drawn; guidance_scale None = without.
        preserve, weight: the pre-training term: "prior", "pictures" (the data's) or "none". The data may be prompts
            alone (``data.source`` a .txt) unless it is "pictures".
    """

    rewards: dict[str, float] = Field(default_factory=lambda: {"caption": 1.0})
    models: dict[str, str] = Field(default_factory=dict)
    held_out: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient: Literal["score_function", "straight_through", "none"] = "score_function"
    captions: Count = 4
    longest: Count = 20
    temperature: Annotated[float, Field(gt=0)] = 1.0
    prefix: str = ""
    standardise: bool = True
    scale: Annotated[float, Field(gt=0)] = 1e-3
    margin: float = 2.0
    phi: Literal["relu", "linear"] = "relu"
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
    preserve: Literal["prior", "pictures", "none"] = "prior"
    weight: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _known(self) -> Objective:
        for name in [*self.rewards, *([self.held_out] if self.held_out else [])]:
            if name not in KNOWN and not TARGET.fullmatch(self.models.get(name, "")):
                raise ValueError(
                    f"objective.rewards: there is no reward {name!r}; there are {', '.join(KNOWN)}, or a name of "
                    f"your own with objective.models.{name}=package.module:function"
                )
        parts = ["captioner", "text_encoder", "clip", *MATCHERS, *self.rewards, self.held_out or "clip"]
        if strange := [part for part in self.models if part not in parts]:
            raise ValueError(
                f"objective.models: there is no part {strange[0]!r}; there are {', '.join(parts[:7])}, and "
                "rewards of your own"
            )
        if self.held_out in [name for name, weight in self.rewards.items() if weight]:
            raise ValueError(f"objective.held_out: {self.held_out} is trained on; hold out another")
        if self.draft is not None and self.draft > self.sampling_steps:
            raise ValueError(
                f"objective.draft: must be at most the {self.sampling_steps} sampling_steps (got {self.draft})"
            )
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise ValueError(
                f"objective.scheduler: unknown name {self.scheduler!r}; choose from {', '.join(SCHEDULERS)}"
            )
        return self


class Settings(Training):
    """Of ``trueline train realign``."""

    steps: Count = 100
    lr: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    part: Part = "attention"
    lora: Annotated[int, Field(ge=0, le=1024)] = 16
    objective: Objective = Objective()


def prepare(settings: Settings, backbone: Backbone, folder: Path) -> Task:
    """The task; ``folder`` is not used.

    Raises:
        ValueError: a model that is not given or cannot be read, a reward without a gradient, or settings that do not
            fit each other.
    """
    wish = settings.objective
    if settings.validation.patience and not wish.held_out:
        raise ValueError("validation.patience: there is no score to wait for; give objective.held_out")
    models = Models(settings, backbone)
    rewards = _rewards(wish, models).to(backbone.device)
    held_out = models.reward(wish.held_out) if wish.held_out else None
    trained = [name for name, weight in wish.rewards.items() if weight]
    if wish.held_out and (known := models.shared(wish.held_out, trained)):
        warnings.warn(
            f"objective.held_out: {wish.held_out} looks with {known}, and so does a reward that is trained on: it is "
            "no independent score",
            stacklevel=2,
        )
    late: dict[str, Any] = {
        "steps": wish.sampling_steps,
        "span": (wish.first, wish.last),
        "backprop": wish.backprop,
    }
    if wish.draft is not None:
        late = ReFL.draft(wish.draft, wish.sampling_steps)
    try:
        objective = ReFL(
            rewards, settings.seed, wish.scale, wish.margin, wish.phi, scheduler=wish.scheduler, eta=wish.eta,
            detach=wish.detach, bounded=wish.bounded, guidance_scale=wish.guidance_scale, boxes=wish.boxes,
            preserve=wish.preserve, weight=wish.weight, held_out=held_out, **late,
        )  # fmt: skip
        width, height = backbone.picture_size(None, None)
        objective.check(backbone, (height, width))
    except ValueError as error:
        kind = type(error) if isinstance(error, RewardError) else ValueError
        raise kind(f"objective.{error}") from None
    further: dict[str, nn.Module] = {"rewards": rewards}
    if isinstance(held_out, nn.Module):
        further["held_out"] = held_out.to(backbone.device).eval().requires_grad_(False)
    if wish.preserve == "prior" and wish.weight and not settings.lora:
        further["base"] = copy.deepcopy(backbone.unet).requires_grad_(False)
    if rewards.running is not None:
        # Checkpoints hold the buffers of the nets that learn: so a run that was stopped goes on with the same
        # estimates. They are not persistent, and no file of weights has them.
        backbone.unet.add_module(STATISTICS, rewards.running)
    facts: dict[str, Any] = {"rewards": {name: models.described(name) for name in wish.rewards}}
    look = None
    if settings.validation.every:
        based = bool(settings.lora) or "base" in further
        look = Look(objective, Nets(backbone, further), models.features(), based)
        facts["look"] = look.about()
    return Task(
        objective,
        settings.part,
        lambda target: save_backbone(settings, backbone, target),
        further,
        facts=facts,
        look=look,
        best="held_out" if held_out else None,
        pictures=wish.preserve == "pictures" and wish.weight > 0,
    )


def _rewards(wish: Objective, models: Models) -> Rewards:
    made = {name: (models.reward(name), weight) for name, weight in wish.rewards.items()}
    try:
        return Rewards(made, wish.standardise)
    except ValueError as error:
        raise ValueError(f"objective.{error}") from None


CHUNK = 8  #: pictures that are looked at at once
LOOKED_AT = (0.25, 0.5, 0.75)  #: shares of the timesteps at which drift is measured, a picture at one of them


@dataclass(frozen=True)
class Look:
    """What pictures drawn on the way score: "held_out"; "reward/NAME", raw, of what is trained on; "diversity" of the
    pictures of one prompt by a CLIP's features (``watch.diversity``); "drift" from the base's predictions at z_t of
    those pictures (``watch.drift``).

    ``features``: None = without diversity. ``drifts``: there is a base to compare with.
    """

    objective: ReFL
    nets: Nets
    features: FrozenCLIP | None
    drifts: bool

    def about(self) -> dict[str, Any]:
        """What is not looked at, and why, for the record."""
        without = {}
        if self.features is None:
            without["diversity"] = "there is no objective.models.clip"
        if not self.drifts:
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
        if self.drifts:
            found["drift"] = self._drift(shown, layouts, places)
        return found

    def _drift(self, shown: np.ndarray, layouts: list[Layout], places: list[int]) -> Tensor:
        backbone = self.nets.backbone
        latents = encode_pictures(backbone, shown)
        made = [generator_of(0, "look's noise", place) for place in places]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in made])
        timesteps = backbone.scheduler.config.num_train_timesteps
        t = torch.tensor([int(LOOKED_AT[place % len(LOOKED_AT)] * timesteps) for place in places])
        batch = Batch(latents, tuple(layouts), noise, t)
        return drift(*self.objective.predictions(batch, self.nets, latents.to(backbone.device)))


def _chunks(images: Sequence[Image]) -> Iterator[list[int]]:
    """Places of pictures of one size, at most ``CHUNK`` at once."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        by_size.setdefault(image.size, []).append(place)
    for places in by_size.values():
        yield from (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))


class Models:
    """What ``objective.models`` names, each read once."""

    def __init__(self, settings: Settings, backbone: Backbone):
        self.wish, self.world, self.device = settings.objective, settings.model == WORLD, str(backbone.device)
        self._read: dict[str, Any] = {}

    def reward(self, name: str) -> Reward:
        """
        Raises:
            ValueError: its model is not given, or cannot be read.
        """
        wish = self.wish
        try:
            if name == "caption":
                metric = Cosine(self._model("text_encoder"))
                return CaptionReward(self._model("captioner"), metric, wish.gradient, wish.captions)
            if name == "prompt_likelihood":
                return PromptLikelihood(self._model("captioner"))
            if name == "clip":
                return ClipReward(self._model("clip"))
            if name in MATCHERS:
                return MatchReward(self._model(name))
            return PluginReward(name, wish.models[name])
        except RewardError as error:
            raise RewardError(f"objective.{error}") from None

    def features(self) -> FrozenCLIP | None:
        """The CLIP whose features tell pictures apart; None where none is given."""
        return self._model("clip") if self.world or "clip" in self.wish.models else None

    def described(self, name: str) -> str:
        """Which models a reward is made of, for the record."""
        return ", ".join(f"{part} {self._name(part)}" for part in _parts(name))

    def shared(self, name: str, others: Sequence[str]) -> str:
        """A checkpoint that this reward reads and one of the others does too; "" where there is none."""
        theirs = {self._checkpoint(part) for other in others for part in _parts(other)}
        return next((own for part in _parts(name) if (own := self._checkpoint(part)) in theirs), "")

    def _checkpoint(self, part: str) -> str:
        name = self._name(part)
        if (part, name) == ("text_encoder", "clip"):
            return self._checkpoint("clip")
        return f"the world's {PACKED[part].name}" if name == WORLD and part in PACKED else name

    def _name(self, part: str) -> str:
        given = self.wish.models.get(part)
        if given is None and self.world and (part in PACKED or part == "text_encoder"):
            return WORLD if part in PACKED else "clip"
        if given is None:
            raise ValueError(
                f"objective.models.{part}: give the model that shall look: a folder or a Hub id, such as "
                f"{_EXAMPLES[part]}"
            )
        return given

    def _model(self, part: str) -> Any:
        if part not in self._read:
            name = self._name(part)
            try:
                self._read[part] = self._load(part, name)
            except ValueError as error:
                raise ValueError(f"objective.models.{part}: {error}") from None
        return self._read[part]

    def _load(self, part: str, name: str) -> Any:
        wish = self.wish
        if name == WORLD and part in PACKED:
            name = str(net_of_the_world(PACKED[part], part))
        if part == "captioner":
            return load_captioner(
                name, self.device, wish.dtype, longest=wish.longest, temperature=wish.temperature,
                prefix=wish.prefix,
            )  # fmt: skip
        if part == "text_encoder":
            if name == "clip":
                return self._model("clip")
            return load_blip2_text(name, self.device, wish.dtype)
        if part == "clip":
            source = Checkpoint(name)
            model = source.model(CLIPModel, self.device, wish.dtype)
            return FrozenCLIP(model, source.tokenizer(), source.image_processor("CLIPImageProcessor")).to(
                self.device
            )
        return load(f"{part}={name}", self.device, wish.dtype)


def _parts(reward: str) -> tuple[str, ...]:
    """What of ``objective.models`` a reward is made of."""
    return {"caption": ("captioner", "text_encoder"), "prompt_likelihood": ("captioner",)}.get(
        reward, (reward,)
    )


_EXAMPLES = {
    "captioner": "Salesforce/blip2-opt-2.7b or Salesforce/blip-image-captioning-base",
    "text_encoder": "Salesforce/blip2-itm-vit-g, or clip",
    "clip": "openai/clip-vit-large-patch14",
    "blip-itm": "Salesforce/blip-itm-base-coco",
    "blip-itc": "Salesforce/blip-itm-base-coco",
    "blip2-itm": "Salesforce/blip2-itm-vit-g",
    "blip2-itc": "Salesforce/blip2-itm-vit-g",
}
