"""Grounding DINO as a detector (Liu et al., 2023), any checkpoint of transformers, MM Grounding DINO too."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoModelForZeroShotObjectDetection, GroundingDinoProcessor

from trueline.models.pretrained import Checkpoint, Dtype, asked_only, rgb
from trueline.perception import Detection

BATCH = 4


class GroundingDino:
    """Boxes for labels that are asked together, in one caption "cat. red car.".

    The net ties a box to *tokens* of the caption; what comes back is the text of the tokens above
    ``text_threshold``, often a part of a label or parts of two. ``label_of`` gives it back to a label that was
    asked for. A phrase that fits none, or several equally, is dropped and counted in ``unmatched``.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        threshold: float = 0.25,
        text_threshold: float = 0.25,
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        source.check_kind("Grounding DINO", "grounding-dino", "mm-grounding-dino")
        self.model = source.model(AutoModelForZeroShotObjectDetection, device, dtype)
        pictures = source.image_processor("GroundingDinoImageProcessor")
        self.processor = GroundingDinoProcessor(pictures, source.tokenizer())
        self.threshold, self.text_threshold = threshold, text_threshold
        self.unmatched = 0  #: boxes so far whose phrase was nobody's label
        self.name = "grounding-dino"
        self.protocol = f"{source.title}, box > {threshold:g}, text > {text_threshold:g}"

    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return asked_only(self._detect, images, labels, BATCH)

    @torch.inference_mode()
    def _detect(self, images: list[Image], labels: list[list[str]]) -> list[list[Detection]]:
        inputs = self.processor(
            images=rgb(images), text=[caption(names) for names in labels], padding=True, return_tensors="pt"
        )
        most = self.model.config.max_text_len
        if (length := inputs.input_ids.shape[1]) > most:
            raise ValueError(
                f"the labels of one picture make {length} tokens, but Grounding DINO reads {most}; ask for fewer"
            )
        inputs = inputs.to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        out = self.model(**inputs)
        # No target sizes: boxes stay in 0..1 of the picture, whose own size the processor masks for the net.
        read = self.processor.post_process_grounded_object_detection(
            out, inputs.input_ids, threshold=self.threshold, text_threshold=self.text_threshold
        )
        return [self._named(hits, names) for hits, names in zip(read, labels, strict=True)]

    def _named(self, hits: Any, labels: list[str]) -> list[Detection]:
        found = []
        boxes = hits["boxes"].float().clamp(0, 1).tolist()
        for box, score, phrase in zip(boxes, hits["scores"].tolist(), hits["text_labels"], strict=True):
            label = label_of(phrase, labels)
            if label is None:
                self.unmatched += 1
            else:
                found.append(Detection(label, tuple(box), score))
        return sorted(found, key=lambda d: -d.score)


def caption(labels: Sequence[str]) -> str:
    """All labels in the form that Grounding DINO was trained on: "a cat. a red car."."""
    return "".join(f"{label.strip().lower().rstrip('.')}. " for label in labels).strip()


def label_of(phrase: str, labels: Sequence[str]) -> str | None:
    """The label that a returned phrase means, or None.

    In this order: the label itself; the only label that has all of the phrase's words, or pieces of words
    ("##board" of "skateboard"); the only label that lies whole in the phrase.
    """
    said = phrase.lower().replace("##", "").replace(".", " ").split()
    words = {label: label.lower().replace(".", " ").split() for label in labels}
    same = [label for label in words if words[label] == said]
    holds = [label for label in words if said and all(any(p in word for word in words[label]) for p in said)]
    inside = [label for label in words if set(words[label]) <= set(said)]
    for fitting in (same, holds, inside):
        if len(fitting) == 1:
            return fitting[0]
    return None
