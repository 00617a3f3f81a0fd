"""T2I-CompBench (Huang et al. 2023) and its two later categories (T2I-CompBench++): 300 test prompts each.

``export_compbench`` (``compbench_folder.py``) writes pictures in the folder convention of the official scorers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from trueline.evaluation.benchmarks import Example, data_folder
from trueline.evaluation.benchmarks._collect import Collector, chosen
from trueline.evaluation.benchmarks._files import Source
from trueline.evaluation.benchmarks.t2i_compbench.rules import complex_kind, parse_numeracy, parse_spatial
from trueline.files import read_lines

SOURCE = Source("Karine-Huang/T2I-CompBench", "1b7094991a57", "MIT")
CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
LATER = ("numeracy", "3d_spatial")  #: T2I-CompBench++
SPLITS = ("val", "train", "all", "val_seen", "val_unseen")
ATTRIBUTES = CATEGORIES[:3]  #: have the splits val_seen and val_unseen (pairs known or new in training)


class T2ICompBench:
    """Examples category by category, in the files' order.

    ``split``: "val" is the published test set, 300 prompts a category (1,800 in the first six, the default);
    "train" 700; "all" 1,000 (color 860), some of them more than once; "val_seen", "val_unseen" of the attributes.
    Ids: category, split unless "val", and line from 0: ``color-000123``, ``color-train-000012``.

    ``truth``: for spatial and 3d_spatial ``first``, ``relation``, ``second``; for numeracy ``counts``
    [[noun, n]]; for complex ``kind`` (spatial, action, spatialaction) and, where the prompt states a relation,
    ``first``, ``relation``, ``second``. Prompts are read by ``rules``, not by spaCy.
    """

    name = "t2i-compbench"

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
        self.examples = collector.finish()
        self.left_out = dict(collector.left_out)

    def reference(self, example: Example) -> None:
        """There are no real pictures."""
        return None


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
