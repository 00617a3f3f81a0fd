"""OverLayBench (Li et al. 2025, arXiv 2509.19282): 4,052 layouts whose boxes overlap, in three splits by difficulty.

OverLayBench: are things drawn apart where their boxes overlap? ``miou``: of each box with its partner among the
detections of its category, ``overlap_miou``: of the part that two boxes share with the part that their partners share
(the paper's O-mIoU); both the mean over a picture, then over pictures. ``overlay_score`` (the paper's OverLayScore)
says of any layout how hard it is: the sum over pairs of boxes that overlap of their IoU times the CLIP cosine of
their descriptions.

Source: mlpc-ucsd/OverLayBench@67073aaaf368 (``overlaybenchpytools``; its package metadata says MIT, there is no
licence file); and for OverLayScore the paper's equation, as summaries of the paper print it: the release has no code
of it. The release's IoUs were run beside ours on 1,000 random pictures, 198 of them with equal boxes: no difference
above 1e-12.

Quirks kept by ``official``:

- Boxes are cut to whole pixels of 1024 x 1024.
- Partners are chosen greedily, the largest IoU of a category first.
- A pair's boxes are looked up by their numbers: of two instances with one and the same box, the first one's partner
  stands for both (of two categories the release takes either: a Python set has no order).

``fixed`` takes boxes as they are, the partners of greatest total IoU, and each instance by its place. In both modes a
picture without a pair adds nothing to ``overlap_miou``; the release would stop there.

What differs: there Qwen2.5-VL-32B-Instruct is the detector; here any detector is, and figures are named after it. Not
known, for no source that we could read says it: which CLIP OverLayScore is made of (the release's own CLIP scores are
of OpenCLIP ViT-B-32, laion2b_s34b_b79k), whether a pair counts once (here) or in both orders, and the limits between
the splits, which are therefore not drawn anew: the files say them. The pictures of the data set are not read: no FID.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from trueline.boxes import Corners, iou
from trueline.evaluation.benchmarks._collect import Collector, chosen, corners_of, row_of, some
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Size, Source, data_folder
from trueline.evaluation.metrics.detection import Match, Truth, match
from trueline.evaluation.metrics.observations import Mode, Observations, is_official
from trueline.files import read_json_lines
from trueline.layout import MAX_PHRASE, Layout
from trueline.perception import Detection, Embedder

SOURCE = Source("huggingface.co/datasets/cywang143/OverLayBench_Eval", "main", "CC BY-NC 4.0")
SPLITS = ("simple", "medium", "hard")
CANVAS = 1024  #: pixels
NOWHERE: Corners = (0.0, 0.0, 0.0, 0.0)


class OverLayBench(Benchmark):
    """The layouts of ``splits`` (simple 2,052, medium 1,000, hard 1,000), each of ``overlaybench/SPLIT.jsonl``: lines
    with ``image_id`` and ``annotation``, as Hugging Face's ``datasets`` writes them::

        load_dataset("cywang143/OverLayBench_Eval", split="hard").remove_columns("image").to_json("hard.jsonl")

    An annotation is an object, or the text of one in Python's notation, with ``caption``, ``annotations`` (by name:
    ``category``, ``local_prompts``, ``bbox`` in pixels of 1024 x 1024) and ``valid_overlap`` (``overlap_box``: places
    of two instances). A region's phrase is the description, its label the category.

    ``category``: the split. ``truth``: ``labels`` and ``boxes`` (xyxy in 0..1; times 1024 they are the file's pixels,
    exactly) of the instances, and ``overlaps``, pairs of their places. Ids: ``hard-IMAGE``, by the file's image id.
    """

    name = "overlaybench"
    needs: ClassVar[Needs] = {
        "miou, overlap_miou": ("detector",),
        "overlay_score, clip_score, region_clip_score": ("embedder",),
    }
    beyond: ClassVar[Mapping[str, str]] = {
        "entity and relationship success": "they need Qwen2.5-VL-32B-Instruct, which is asked about all boxes at once"
    }
    overlaps = True

    def __init__(self, data: str | Path | None = None, splits: str | Sequence[str] = SPLITS):
        self.source = str(SOURCE)
        self.splits = chosen("splits", splits, SPLITS)
        folder = data_folder(data, SOURCE) / "overlaybench"
        collector = Collector(self.name)
        for split in self.splits:
            path = folder / f"{split}.jsonl"
            for line, row in some(read_json_lines(path, SOURCE.cure), path, SOURCE.cure):
                with row_of(path, line, SOURCE.cure):
                    _add(collector, split, row["image_id"], _annotation(row["annotation"]))
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        return list(dict.fromkeys(example.truth["labels"]))

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        sure = [d for d in detections if d.score > threshold]
        boxes = [tuple(box) for box in example.truth["boxes"]]
        wanted = [Truth(*each) for each in zip(example.truth["labels"], boxes, strict=True)]
        return overlap_ious(sure, wanted, example.truth["overlaps"], mode)


def _annotation(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError("annotation is not the text of an object in Python's notation") from None
    if not isinstance(given, dict) or not isinstance(given["annotations"], dict):
        raise ValueError("annotation must be an object with caption, annotations and valid_overlap")
    return given


def _add(collector: Collector, split: str, image: Any, annotation: Mapping[str, Any]) -> None:
    things, labels, boxes = [], [], []
    for name, each in annotation["annotations"].items():
        category, phrase, box = each["category"], each["local_prompts"], corners_of(each["bbox"], CANVAS)
        if not all(isinstance(text, str) and text.strip() for text in (category, phrase)):
            raise ValueError(f"category and local_prompts of {name!r:.40} must be text")
        if len(phrase) > MAX_PHRASE:
            collector.left_out[f"descriptions of more than {MAX_PHRASE} characters cut to the category"] += 1
            phrase = category
        things.append((phrase, box, category))
        labels.append(category)
        boxes.append([value / CANVAS for value in box])
    if not things:
        raise ValueError("annotations is empty")
    overlaps = [each["overlap_box"] for each in annotation["valid_overlap"]]
    for pair in overlaps:
        if len(pair) != 2 or not all(type(place) is int and 0 <= place < len(things) for place in pair):
            raise ValueError(f"overlap_box must name two of the {len(things)} instances (got {pair!r:.40})")
    truth = {"labels": labels, "boxes": boxes, "overlaps": [list(pair) for pair in overlaps]}
    regions = collector.regions(things, CANVAS)
    collector.add(f"{split}-{image}", annotation["caption"], split, truth, regions)


# The rule


def overlap_ious(
    detections: Sequence[Detection],
    instances: Sequence[Truth],
    overlaps: Sequence[Sequence[int]],
    mode: Mode = "official",
) -> Observations:
    """``miou`` of one picture's instances, and ``overlap_miou`` of the pairs of them that ``overlaps`` names.

    Boxes are xyxy in 0..1.

    Raises:
        ValueError: no instances.
    """
    if not instances:
        raise ValueError("instances: is empty; give one for each box")
    official = is_official(mode)
    if official:
        detections = [replace(d, box=_whole_pixels(d.box)) for d in detections]
        instances = [replace(instance, box=_whole_pixels(instance.box)) for instance in instances]
    chosen_by = _greedy if official else match
    found = {pair.truth: detections[pair.detection].box for pair in chosen_by(detections, instances)}
    boxes = [instance.box for instance in instances]
    places = [boxes.index(box) for box in boxes] if official else range(len(boxes))
    each = [iou(box, found.get(place, NOWHERE)) for place, box in enumerate(boxes)]
    scores = {"miou": (sum(each) / len(each), 1.0)}
    if overlaps:
        shared = []
        for i, j in overlaps:
            partners = (found.get(places[k], NOWHERE) for k in (i, j))
            shared.append(iou(_common(boxes[i], boxes[j]), _common(*partners)))
        scores["overlap_miou"] = (sum(shared) / len(shared), 1.0)
    return scores


def overlay_score(boxes: Sequence[Corners], cosines: Sequence[Sequence[float]]) -> float:
    """OverLayScore of one layout: over all pairs of boxes with an IoU above 0, the sum of IoU times cosine.

    Args:
        boxes: xyxy, in any unit.
        cosines: n x n, of the boxes' descriptions, -1..1.
    """
    return sum(iou(boxes[i], boxes[j]) * float(cosines[i][j]) for j in range(len(boxes)) for i in range(j))


def overlay_scores(layouts: Sequence[Layout], embedder: Embedder) -> list[float]:
    """``overlay_score`` of any layouts, by the phrases of their regions; 0 where no boxes overlap."""
    scores = []
    for layout in layouts:
        vectors = embedder.texts([region.phrase for region in layout.regions]) if layout.regions else None
        cosines = [] if vectors is None else (vectors @ vectors.T).tolist()
        scores.append(overlay_score([region.box.xyxy for region in layout.regions], cosines))
    return scores


def _greedy(detections: Sequence[Detection], instances: Sequence[Truth]) -> Iterator[Match]:
    """Partners of one category after the other, the largest IoU first; of equal ones the first instance's."""
    for label in dict.fromkeys(instance.label for instance in instances):
        pairs = [
            Match(i, j, iou(instance.box, detection.box))
            for i, instance in enumerate(instances)
            for j, detection in enumerate(detections)
            if instance.label == detection.label == label
        ]
        taken: set[int] = set()
        given: set[int] = set()
        for pair in sorted(pairs, key=lambda pair: -pair.iou):
            if pair.truth not in taken and pair.detection not in given:
                taken.add(pair.truth)
                given.add(pair.detection)
                yield pair


def _whole_pixels(box: Corners) -> Corners:
    x0, y0, x1, y1 = (int(value * CANVAS) for value in box)
    return x0, y0, x1, y1


def _common(one: Corners, two: Corners) -> Corners:
    """What two boxes share; without area where they share nothing."""
    return max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])
