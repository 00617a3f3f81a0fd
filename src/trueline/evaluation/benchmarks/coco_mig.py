"""COCO-MIG (Zhou et al. 2024, the bench of MIGC, arXiv 2402.05408): 800 layouts of two to six coloured instances.

COCO-MIG: is each instance where its box is, and in its colour? ``isr``: instances that succeed over instances (the
instance success rate); ``success_rate``: pictures all of whose instances succeed; ``miou``. All three by level (L2 to
L6: the number of instances), and over all instances or pictures.

Source: LeyRio/MIG_Bench@063ec4595f16, ``eval_mig.py``. GroundingDINO (Swin-T) finds the class of one instance at a
time (box and text threshold 0.25, NMS 0.8); the best of SAM's (ViT-H) three masks of the box is in a colour if at
least a fifth of its pixels are in the colour's range of HSV (``perception.colours.MIG_RANGES``). NMS is part of the
rule here, the thresholds are the detector's.

Quirks kept by ``official``:

- The colour is read in the mask of the *ground-truth* box, whatever was detected.
- An instance whose best IoU is below 0.5 fails, but its IoU still enters mIoU, while that of a wrong colour is 0.

``fixed`` reads the colour of the best detection, and every instance that fails adds 0 to mIoU. In both modes, as in
the source, one detection may serve two instances.

The script's own functions, detections and masks given, were run beside ours on 1,000 random pictures of 3,991
instances (1,446 succeed): no difference.

What differs: any detector and segmenter look, and figures are named after the detector; a detector may be asked for
all classes of a picture at once; pictures keep their size (512 x 512 there); no CLIP scores over 80 templates.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from trueline.boxes import Corners, iou
from trueline.evaluation.benchmarks._collect import Collector, corners_of, row_of, some
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Source, data_folder
from trueline.evaluation.metrics.detection import surest_first
from trueline.evaluation.metrics.observations import Mode, Observations, is_official, share
from trueline.files import read_json_object, read_text
from trueline.perception import Detection, Segmenter
from trueline.perception.colours import MIG_RANGES, MIG_SHARE, colour_share

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = Source("limuloo/MIGC", "effd6cc2e6a9", "non-commercial research only")
LEVELS = range(2, 7)  #: instances of a picture
MIN_IOU = 0.5
SAME_THING = 0.8  #: IoU above which NMS takes the less sure of two detections away


class CocoMig(Benchmark):
    """The published layouts: ``coco_mig/mig_bench_anno.yaml`` of the source's ``bench_file``, or
    ``coco_mig/mig_bench.json`` in the form that the evaluation reads and its resampling writes, which is taken where
    both are there.

    ``category``: the level, ``L2`` to ``L6``. ``truth``: ``instances``, class, colour and box of each. Ids:
    ``L2-000000000006``, by level and COCO's id.
    """

    name = "coco-mig"
    needs: ClassVar[Needs] = {
        "isr, success_rate, miou": ("detector", "segmenter"),
        "clip_score": ("embedder",),
    }

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        folder = data_folder(data, SOURCE) / "coco_mig"
        resampled = folder / "mig_bench.json"
        path = resampled if resampled.is_file() else folder / "mig_bench_anno.yaml"
        collector = Collector(self.name)
        for where, image, prompt, things in (_of_json if path == resampled else _of_yaml)(path):
            with row_of(path, where, SOURCE.cure):
                truth = [[*_words(label), corners_of(box)] for label, box in things]
                if len(truth) not in LEVELS:
                    raise ValueError(f"must have {LEVELS[0]} to {LEVELS[-1]} instances (got {len(truth)})")
                level = f"L{len(truth)}"
                collector.add(
                    f"{level}-{int(image):012d}",
                    prompt,
                    level,
                    {"instances": truth},
                    collector.regions(things),
                )
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        return list(dict.fromkeys(label for label, _, _ in example.truth["instances"]))

    @classmethod
    def score_picture(
        cls,
        example: Example,
        detections: Sequence[Detection],
        image: "Image",
        segmenter: Segmenter | None,
        mode: Mode,
        threshold: float,
    ) -> Observations:
        if segmenter is None:
            return {}
        wanted = [Instance(label, colour, tuple(box)) for label, colour, box in example.truth["instances"]]
        sure = [d for d in detections if d.score > threshold]
        found = [best(sure, instance) for instance in wanted]
        looked = [
            i.box if is_official(mode) or d is None else d.box for i, d in zip(wanted, found, strict=True)
        ]
        masks = segmenter.segment([image], [looked])[0]
        seen = []
        for instance, box, mask in zip(wanted, looked, masks, strict=True):
            filled = colour_share(image, Detection(instance.label, box, mask=mask), instance.colour)
            seen.append({instance.colour} if filled >= MIG_SHARE else set())
        return observed(verdict(*each, mode) for each in zip(found, wanted, seen, strict=True))


Row = tuple[
    str, Any, Any, list[tuple[Any, Any]]
]  # its place in the file, COCO's id, prompt, labels and boxes


def _of_json(path: Path) -> Iterator[Row]:
    """``caption``, ``segment`` and, where the key is a mere number of the row, ``image_id``."""
    rows = some(read_json_object(path, SOURCE.cure), path, SOURCE.cure)
    for key, row in rows.items():
        where = f"entry {key}"
        with row_of(path, where, SOURCE.cure):
            if not isinstance(row, dict):
                raise ValueError("must be an object of caption and segment")
            things = [(each["label"], each["bbox"]) for each in row["segment"]]
            found = where, row.get("image_id", key), row["caption"], things
        yield found


def _of_yaml(path: Path) -> Iterator[Row]:
    """By prompt: ``coco_id``, and the boxes of each coloured class."""
    import yaml

    try:
        rows = yaml.safe_load(read_text(path, SOURCE.cure))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not YAML; {SOURCE.cure}") from None
    if not isinstance(rows, dict) and rows is not None:
        raise ValueError(f"{path}: must be prompts with their boxes; {SOURCE.cure}")
    for prompt, row in some(rows or {}, path, SOURCE.cure).items():
        where = f"entry {str(prompt)[:60]!r}"
        with row_of(path, where, SOURCE.cure):
            if not isinstance(row, dict) or not all(
                isinstance(b, list) for k, b in row.items() if k != "coco_id"
            ):
                raise ValueError("must have coco_id, and a list of boxes for each coloured class")
            things = [(label, box) for label, boxes in row.items() if label != "coco_id" for box in boxes]
            found = where, row["coco_id"], prompt, things
        yield found


def _words(label: Any) -> tuple[str, str]:
    """Class and colour of "a red stop sign"."""
    _article, colour, name = (*str(label).split(" ", 2), "", "")[:3]
    if not isinstance(label, str) or colour not in MIG_RANGES or not name.strip():
        form = f'"a COLOUR NAME", the colour of {", ".join(MIG_RANGES)}'
        raise ValueError(f"a label is {form} (got {label!r:.60})")
    return name, colour


# The rule


class Instance(NamedTuple):
    """What the layout asks for: a class, its colour and its box (xyxy in 0..1).

    ``seen``: the colours that fill at least a fifth of the mask of this very box in the picture, for ``official``.
    """

    label: str
    colour: str
    box: Corners
    seen: Collection[str] = ()


def best(detections: Sequence[Detection], instance: Instance) -> Detection | None:
    """The detection of the instance's class that overlaps its box most, after NMS."""
    kept: list[Detection] = []
    for detection in surest_first(d for d in detections if d.label == instance.label):
        if all(iou(detection.box, other.box) <= SAME_THING for other in kept):
            kept.append(detection)
    return max(kept, key=lambda d: (iou(d.box, instance.box), d.score), default=None)


