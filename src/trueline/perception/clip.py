"""CLIP on ``CLIPModel`` of transformers: unit vectors of pictures and texts, CLIP score, PickScore, CMMD."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPModel

from trueline.models.pretrained import Checkpoint, Dtype, batched, pixels_for, same_length


class Clip:
    """``images`` and ``texts`` give unit vectors (n, d); ``match`` their cosines in -1..1, unscaled and unclipped.

    T2I-CompBench reports that cosine; Hessel et al.'s CLIPScore is 2.5 * max(cosine, 0), torchmetrics' is 100
    times it. A long text is cut by the *tokenizer*, which keeps the end token whose state is the text's vector
    (torchmetrics 1.9 cuts the ids instead: torchmetrics#2883). Pictures are resized by PIL, bicubic.

    ``processor`` names the checkpoint of tokenizer and preprocessing where ``checkpoint`` has none.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        processor: str | None = None,
        name: str = "clip",
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        self.model = self._model(source, device, dtype)
        words = Checkpoint(processor, local_files_only=source.local_files_only) if processor else source
        self.tokenizer = words.tokenizer()
        self.pictures = self._pictures(words)
        self.length = self.model.config.text_config.max_position_embeddings
        self.name = name
        side = self.model.config.vision_config.image_size
        self.protocol = f"{source.title}, PIL bicubic to {side}, {self.length} tokens"

    def _model(self, source: Checkpoint, device: str, dtype: Dtype) -> CLIPModel:
        return source.model(CLIPModel, device, dtype)

    def _pictures(self, source: Checkpoint) -> Any:
        return source.image_processor("CLIPImageProcessor", resample=3)

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Tensor:
        if not images:
            return self._nothing()
        return batched(self._embed_images, images)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return self._nothing()
        return batched(self._embed_texts, texts, size=64)

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        same_length(images, texts)
        return (self.images(images) * self.texts(texts)).sum(1)

    def features(self, images: Sequence[Image]) -> Tensor:
        """The pictures' unit vectors, which is what CMMD compares (Jayasumana et al., 2024)."""
        return self.images(images)

    def tokens(self, texts: Sequence[str]) -> Any:
        """``input_ids`` and ``attention_mask`` (n, tokens), each text with its end token."""
        return self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        )

    def _embed_images(self, images: Sequence[Image]) -> Tensor:
        pixels = pixels_for(self.model, self.pictures, images)
        return F.normalize(_pooled(self.model.get_image_features(pixel_values=pixels)).float(), dim=-1)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        read = self.tokens(texts).to(self.model.device)
        out = self.model.get_text_features(input_ids=read.input_ids, attention_mask=read.attention_mask)
        return F.normalize(_pooled(out).float(), dim=-1)

    def _nothing(self) -> Tensor:
        return torch.zeros(0, self.model.config.projection_dim)


def _pooled(features: Any) -> Tensor:
    """The projected vectors, which transformers 5 wraps in an output object."""
    return getattr(features, "pooler_output", features)


class PickScore(Clip):
    """PickScore (Kirstain et al., "Pick-a-Pic", 2023; checkpoint yuvalkirstain/PickScore_v1).

    ``match`` is exp(logit_scale) times the cosine; about 20 for the published checkpoint.

    That checkpoint is a CLIP ViT-H/14; if your copy has no tokenizer, give
    ``processor="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"``, as its authors do.
    """

    def __init__(self, checkpoint: str, device: str = "cpu", dtype: Dtype = "float32", **more: Any):
        super().__init__(checkpoint, device, dtype, name="pickscore", **more)

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        return self.model.logit_scale.detach().float().exp().cpu() * super().match(images, texts)
