"""BLIP's and BLIP-2's image-text heads as rewards."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from trueline.models.pixels import Fitting, Images
from trueline.perception import load
from trueline.perception.blip2 import Blip, Blip2
from trueline.perception.caption_nets import Generators
from trueline.training.rewards.reward import ModelPart, RewardKind, Scores


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
        scores = self._matcher.scores(self.fitting(images).to(self.net.dtype), prompts)
        if self._matcher.head == "itc":
            return scores
        return scores[:, 1] - scores[:, 0] if self.logit else scores.softmax(1)[:, 1]


def _load(kind: str, name: str, device: str, settings: Any) -> Blip | Blip2:
    matcher: Blip | Blip2 = load(f"{kind}={name}", device, settings.dtype)
    return matcher


def _kind(name: str, example: str, shipped: str | None = None) -> RewardKind:
    part = ModelPart(name, partial(_load, name), example, shipped)
    return RewardKind((part,), lambda settings, matcher: MatchReward(matcher))


BLIP_ITM = _kind("blip-itm", "Salesforce/blip-itm-base-coco", "matcher")
BLIP_ITC = _kind("blip-itc", "Salesforce/blip-itm-base-coco", "matcher")
BLIP2_ITM = _kind("blip2-itm", "Salesforce/blip2-itm-vit-g")
BLIP2_ITC = _kind("blip2-itc", "Salesforce/blip2-itm-vit-g")
