"""The record of a picture: what it takes to make it again, and what its user should know. JSON-ready."""

import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

import trueline
from trueline.errors import redacted
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.sampling.request import Request

RECORD_SCHEMA = 1
_WORD = re.compile(r"\w+(?:['-]\w+)*")


def make_record(
    backbone: Backbone,
    request: Request,
    layout: Layout,
    noise: dict[str, int | None],
    batch: dict[str, int],
    notes: list[str],
) -> dict[str, Any]:
    """The record of one picture.

    Args:
        layout: with its size and seed settled.
        noise: "index" in the call's order, "seed" and "seed_index"; a seed of None: the noise was the caller's own
            and is not recorded; "seed_rule" where the seed is wide (``seeds.RULE``).
        batch: how many pictures ran together ("size") and in which "row"; kernels round by it.
        notes: words cut or unknown, fallbacks taken.
    """
    device = backbone.device
    return {
        "schema": RECORD_SCHEMA,
        "layout": layout.to_record(),
        **noise,
        "model": {
            "source": redacted(backbone.source),
            "revision": backbone.revision,
            "loras": dict(backbone.adapters),
        },
        **request.sampling.completed(backbone).to_record(),
        "methods": recorded_methods(request.methods),
        "batch": batch,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "versions": versions(),
        "notes": list(notes),
    }


def recorded_methods(methods: Sequence[Any]) -> list[dict[str, Any]]:
    """Names and settings of those that do something, as ``methods.of_record`` reads them."""
    acting = [method for method in methods if not method.watches]
    return [{"name": type(method).__name__, "settings": method.model_dump(mode="json")} for method in acting]


def versions() -> dict[str, str]:
    """Of everything that may change a picture's bits."""
    return {
        "trueline": trueline.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def commit() -> str:
    """The short hash of the commit that runs; "" where there is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def unknown_words(layout: Layout, vocabulary: frozenset[str] | None) -> list[str]:
    """Words that the model was not trained on, in order; none for an open vocabulary (None)."""
    if vocabulary is None:
        return []
    texts = (
        layout.prompt,
        layout.negative_prompt,
        *(text for region in layout.regions for text in (region.phrase, region.grounding_phrase)),
    )
    words = dict.fromkeys(word for text in texts for word in _WORD.findall(text.lower()))
    return [word for word in words if word not in vocabulary]
