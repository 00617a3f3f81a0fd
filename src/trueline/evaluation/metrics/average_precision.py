"""COCO's average precision of detections over a whole set of pictures (Lin et al. 2014).

As cocodata/cocoapi's ``cocoeval.py`` (area "all", no crowds): per label and IoU threshold, the detections of a
picture take, surest first, the free truth of greatest IoU; precision is made non-increasing and read at 101 recalls;
labels without truth have no AP. What differs: detections of *equal* score enter the curve together, where COCO takes
them in the order of the files, so that neither the order of pictures nor that of detections matters. A detector
without scores (all 1) thus has one operating point.

COCO looks for every label in every picture; where a detector was asked for a picture's own labels only, the AP is
higher. Say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trueline.evaluation.metrics.detection import Truth, iou_matrix
from trueline.perception import Detection

COCO_THRESHOLDS = tuple(k / 100 for k in range(50, 100, 5))
COCO_RECALLS = np.linspace(0, 1, 101)
COCO_MOST = 100  # detections of a label in a picture


@dataclass
class _Label:
    """Of one label: true boxes, and of each detection its score and whether it hits, at each threshold."""

    truths: int = 0
    scores: list[float] = field(default_factory=list)
    hits: list[np.ndarray] = field(default_factory=list)

    def joined(self, other: _Label) -> _Label:
        return _Label(self.truths + other.truths, self.scores + other.scores, self.hits + other.hits)


class APInput:
    """What average precision needs of the pictures seen so far. ``add`` streams, ``merge`` joins shards exactly."""

    def __init__(self, thresholds: Sequence[float] = COCO_THRESHOLDS) -> None:
        if not thresholds or not all(0 < t <= 1 for t in thresholds):
            raise ValueError(f"thresholds: must be IoUs above 0 and up to 1 (got {tuple(thresholds)})")
        self.thresholds = tuple(thresholds)
        self.pictures = 0
        self._labels: dict[str, _Label] = {}

    def add(self, detections: Sequence[Detection], truths: Sequence[Truth]) -> None:
        """Take in one picture, in place. Raises a ValueError that counts detections with NaN scores."""
        bad = sum(not np.isfinite(d.score) for d in detections)
        if bad:
            raise ValueError(
                f"score: {bad} of {len(detections)} detections have none that is finite; drop them"
            )
        self.pictures += 1
        for label in {d.label for d in detections} | {t.label for t in truths}:
            # Sorted by box too, so that no tie is decided by the order of the lists.
            boxes = sorted(t.box for t in truths if t.label == label)
            surest = sorted((d for d in detections if d.label == label), key=lambda d: (-d.score, d.box))[
                :COCO_MOST
            ]
            store = self._labels.setdefault(label, _Label())
            store.truths += len(boxes)
            store.scores += [d.score for d in surest]
            store.hits += list(self._hits(iou_matrix([d.box for d in surest], boxes)))

    def _hits(self, overlaps: np.ndarray) -> np.ndarray:
        """Whether each detection (surest first) finds a free truth, (detections, thresholds) of bool."""
        hits = np.zeros((len(overlaps), len(self.thresholds)), dtype=bool)
        for column, threshold in enumerate(self.thresholds):
            free = overlaps.copy()
            for row in range(len(free) if free.size else 0):
                best = int(free[row].argmax())
                if free[row, best] >= threshold:
                    hits[row, column] = True
                    free[:, best] = -1
        return hits

    def merge(self, other: APInput) -> APInput:
        """Both sets of pictures together; neither is changed."""
        if self.thresholds != other.thresholds:
            raise ValueError("thresholds: differ between the shards; score both with the same")
        both = APInput(self.thresholds)
        both.pictures = self.pictures + other.pictures
        for label in self._labels.keys() | other._labels.keys():
            both._labels[label] = self._labels.get(label, _Label()).joined(other._labels.get(label, _Label()))
        return both

    @property
    def unscored(self) -> int:
        """Detections of labels that no picture has as truth: they enter no AP."""
        return sum(len(label.scores) for label in self._labels.values() if not label.truths)

    def by_label(self, threshold: float | None = None) -> dict[str, float]:
        """AP in 0..1 of every label that has a truth, at one of ``thresholds`` or, with None, their mean."""
        if threshold is not None and threshold not in self.thresholds:
            raise ValueError(f"threshold: must be one of {self.thresholds} (got {threshold})")
        columns = [i for i, t in enumerate(self.thresholds) if threshold in (None, t)]
        found: dict[str, float] = {}
        for name in sorted(self._labels):
            label = self._labels[name]
            if label.truths:
                hits = np.array(label.hits, dtype=bool).reshape(-1, len(self.thresholds))
                scores = np.array(label.scores)
                found[name] = float(
                    np.mean([average_precision(scores, hits[:, c], label.truths) for c in columns])
                )
        return found

    def mean(self, threshold: float | None = None) -> float | None:
        """COCO's AP (AP50 with ``threshold=0.5``): the mean of ``by_label``; None without any truth."""
        values = list(self.by_label(threshold).values())
        return float(np.mean(values)) if values else None


def average_precision(scores: np.ndarray, hits: np.ndarray, truths: int) -> float:
    """Area under the interpolated precision-recall curve at 101 recalls, 0..1.

    Args:
        scores: (n,), larger is surer. hits: (n,) bool. truths: things to be found, > 0.
    """
    if truths < 1:
        raise ValueError(f"truths: must be at least 1 (got {truths}); there is no recall without truth")
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each equal score
    found = np.cumsum(hits[order])[ends]
    precision = np.maximum.accumulate((found / (ends + 1))[::-1])[::-1]
    places = np.searchsorted(found / truths, COCO_RECALLS, side="left")
    return float(np.append(precision, 0.0)[places].mean())
