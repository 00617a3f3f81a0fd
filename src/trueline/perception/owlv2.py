"""OWLv2 as a detector (Minderer et al., "Scaling Open-Vocabulary Object Detection", 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Owlv2ForObjectDetection

from trueline.models.pretrained import Checkpoint, Dtype, asked_only, pixels_for, rgb
from trueline.perception import Detection

#: What fills the square beside a picture: mid-grey, as in Google's code and transformers 4; transformers 5 pads
#: with black, which a picture that is padded here never sees.
GREY = (128, 128, 128)
BATCH = 4  #: pictures of 960 x 960 pixels at once


class Owlv2:
    """Boxes for free-text labels. Each label is asked as it is written; say "a photo of a cat" if you want that.

    The net gives every box a score in 0..1 for every label, each on its own. By default a box takes its best
    label (as transformers' ``post_process_object_detection``). With ``per_label`` every label keeps each box
    above the threshold, so that one box may be found under two labels: this is what transformers' pipeline
    "zero-shot-object-detection" does, and so 7Bench.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        threshold: float = 0.1,
        per_label: bool = False,
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        self.model = source.model(Owlv2ForObjectDetection, device, dtype)
        self.tokenizer = source.tokenizer()
        self.pictures = source.image_processor("Owlv2ImageProcessor")
        self.threshold, self.per_label = threshold, per_label
        self.name = "owlv2-per-label" if per_label else "owlv2"
        self.protocol = f"{source.title}, score > {threshold:g}"

    def detect(self, images: Sequence[Image.Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return asked_only(self._detect, images, labels, BATCH)

    @torch.inference_mode()
    def _detect(self, images: list[Image.Image], labels: list[list[str]]) -> list[list[Detection]]:
        ids, mask = self.tokens(labels)
        out = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            pixel_values=pixels_for(self.model, self.pictures, [pad(image) for image in rgb(images)]),
        )
        scores, boxes = out.logits.float().sigmoid().cpu(), out.pred_boxes.float().cpu()
        return [
            self._read(scores[i, :, : len(names)], unpad(boxes[i], *image.size), names)
            for i, (image, names) in enumerate(zip(images, labels, strict=True))
        ]

    def tokens(self, labels: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, both (pictures * most labels, tokens), pictures with fewer labels filled up with zeros.

        The net ignores a row that begins with 0; the " " that transformers' own processor fills up with is a
        query like any other, and may win a box.
        """
        length, most = self.model.config.text_config.max_position_embeddings, max(map(len, labels))
        ids = torch.zeros(len(labels), most, length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, names in enumerate(labels):
            read = self.tokenizer(
                list(names), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            )
            ids[i, : len(names)], mask[i, : len(names)] = read.input_ids, read.attention_mask
        return ids.flatten(0, 1), mask.flatten(0, 1)

    def _read(self, scores: Tensor, boxes: Tensor, labels: list[str]) -> list[Detection]:
        """Detections of one picture from scores (boxes, labels) and xyxy (boxes, 4), surest first."""
        keep = scores > self.threshold
        if not self.per_label:
            keep &= torch.nn.functional.one_hot(scores.argmax(1), len(labels)).bool()
        hits = [
            Detection(labels[k], tuple(boxes[b].tolist()), float(scores[b, k]))  # type: ignore[arg-type]
            for b, k in keep.nonzero().tolist()
        ]
        return sorted(hits, key=lambda d: -d.score)


def per_label(checkpoint: str, *settings: Any, **more: Any) -> Owlv2:
    """``Owlv2`` that asks each label on its own, as 7Bench does."""
    return Owlv2(checkpoint, *settings, per_label=True, **more)


def pad(image: Image.Image) -> Image.Image:
    """The picture in the upper left of a grey square."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), GREY)
    square.paste(image)
    return square


def unpad(boxes: Tensor, width: int, height: int) -> Tensor:
    """Centre and size in fractions of the padded square, (n, 4), as xyxy in 0..1 of the picture, cut at its edge."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    stretch = torch.tensor([max(width, height) / width, max(width, height) / height]).repeat(2)
    return (corners * stretch).clamp(0, 1)
