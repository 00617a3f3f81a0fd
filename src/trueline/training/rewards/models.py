"""Which rewards a training has, and the models that they read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trueline.errors import FieldError, Frozen
from trueline.models.shipped import WORLD, shipped_folder, whole_net
from trueline.perception.plugins import TARGET
from trueline.training.clip import FrozenCLIP
from trueline.training.rewards import REWARDS
from trueline.training.rewards.reward import ModelPart, PluginReward, Reward, RewardError, RewardKind
from trueline.training.settings import Count


def reward_kind(name: str) -> RewardKind:
    """The entry of the table."""
    module, _, entry = REWARDS[name].partition(":")
    kind: RewardKind = getattr(import_module(f"trueline.training.rewards.{module}"), entry)
    return kind


def model_parts() -> dict[str, ModelPart]:
    """All models that rewards of the table read, by name."""
    return {part.name: part for name in REWARDS for part in reward_kind(name).parts}


class RewardSettings(Frozen):
    """Which rewards, and how they are made; ``CaptionReward`` and ``Rewards`` say more of each.

    Args:
        rewards: weight by name: of the table (``REWARDS``), or a name of one's own that ``models`` explains. Weight
            0: logged, not trained on.
        models: which model is meant, by name: "captioner" (BLIP or BLIP-2), "text_encoder" (of eq. 4: BLIP-2's
            retrieval model, or "clip"), "clip", each matcher by its own name: folders or Hub ids; "world" for the
            world's own captioner, clip, blip-itm and blip-itc, which a model of the world also takes where none is
            given. A name of one's own: package.module:function.
        held_out: a reward by name that is not trained on and is logged as held_out; of the pictures drawn on the way
            too, where it says which step was best and when to stop (``validation.patience``).
        dtype: of the rewards' nets.
        gradient, captions, longest, temperature, prefix: of the caption reward.
        standardise: each reward by its running mean and spread.
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

    @model_validator(mode="after")
    def _known_rewards(self) -> RewardSettings:
        own = [*self.rewards, *([self.held_out] if self.held_out else [])]
        for name in own:
            if name not in REWARDS and not TARGET.fullmatch(self.models.get(name, "")):
                known = ", ".join(REWARDS)
                raise FieldError(
                    "rewards",
                    f"there is no reward {name!r}; there are {known}, or a name of your own with "
                    f"objective.models.{name}=package.module:function",
                )
        parts = model_parts()
        if strange := [part for part in self.models if part not in parts and part not in own]:
            known = ", ".join(parts)
            raise FieldError(
                "models", f"there is no part {strange[0]!r}; there are {known}, and rewards of your own"
            )
        if self.held_out in [name for name, weight in self.rewards.items() if weight]:
            raise FieldError("held_out", f"{self.held_out} is trained on; hold out another")
        return self


class RewardModels:
    """What ``settings.models`` names, each read once. ``world``: the model that is trained is the world's."""

    def __init__(self, settings: RewardSettings, world: bool, device: str):
        self.settings, self.world, self.device = settings, world, device
        self._parts, self._models = model_parts(), dict[str, Any]()

    def reward(self, name: str) -> Reward:
        """
        Raises:
            ValueError: its model is not given, or cannot be read.
        """
        try:
            if name not in REWARDS:
                return PluginReward(name, self.settings.models[name])
            kind = reward_kind(name)
            return kind.make(self.settings, *(self.model(part.name) for part in kind.parts))
        except RewardError as error:
            raise RewardError(f"objective.{error}") from None

    def features(self) -> FrozenCLIP | None:
        """The CLIP whose features tell pictures apart; None where none is given."""
        return self.model("clip") if self.world or "clip" in self.settings.models else None

    def described(self, name: str) -> str:
        """Which models a reward is made of, for the record."""
        return ", ".join(f"{part} {self._name(part)}" for part in _part_names(name))

    def shared(self, name: str, others: Sequence[str]) -> str:
        """A checkpoint that this reward reads and one of the others does too; "" where there is none."""
        theirs = {self._checkpoint(part) for other in others for part in _part_names(other)}
        return next((own for part in _part_names(name) if (own := self._checkpoint(part)) in theirs), "")

    def model(self, part: str) -> Any:
        """
        Raises:
            ValueError: it is not given, or cannot be read.
        """
        if part not in self._models:
            kind, name = self._parts[part], self._name(part)
            try:
                if name == kind.may_be:
                    self._models[part] = self.model(name)
                else:
                    if name == WORLD and kind.shipped:
                        name = str(whole_net(shipped_folder(kind.shipped), part))
                    self._models[part] = kind.load(name, self.device, self.settings)
            except ValueError as error:
                raise ValueError(f"objective.models.{part}: {error}") from None
        return self._models[part]

    def _checkpoint(self, part: str) -> str:
        kind, name = self._parts.get(part), self._name(part)
        if kind is None:
            return name
        if name == kind.may_be:
            return self._checkpoint(name)
        return f"the world's {kind.shipped}" if name == WORLD and kind.shipped else name

    def _name(self, part: str) -> str:
        """What is given for a part; in the world, what stands for it."""
        given = self.settings.models.get(part)
        if given is not None:
            return given
        kind = self._parts[part]
        if self.world and (kind.shipped or kind.may_be):
            return WORLD if kind.shipped else str(kind.may_be)
        raise ValueError(
            f"objective.models.{part}: give the model to use: a folder or a Hub id, such as {kind.example}"
        )


def _part_names(reward: str) -> tuple[str, ...]:
    """What of ``objective.models`` a reward is made of; a user's own function is its own part."""
    return tuple(part.name for part in reward_kind(reward).parts) if reward in REWARDS else (reward,)
