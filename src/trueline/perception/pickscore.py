"""PickScore (Kirstain et al., "Pick-a-Pic", 2023; checkpoint yuvalkirstain/PickScore_v1)."""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor

from trueline.models.pretrained import Dtype
from trueline.perception.clip import Clip


class PickScore(Clip):
    """``match`` is exp(logit_scale) times the cosine; about 20 for the published checkpoint.

    That checkpoint is a CLIP ViT-H/14; if your copy has no tokenizer, give
    ``processor="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"``, as its authors do.
    """

    def __init__(self, checkpoint: str, device: str = "cpu", dtype: Dtype = "float32", **more: Any):
        super().__init__(checkpoint, device, dtype, name="pickscore", **more)

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        return self.model.logit_scale.detach().float().exp().cpu() * super().match(images, texts)
