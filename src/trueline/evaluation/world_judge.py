"""The judge of the world's benchmark: the oracle for words and boxes, the world's CLIP for the four HCMA columns.

Ratios (numerator and denominator per picture, summed over pictures):

- ``object_accuracy``, ``color_accuracy``, ``texture_accuracy``, ``count_accuracy``, ``relation_accuracy``: of what
  the caption says of its groups of things, the share that the picture keeps (``world.judge.tally``);
  ``prompt_accuracy``: the share of pictures in which all of it holds and nothing else is there.
- ``mean_iou``: of each true box with the thing of its name; ``box_accuracy``: right name and colour at IoU >= 0.5.
- ``shape_score`` and ``color_error``: of what is found in a true box (IoU >= 0.5, whatever its name and score):
  the oracle's score of its shape, 0..1, and how far it is from the colour that belongs there, 0..60 in Lab. They tell
  methods apart that right and wrong cannot; a thing that is not there has neither.
- ``clip_score``: cosine of picture and caption; ``region_clip_score``: of the picture's part in each box and its
  phrase (crop rule of ``world.clip.crop_box``: the box, 8% wider on each side, scaled to the whole). Not multiplied.

Features: ``picture`` (1, d) and ``regions`` (k, d), CLIP's image embeddings before normalisation, for the Frechet
distances ``fid`` and ``region_fid`` ("world" features: not comparable with Inception's). What was detected, and the
true boxes, for average precision. Official prompts have no true boxes: nothing is asked of them there.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.world import World
from trueline.evaluation.judgements import FEATURES, Judgement, SetDistance, detected, ratios, true_boxes
from trueline.evaluation.metrics import detection
from trueline.evaluation.metrics.detection import Truth
from trueline.perception import Detection
from trueline.world.clip import crop_box, embed_pictures, embed_texts, load_clip
from trueline.world.judge import match, tally
from trueline.world.oracle import SURE, colour_error, detect
from trueline.world.scenes import SIZE, Thing

Ratios = dict[str, tuple[float, float]]  #: numerator and denominator of one picture

#: Ratio -> what ``tally`` calls it.
RATIOS = {
    "object_accuracy": "object",
    "color_accuracy": "colour",
    "texture_accuracy": "texture",
    "count_accuracy": "count",
    "relation_accuracy": "relation",
    "prompt_accuracy": "all",
}


class WorldJudge:
    """``benchmark`` knows the truth of its examples."""

    name = "world"
    protocol = f"oracle[sure={SURE}], crop 8% wider, features world-clip, rules 3"
    distances = (SetDistance("fid", "frechet", "picture"), SetDistance("region_fid", "frechet", "regions"))
    precision = "ap"

    def __init__(self, benchmark: World):
        self.benchmark = benchmark
        self.clip, self.tokenizer = load_clip()

    def look(self, examples: Sequence[Example], images: Sequence[Image.Image]) -> list[Judgement]:
        """One dictionary a picture: (2,) arrays for ratios, features, and what the oracle detected."""
        pictures = np.stack(
            [_pixels(example, image) for example, image in zip(examples, images, strict=True)]
        )
        whole = embed_pictures(self.clip, pictures)
        said = embed_texts(self.clip, self.tokenizer, [example.prompt for example in examples])
        fits = F.cosine_similarity(whole, said)
        seen = []
        for example, picture, feature, fit in zip(examples, pictures, whole, fits, strict=True):
            detections = detect(picture)
            regions, cosines = self._regions(example, picture)
            things = self.benchmark.things(example)
            cosine = {
                "clip_score": (float(fit), 1.0),
                "region_clip_score": (float(cosines.sum()), float(len(cosines))),
            }
            counted = self._ratios(example, detections) | _surfaces(things, picture, detections) | cosine
            features = {f"{FEATURES}picture": feature[None].numpy(), f"{FEATURES}regions": regions.numpy()}
            truth = true_boxes([thing.name for thing in things], [thing.box for thing in things])
            sure = [(d.label, d.colour, d.texture, d.box, d.score) for d in _sure(detections)]
            seen.append(ratios(counted) | features | detected(sure) | truth)
        return seen

    def _ratios(self, example: Example, detections: list[Detection]) -> Ratios:
        things = self.benchmark.things(example)
        kept = tally(detections, self.benchmark.said(example))
        truths = [Truth(thing.name, thing.box) for thing in things]
        overlap = sum(pair.iou for pair in detection.match(_sure(detections), truths))
        right = sum(m.name and m.colour for m in match(detections, things))
        return {name: kept[attribute] for name, attribute in RATIOS.items()} | {
            "mean_iou": (overlap, float(len(things))),
            "box_accuracy": (float(right), float(len(things))),
        }

    def _regions(self, example: Example, picture: np.ndarray) -> tuple[Tensor, Tensor]:
        """Embeddings (k, d) of the parts in the boxes, and their cosines (k,) with the phrases."""
        things = self.benchmark.things(example)
        if not things:
            return torch.zeros(0, self.clip.config.projection_dim), torch.zeros(0)
        crops = embed_pictures(self.clip, np.stack([crop_box(picture, thing.box) for thing in things]))
        phrases = embed_texts(self.clip, self.tokenizer, [thing.phrase for thing in things])
        return crops, F.cosine_similarity(crops, phrases)


def _pixels(example: Example, image: Image.Image) -> np.ndarray:
    """uint8 (SIZE, SIZE, 3).

    Raises:
        ValueError: the picture has another size: scaled shapes are not what the oracle was measured on.
    """
    if image.size != (SIZE, SIZE):
        raise ValueError(f"{example.id}: the world's judge takes {SIZE} x {SIZE} pictures (got {image.size})")
    return np.array(image.convert("RGB"))


def _surfaces(things: Sequence[Thing], picture: np.ndarray, detections: list[Detection]) -> Ratios:
    pairs = zip(match(detections, things, sure=0), things, strict=True)
    found = [(one.detection, thing.colour) for one, thing in pairs if one.detection is not None]
    return {
        "shape_score": (sum(d.score for d, _ in found), float(len(found))),
        "color_error": (sum(colour_error(picture, d, colour) for d, colour in found), float(len(found))),
    }


def _sure(detections: Sequence[Detection]) -> list[Detection]:
    return [d for d in detections if d.score >= SURE]
