"""The embedded world's own judges behind the protocols: its oracle and its CLIP."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trueline.world.oracle import SURE
from trueline.world.oracle import detect as see
from trueline.world.scenes import SIZE

from . import Detection
from .clip import Clip

#: Where ``trueline world build`` packs the world's CLIP.
CLIP_FOLDER = Path(str(files("trueline"))) / "world" / "weights" / "clip"


class Oracle:
    """The world's oracle: names, colours, textures, boxes and masks of the world's own objects.

    It knows pictures of 128 x 128 only. Others are resized to that, PIL bicubic, with a warning; boxes are
    fractions and masks are scaled back, so what it returns fits the picture that was given.
    """

    name = "oracle"

    def __init__(self, *_settings: Any, least: float = SURE, **_files: Any):
        self.least = least
        self.protocol = f"world oracle, score >= {least:g}"

    def detect(self, images: Sequence[Image.Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return [self._detect(image, names) for image, names in zip(images, labels, strict=True)]

    def _detect(self, image: Image.Image, labels: Sequence[str]) -> list[Detection]:
        return [
            Detection(d.name, d.box, d.score, d.colour, d.texture, scaled(d.mask, image.size))
            for d in see(np.asarray(_of_the_world(image)))
            if d.name in labels and d.score >= self.least
        ]


def _of_the_world(image: Image.Image) -> Image.Image:
    picture = image.convert("RGB")
    if picture.size == (SIZE, SIZE):
        return picture
    width, height = picture.size
    warnings.warn(
        f"the oracle knows pictures of {SIZE} x {SIZE} pixels; one of {width} x {height} was resized",
        stacklevel=4,
    )
    return picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def scaled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A float32 mask as float32 (height, width) of ``size`` = (width, height), bilinear."""
    if mask.shape[::-1] == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))


def world_clip(checkpoint: str | Path = CLIP_FOLDER, *settings: Any, **more: Any) -> Clip:
    """The world's CLIP as packed, or that of another build's folder.

    Its preprocessor_config.json says how it was trained to see: 128 x 128, bicubic, values in -1..1.
    """
    if not (Path(checkpoint) / "config.json").is_file():
        raise ValueError(f"{checkpoint} holds no CLIP of the world; run `trueline world build` to make it")
    return Clip(str(checkpoint), *settings, name="world", **more)
