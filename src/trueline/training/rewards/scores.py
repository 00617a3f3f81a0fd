"""Rewards: how good pictures are for their prompts, one number each, with a gradient to the pixels.

A reward is called as ``reward(images, prompts, generators)``. Here are CLIP's and BLIP's, a user's own, and several
together; the caption reward is ``objectives.caption_reward``. ``probe`` finds out whether a gradient comes out at
all: ReFL on a reward without one trains nothing and says nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trueline.models.pixels import Fitting
from trueline.perception.blip2 import Blip, Blip2
from trueline.perception.plugins import find
from trueline.training.losses.dsalign import FrozenCLIP

Images = Float[Tensor, "batch 3 height width"]  # in 0..1
Scores = Float[Tensor, " batch"]
Generators = Sequence[torch.Generator]
TRIES = 4  #: random pictures that a probe looks at before it says that nothing moves the score


class RewardError(ValueError):
    """A reward that cannot be trained on; one sentence with the cure."""


@runtime_checkable
class Reward(Protocol):
    """``images`` in 0..1 on its device; larger is better. ``generators``: one a picture, on the CPU, for a reward
    that draws; None = torch's own."""

    name: str

    def __call__(
        self, images: Images, prompts: Sequence[str], generators: Generators | None = None
    ) -> Scores: ...


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
            raise RewardError(_no_path(reward, "its scores carry no gradient"))
        gradient = torch.autograd.grad(total, images, allow_unused=True)[0]
        if gradient is None:
            raise RewardError(_no_path(reward, "its scores do not depend on the pixels"))
        if not gradient.isfinite().all():
            raise RewardError(
                f"reward {reward.name}: its gradient is not finite; use float32 or bfloat16 for its nets"
            )
        if gradient.any():
            return
    raise RewardError(_no_path(reward, f"its gradient is 0 for {TRIES} draws of random pictures"))


def check_scores(reward: Reward, scores: Any, count: int) -> None:
    """Refuse what is not one finite number for each picture."""
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise RewardError(
            f"reward {reward.name}: must return a tensor of {count} scores, one a picture (got {got})"
        )
    if not scores.isfinite().all():
        raise RewardError(
            f"reward {reward.name}: gave {float(scores.detach()[~scores.isfinite()][0])} for a picture; use float32 "
            "or bfloat16 for its nets"
        )


def _no_path(reward: Reward, why: str) -> str:
    return (
        f"reward {reward.name}: {why}, so training on it would change nothing; give it weight 0 (it is then only "
        "logged) or use one with a gradient, such as caption with gradient=score_function"
    )


# What looks at the pictures


class ClipReward(nn.Module):
    """The cosine of picture and prompt, -1..1: "CLIP reward" of RealignDiff's Table 3."""

    name = "clip"

    def __init__(self, clip: FrozenCLIP):
        super().__init__()
        self.clip = clip

    def forward(self, images: Images, prompts: Sequence[str], generators: Generators | None = None) -> Scores:
        pictures = self.clip.images(self.clip.fitted(images))
        return (pictures * self.clip.texts(prompts).to(pictures)).sum(1)


