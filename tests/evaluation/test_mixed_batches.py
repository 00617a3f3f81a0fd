"""A benchmark of which only some prompts have boxes is drawn to its end, whatever falls into one batch."""

from types import SimpleNamespace

from trueline.engine import Engine, carry_out
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.drawing import drawing
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
    carry_out(run.folder, [drawing(run, [row], lambda: Pipeline(gated))], Engine(), silent=True)
    assert all(run.path("boxdiff", picture).exists() for picture in run.pictures)
