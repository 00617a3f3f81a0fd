"""CLIP's cosine of picture and prompt as a reward."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from trueline.models.pixels import Images
from trueline.perception.caption_nets import Generators
from trueline.training.clip import FrozenCLIP, load_clip
from trueline.training.rewards.reward import ModelPart, RewardKind, Scores


class ClipReward(nn.Module):
    """The cosine of picture and prompt, -1..1: "CLIP reward" of RealignDiff's Table 3."""

    name = "clip"

    def __init__(self, clip: FrozenCLIP):
        super().__init__()
        self.clip = clip

    def forward(self, images: Images, prompts: Sequence[str], generators: Generators | None = None) -> Scores:
        pictures = self.clip.images(self.clip.fitted(images))
        return (pictures * self.clip.texts(prompts).to(pictures)).sum(1)


def _load(name: str, device: str, settings: Any) -> FrozenCLIP:
    return load_clip(name, device, settings.dtype)


CLIP_PART = ModelPart("clip", _load, "openai/clip-vit-large-patch14", shipped="clip")
CLIP = RewardKind((CLIP_PART,), lambda settings, clip: ClipReward(clip))
