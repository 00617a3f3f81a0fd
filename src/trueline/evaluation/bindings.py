"""Which published rule a detector's boxes feed, benchmark by benchmark: one entry of ``BINDINGS`` each.

A metric is named after its rule; the judge adds detector and mode: ``spatial[owlv2,official]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trueline.evaluation.benchmarks import Example
from trueline.evaluation.benchmarks.t2i_compbench.rules import (
    detector_label,
    numeracy_score,
    spatial_raw,
    spatial_score,
)
from trueline.evaluation.metrics.detection import (
    Truth,
    layout_score_fixed,
    layout_score_official,
    score_boxes,
)
from trueline.evaluation.metrics.observations import Mode, Observations, is_official, share
from trueline.evaluation.rules import geneval, hrs, multigen, nsr_1k
from trueline.perception import Detection

Size = tuple[int, int]


@dataclass(frozen=True)
class Binding:
    """``labels``: what to look for in an example's picture, nothing where the rule does not apply. ``score``: what
    the detections, in a picture of (width, height) pixels, say. ``colours``: how a detected thing's colour is read
    where the detector does not say it. ``threshold``: the rule's own confidence, 0 where it takes the detector's.
    ``group``: figures over all pictures are the mean over these groups (None: of all pictures alike)."""

    labels: Callable[[Example], Sequence[str]]
    score: Callable[[Example, Sequence[Detection], Size, Mode, float], Observations]
    colours: Literal["", "clip", "hue"] = ""
    threshold: float = 0.0
    group: Callable[[Example, Mode], str] | None = None


def needs_colours(example: Example) -> bool:
    """Whether a rule asks for the colours of an example's things."""
    if "include" in example.truth:
        return any("color" in clause for clause in example.truth["include"])
    return example.category == "color"


# T2I-CompBench


def _compbench_labels(example: Example) -> list[str]:
    truth = example.truth
    if "counts" in truth:
        return [name for name, _ in truth["counts"]]
    return [detector_label(truth["first"]), detector_label(truth["second"])] if "first" in truth else []


def _compbench(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    """3d_spatial needs a depth map, which no judge gives: not measured."""
    truth, seen = example.truth, [d for d in found if d.score > threshold]
    if "counts" in truth:
        return (
            {"numeracy": (numeracy_score(seen, truth["counts"], size, mode), 1.0)} if truth["counts"] else {}
        )
    if "first" not in truth or example.category == "3d_spatial":
        return {}
    things = truth["first"], truth["second"], truth["relation"]
    score = spatial_score(seen, *things, size, mode)
    if example.category == "complex":
        return {"complex_spatial": (score, 1.0)}
    return {"spatial": (score, 1.0), "spatial_raw": (spatial_raw(seen, *things, size, mode), 1.0)}


# NSR-1K


def _nsr_labels(example: Example) -> list[str]:
    truth = example.truth
    names = [name for name, _ in truth["counts"]] if "counts" in truth else [truth["first"], truth["second"]]
    return list(dict.fromkeys(names))


def _nsr(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    truth = example.truth
    if "counts" in truth:
        return nsr_1k.counting_image(found, truth["counts"], truth["sub_type"], mode, threshold)
    return nsr_1k.spatial_image(found, truth["first"], truth["second"], truth["relation"], threshold)


# GenEval


def _geneval_labels(example: Example) -> list[str]:
    clauses = [*example.truth["include"], *example.truth.get("exclude", ())]
    return list(dict.fromkeys(clause["class"] for clause in clauses))


def _geneval(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    return {"accuracy": share(geneval.correct(found, example.truth, size, mode))}


# HRS-Bench


def _hrs_labels(example: Example) -> list[str]:
    truth = example.truth
    pairs = truth.get("counts", truth.get("objects", ()))
    names = [pair[0] if isinstance(pair, list) else pair for pair in pairs]
    return list(dict.fromkeys(names))


def _hrs(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    truth, seen = example.truth, [d for d in found if d.score > threshold]
    if example.category == "counting":
        return hrs.counting(seen, truth["counts"], mode)
    if example.category == "color":
        if is_official(mode) and truth["index"] in hrs.COLOUR_SKIPPED:
            return {}
        return hrs.colour(seen, [(name, colour) for name, colour in truth["objects"]], mode)
    rule = hrs.spatial if example.category == "spatial" else hrs.size
    return rule(seen, truth["objects"], truth["relations"], mode)


def _hrs_level(example: Example, mode: Mode) -> str:
    """The official value is the mean over the three levels."""
    return str(example.truth["level"]) if is_official(mode) else ""


# 7Bench


def _seven(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    seen = [d for d in found if d.score > threshold]
    boxes = zip(example.truth["labels"], example.truth["boxes"], strict=True)
    return _layout_score([Truth(label, tuple(box)) for label, box in boxes], seen, size, mode)


def _layout_score(truths: Sequence[Truth], seen: Sequence[Detection], size: Size, mode: Mode) -> Observations:
    if is_official(mode):
        return {"layout_auc": (layout_score_official(seen, truths, size), 1.0)}
    area, extra = layout_score_fixed(seen, truths)
    return {"layout_auc": (area, 1.0), "extra_detections": (float(extra), 1.0)}


# MultiGen


def _multigen(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    return multigen.multigen(found, example.truth["objects"], threshold)


# CC-500


def _pair_labels(example: Example) -> list[str]:
    return list(dict.fromkeys(name for name, _ in example.truth.get("objects", ())))


def _pair(
    example: Example, found: Sequence[Detection], size: Size, mode: Mode, threshold: float
) -> Observations:
    """Structured Diffusion's recipe (its issue 9): the share of pictures in which both objects are detected."""
    labels = _pair_labels(example)
    seen = {d.label for d in found if d.score > threshold}
    return {"both_objects": share(all(label in seen for label in labels))} if labels else {}


BINDINGS: dict[str, Binding] = {
    "7bench": Binding(lambda e: list(dict.fromkeys(e.truth["labels"])), _seven),
    "cc-500": Binding(_pair_labels, _pair),
    "geneval": Binding(_geneval_labels, _geneval, "clip", group=lambda e, _: e.category),
    "hrs": Binding(_hrs_labels, _hrs, "hue", group=_hrs_level),
    "multigen": Binding(lambda e: e.truth["objects"], _multigen, threshold=multigen.THRESHOLD),
    "nsr-1k": Binding(_nsr_labels, _nsr, threshold=nsr_1k.THRESHOLD),
    "t2i-compbench": Binding(_compbench_labels, _compbench),
}


# Boxes of the layout, whatever the benchmark


def box_labels(example: Example) -> list[str]:
    return list(dict.fromkeys(region.phrase for region in example.layout.regions))


def box_truths(example: Example) -> list[Truth]:
    return [Truth(region.phrase, region.box.xyxy) for region in example.layout.regions]


def boxes(example: Example, found: Sequence[Detection], size: Size, mode: Mode) -> Observations:
    """Whether the layout's own regions are kept: found at IoU >= 0.5, overlap, and 7Bench's area over IoU."""
    truths = box_truths(example)
    if not truths:
        return {}
    scores = score_boxes(found, truths)
    count = float(scores.truths)
    return {
        "object_accuracy": (float(scores.found), count),
        "mean_iou": (scores.overlap, count),
        **_layout_score(truths, found, size, mode),
    }
