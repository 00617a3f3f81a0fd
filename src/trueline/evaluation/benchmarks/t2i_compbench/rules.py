"""T2I-CompBench and T2I-CompBench++: 2D-spatial, numeracy, 3D-spatial and the 3-in-1 of complex prompts.

Source: Karine-Huang/T2I-CompBench@1b7094991a57, ``UniDet_eval/{2D_spatial,numeracy,3D_spatial}_eval.py`` and
``3_in_1_eval/3_in_1.py``. The rules of 2D and 3D were run beside those functions on 1,000 random cases each: no
difference above 1e-12. What differs for every mode: the official scripts take the nouns of a prompt from spaCy
(first and last NOUN); ``prompts`` has rules of its own. The official detector is UniDet at a confidence of 0.5;
thresholds are the detector's here.

Quirks kept by ``official``:

- 2D: "on top of" is looked for in the prompt but never scored (rule 0; 33 of the 88 complex prompts that name a
  relation); ``fixed`` reads it as "on the top of".
- 2D and 3D: girl, boy, man and woman in the prompt are looked for as "person"; a detection that is called by one of
  them is not. ``fixed`` takes both for a person.
- 2D, both modes: a score below 0.5 becomes 0, so that one object alone never counts. ``spatial_raw`` is the value
  before that.
- Numeracy: an object without a detection of its own takes over every label that contains its name ("car" takes
  "carrot"); several words are renamed to UniDet's; pixels are counted inclusively (x1 - x0 + 1).
- 3D: a label is an object's if it contains the object's name ("car" takes "carrot", "person" none of the four);
  the objects' boxes are the last first-object and the last second-object seen until both are there, not the
  surest; an IoU of exactly 0.5 scores 0; the depth map is indexed with x and y exchanged (``nearness``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trueline.boxes import Corners, area, intersection, iou, scaled
from trueline.evaluation.benchmarks.t2i_compbench.prompts import RELATIONS_3D, Kind
from trueline.evaluation.metrics.detection import surest, surest_first
from trueline.evaluation.metrics.observations import Mode, is_official
from trueline.perception import Detection

if TYPE_CHECKING:
    import numpy as np

BESIDE = frozenset({"on side of", "next to", "near"})
PEOPLE = frozenset({"girl", "boy", "man", "woman"})
MAX_OVERLAP = 0.1  # IoU from which left, right, top and bottom lose
MAX_DISTANCE = 150.0  # pixels of the resized picture
MIN_OVERLAP_3D = 0.5
DUPLICATE = 0.9
PASS = 0.5
SHORT_SIDE, LONG_SIDE = 479, 480  # the official resize: short side to 479, but the long one at most 480


# 2D-spatial


def detector_label(word: str) -> str:
    """The word to look for: girl, boy, man and woman are a person."""
    return "person" if word in PEOPLE else word


def resized(size: tuple[int, int]) -> tuple[float, float]:
    """(width, height) in pixels of a picture as the official detectors see it."""
    scale = min(SHORT_SIDE / min(size), LONG_SIDE / max(size))
    return size[0] * scale, size[1] * scale


def position_2d(first: Corners, second: Corners, relation: str, mode: Mode) -> float:
    """How well two boxes, in pixels of the resized picture, stand in a relation: 0..1.

    Left, right, top and bottom compare the centres: the named axis must have the larger distance, in the named
    direction; 1 below an IoU of 0.1, else 0.1 / IoU. Next to, near and on side of: 1 where the centres are within
    150 pixels on either axis, else 150 / the larger distance. An unknown relation scores 0.
    """
    if relation == "on top of" and not is_official(mode):
        relation = "on the top of"
    dx = (second[0] + second[2]) / 2 - (first[0] + first[2]) / 2  # exactly 0 for one box, and so no relation
    dy = (second[1] + second[3]) / 2 - (first[1] + first[3]) / 2
    if relation in BESIDE:
        near = min(abs(dx), abs(dy)) < MAX_DISTANCE
        return 1.0 if near else MAX_DISTANCE / max(abs(dx), abs(dy))
    along, across = {
        "on the left of": (dx, dy),
        "on the right of": (-dx, dy),
        "on the top of": (dy, dx),
        "on the bottom of": (-dy, dx),
    }.get(relation, (0.0, 0.0))
    if along <= abs(across):
        return 0.0
    overlap = iou(first, second)
    return 1.0 if overlap < MAX_OVERLAP else MAX_OVERLAP / overlap


def spatial_raw(
    detections: Sequence[Detection],
    first: str,
    second: str,
    relation: str,
    image_size: tuple[int, int],
    mode: Mode = "official",
) -> float:
    """The 2D-spatial score before small ones are set to 0: .25 x confidence of each object that is there, and .5 x
    the relation where both are; 0..1. Of several detections of a label the surest counts.

    ``image_size`` is (width, height) of the picture in pixels.
    """
    named = list(detections)
    if not is_official(mode):
        named = [Detection(detector_label(d.label), d.box, d.score) for d in detections]
    one, two = surest(named, detector_label(first)), surest(named, detector_label(second))
    score = sum(0.25 * found.score for found in (one, two) if found)
    if one and two:
        size = resized(image_size)
        score += 0.5 * position_2d(scaled(one.box, size), scaled(two.box, size), relation, mode)
    return score


def spatial_score(
    detections: Sequence[Detection],
    first: str,
    second: str,
    relation: str,
    image_size: tuple[int, int],
    mode: Mode = "official",
) -> float:
    """T2I-CompBench's 2D-spatial score of one picture: ``spatial_raw``, or 0 where that is below 0.5."""
    raw = spatial_raw(detections, first, second, relation, image_size, mode)
    return raw if raw >= PASS else 0.0


