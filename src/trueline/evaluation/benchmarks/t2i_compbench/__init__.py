"""T2I-CompBench (Huang et al. 2023) and its two later categories (T2I-CompBench++): 300 test prompts each.

``export_compbench`` (``compbench_folder.py``) writes pictures in the folder convention of the official scorers.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trueline.evaluation.benchmarks._collect import Collector, chosen
from trueline.evaluation.benchmarks.benchmark import (
    Benchmark,
    Example,
    Needs,
    Placed,
    Size,
    Source,
    data_folder,
)
from trueline.evaluation.benchmarks.t2i_compbench.prompts import complex_kind, parse_numeracy, parse_spatial
from trueline.evaluation.benchmarks.t2i_compbench.rules import (
    detector_label,
    numeracy_score,
    spatial_raw,
    spatial_score,
    three_in_one,
)
from trueline.evaluation.metrics.observations import Mode, Observations, share
from trueline.files import read_lines
from trueline.perception import Detection

SOURCE = Source("Karine-Huang/T2I-CompBench", "1b7094991a57", "MIT")
CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
LATER = ("numeracy", "3d_spatial")  #: T2I-CompBench++
SPLITS = ("val", "train", "all", "val_seen", "val_unseen")
LAYOUT_SIZE = (512, 512)  #: pixels of the picture that the rule of nearness is about, for plans
WHOLE = 1 - 1e-9  #: a score that is 1 except for rounding
ATTRIBUTES = CATEGORIES[:3]  #: have the splits val_seen and val_unseen (pairs known or new in training)


class T2ICompBench(Benchmark):
    """Examples category by category, in the files' order.

    ``split``: "val" is the published test set, 300 prompts a category (1,800 in the first six, the default);
    "train" 700; "all" 1,000 (color 860), some of them more than once; "val_seen", "val_unseen" of the attributes.
    Ids: category, split unless "val", and line from 0: ``color-000123``, ``color-train-000012``.

    ``truth``: for spatial and 3d_spatial ``first``, ``relation``, ``second``; for numeracy ``counts``
    [[noun, n]]; for complex ``kind`` (spatial, action, spatialaction) and, where the prompt states a relation,
    ``first``, ``relation``, ``second``. Prompts are read by ``rules``, not by spaCy.
    """

    name = "t2i-compbench"
    pictures = "samples/{prompt}_{number:06d}.png"
    needs: ClassVar[Needs] = {
        "b_vqa": ("answerer",),
        "spatial, numeracy": ("detector",),
        "clip_score": ("embedder",),
        "three_in_one": ("answerer", "detector", "embedder"),
    }
    unmeasured: ClassVar[Mapping[str, str]] = {
        "3d_spatial": "its rule, t2i_compbench.rules.spatial_3d_score, wants depth maps"
    }
    layout_categories = ("spatial", "numeracy")

    def __init__(
        self,
        data: str | Path | None = None,
        split: str = "val",
        categories: str | Sequence[str] | None = None,
    ):
        self.source = f"{SOURCE}, split {split}"
        self.split = chosen("split", [split], SPLITS)[0]
        usual = ATTRIBUTES if split.startswith("val_") else CATEGORIES
        self.categories = chosen(
            "categories", categories or usual, ATTRIBUTES if usual is ATTRIBUTES else (*CATEGORIES, *LATER)
        )
        folder = data_folder(data, SOURCE) / "t2i_compbench"
        collector = Collector(self.name)
        for category in self.categories:
            _read(collector, folder, category, self.split)
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        truth = example.truth
        if example.category == "numeracy":
            return [name for name, _ in truth["counts"]]
        return [detector_label(truth["first"]), detector_label(truth["second"])] if "first" in truth else []

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        """3d_spatial needs a depth map, which no judge gives: not measured."""
        truth, sure = example.truth, [d for d in detections if d.score > threshold]
        if example.category == "numeracy":
            counts = truth["counts"]
            return {"numeracy": (numeracy_score(sure, counts, size, mode), 1.0)} if counts else {}
        if "first" not in truth or example.category == "3d_spatial":
            return {}
        things = truth["first"], truth["second"], truth["relation"]
        score = spatial_score(sure, *things, size, mode)
        if example.category == "complex":
            return {"complex_spatial": (score, 1.0)}
        return {"spatial": (score, 1.0), "spatial_raw": (spatial_raw(sure, *things, size, mode), 1.0)}

    @staticmethod
    def asks_nouns(example: Example) -> bool:
        return example.category == "complex"

    @staticmethod
    def combine(example: Example, measured: Mapping[str, Sequence[float]]) -> Observations:
        """The 3-in-1 of a complex prompt; none where a part that its kind of prompt needs was not measured, or was
        measured twice over."""
        if example.category != "complex":
            return {}
        kind, values = example.truth["kind"], {"complex_spatial": 0.0, "clip_score_nouns": 0.0}
        parts = (
            ["b_vqa"] + ["complex_spatial"] * ("spatial" in kind) + ["clip_score_nouns"] * ("action" in kind)
        )
        for part in parts:
            if len(measured.get(part, ())) != 1:
                return {}
            values[part] = measured[part][0]
        score = three_in_one(values["b_vqa"], values["complex_spatial"], values["clip_score_nouns"], kind)
        return {"three_in_one": (score, 1.0)}

    @staticmethod
    def score_layout(example: Example, things: Sequence[Placed], mode: Mode) -> Observations:
        """The benchmark's score, and whether the plan keeps all that the prompt states: a plan's boxes are detections
        of full confidence, which the detector calls as it calls what it is asked for."""
        sure = [Detection(detector_label(name.lower()), box) for name, box in things if name is not None]
        scores = T2ICompBench.score(example, sure, LAYOUT_SIZE, mode, 0.0)
        scores.pop("spatial_raw", None)
        return scores | {f"{name}_accuracy": share(value >= WHOLE) for name, (value, _) in scores.items()}


def _read(collector: Collector, folder: Path, category: str, split: str) -> None:
    kinds = _kinds(folder, split) if category == "complex" else ((), ())
    file, stem = (category, f"{category}-all") if split == "all" else (f"{category}_{split}", category)
    if split not in ("val", "all"):
        stem = f"{category}-{split}"
    for number, prompt in enumerate(read_lines(folder / f"{file}.txt", SOURCE.cure)):
        collector.add(f"{stem}-{number:06d}", prompt, category, _truth(category, prompt, *kinds))


def _kinds(folder: Path, split: str) -> tuple[set[str], set[str]]:
    """The complex prompts that state a relation, and those that state an action; the others state both."""
    parts = ("train", "val") if split == "all" else (split,)
    spatial, action = (
        {
            line
            for part in parts
            for line in read_lines(folder / f"complex_{part}_{kind}.txt", SOURCE.cure)
            if line
        }
        for kind in ("spatial", "action")
    )
    if split == "all":  # complex.txt lacks an "of" in two prompts that the other files have mended
        spatial |= {line.replace("on the right of the", "on the right the") for line in spatial}
    return spatial, action


def _truth(category: str, prompt: str, spatial: Collection[str], action: Collection[str]) -> dict[str, Any]:
    truth: dict[str, Any] = {}
    if category == "numeracy":
        truth["counts"] = [list(pair) for pair in parse_numeracy(prompt)]
    if category == "complex":
        truth["kind"] = complex_kind(prompt, spatial, action)
    if category in ("spatial", "3d_spatial") or truth.get("kind") in ("spatial", "spatialaction"):
        truth |= stated._asdict() if (stated := parse_spatial(prompt)) else {}
    return truth
