"""How well text and picture match, by BLIP-2 (Li et al., 2023) and BLIP (Li et al., 2022).

Two heads, two metrics that must not be mixed up (realigndiff's tables call an ITC-like number "BLIP-ITM"):

* ITC, image-text *contrast*: a cosine in -1..1; of BLIP-2 the greatest over its query tokens.
* ITM, image-text *matching*: the probability in 0..1 that the pair belongs together; text and picture attend to
  each other, and BLIP-2 averages the logits over its query tokens.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import Blip2ForImageTextRetrieval, BlipForImageTextRetrieval

from trueline.models.devices import at_least_float32
from trueline.models.pretrained import BATCH, Checkpoint, Dtype, batched, pixels_for, precision

LONGEST = 32  #: tokens of a text that BLIP-2 reads (LAVIS); BLIP reads 35

Head = Literal["itc", "itm"]


class _TwoHeads:
    """``match`` with one of both heads of a net for image-text retrieval."""

    net: ClassVar[Any]
    kind: ClassVar[str]
    longest: ClassVar[int]
    batch: ClassVar[int]

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        head: Head = "itm",
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        self.model = source.model(self.net, device, dtype)
        self.tokenizer = source.tokenizer()
        self.pictures = source.image_processor("BlipImageProcessor", resample=3)
        self.head = head
        self.name = f"{self.kind}-{head}"
        self.protocol = f"{source.title}, PIL bicubic, {self.longest} tokens"

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        return batched(self._match, images, texts, size=self.batch)

    @torch.inference_mode()
    def _match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        scores = self.scores(pixels_for(self.model, self.pictures, images), texts)
        return scores.softmax(1)[:, 1] if self.head == "itm" else scores

    @abstractmethod
    def scores(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """Of pictures as the net reads them, with gradient: logits (n, 2) of the head itm, cosines (n,) of itc."""

    def _read(self, texts: Sequence[str]) -> Any:
        """Ids and mask (n, tokens) of the texts, on the net's device."""
        read = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        return read.to(self.model.device)


class Blip2(_TwoHeads):
    """``Blip2ForImageTextRetrieval`` (Salesforce/blip2-itm-vit-g).

    bfloat16 or float32: in float16 transformers keeps the Q-Former in float32, whose layers then refuse the
    half-precision picture, and users' fp16 runs give NaN (transformers#30789).
    """

    net, kind, longest, batch = Blip2ForImageTextRetrieval, "blip2", LONGEST, 8

    def __init__(self, checkpoint: str, device: str = "cpu", dtype: Dtype = "float32", **more: Any):
        if precision(dtype) is torch.float16:
            raise ValueError("BLIP-2 is not stable in float16; use dtype bfloat16 or float32")
        super().__init__(checkpoint, device, dtype, **more)

    def scores(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        ids, mask = self.tokens(texts)
        itm = self.head == "itm"
        scores = self.model(
            pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=itm
        ).logits_per_image
        return at_least_float32(scores if itm else scores.diagonal())

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (n, tokens); before them as many place-holders as there are queries, if the net wants them."""
        read, config = self._read(texts), self.model.config
        ids, mask = read.input_ids, read.attention_mask
        if config.image_token_index is not None:
            queries = torch.full((len(ids), config.num_query_tokens), config.image_token_index).to(ids)
            ids, mask = torch.cat([queries, ids], 1), torch.cat([torch.ones_like(queries), mask], 1)
        return ids, mask


class Blip(_TwoHeads):
    """``BlipForImageTextRetrieval`` (Salesforce/blip-itm-base-coco), which has one vector per picture."""

    net, kind, longest, batch = BlipForImageTextRetrieval, "blip", 35, BATCH

    def scores(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        net = self.model  # its forward() makes a mask on the CPU, so its parts are called here
        states = net.vision_model(pixel_values=pixels).last_hidden_state
        text = self._read(texts)
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
