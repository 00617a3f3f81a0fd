"""SAM (Kirillov et al., 2023) and SAM 2 (Ravi et al., 2024) on pictures, as segmenters of boxes."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import Sam2Model, SamModel

from trueline.boxes import Corners, clipped
from trueline.models.pretrained import Checkpoint, Dtype, rgb, same_length

BATCH = 2  #: pictures of 1024 x 1024 pixels in the image encoder at once
BOXES = 16  #: boxes of a picture in the mask decoder at once
NOTHING = -1e4  #: the logit of a pixel that surely belongs to nothing


class _BoxSegmenter:
    """What both share: a picture is encoded once, its boxes are decoded on their own, so none changes another's mask.

    A picture without boxes is not encoded, and a box without area has a mask of zeros.

    Settings:
        multimask: the best by predicted IoU of the three masks that the net draws for an ambiguous prompt (whole,
            part, part of a part). False: the one that it draws for a clear prompt, as in the examples with boxes of
            SAM's authors; SAM 2 itself goes back to the best of three where that one is not stable.
        least: a mask whose predicted IoU is below is all zero: nothing was found.
        soft: the mask's probability in place of 0 and 1.
    """

    name: str
    net: ClassVar[Any]
    kinds: ClassVar[tuple[str, ...]]  #: its title, and the checkpoints that are of it
    processor: ClassVar[str]

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        multimask: bool = True,
        least: float = 0.0,
        soft: bool = False,
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        source.check_kind(*self.kinds)
        self.model = source.model(self.net, device, dtype)
        self.pictures = source.image_processor(self.processor)
        self.multimask, self.least, self.soft = multimask, least, soft
        self.protocol = (
            f"{source.title}, {'best of 3 by predicted IoU' if multimask else 'single mask'}"
            f"{f', IoU >= {least:g}' if least > 0 else ''}{', soft' if soft else ''}"
        )

    @abstractmethod
    def _embed(self, pixels: Tensor) -> list[Any]:
        """What the mask decoder reads of each picture."""

    @abstractmethod
    def _inside(self, inputs: Any, row: int) -> tuple[int, int]:
        """(height, width) that picture ``row`` of the processor's output covers of the net's square."""

    @torch.inference_mode()
    def segment(self, images: Sequence[Image], boxes: Sequence[Sequence[Corners]]) -> list[list[np.ndarray]]:
        """
        Raises:
            ValueError: a box is not four finite numbers.
        """
        same_length(images, boxes)
        usable = [[clipped(box) for box in row] for row in boxes]
        masks = [
            [np.zeros(image.size[::-1], np.float32) for _ in row]
            for image, row in zip(images, boxes, strict=True)
        ]
        asked = [i for i, row in enumerate(usable) if any(row)]
        for start in range(0, len(asked), BATCH):
            rows = asked[start : start + BATCH]
            inputs = self.pictures(rgb([images[i] for i in rows]), return_tensors="pt")
            pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
            for place, (i, embedding) in enumerate(zip(rows, self._embed(pixels), strict=True)):
                found = [k for k, box in enumerate(usable[i]) if box]
                inside, square = self._inside(inputs, place), pixels.shape[-2:]
                for part in (found[k : k + BOXES] for k in range(0, len(found), BOXES)):
                    drawn = self._draw(embedding, [usable[i][k] for k in part], inside)
                    whole = _resized(self._unpadded(drawn, square, inside), images[i].size[::-1])
                    whole = whole.sigmoid() if self.soft else (whole > 0).float()
                    for k, mask in zip(part, whole.cpu().numpy(), strict=True):
                        masks[i][k] = mask
        return masks

    def _draw(self, embedding: Any, boxes: list[Any], inside: tuple[int, int]) -> Tensor:
        """Logits (boxes, low, low) of the net's square."""
        height, width = inside
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        prompts = (torch.tensor(boxes, dtype=torch.float32) * scale)[None].to(self.model.device)
        out = self.model(image_embeddings=embedding, input_boxes=prompts, multimask_output=self.multimask)
        scores, logits = out.iou_scores[0].float(), out.pred_masks[0].float()
        if not (logits.isfinite().all() and scores.isfinite().all()):
            raise ValueError(f"{self.name}: its masks are not finite; use dtype bfloat16 or float32")
        sure, best = scores.max(1)
        chosen = logits[torch.arange(len(boxes), device=logits.device), best]
        return chosen.masked_fill((sure < self.least)[:, None, None], NOTHING)

    def _unpadded(self, logits: Tensor, square: Sequence[int], inside: tuple[int, int]) -> Tensor:
        """The part of the logits (boxes, low, low) that is the picture."""
        return logits


class Sam(_BoxSegmenter):
    """``SamModel`` (facebook/sam-vit-base, -large, -huge). Its longer side fills the square, padded with 0."""

    name, net, kinds, processor = "sam", SamModel, ("SAM", "sam"), "SamImageProcessor"

    def _embed(self, pixels: Tensor) -> list[Tensor]:
        return list(self.model.get_image_embeddings(pixels).split(1))

    def _inside(self, inputs: Any, row: int) -> tuple[int, int]:
        height, width = inputs["reshaped_input_sizes"][row].tolist()
        return height, width

    def _unpadded(self, logits: Tensor, square: Sequence[int], inside: tuple[int, int]) -> Tensor:
        return _resized(logits, square)[..., : inside[0], : inside[1]]


class Sam2(_BoxSegmenter):
    """``Sam2Model`` (facebook/sam2.1-hiera-tiny to -large; the video half of such a checkpoint is not read). Pictures
    are squeezed to a square.

    transformers' own ``Sam2ImageProcessor`` needs torchvision; one that resizes with PIL reads the same file here.
    """

    name, net, kinds, processor = "sam2", Sam2Model, ("SAM 2", "sam2", "sam2_video"), "ViTImageProcessor"

    def _embed(self, pixels: Tensor) -> list[list[Tensor]]:
        levels = self.model.get_image_embeddings(pixels)
        return [[level[row : row + 1] for level in levels] for row in range(len(pixels))]

    def _inside(self, inputs: Any, row: int) -> tuple[int, int]:
        height, width = inputs["pixel_values"].shape[-2:]
        return height, width


def _resized(masks: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(masks[None], tuple(size), mode="bilinear", align_corners=False)[0]
