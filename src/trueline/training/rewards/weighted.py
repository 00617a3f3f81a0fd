"""Several rewards together: standardised by their running estimates, weighted, added up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from trueline.models.pixels import Images
from trueline.perception.caption_nets import Generators
from trueline.training.rewards.reward import Reward, RewardError, Scores, check_scores, no_gradient, probe

LEAST = 16  #: scores before their spread is divided by: two may differ by next to nothing


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
    def take(self, numbers: Float[Tensor, " n"]) -> None:
        """Of this process and of all others; each must see as many."""
        numbers = _of_all(numbers.detach()).to(self.state)
        count, mean, squares = self.state.unbind()
        own, added = numbers.mean(), len(numbers)
        total, gap = count + added, own - mean
        self.state.copy_(
            torch.stack(
                [
                    total,
                    mean + gap * added / total,
                    squares + (numbers - own).square().sum() + gap**2 * count * added / total,
                ]
            )
        )

    @property
    def mean(self) -> float:
        return float(self.state[1])

    @property
    def std(self) -> float:
        """Of the numbers seen (divided by n); 1 where they do not differ, or are fewer than ``LEAST``."""
        count, _, squares = self.state.tolist()
        spread = math.sqrt(squares / count) if count >= LEAST else 0.0
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
                raise RewardError(no_gradient(reward, "its scores carry no gradient"))
            found[name] = scores
        return found

    def take(self, parts: Mapping[str, Scores]) -> None:
        """Let the running estimates take these scores in, before ``combine`` uses them."""
        if self.running is not None:
            for name, scores in parts.items():
                self.running[name].take(scores)  # type: ignore[operator]

    def combine(self, parts: Mapping[str, Scores]) -> Scores:
        total: Any = 0.0
        for name, scores in parts.items():
            if not (weight := self.weights[name]):
                continue
            if self.running is not None:
                running: Any = self.running[name]
                scores = (scores - running.mean) / running.std
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
