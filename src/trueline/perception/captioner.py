"""BLIP and BLIP-2 as captioners: one sentence a picture, greedily, by the nets of ``objectives.captioners``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, BlipForConditionalGeneration

from trueline.models.pretrained import Checkpoint, precision, rgb
from trueline.perception.caption_nets import LONGEST, Autoregressive, Blip2Captioner, BlipCaptioner

BATCH = 8


class GreedyCaptioner:
    """The likeliest word, one after the other, until the end or ``longest`` words: no sampling, no beams.

    Pictures are resized as transformers' processor does (PIL bicubic, squeezed to a square), so that the words are
    those of its ``generate(do_sample=False, num_beams=1)``; but ids without a word are never said. ``net`` is one of
    ``objectives.captioners``.
    """

    def __init__(self, net: BlipCaptioner | Blip2Captioner, title: str = "captioner"):
        self.net, self.name = net, net.name
        self.protocol = f"{title}, greedy, {net.longest} tokens"

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(images), BATCH):
            texts += self._caption(rgb(images[start : start + BATCH]))
        return texts

    @torch.inference_mode()
    def _caption(self, images: list[Image.Image]) -> list[str]:
        height, width = self.net.fitting.side
        sized = [image.resize((width, height), Image.Resampling.BICUBIC) for image in images]
        pixels = torch.stack([_tensor(image) for image in sized]).to(self.net.model.device)
        ids = greedy(self.net, self.net.see(pixels))
        said = self.net.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in said]


def greedy(net: Autoregressive, seen: Tensor) -> Tensor:
    """Ids (batch, tokens) of the likeliest words after ``net.prefix``; all that follows an end is the end."""
    going = torch.ones(len(seen), dtype=torch.bool, device=seen.device)
    ids: list[Tensor] = []
    given, past = torch.tensor([net.prefix] * len(seen), dtype=torch.long, device=seen.device), None
    while len(ids) < net.longest and going.any():
        logits, past = net.run(seen, given, past, cached=True)
        word = logits[:, -1, : net.words].float().argmax(-1)
        ids.append(torch.where(going, word, net.end))
        going = going & (word != net.end)
        given = ids[-1][:, None]
    return torch.stack(ids, 1)


def _tensor(image: Image.Image) -> Tensor:
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def blip(
    checkpoint: str,
    device: str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    longest: int = LONGEST,
    prefix: str = "",
    **files: Any,
) -> GreedyCaptioner:
    """``BlipForConditionalGeneration`` (Salesforce/blip-image-captioning-base). ``prefix``: words that every
    caption begins with, which are left out of what is returned.

    Raises:
        ValueError: another model's checkpoint, or one that cannot be read.
    """
    source = _source(checkpoint, "blip", files)
    model = source.model(BlipForConditionalGeneration, device, dtype)
    net = BlipCaptioner(model, source.tokenizer(), _pictures(source), longest=longest, prefix=prefix)
    return GreedyCaptioner(net.to(device), source.title)


def blip2(
    checkpoint: str,
    device: str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    longest: int = LONGEST,
    prefix: str = "",
    **files: Any,
) -> GreedyCaptioner:
    """``Blip2ForConditionalGeneration`` (Salesforce/blip2-opt-2.7b, -flan-t5-xl); settings as ``blip``.

    Raises:
        ValueError: float16, another model's checkpoint, or one that cannot be read.
    """
    if precision(dtype) is torch.float16:
        raise ValueError("BLIP-2 is not stable in float16; use dtype bfloat16 or float32")
    source = _source(checkpoint, "blip-2", files)
    model = source.model(Blip2ForConditionalGeneration, device, dtype)
    net = Blip2Captioner(model, source.tokenizer(), _pictures(source), longest=longest, prefix=prefix)
    return GreedyCaptioner(net.to(device), source.title)


def _source(checkpoint: str, kind: str, files: dict[str, Any]) -> Checkpoint:
    """Its config is looked at first: a net of another kind would be built whole before its weights are missed."""
    source = Checkpoint(checkpoint, **files)
    if (found := source.config().model_type) != kind:
        raise ValueError(f"the captioner {checkpoint} is a {found}; give a checkpoint of {kind}")
    return source


def _pictures(source: Checkpoint) -> Any:
    return source.image_processor("BlipImageProcessor", resample=3)
