"""What a reward is: how good pictures are for their prompts, one number each, with a gradient to the pixels.

A reward is called as ``reward(images, prompts, generators)``. ``probe`` finds out whether a gradient comes out at
all: ReFL on a reward without one trains nothing and says nothing of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from trueline.models.pixels import Images
from trueline.perception.caption_nets import Generators
from trueline.perception.plugins import find

Scores = Float[Tensor, " batch"]
TRIES = 4  #: random pictures that a probe scores before it says that nothing moves the score


class RewardError(ValueError):
    """A reward that cannot be trained on; one sentence with the cure."""


@runtime_checkable
class Reward(Protocol):
    """``images`` in 0..1 on its device; larger is better. ``generators``: one for each picture, on the CPU, for a
    reward that draws; None = torch's own."""

    name: str

    def __call__(
        self, images: Images, prompts: Sequence[str], generators: Generators | None = None
    ) -> Scores: ...


@dataclass(frozen=True)
class ModelPart:
    """A model that rewards read, as ``objective.models`` names it.

    Args:
        load: (folder or Hub id, device, settings) -> the model.
        example: what could be given, for the error where nothing is.
        shipped: the folder of the world's own, which is meant by "world"; None = it has none.
        may_be: the name of another part that may take its place, and does in the world.
    """

    name: str
    load: Callable[[str, str, Any], Any]
    example: str
    shipped: str | None = None
    may_be: str | None = None


@dataclass(frozen=True)
class RewardKind:
    """An entry of the table of rewards: ``make(settings, *models)`` makes the reward of the models of its parts."""

    parts: tuple[ModelPart, ...]
    make: Callable[..., Reward]


# Which reward can be trained on


def probe(
    reward: Reward,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    prompts: Sequence[str] = ("a red apple", "a blue car"),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Take the gradient of the scores of random pictures of ``size`` (height, width) by their pixels.

    It must exist, be finite, and not be 0 for all of ``TRIES`` draws (the captions of one draw may all be alike).

    Raises:
        RewardError: it is not so, or there is not one finite score for each picture.
    """
    for seed in range(TRIES):
        made = [torch.Generator().manual_seed(97 * seed + row) for row in range(len(prompts))]
        images = torch.stack([torch.rand(3, *size, generator=g, dtype=dtype) for g in made]).to(device)
        images.requires_grad_(True)
        with torch.enable_grad():
            scores = reward(images, list(prompts), made)
            check_scores(reward, scores, len(prompts))
            total = scores.sum()
        if not total.requires_grad:
            raise RewardError(no_gradient(reward, "its scores carry no gradient"))
        gradient = torch.autograd.grad(total, images, allow_unused=True)[0]
        if gradient is None:
            raise RewardError(no_gradient(reward, "its scores do not depend on the pixels"))
        if not gradient.isfinite().all():
            raise RewardError(
                f"reward {reward.name}: its gradient is not finite; use float32 or bfloat16 for its nets"
            )
        if gradient.any():
            return
    raise RewardError(no_gradient(reward, f"its gradient is 0 for {TRIES} draws of random pictures"))


def check_scores(reward: Reward, scores: Any, count: int) -> None:
    """Refuse what is not one finite number for each picture."""
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise RewardError(
            f"reward {reward.name}: must return a tensor of {count} scores, one for each picture (got {got})"
        )
    if not scores.isfinite().all():
        raise RewardError(
            f"reward {reward.name}: gave {float(scores.detach()[~scores.isfinite()][0])} for a picture; use float32 "
            "or bfloat16 for its nets"
        )


def no_gradient(reward: Reward, why: str) -> str:
    return (
        f"reward {reward.name}: {why}, so training on it would change nothing; give it weight 0 (it is then only "
        "logged) or use one with a gradient, such as caption with gradient=score_function"
    )


# A user's own


class PluginReward:
    """A user's own: "package.module:function", called with ``images`` (a tensor in 0..1, with gradients) and
    ``prompts``, which returns a tensor of scores. So ImageReward, HPS and others are used without being dependencies.

    Raises:
        ValueError: no such module or function.
    """

    def __init__(self, name: str, target: str):
        self.name, self.function = name, find(target)

    def __call__(
        self, images: Images, prompts: Sequence[str], generators: Generators | None = None
    ) -> Scores:
        scores = self.function(images, list(prompts))
        check_scores(self, scores, len(prompts))
        return scores
