"""Where DSAlign pulls a one-step picture of the world: towards the colours of the true picture, or away from them.

    python studies/goal_slope.py --n 64 --out results/goal-slope.json

Held-out scenes, noised to t; the U-Net's one-step latents with the scene's caption and boxes; from there a step of
length ``STEP`` down the slope of D_local by the world's CLIP (``losses.dsalign``), the only force. Within each
thing's true outline: how far its mean colour is from that of the render, before (``off``, of 255), and whether the
step brings it nearer (``nearer``, a share of the things). Intervals are over scenes.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _common import entry

from trueline.commands._parser import Parser
from trueline.errors import redacted_arguments
from trueline.evaluation.world_report import SPLIT, Figure, figure, layout_of
from trueline.files import write_text
from trueline.models.backbone import Backbone
from trueline.sampling.pipeline import Pipeline
from trueline.sampling.records import commit
from trueline.training.clip import FrozenCLIP
from trueline.training.data.latents import encode_pictures
from trueline.training.losses.denoising import decoded, ground, noised
from trueline.training.losses.dsalign import DSAlign
from trueline.training.objective import Batch
from trueline.training.recipes.goal import GoalSettings, goal_clip
from trueline.world.captions import caption
from trueline.world.scenes import Scene, make_scene, masks, render

TIMES = (100, 300, 500, 700, 900)
STEP = 2.0  #: length of the step in latents, whose own length is about 32
AT_ONCE = 8


def colours(pictures: torch.Tensor, scenes: Sequence[Scene]) -> list[np.ndarray]:
    """Mean colour of each thing within its true outline, of pictures in 0..1: (things, 3) of each scene."""
    found = []
    for picture, scene in zip(pictures.double().numpy(), scenes, strict=True):
        outlines = masks(scene).astype(float)
        shares = outlines / outlines.sum((1, 2), keepdims=True)
        found.append(np.einsum("thw,chw->tc", shares, picture))
    return found


def pulled(backbone: Backbone, clip: FrozenCLIP, scenes: Sequence[Scene], t: int) -> list[Figure]:
    """``off`` and ``nearer`` at one timestep."""
    off: list[list[float]] = []
    nearer: list[list[float]] = []
    everything = DSAlign(globe=False, background="crop")
    for first in range(0, len(scenes), AT_ONCE):
        some = scenes[first : first + AT_ONCE]
        renders = np.stack([render(scene) for scene in some])
        layouts = tuple(layout_of(scene, caption(scene).text, boxes=True) for scene in some)
        latents, times = encode_pictures(backbone, renders).float(), torch.full((len(some),), t)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1000 * t + first))
        batch = Batch(latents, layouts, noise, times)
        z, every = (
            noised(latents, noise, backbone.noise_level(times)),
            torch.ones(len(some), dtype=torch.bool),
        )
        with torch.no_grad():
            said = backbone.predict(z, times, backbone.encode(batch.captions), ground(backbone, batch))
            clean = backbone.x0(said, z, times)
        clean.requires_grad_()
        loss = everything(clip, lambda x: decoded(backbone, x), clean, layouts, every, every).local.sum()
        (slope,) = torch.autograd.grad(loss, clean)
        step = STEP * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        with torch.no_grad():
            before, after = (decoded(backbone, x) for x in (clean, clean - step))
        truth = torch.from_numpy(renders).permute(0, 3, 1, 2) / 255
        for true, old, new in zip(
            *(colours(pictures, some) for pictures in (truth, before, after)), strict=True
        ):
            was, now = (np.linalg.norm(one - true, axis=1) for one in (old, new))
            off.append((255 * was).tolist())
            nearer.append((now < was).astype(float).tolist())
    return [figure("off", off), figure("nearer", nearer)]


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="goal_slope.py", description=(__doc__ or "").split("\n\n")[0])
    top.add_argument("--n", type=int, default=64, help="scenes (default: %(default)s)")
    top.add_argument("--out", type=Path, help="rows for `trueline results`")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.n < 1:
        raise ValueError(f"--n: must be 1 or more (got {options.n})")
    backbone = Pipeline.from_pretrained("world", dtype=torch.float32).backbone
    clip = goal_clip(GoalSettings(model="world"))
    scenes = [make_scene(SPLIT, place) for place in range(options.n)]
    command, rows = shlex.join(["python", "studies/goal_slope.py", *redacted_arguments(arguments)]), []
    for t in TIMES:
        for result in pulled(backbone, clip, scenes, t):
            rows.append(
                {
                    "benchmark": "DSAlign's pull",
                    "model": "world",
                    "method": "a step down D_local",
                    "metric": result.name,
                    "category": f"t = {t}",
                    "value": result.mean,
                    "low": result.low,
                    "high": result.high,
                    "n": result.n,
                    "images_per_prompt": 1,
                    "seeds": [t],
                    "protocol": f"held-out scenes, one-step pictures, a step of {STEP:g} in latents; n counts things",
                    "command": command,
                    "commit": commit(),
                }
            )
        print(t, *(f"{row['metric']} {row['value']:.3f}" for row in rows[-2:]), flush=True)
    if options.out:
        write_text(options.out, json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    entry(main)
