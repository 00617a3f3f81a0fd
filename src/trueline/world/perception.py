"""The embedded world's own models behind the protocols: its oracle, CLIP, captioner, matcher and seer.

The oracle judges the tables, so nothing that is judged may use it: for RealignDiff, captions come from the
captioner, and names, boxes and masks from the seer. Both were trained on the scenes' truth; so was the matcher, which
shares weights with none of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trueline.boxes import Corners, iou
from trueline.models.pretrained import precision, same_length
from trueline.models.shipped import shipped_folder, whole_net
from trueline.perception import Detection
from trueline.perception.blip2 import Blip, Head
from trueline.perception.captioner import GreedyCaptioner, blip
from trueline.perception.clip import Clip
from trueline.world import oracle, seer
from trueline.world.language import LENGTH
from trueline.world.scenes import SIZE
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import NOUNS

#: Where ``trueline world build`` packs the world's CLIP, its captioner, its matcher and its seer.
CLIP_FOLDER, CAPTIONER_FOLDER, MATCHER_FOLDER, SEER_FOLDER = (
    shipped_folder(name) for name in ("clip", "captioner", "matcher", "seer")
)


class Oracle:
    """The world's oracle: names, colours, textures, boxes and masks of the world's own objects.

    It knows pictures of 128 x 128 only. Others are resized to that, PIL bicubic, with a warning; boxes are
    fractions and masks are scaled back, so what it returns fits the picture that was given.
    """

    name = "oracle"

    def __init__(self, *_settings: Any, least: float = oracle.SURE, **_files: Any):
        self.least = least
        self.protocol = f"world oracle, score >= {least:g}"

    def detect(self, images: Sequence[Image.Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return [self._detect(image, names) for image, names in zip(images, labels, strict=True)]

    def _detect(self, image: Image.Image, labels: Sequence[str]) -> list[Detection]:
        return [
            _resized(detection, image.size)
            for detection in oracle.detect(np.asarray(_of_the_world(image)))
            if detection.label in labels and detection.score >= self.least
        ]


def _of_the_world(image: Image.Image, who: str = "oracle") -> Image.Image:
    picture = image.convert("RGB")
    if picture.size == (SIZE, SIZE):
        return picture
    width, height = picture.size
    warnings.warn(
        f"the {who} knows pictures of {SIZE} x {SIZE} pixels; one of {width} x {height} was resized",
        stacklevel=4,
    )
    return picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _resized(detection: Detection, size: tuple[int, int]) -> Detection:
    """With its mask as float32 (height, width) of ``size`` = (width, height), bilinear."""
    mask = oracle.mask_of(detection)
    if mask.shape[::-1] == size:
        return detection
    scaled = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))
    return replace(detection, mask=scaled)


def world_clip(checkpoint: str | Path = CLIP_FOLDER, *settings: Any, **more: Any) -> Clip:
    """The world's CLIP as packed, or that of another build's folder.

    Its preprocessor_config.json says how pictures were prepared in its training: 128 x 128, bicubic, values in -1..1.
    """
    return Clip(str(whole_net(checkpoint, "CLIP")), *settings, name="world", **more)


def world_captioner(
    checkpoint: str | Path = CAPTIONER_FOLDER, *settings: Any, **more: Any
) -> GreedyCaptioner:
    """The world's captioner as packed, or that of another build's folder.

    As a reward with a gradient, ``perception.caption_nets.load_captioner`` reads the same folder; give it
    ``longest=LENGTH`` too, since captions of four things are longer than BLIP's default.
    """
    captioner = blip(str(whole_net(checkpoint, "captioner")), *settings, **{"longest": LENGTH, **more})
    captioner.name = "world-captioner"
    return captioner


def world_itm(checkpoint: str | Path = MATCHER_FOLDER, *settings: Any, **more: Any) -> Blip:
    """The matching head of the world's matcher as packed, or of another build's: a probability in 0..1."""
    return _matcher(checkpoint, "itm", *settings, **more)


def world_itc(checkpoint: str | Path = MATCHER_FOLDER, *settings: Any, **more: Any) -> Blip:
    """The cosine of the world's matcher in -1..1: a CLIP score by a net that shares nothing with the world's CLIP."""
    return _matcher(checkpoint, "itc", *settings, **more)


def _matcher(checkpoint: str | Path, head: Head, *settings: Any, **more: Any) -> Blip:
    matcher = Blip(str(whole_net(checkpoint, "matcher")), *settings, head=head, **more)
    matcher.name = f"world-{head}"
    return matcher


class Seer:
    """The world's seer as tagger, detector and segmenter of the world's own objects.

    It knows pictures of 128 x 128 only. Others are resized to that, PIL bicubic, with a warning; what it returns fits
    the picture that was given. A label is looked for by its last word that is one of the world's nouns: "a red apple"
    and "apples" both mean apples of every colour.
    """

    name = "world-seer"

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        *,
        least: float = seer.SURE,
        **_files: Any,
    ):
        self.net, self.least = seer.load_seer(checkpoint).to(device, precision(dtype)), least
        self.protocol = f"world seer, score >= {least:g}"

    def detect(self, images: Sequence[Image.Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        same_length(images, labels)
        found = []
        for things, wanted in zip(self._detect(images), labels, strict=True):
            meant = {name: label for label in reversed(wanted) if (name := _noun(label))}
            found.append([replace(t, label=meant[t.label]) for t in things if t.label in meant])
        return found

    def tag(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[list[str]]:
        """What is there, whatever the prompt says."""
        same_length(images, prompts)
        return [list(dict.fromkeys(t.label for t in things)) for things in self._detect(images)]

    def segment(
        self, images: Sequence[Image.Image], boxes: Sequence[Sequence[Corners]]
    ) -> list[list[np.ndarray]]:
        """Of each box the thing whose own box overlaps it most (IoU), as far as it is inside the box."""
        same_length(images, boxes)
        return [
            [_within(things, box, image.size) for box in wanted]
            for image, things, wanted in zip(images, self._detect(images), boxes, strict=True)
        ]

    def _detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Every thing of each picture, surest first."""
        if not images:
            return []
        pixels = to_tensor(np.stack([np.asarray(_of_the_world(image, "seer")) for image in images]))
        found = seer.detect(self.net, pixels, self.least)
        return [
            [_resized(d, image.size) for d in things] for image, things in zip(images, found, strict=True)
        ]


def _noun(label: str) -> str | None:
    """The world's name that a label means, if it means one."""
    named = [NOUNS[word] for word in label.lower().split() if word in NOUNS]
    return named[-1] if named else None


def _within(things: Sequence[Detection], box: Corners, size: tuple[int, int]) -> np.ndarray:
    """The mask, float32 (height, width), of what fits ``box`` best; zeros where no thing overlaps it."""
    width, height = size
    mask = np.zeros((height, width), np.float32)
    best = max(things, key=lambda t: iou(t.box, box), default=None)
    if best is None or best.mask is None or iou(best.box, box) == 0:
        return mask
    x0, y0, x1, y1 = box
    inside = np.s_[
        max(0, round(y0 * height)) : max(0, round(y1 * height)),
        max(0, round(x0 * width)) : max(0, round(x1 * width)),
    ]
    mask[inside] = best.mask[inside]
    return mask


def world_seer(checkpoint: str | Path = SEER_FOLDER, *settings: Any, **more: Any) -> Seer:
    """The world's seer as packed, or that of another build's folder."""
    return Seer(checkpoint, *settings, **more)