def verdict(
    detection: Detection | None, instance: Instance, colours: Collection[str | None], mode: Mode
) -> tuple[bool, float]:
    """Whether the instance succeeds, and what it adds to mIoU. ``colours``: those that are seen of it."""
    overlap = iou(detection.box, instance.box) if detection else 0.0
    found, coloured = overlap >= MIN_IOU, instance.colour in colours
    counts = (found and coloured) or (is_official(mode) and not found)
    return found and coloured, overlap if counts else 0.0


def observed(verdicts: Iterable[tuple[bool, float]]) -> Observations:
    """``isr``, ``success_rate`` and ``miou`` of one picture's instances."""
    rows = list(verdicts)
    count, successes = float(len(rows)), sum(success for success, _ in rows)
    return {
        "isr": (float(successes), count),
        "success_rate": share(successes == len(rows)),
        "miou": (sum(overlap for _, overlap in rows), count),
    }


def score(
    detections: Sequence[Detection], instances: Sequence[Instance], mode: Mode = "official"
) -> Observations:
    """One picture's ``isr``, ``success_rate`` and ``miou``, with colours that were read before: the instances'
    ``seen`` in ``official`` mode, the detections' own in ``fixed``."""
    official = is_official(mode)
    found = [best(detections, instance) for instance in instances]
    seen = [i.seen if official else {d.colour if d else None} for i, d in zip(instances, found, strict=True)]
    return observed(verdict(*each, mode) for each in zip(found, instances, seen, strict=True))