# Numeracy

# "telivision" is the source's own spelling: television itself is never renamed.
_UNIDET_NAMES = dict.fromkeys(PEOPLE, "person")
_UNIDET_NAMES |= {"ship": "boat", "telivision": "tv", "goldfish": "fish", "painting": "picture"}


def without_duplicates(
    detections: Sequence[Detection], image_size: tuple[int, int], mode: Mode = "official"
) -> list[Detection]:
    """Surest first, without those that cover an earlier one of their label: IoU above 0.9, or more than 0.9 of either
    box within the other. ``official`` counts pixels of the resized picture inclusively."""
    size, edge = (resized(image_size), 1.0) if is_official(mode) else ((1.0, 1.0), 0.0)
    kept: list[Detection] = []
    for detection in surest_first(detections):
        box = scaled(detection.box, size)
        same = (scaled(other.box, size) for other in kept if other.label == detection.label)
        smaller = ((other, min(area(box, edge), area(other, edge))) for other in same)
        # IoU > .9 implies it
        if not any(least > 0 and intersection(box, o, edge) / least > DUPLICATE for o, least in smaller):
            kept.append(detection)
    return kept


def numeracy_score(
    detections: Sequence[Detection],
    objects: Sequence[tuple[str, int]],
    image_size: tuple[int, int],
    mode: Mode = "official",
) -> float:
    """Numeracy of one picture, 0..1: the mean over the prompt's objects of .5 for being there at all and .5 for the
    exact count. ``objects`` as ``parse_numeracy`` gives them; ``image_size`` is (width, height) in pixels.

    Raises:
        ValueError: no objects.
    """
    if not objects:
        raise ValueError("objects: is empty; a numeracy prompt names at least one object")
    official = is_official(mode)
    labels = [detection.label for detection in without_duplicates(detections, image_size, mode)]
    if official:
        labels = [_UNIDET_NAMES.get(label, label) for label in labels]
    points = 0.0
    for name, count in objects:
        wanted = _UNIDET_NAMES.get(name, name) if official else name
        if official and wanted not in labels:
            labels = [wanted if wanted in label else label for label in labels]
        found = labels.count(wanted)
        points += 0.5 * (found > 0) + 0.5 * (0 < found == count)
    return points / len(objects)


# 3D-spatial


def nearness(depth: np.ndarray, box: Corners, mode: Mode = "official") -> float:
    """Mean of a relative inverse depth map (height, width), larger = nearer, within a box in 0..1.

    ``official`` exchanges x and y, and is NaN where that lies outside the map (wide pictures).
    """
    height, width = depth.shape
    x0, y0, x1, y1 = (int(corner) for corner in scaled(box, (width, height)))
    part = depth[x0:x1, y0:y1] if is_official(mode) else depth[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return float(part.mean()) if part.size else float("nan")


def position_3d(
    first: Corners, second: Corners, relation: str, near: tuple[float, float], mode: Mode = "official"
) -> float:
    """How well two boxes with their nearness stand in "in front of", "behind" or "hidden by": 0..1.

    The depth order must be right; then IoU / 0.5, at most 1. No overlap scores 0, also in depth order.
    """
    if relation not in RELATIONS_3D:
        return 0.0
    ahead = near[0] - near[1] if relation == "in front of" else near[1] - near[0]
    overlap = iou(first, second)
    if not ahead > 0 or (is_official(mode) and overlap == MIN_OVERLAP_3D):
        return 0.0
    return min(1.0, overlap / MIN_OVERLAP_3D)


def pair_3d(
    detections: Sequence[Detection], first: str, second: str, mode: Mode = "official"
) -> tuple[Detection | None, Detection | None]:
    """The detections of both objects that the 3D rule compares; read their ``nearness`` for ``spatial_3d_score``."""
    first, second, official = detector_label(first), detector_label(second), is_official(mode)

    def is_one(detection: Detection, name: str) -> bool:
        return name in detection.label if official else name == detector_label(detection.label)

    by_score = surest_first(detections)
    one = next((detection for detection in by_score if is_one(detection, first)), None)
    two = next((detection for detection in by_score if is_one(detection, second)), None)
    if not (official and one and two):
        return one, two
    one = two = None
    for detection in by_score:
        one = detection if is_one(detection, first) else one
        two = detection if is_one(detection, second) else two
        if one and two:
            break
    return one, two


def spatial_3d_score(
    detections: Sequence[Detection],
    first: str,
    second: str,
    relation: str,
    near: tuple[float, float],
    mode: Mode = "official",
) -> float:
    """3D-spatial score of one picture, 0..1: .25 x confidence of each object, .5 x ``position_3d``.

    ``near``: nearness of first and second object's box (of ``pair_3d``), larger = nearer.
    """
    one, two = pair_3d(detections, first, second, mode)
    score = sum(0.25 * found.score for found in (one, two) if found)
    if one and two:
        score += 0.5 * position_3d(one.box, two.box, relation, near, mode)
    return score


# 3-in-1


def three_in_one(attribute: float, spatial: float, clip: float, kind: Kind) -> float:
    """The score of a complex prompt: the mean of B-VQA (``attribute``) with the 2D-spatial score, with CLIP score, or
    with both. Each of the three is in 0..1, CLIP's as its raw cosine.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "spatial":
        return (attribute + spatial) / 2
    if kind == "action":
        return (attribute + clip) / 2
    if kind == "spatialaction":
        return (attribute + spatial + clip) / 3
    raise ValueError(f"kind: must be spatial, action or spatialaction (got {kind!r})")
