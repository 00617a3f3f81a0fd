"""BLIP and BLIP-2 as captioners: one sentence per picture, greedily, by the nets of ``caption_nets``."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trueline.models.pretrained import Checkpoint, Dtype, rgb
from trueline.perception.caption_nets import (
    LONGEST,
    Autoregressive,
    Blip2Captioner,
    BlipCaptioner,
    captioner_of,
)

BATCH = 8


class GreedyCaptioner:
    """The likeliest word, one after the other, until the end or ``longest`` words: no sampling, no beams.

    Pictures are resized as transformers' processor does (PIL bicubic, squeezed to a square), so that the words are
    those of its ``generate(do_sample=False, num_beams=1)``; but ids without a word are never used. ``net`` is one of
    ``caption_nets``.
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
        texts = self.net.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


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


def blip(checkpoint: str, *where: str, **settings: Any) -> GreedyCaptioner:
    """``BlipForConditionalGeneration`` (Salesforce/blip-image-captioning-base).

    Args:
        where: device and dtype ("cpu", "float32").
        settings: ``longest`` and ``prefix`` of ``caption_nets.Autoregressive`` (the prefix is left out of what is
            returned), and those of ``Checkpoint``.

    Raises:
        ValueError: another model's checkpoint, or one that cannot be read.
    """
    return _captioner(("BLIP captioner", "blip"), checkpoint, *where, **settings)


def blip2(checkpoint: str, *where: str, **settings: Any) -> GreedyCaptioner:
    """``Blip2ForConditionalGeneration`` (Salesforce/blip2-opt-2.7b, -flan-t5-xl); settings as ``blip``.

    Raises:
        ValueError: float16, another model's checkpoint, or one that cannot be read.
    """
    return _captioner(("BLIP-2 captioner", "blip-2"), checkpoint, *where, **settings)


def _captioner(
    kind: tuple[str, str],
    checkpoint: str,
    device: str = "cpu",
    dtype: Dtype = "float32",
    *,
    longest: int = LONGEST,
    prefix: str = "",
    **files: Any,
) -> GreedyCaptioner:
    source = Checkpoint(checkpoint, **files)
    source.check_kind(*kind)
    return GreedyCaptioner(captioner_of(source, device, dtype, longest=longest, prefix=prefix), source.title)
