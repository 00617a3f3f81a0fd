"""Each published rule against a short file of our own (``tests/golden/rules``), without ``../shared``."""

import json
from pathlib import Path

import pytest

from trueline.evaluation.benchmarks import benchmark_class
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.coco_mig import Instance, score
from trueline.layout import Layout
from trueline.perception import Detection

FILES = sorted((Path(__file__).parents[2] / "golden" / "rules").glob("*.json"))
CASES = [
    pytest.param(path.stem, case, id=f"{path.stem}-{place}")
    for path in FILES
    for place, case in enumerate(json.loads(path.read_text(encoding="utf-8")))
]


def scored(name: str, case: dict, mode: str) -> dict:
    if name == "geneval-2":
        example = Example("x", Layout("a thing"), case["category"], case["truth"])
        return benchmark_class(name).score_answers(example, case["answers"])
    seen = [Detection(label, tuple(box), sure, colour) for label, box, sure, colour in case["detections"]]
    if name == "coco-mig":
        wanted = [Instance(*words, tuple(box), set(colours)) for *words, box, colours in case["instances"]]
        return score(seen, wanted, mode)
    kind = benchmark_class(name)
    example = Example("x", Layout("a thing"), case["category"], case["truth"])
    return kind.score(example, seen, (512, 512), mode, kind.threshold)


def test_each_rule_has_its_file():
    names = {path.stem for path in FILES}
    others = {"7bench", "geneval", "geneval-2", "hrs", "multigen", "nsr-1k", "overlaybench", "t2i-compbench"}
    assert names == {"coco-mig", *others}


@pytest.mark.parametrize("mode", ["official", "fixed"])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_rule_gives_the_numbers_of_its_file(name, case, mode):
    found = scored(name, case, mode)
    assert {metric: list(pair) for metric, pair in found.items()} == {
        metric: pytest.approx(pair) for metric, pair in case[mode].items()
    }
