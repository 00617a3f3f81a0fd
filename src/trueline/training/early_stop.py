"""Guards against reward hacking: what to measure besides the reward, and when to stop.

A reward that is optimised ceases to be a measure: users of reward training report grids, saturated colours and
pictures that are all alike (flow_grpo's issues 92, 186 and 204, SRPO's 22, ImageReward's 95). So: a score that is not
trained on, how far the net has drifted from its base, and how different the pictures of one prompt still are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def diversity(features: Float[Tensor, "pictures d"], prompts: Sequence[str]) -> float:
    """Mean pairwise distance 1 - cos, 0..2, of pictures of the same prompt, the mean over prompts.

    ``features``: one row for each picture, such as CLIP's. NaN where no prompt has two pictures.

    Raises:
        ValueError: not one prompt for each picture.
    """
    if len(features) != len(prompts):
        raise ValueError(
            f"prompts: there must be one for each picture (got {len(prompts)} and {len(features)})"
        )
    units = torch.nn.functional.normalize(features.double(), dim=-1)
    means = []
    for prompt in dict.fromkeys(prompts):
        rows = units[[place for place, own in enumerate(prompts) if own == prompt]]
        if len(rows) > 1:
            count = len(rows)
            alike = (rows @ rows.T).sum() - (rows * rows).sum()
            means.append(1 - float(alike) / (count * (count - 1)))
    return sum(means) / len(means) if means else math.nan


def drift(ours: Float[Tensor, "batch c h w"], base: Float[Tensor, "batch c h w"]) -> Float[Tensor, " batch"]:
    """How far predictions are from the base's: RMS of the difference over RMS of the base's, of each picture."""
    gap = (ours - base).flatten(1).square().mean(1).sqrt()
    return gap / base.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)


@dataclass
class Best:
    """Which step had the best held-out score, and whether to stop.

    Args:
        patience: validations without a new best after which ``stale``; 0 = never.
        least: by how much a score must exceed the best to be a new one.
    """

    patience: int = 0
    least: float = 0.0
    step: int | None = None  #: of the best score
    score: float = -math.inf
    waited: int = 0  #: validations since then

    def __post_init__(self) -> None:
        if self.patience < 0 or self.least < 0:
            raise ValueError(f"patience and least: must be 0 or more (got {self.patience} and {self.least})")

    def take(self, step: int, score: float) -> bool:
        """Take in the score at ``step``; True where it is a new best. One that is not finite is not, and counts as a
        validation."""
        better = math.isfinite(score) and (self.step is None or score > self.score + self.least)
        if better:
            self.step, self.score, self.waited = step, score, 0
        else:
            self.waited += 1
        return better

    @property
    def stale(self) -> bool:
        return 0 < self.patience <= self.waited

    def state(self) -> dict[str, float | int | None]:
        """What ``load`` goes on from."""
        return {"step": self.step, "score": self.score, "waited": self.waited}

    def load(self, state: dict) -> None:
        self.step, self.score, self.waited = state["step"], state["score"], state["waited"]
