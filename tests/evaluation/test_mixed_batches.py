"""A benchmark of which only some prompts have boxes is drawn to its end, whatever falls into one batch."""

import json
from types import SimpleNamespace

import pytest

from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.run import EvaluationRun, EvaluationSettings, Row
from trueline.layout import Layout, Region
from trueline.methods.boxdiff import BoxDiff
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import Pipeline


def test_a_batch_without_boxes_of_a_benchmark_with_some(gated, tmp_path):
    examples = [
        Example("bare", Layout("a red apple"), "", {}),
        Example("boxed", Layout("a blue car", regions=[Region("a blue car", (0, 0, 0.5, 0.5))]), "", {}),
    ]
    benchmark = SimpleNamespace(name="mixed", source="here", examples=examples)
    settings = EvaluationSettings("mixed", "tiny", None, (0,), Sampling(steps=2, guidance_scale=3), "fp32", 1)
    run = EvaluationRun(tmp_path, benchmark, settings)
    row = Row("boxdiff", False, True, (BoxDiff(cells=8, refinements=1),), True)
    run.claim(row)
    run.draw(row, Pipeline(gated), False)
    assert all(run.path("boxdiff", picture).exists() for picture in run.pictures)


def test_a_folder_of_before_an_option_was_written_down_goes_on(tmp_path):
    """A manifest without a key means the option's default."""
    benchmark = SimpleNamespace(
        name="mixed", source="here", examples=[Example("bare", Layout("a red apple"), "", {})]
    )

    def begun(**options) -> EvaluationRun:
        sampling = Sampling(steps=2, **options)
        return EvaluationRun(
            tmp_path, benchmark, EvaluationSettings("mixed", "tiny", None, (0,), sampling, "fp32", 1)
        )

    begun()
    manifest = json.loads((tmp_path / "run.json").read_text())
    for name in ("eta", "grounding_schedule"):
        del manifest["settings"][name]
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    begun()
    for changed in ({"eta": 0.5}, {"grounding_schedule": (1, 0, 0)}):
        with pytest.raises(ValueError, match=f"holds a run with another {next(iter(changed))}"):
            begun(**changed)
