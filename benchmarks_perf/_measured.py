"""What the measuring scripts share: a random checkpoint, rows of medians, where they go, errors as one sentence.

Files that begin with "_" are no commands.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trueline.errors import redacted_arguments
from trueline.evaluation.tables import markdown
from trueline.files import write_text
from trueline.layout import Layout, Region
from trueline.models.stable_diffusion import StableDiffusion
from trueline.sampling.records import commit

LAYOUT = Layout(
    "a cat and a clock",
    regions=[Region("cat", (0.05, 0.2, 0.45, 0.8)), Region("clock", (0.55, 0.2, 0.95, 0.8))],
    seed=0,
)
TOKENS = 77
GUIDANCE_SCALE = 7.5


def backbone_of(
    unet: UNet2DConditionModel, text_shape: Mapping[str, int], words: CLIPTokenizer
) -> StableDiffusion:
    """A checkpoint around that U-Net: a random text encoder of that shape, Stable Diffusion's noise schedule, and a
    VAE of its latents that is next to nothing."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            **text_shape,
            vocab_size=len(words),
            max_position_embeddings=TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusion(unet, vae, text_encoder, words, scheduler)


def origin(script: str, arguments: Sequence[str]) -> dict[str, str]:
    """The command and the commit, as every row says them."""
    return {
        "command": shlex.join(["python", f"benchmarks_perf/{script}", *redacted_arguments(arguments)]),
        "commit": commit(),
    }


def row(
    made: Mapping[str, Any],
    benchmark: str,
    model: str,
    method: str,
    metric: str,
    values: Sequence[float],
    protocol: str,
    goal: str | None = None,
    seed: int = 0,
    counts: str = "measurements",
) -> dict[str, Any]:
    """A row of ``trueline.evaluation.tables``: the median, with the least and the greatest value as its interval.

    ``made``: what ``origin`` says. ``counts``: what ``values`` are.
    """
    return {
        "benchmark": benchmark,
        "model": model,
        "method": method,
        "metric": metric,
        "category": "",
        "value": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "images_per_prompt": 1,
        "seeds": [seed],
        "protocol": protocol,
        "command": made["command"],
        "commit": made["commit"],
        "reads": f"Medians, in brackets the least and the greatest; n counts {counts}.",
        **({"goal": goal} if goal else {}),
    }


def said(rows: Sequence[Mapping[str, Any]], out: Path | None) -> int:
    """Prints the tables, writes the rows where ``out`` says, and is the exit code."""
    print(markdown(rows))
    if out:
        write_text(out, json.dumps(rows, indent=1) + "\n")
    return 0


def entry(main: Callable[[Sequence[str]], int]) -> None:
    """``main`` as a script."""
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
