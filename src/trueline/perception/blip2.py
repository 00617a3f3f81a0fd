"""How well text and picture match, by BLIP-2 (Li et al., 2023) and BLIP (Li et al., 2022).

Two heads, two metrics that must not be mixed up (realigndiff's tables call an ITC-like number "BLIP-ITM"):

* ITC, image-text *contrast*: a cosine in -1..1; of BLIP-2 the greatest over its query tokens.
* ITM, image-text *matching*: the probability in 0..1 that the pair belongs together; text and picture attend to
  each other, and BLIP-2 averages the logits over its query tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import Blip2ForImageTextRetrieval, BlipForImageTextRetrieval

from trueline.models.devices import at_least_float32
from trueline.models.pretrained import Checkpoint, batched, precision, rgb

LONGEST = 32  #: tokens of a text that BLIP-2 reads (LAVIS); BLIP reads 35
BATCH = 8

Head = Literal["itc", "itm"]


class Blip2:
    """``match`` with one head of ``Blip2ForImageTextRetrieval`` (Salesforce/blip2-itm-vit-g).

    bfloat16 or float32: in float16 transformers keeps the Q-Former in float32, whose layers then refuse the
    half-precision picture, and users' fp16 runs give NaN (transformers#30789).
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        *,
        head: Head = "itm",
        **files: Any,
    ):
        if precision(dtype) is torch.float16:
            raise ValueError("BLIP-2 is not stable in float16; use dtype bfloat16 or float32")
        source = Checkpoint(checkpoint, **files)
        self.model = source.model(Blip2ForImageTextRetrieval, device, dtype)
        self.tokenizer = source.tokenizer()
        self.pictures = source.image_processor("BlipImageProcessor", resample=3)
        self.head = head
        self.name = f"blip2-{head}"
        self.protocol = f"{source.title}, PIL bicubic, {LONGEST} tokens"

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        return batched(self._match, images, texts, size=BATCH)

    @torch.inference_mode()
    def _match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        pixels = self.pictures(rgb(images), return_tensors="pt").pixel_values
        scores = self.scores(pixels.to(self.model.device, self.model.dtype), texts)
        return scores.softmax(1)[:, 1] if self.head == "itm" else scores

    def scores(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """Of pictures as the net reads them, with gradient: logits (n, 2) of the head itm, cosines (n,) of itc."""
        ids, mask = self.tokens(texts)
        itm = self.head == "itm"
        scores = self.model(
            pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=itm
        ).logits_per_image
        return at_least_float32(scores if itm else scores.diagonal())

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (n, tokens); behind as many place-holders as there are queries, if the net wants them."""
        read = _read(self.tokenizer, texts, LONGEST).to(self.model.device)
        ids, mask, config = read.input_ids, read.attention_mask, self.model.config
        if config.image_token_index is not None:
            queries = torch.full((len(ids), config.num_query_tokens), config.image_token_index).to(ids)
            ids, mask = torch.cat([queries, ids], 1), torch.cat([torch.ones_like(queries), mask], 1)
        return ids, mask


class Blip:
    """The same two heads of ``BlipForImageTextRetrieval`` (Salesforce/blip-itm-base-coco), with one vector for
    each picture."""

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        *,
        head: Head = "itm",
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        self.model = source.model(BlipForImageTextRetrieval, device, dtype)
        self.tokenizer = source.tokenizer()
        self.pictures = source.image_processor("BlipImageProcessor", resample=3)
        self.head = head
        self.name = f"blip-{head}"
        self.protocol = f"{source.title}, PIL bicubic, 35 tokens"

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        return batched(self._match, images, texts)

    @torch.inference_mode()
    def _match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        pixels = self.pictures(rgb(images), return_tensors="pt").pixel_values
        scores = self.scores(pixels.to(self.model.device, self.model.dtype), texts)
        return scores.softmax(1)[:, 1] if self.head == "itm" else scores

    def scores(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """As ``Blip2.scores``."""
        net = self.model  # its forward() makes a mask on the CPU, so its parts are called here
        states = net.vision_model(pixel_values=pixels).last_hidden_state
        text = _read(self.tokenizer, texts, 35).to(net.device)
        given = {"input_ids": text.input_ids, "attention_mask": text.attention_mask}
        if self.head == "itm":
            read = net.text_encoder(**given, encoder_hidden_states=states)
            return at_least_float32(net.itm_head(read.last_hidden_state[:, 0]))
        read = net.text_encoder(**given)
        pictures, words = net.vision_proj(states[:, 0]), net.text_proj(read.last_hidden_state[:, 0])
        return F.cosine_similarity(at_least_float32(pictures), at_least_float32(words))


def blip2_itc(checkpoint: str, *settings: Any, **more: Any) -> Blip2:
    return Blip2(checkpoint, *settings, head="itc", **more)


def blip_itc(checkpoint: str, *settings: Any, **more: Any) -> Blip:
    return Blip(checkpoint, *settings, head="itc", **more)


def _read(tokenizer: Any, texts: Sequence[str], longest: int) -> Any:
    return tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
