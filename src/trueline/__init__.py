"""Trueline: pictures true to their words and their boxes.

The names below are imported when they are first used (PEP 562), so that ``import trueline`` costs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Box": "boxes",
    "Region": "layout",
    "RegionalMasks": "methods.regional_masks",
    "Layout": "layout",
    "read_layouts": "layout",
    "write_layouts": "layout",
    "plan": "planner.layouts",
    "Backbone": "models.backbone",
    "Method": "sampling.method",
    "AttendAndExcite": "methods.attend_and_excite",
    "AttentionRefocusing": "methods.attention_refocusing",
    "BoxDiff": "methods.boxdiff",
    "Composable": "methods.composable",
    "DenseDiffusion": "methods.dense_diffusion",
    "HCMA": "methods.hcma",
    "LayoutGuidance": "methods.layout_guidance",
    "MultiDiffusion": "methods.multidiffusion",
    "PaintWithWords": "methods.paint_with_words",
    "PerturbedAttention": "methods.perturbed_attention",
    "Reweighting": "methods.realign",
    "Structured": "methods.structured",
    "TokenWeights": "methods.token_weights",
    "Realign": "realign",
    "Sampling": "sampling.options",
    "sample": "sampling.loop",
    "Pipeline": "sampling.pipeline",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trueline' has no attribute {name!r}")
    return getattr(import_module(f"trueline.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
