"""CLIP as a measure with a gradient to the pictures: for DSAlign, and as a reward."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trueline.models.devices import at_least_float32
from trueline.models.pixels import Fitting, Images
from trueline.models.pretrained import Checkpoint


class FrozenCLIP(nn.Module):
    """transformers' ``CLIPModel`` as a measure: its weights stay, gradients go through its pictures.

    Pictures are resized and normalised as its image processor says (``Fitting``): squeezed, not cropped, for a region
    must not be cut off.

    Raises:
        ValueError: processor or tokenizer of another CLIP.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any):
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.fitting = Fitting(processor)
        own = model.config.vision_config.image_size
        if self.fitting.side != (own, own):
            height, width = self.fitting.side
            raise ValueError(
                f"its processor makes pictures of {width} x {height} pixels, its model reads {own}"
            )
        if len(tokenizer) > model.config.text_config.vocab_size:
            words = model.config.text_config.vocab_size
            raise ValueError(f"its tokenizer has {len(tokenizer)} tokens, its model knows {words}")
        self.length = model.config.text_config.max_position_embeddings

    def fitted(self, pictures: Images) -> Float[Tensor, "batch 3 side side"]:
        """At the size that CLIP reads, still in 0..1."""
        return self.fitting.resized(pictures)

    def images(
        self, fitted: Float[Tensor, "batch 3 side side"], checkpointing: bool = False
    ) -> Float[Tensor, "pictures d"]:
        """Unit vectors of pictures that are ``fitted``.

        ``checkpointing``: only the inputs of the layers are kept, and the layers run again for the gradient: less
        memory for each picture, the same numbers.
        """
        pixels = self.fitting.normalised(fitted).to(self.model.dtype)
        with _layers_recomputed(self.model.vision_model) if checkpointing else nullcontext():
            return _unit(self.model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Unit vectors, each distinct text read once; one that is too long keeps its end token."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        read = self.tokenizer(
            list(places), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.model.device)
        out = self.model.get_text_features(input_ids=read.input_ids, attention_mask=read.attention_mask)
        return _unit(out)[[places[text] for text in texts]]


@contextmanager
def _layers_recomputed(tower: nn.Module) -> Iterator[None]:
    """transformers' own switch acts on nets in training only; so each layer is set to training, and none of its parts
    (whose dropout stays off)."""
    layers: list[Any] = [layer for layer in tower.modules() if isinstance(layer, GradientCheckpointingLayer)]
    before = [(layer.gradient_checkpointing, layer.training) for layer in layers]
    try:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        yield
    finally:
        for layer, (switch, training) in zip(layers, before, strict=True):
            layer.gradient_checkpointing, layer.training = switch, training
            del layer._gradient_checkpointing_func


def _unit(features: Any) -> Tensor:
    """transformers 5 wraps the projected vectors in an output object."""
    vectors = getattr(features, "pooler_output", features)
    return F.normalize(at_least_float32(vectors), dim=-1)


def load_clip(name: str | Path, device: str = "cpu", dtype: str = "float32") -> FrozenCLIP:
    """The CLIP in a folder or on the Hub.

    Raises:
        ValueError: it cannot be read, or its parts do not fit each other.
    """
    source = Checkpoint(name)
    model = source.model(CLIPModel, device, dtype)
    clip = FrozenCLIP(model, source.tokenizer(), source.image_processor("CLIPImageProcessor"))
    return clip.to(device)
