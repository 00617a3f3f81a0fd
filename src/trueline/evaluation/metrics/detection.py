"""Detections against true boxes: overlap, matching, accuracies, counts and 7Bench's layout score.

Functions here look at one picture and give counts or overlaps; ``statistics.ratio`` makes figures of them. Boxes are
xyxy in 0..1 unless a docstring says pixels. None of them depends on the order of the detections.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from trueline.boxes import Corners, iou
from trueline.evaluation.metrics.observations import Mode, Observations, is_official
from trueline.perception import Detection

AUC_THRESHOLDS = tuple(k / 10 for k in range(11))
_TIE = 1e-9  # weight of a right attribute between equal overlaps: far above rounding, far below any overlap


@dataclass(frozen=True)
class Truth:
    """A thing that the picture should show. ``colour`` and ``texture`` are None where nothing is asked."""

    label: str
    box: Corners
    colour: str | None = None
    texture: str | None = None


class Match(NamedTuple):
    """Places in the lists of truths and of detections, and their IoU."""

    truth: int
    detection: int
    iou: float


def surest_first(detections: Iterable[Detection]) -> list[Detection]:
    """By falling score, so that a rule does not depend on the order it is given (except for equal scores)."""
    return sorted(detections, key=lambda detection: -detection.score)


def surest(detections: Sequence[Detection], label: str) -> Detection | None:
    """The surest detection of a label, or None."""
    return next(iter(surest_first(d for d in detections if d.label == label)), None)


def iou_matrix(first: Sequence[Corners], second: Sequence[Corners]) -> np.ndarray:
    """``boxes.iou`` of every pair of boxes, (n, m) in 0..1; 0 for boxes without area."""
    a = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(axis=-1) for each in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match(detections: Sequence[Detection], truths: Sequence[Truth], least: float = 0.0) -> list[Match]:
    """The best one-to-one assignment of detections to truths of the same label, in the order of the truths.

    As many pairs of IoU >= ``least`` as can be, and of all such assignments the one of greatest total IoU; pairs
    below ``least`` or without overlap are left out. Equal overlaps are decided by the right colour, then texture.
    """
    overlaps = iou_matrix([t.box for t in truths], [d.box for d in detections])
    same = np.array([[t.label == d.label for d in detections] for t in truths], dtype=bool)
    counted = same.reshape(overlaps.shape) & (overlaps > 0) & (overlaps >= least)
    alike = [[2 * (t.colour == d.colour) + (t.texture == d.texture) for d in detections] for t in truths]
    agreement = np.array(alike, dtype=float)
    worth_of_a_pair = min(overlaps.shape) + 1 if least > 0 else 0  # more than all overlaps together
    gain = np.where(counted, worth_of_a_pair + overlaps + _TIE * agreement.reshape(overlaps.shape), 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [
        Match(int(i), int(j), float(overlaps[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if counted[i, j]
    ]


@dataclass(frozen=True)
class BoxScores:
    """Counts of one picture, numerators and denominators of its metrics.

    object accuracy = ``found / truths``, colour accuracy = ``colour_right / colour_asked``, texture accuracy =
    ``texture_right / texture_asked``, mean IoU = ``overlap / truths``. A thing that is not found has neither its
    colour nor its texture right, and an overlap of 0. ``false_positives``: detections of asked labels without a
    partner.
    """

    truths: int
    found: int
    colour_asked: int
    colour_right: int
    texture_asked: int
    texture_right: int
    overlap: float
    false_positives: int


def score_boxes(detections: Sequence[Detection], truths: Sequence[Truth], least: float = 0.5) -> BoxScores:
    """Hold the detections of one picture against its true boxes; found = same label at IoU >= ``least``.

    ``overlap`` comes from an assignment of its own, without ``least``. Filter detections by score before.
    """
    pairs = [(truths[m.truth], detections[m.detection]) for m in match(detections, truths, least)]
    asked = {t.label for t in truths}
    return BoxScores(
        truths=len(truths),
        found=len(pairs),
        colour_asked=sum(t.colour is not None for t in truths),
        colour_right=sum(t.colour is not None and t.colour == d.colour for t, d in pairs),
        texture_asked=sum(t.texture is not None for t in truths),
        texture_right=sum(t.texture is not None and t.texture == d.texture for t, d in pairs),
        overlap=sum(m.iou for m in match(detections, truths)),
        false_positives=sum(d.label in asked for d in detections) - len(pairs),
    )


def counts_right(detections: Iterable[Detection], wanted: Mapping[str, int]) -> tuple[int, int]:
    """How many of the ``wanted`` labels are detected exactly as often as wanted, and how many labels there are."""
    seen = Counter(d.label for d in detections)
    return sum(seen[label] == number for label, number in wanted.items()), len(wanted)


def accuracy_over_iou(overlaps: Sequence[float], *, missed_counts: bool = True) -> float:
    """Area under accuracy@k, the share of overlaps >= k, for k = 0, .1, ... 1 by the trapezoid rule; 0..1.

    One overlap x < 1 gives floor(10 x) / 10 + .05; so an overlap of 0 gives .05. ``missed_counts=False`` lets an
    overlap of 0 fail at k = 0 too.
    """
    if not len(overlaps):
        raise ValueError("overlaps: is empty; give one IoU for every thing that was asked for")
    values = np.asarray(overlaps, dtype=np.float64)
    passed = values[:, None] >= np.array(AUC_THRESHOLDS)
    if not missed_counts:
        passed &= values[:, None] > 0
    return float(np.trapezoid(passed.mean(axis=0), dx=0.1))


def layout_score_official(
    detections: Sequence[Detection], truths: Sequence[Truth], size: tuple[int, int]
) -> float:
    """7Bench's and cobench's layout score of one picture of ``size`` (w, h) pixels: lparolari/cobench@29acad0.

    As published (``eval/tifa_test.py``): for each label the best IoU of any of its detections, whatever the score; of
    equal labels only the last truth is kept; IoU in whole pixels with inclusive corners (detections cut off to
    integers by transformers' pipeline), rounded to 6 digits; ``accuracy_over_iou`` with ``missed_counts``, but 0
    where nothing at all was detected.
    """
    _some(truths)
    boxes = {t.label: _pixels(t.box, size, round) for t in truths}
    seen = [d for d in detections if d.label in boxes]
    if not seen:
        return 0.0
    best = dict.fromkeys(boxes, 0.0)
    for d in seen:
        overlap = round(iou(_pixels(d.box, size, int), boxes[d.label], edge=1.0), 6)
        best[d.label] = max(best[d.label], overlap)
    return accuracy_over_iou(list(best.values()))


def layout_score_fixed(detections: Sequence[Detection], truths: Sequence[Truth]) -> tuple[float, int]:
    """The layout score without its quirks, and how many detections of the asked labels are too many.

    Of each label only as many detections as there are truths take part, the surest first, so that clutter does not
    pay; they are matched one to one for the greatest total IoU, equal labels each on their own; plain IoU; a
    missed thing fails at every k, k = 0 included.
    """
    _some(truths)
    wanted = Counter(t.label for t in truths)
    surest: list[Detection] = []
    for label, number in wanted.items():
        surest += sorted((d for d in detections if d.label == label), key=lambda d: (-d.score, d.box))[
            :number
        ]
    overlaps = [0.0] * len(truths)
    for m in match(surest, truths):
        overlaps[m.truth] = m.iou
    extra = sum(d.label in wanted for d in detections) - len(surest)
    return accuracy_over_iou(overlaps, missed_counts=False), extra


def layout_score(
    detections: Sequence[Detection], truths: Sequence[Truth], size: tuple[int, int], mode: Mode
) -> Observations:
    """7Bench's layout score of one picture in either mode; ``fixed`` also counts detections that are too many."""
    if is_official(mode):
        return {"layout_auc": (layout_score_official(detections, truths, size), 1.0)}
    area, extra = layout_score_fixed(detections, truths)
    return {"layout_auc": (area, 1.0), "extra_detections": (float(extra), 1.0)}


def _some(truths: Sequence[Truth]) -> None:
    if not truths:
        raise ValueError("truths: is empty; a layout score needs at least one box")


def _pixels(box: Corners, size: tuple[int, int], whole: Callable[[float], int]) -> Corners:
    """Corners in pixels made whole by ``whole``, once the rounding error of 0..1 is off."""
    x0, y0, x1, y1 = (whole(round(c * s, 6)) for c, s in zip(box, (*size, *size), strict=True))
    return x0, y0, x1, y1
