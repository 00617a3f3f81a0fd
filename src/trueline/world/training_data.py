"""The world's scenes as examples: drawn when they are asked for, with six captions each."""

import numpy as np
import torch
from PIL import Image

from trueline.formats.coco_files import PixelBox
from trueline.layout import Layout
from trueline.training.data.examples import LeftOut, Rules, digest, draw, fitted
from trueline.training.settings import Data
from trueline.world.captions import caption
from trueline.world.scenes import SIZE, make_scene, render

SCENES = 30_000  #: as many as the world's own U-Net was trained on
CAPTIONS = 6  #: of one scene
SPLITS = ("train", "tune")  #: "held-out" is for measuring only


class WorldScenes:
    """The first ``count`` scenes of a split. Phrases are the things' own: "a red striped apple"; ``labels`` say
    whether the boxes are called so, or without colour and texture: "an apple" (``Data.labels``)."""

    pictured = True

    def __init__(self, split: str, count: int, rules: Rules, labels: str = "phrase"):
        self.split, self.count, self.rules, self.left_out = split, count, rules, LeftOut()
        self.labels = labels

    @property
    def fingerprint(self) -> str:
        first = render(make_scene(self.split, 0)).tobytes()  # changes when the way scenes are drawn does
        return digest("world", self.split, str(self.count), str(self.rules.size), first)

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> np.ndarray:
        picture = Image.fromarray(render(make_scene(self.split, index)))
        return fitted(picture, self.rules.crop(SIZE, SIZE), self.rules.size)

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        variant = draw(CAPTIONS, generator)
        return self._layout(self.split, index, variant, self.labels == "both" and bool(draw(2, generator)))

    def samples(self, n: int) -> list[Layout]:
        return [
            self._layout("tune", index, 0, self.labels == "both" and bool(index % 2)) for index in range(n)
        ]

    def _layout(self, split: str, index: int, variant: int, bare: bool) -> Layout:
        scene, bare = make_scene(split, index), bare or self.labels == "name"
        boxes = [
            PixelBox(thing.phrase, (thing.x, thing.y, thing.w, thing.h), label=thing.label if bare else None)
            for thing in scene.things
        ]
        return Layout(caption(scene, variant).text, self.rules.regions(boxes, SIZE, SIZE))


def open_examples(data: Data, rules: Rules) -> WorldScenes:
    """Scenes of ``data.split`` (default "train").

    Raises:
        ValueError: another split than those for training and tuning.
    """
    split = data.split or SPLITS[0]
    if split not in SPLITS:
        raise ValueError(f"data.split: the world trains on {' or '.join(SPLITS)} (got {split!r})")
    return WorldScenes(split, data.n or SCENES, rules, data.labels)