class MatchReward(nn.Module):
    """BLIP's or BLIP-2's head as a reward: the probability 0..1 of a match (ITM), or the cosine (ITC).

    ``matcher``: of ``perception.blip2``, which says what the heads are. ``logit``: the log odds of a match in place
    of its probability, whose slope vanishes where the net is sure.

    Raises:
        ValueError: ``logit`` of ITC, which has none.
    """

    def __init__(self, matcher: Blip | Blip2, logit: bool = False):
        super().__init__()
        if logit and matcher.head != "itm":
            raise ValueError("logit: only the head itm has one; leave it out for itc")
        self.net, self.fitting = matcher.model, Fitting(matcher.pictures)
        self.fitting.to(matcher.model.device)
        self._matcher, self.logit = matcher, logit
        self.name = matcher.name

    def forward(self, images: Images, prompts: Sequence[str], generators: Generators | None = None) -> Scores:
        pixels = self.fitting(images).to(self.net.dtype)
        if isinstance(self._matcher, Blip2):
            scores = self._of_blip2(pixels, prompts)
        else:
            scores = self._of_blip(pixels, prompts)
        if self._matcher.head == "itc":
            return scores
        return scores[:, 1] - scores[:, 0] if self.logit else scores.softmax(1)[:, 1]

    def _of_blip2(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        ids, mask = self._matcher.tokens(prompts)  # type: ignore[union-attr]
        head = self._matcher.head == "itm"
        scores = self.net(
            pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=head
        ).logits_per_image
        return wide(scores if head else scores.diagonal())

    def _of_blip(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        net = self.net  # part by part, as ``perception.blip2.Blip``
        seen = net.vision_model(pixel_values=pixels).last_hidden_state
        text = self._matcher.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=35, return_tensors="pt"
        ).to(net.device)
        given = {"input_ids": text.input_ids, "attention_mask": text.attention_mask}
        if self._matcher.head == "itm":
            read = net.text_encoder(**given, encoder_hidden_states=seen)
            return wide(net.itm_head(read.last_hidden_state[:, 0]))
        read = net.text_encoder(**given)
        return F.cosine_similarity(
            wide(net.vision_proj(seen[:, 0])), wide(net.text_proj(read.last_hidden_state[:, 0]))
        )


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


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


# Several together


ENOUGH = 16  #: scores before their spread is divided by: two may differ by next to nothing


class Running(nn.Module):
    """Mean and standard deviation of all numbers seen (Chan et al. 1979), in float64, as buffers.

    They are not persistent: they belong to a training run, whose checkpoints hold the buffers of nets that learn, and
    not to the weights that come out.
    """

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(3, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def see(self, numbers: Float[Tensor, " n"]) -> None:
        """Of this process and of all others; each must see as many."""
        numbers = _of_all(numbers.detach()).to(self.state)
        count, mean, squares = self.state.unbind()
        own, added = numbers.mean(), len(numbers)
        total, gap = count + added, own - mean
        self.state.copy_(
            torch.stack([
                total,
                mean + gap * added / total,
                squares + (numbers - own).square().sum() + gap**2 * count * added / total,
            ])
        )  # fmt: skip

    @property
    def mean(self) -> float:
        return float(self.state[1])

    @property
    def std(self) -> float:
        """Of the numbers seen (divided by n); 1 where they do not differ, or are fewer than ``ENOUGH``."""
        count, _, squares = self.state.tolist()
        spread = math.sqrt(squares / count) if count >= ENOUGH else 0.0
        return spread if spread > 1e-8 else 1.0


def _of_all(numbers: Float[Tensor, " n"]) -> Float[Tensor, " all"]:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return numbers
    parts = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, numbers.contiguous())
    return torch.cat(parts)


class Rewards(nn.Module):
    """Named rewards with weights: sum_i weight_i (r_i - mean_i) / std_i, over running estimates.

    Raw scores are of different sizes: ImageReward has unit variance, while captions of pure noise score 0.82 under
    BERTScore (ddpo-pytorch#23). ``standardise`` = False: the plain weighted sum. A reward of weight 0 is computed
    without gradient, for the log alone. Weights below 0 punish.

    Raises:
        ValueError: nothing has a weight, or a weight is not finite.
    """

    def __init__(self, rewards: Mapping[str, tuple[Reward, float]], standardise: bool = True):
        super().__init__()
        if wrong := [name for name, (_, weight) in rewards.items() if not math.isfinite(weight)]:
            raise ValueError(f"rewards: the weight of {wrong[0]} must be finite")
        if not any(weight for _, weight in rewards.values()):
            raise ValueError("rewards: give at least one reward a weight other than 0")
        self.rewards = {name: reward for name, (reward, _) in rewards.items()}
        self.weights = {name: weight for name, (_, weight) in rewards.items()}
        # Modules among them are found through this list: they move and freeze with this one.
        self.nets = nn.ModuleList([r for r in self.rewards.values() if isinstance(r, nn.Module)])
        self.nets.eval().requires_grad_(False)
        self.running = nn.ModuleDict({name: Running() for name in self.rewards}) if standardise else None

    def train(self, mode: bool = True) -> Rewards:
        """Its nets stay as they are: without dropout."""
        self.training = mode
        return self

    def parts(
        self, images: Images, prompts: Sequence[str], generators: Generators | None = None
    ) -> dict[str, Scores]:
        """Raw scores by name, each one finite.

        Raises:
            RewardError: a reward that returns something else, or one that counts and has no gradient while
                gradients are wanted.
        """
        found = {}
        for name, reward in self.rewards.items():
            counts = bool(self.weights[name])
            with torch.set_grad_enabled(counts and torch.is_grad_enabled()):
                scores = reward(images if counts else images.detach(), prompts, generators)
            check_scores(reward, scores, len(prompts))
            if counts and torch.is_grad_enabled() and images.requires_grad and not scores.requires_grad:
                raise RewardError(_no_path(reward, "its scores carry no gradient"))
            found[name] = scores
        return found

    def see(self, parts: Mapping[str, Scores]) -> None:
        """Let the running estimates take these scores in, before ``combine`` uses them."""
        if self.running is not None:
            for name, scores in parts.items():
                self.running[name].see(scores)  # type: ignore[operator]

    def combine(self, parts: Mapping[str, Scores]) -> Scores:
        total: Any = 0.0
        for name, scores in parts.items():
            if not (weight := self.weights[name]):
                continue
            if self.running is not None:
                seen: Any = self.running[name]
                scores = (scores - seen.mean) / seen.std
            total = total + weight * scores
        return total

    def probe(
        self, size: tuple[int, int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """``probe`` each reward that counts.

        Raises:
            RewardError: one of them has no gradient.
        """
        for name, reward in self.rewards.items():
            if self.weights[name]:
                probe(reward, size, device, dtype=dtype)
