"""Benchmarks: what to draw, and what is measured on it. One file and one line in the table below each.

A benchmark's *files* are the user's (``data``, or the folder that TRUELINE_DATA names); their licences stay theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trueline.evaluation.benchmarks._files import VARIABLE, data_folder
from trueline.layout import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["BENCHMARKS", "VARIABLE", "Benchmark", "Example", "data_folder", "load"]

#: Name on the command line -> "module:class".
BENCHMARKS: dict[str, str] = {
    "7bench": "trueline.evaluation.benchmarks.seven_bench:SevenBench",
    "abc-6k": "trueline.evaluation.benchmarks.abc6k_cc500:ABC6K",
    "cc-500": "trueline.evaluation.benchmarks.abc6k_cc500:CC500",
    "coco": "trueline.evaluation.benchmarks.coco:COCO2014",
    "drawbench": "trueline.evaluation.benchmarks.drawbench:DrawBench",
    "geneval": "trueline.evaluation.benchmarks.geneval:GenEval",
    "hrs": "trueline.evaluation.benchmarks.hrs:HRS",
    "imagereward": "trueline.evaluation.benchmarks.imagereward:ImageRewardPrompts",
    "multigen": "trueline.evaluation.benchmarks.multigen:MultiGen",
    "nsr-1k": "trueline.evaluation.benchmarks.nsr_1k:NSR1K",
    "partiprompts": "trueline.evaluation.benchmarks.partiprompts:PartiPrompts",
    "t2i-compbench": "trueline.evaluation.benchmarks.t2i_compbench:T2ICompBench",
    "world": "trueline.evaluation.benchmarks.world:World",
}


@dataclass(frozen=True)
class Example:
    """One picture to draw.

    ``id``: unique in the benchmark, the same in every run, safe as a file name. ``layout``: prompt, and regions
    where the benchmark has boxes. ``category``: its group in tables ("color", "spatial"; "" where there is one
    group only). ``truth``: what the benchmark's rules need, JSON-ready.
    """

    id: str
    layout: Layout
    category: str = ""
    truth: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def prompt(self) -> str:
        return self.layout.prompt


class Benchmark(Protocol):
    """``examples`` in the official order. ``name`` as on the command line. ``source``: where the files come from,
    their version and licence, one line."""

    name: str
    source: str

    @property
    def examples(self) -> Sequence[Example]: ...

    def reference(self, example: Example) -> Image | None:
        """The real picture of an example (for FID), or None where the benchmark has none."""
        ...


def load(name: str, data: str | Path | None = None, **options: Any) -> Benchmark:
    """The benchmark of that name, read from the user's folder (``data_folder(data)``; the world needs none).

    ``options``: keyword arguments of its class, such as ``split`` or ``categories``.

    Raises:
        ValueError: unknown name or option; a file that is missing or broken.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark: there is no {name!r}; choose one of {', '.join(BENCHMARKS)}")
    module, _, attribute = BENCHMARKS[name].partition(":")
    make = getattr(import_module(module), attribute)
    known = [option for option in signature(make).parameters if option != "data"]
    if unknown := [option for option in options if option not in known]:
        choice = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{name}: no option {unknown[0]!r}; {choice}")
    return make(data, **options)
