"""Benchmarks: what to draw, and what is measured on it. Each is one file and one line in the table.

A file holds the loader, the published rule as pure functions of detections, and the class that joins them
(``benchmark.Benchmark``). Where an official scorer has a quirk, ``mode="official"`` keeps it and ``mode="fixed"``
mends it; the module's docstring names the source, its commit and every quirk. The files that a benchmark reads are
the user's (``data``, or the folder that TRUELINE_DATA names); their licences stay theirs. The table is strings:
importing it loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueline.evaluation.benchmarks.benchmark import Benchmark

#: Name on the command line -> "module:class".
BENCHMARKS: dict[str, str] = {
    "7bench": "trueline.evaluation.benchmarks.seven_bench:SevenBench",
    "abc-6k": "trueline.evaluation.benchmarks.abc6k_cc500:ABC6K",
    "cc-500": "trueline.evaluation.benchmarks.abc6k_cc500:CC500",
    "coco": "trueline.evaluation.benchmarks.coco:COCO2014",
    "coco-mig": "trueline.evaluation.benchmarks.coco_mig:CocoMig",
    "drawbench": "trueline.evaluation.benchmarks.drawbench:DrawBench",
    "geneval": "trueline.evaluation.benchmarks.geneval:GenEval",
    "geneval-2": "trueline.evaluation.benchmarks.geneval_2:GenEval2",
    "hrs": "trueline.evaluation.benchmarks.hrs:HRS",
    "imagereward": "trueline.evaluation.benchmarks.imagereward:ImageRewardPrompts",
    "multigen": "trueline.evaluation.benchmarks.multigen:MultiGen",
    "nsr-1k": "trueline.evaluation.benchmarks.nsr_1k:NSR1K",
    "overlaybench": "trueline.evaluation.benchmarks.overlaybench:OverLayBench",
    "partiprompts": "trueline.evaluation.benchmarks.partiprompts:PartiPrompts",
    "t2i-compbench": "trueline.evaluation.benchmarks.t2i_compbench:T2ICompBench",
    "world": "trueline.evaluation.benchmarks.world:World",
}
#: Name of a benchmark of boxes without pictures -> the benchmark whose prompts and rule (``score_layout``) it takes.
LAYOUT_BENCHMARKS = {"nsr-1k-layout": "nsr-1k", "t2i-compbench-layout": "t2i-compbench"}


def benchmark_class(name: str) -> type[Benchmark]:
    """The class of a benchmark: what it needs and its rule, without reading any file.

    Raises:
        ValueError: unknown name.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark: there is no {name!r}; choose one of {', '.join(BENCHMARKS)}")
    module, _, attribute = BENCHMARKS[name].partition(":")
    return getattr(import_module(module), attribute)


def load(name: str, data: str | Path | None = None, **options: Any) -> Benchmark:
    """The benchmark of that name, read from the user's folder (``data_folder(data)``; the world needs none).

    ``options``: keyword arguments of its class, such as ``split`` or ``categories``.

    Raises:
        ValueError: unknown name or option; a file that is missing or broken.
    """
    make: Any = benchmark_class(name)
    known = [option for option in signature(make).parameters if option != "data"]
    if unknown := [option for option in options if option not in known]:
        choice = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{name}: no option {unknown[0]!r}; {choice}")
    return make(data, **options)
