"""Puts the finished nets of a build into the folders that ship: a diffusers checkpoint and, beside it, a CLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import CLIPModel

from trueline.backbone import Backbone

from .denoiser import MAX_REGIONS, make_scheduler
from .scenes import SIZE
from .vocabulary import words

if TYPE_CHECKING:
    from .build import Build

#: Shares of the sampling steps with the boxes on, fading, and off (GLIGEN's scheduled sampling).
GROUNDING_SCHEDULE = (0.4, 0.1, 0.5)
#: Of the steps, those with classifier-free guidance: at low noise it spoils colours (docs/world.md).
GUIDANCE_INTERVAL = (0.0, 0.5)
#: How the world's CLIP was shown its pictures: SIZE x SIZE, bicubic, values in -1..1.
CLIP_PICTURES = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True, "size": {"height": SIZE, "width": SIZE}, "resample": 3, "do_center_crop": False,
    "do_convert_rgb": True, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


def pack_world(build: Build, target: Path) -> int:
    """Write ``target``/pipeline and, if it is trained, ``target``/clip in float16; returns their bytes."""
    factor = json.loads((build.stage("latents") / "done.json").read_text())["scaling_factor"]
    polished = (build.stage("decoder") / "done.json").exists()
    vae = build.autoencoder("decoder" if polished else "vae")
    vae.register_to_config(scaling_factor=round(factor, 6), sample_size=SIZE)
    unet = build.unet("grounding")
    for net in (unet, vae):  # diffusers writes down the folder a net was loaded from, which no user has
        net.register_to_config(_name_or_path="world")
    settings = {
        "max_regions": MAX_REGIONS, "grounding_schedule": list(GROUNDING_SCHEDULE),
        "guidance_interval": list(GUIDANCE_INTERVAL), "vocabulary": list(words()),
    }  # fmt: skip
    backbone = Backbone(unet, vae, build.tower(), build.tokenizer, make_scheduler(), settings=settings)
    _replace(target / "pipeline", lambda folder: backbone.to(dtype=torch.float16).save_pretrained(folder))
    trained = build.stage("clip") / "final"
    if trained.exists():
        clip = CLIPModel.from_pretrained(trained).half()
        _replace(target / "clip", lambda folder: _save_clip(clip, build, folder))
    return sum(f.stat().st_size for f in target.rglob("*") if f.is_file())


def _save_clip(clip: CLIPModel, build: Build, folder: Path) -> None:
    clip.config.text_config._name_or_path = ""  # the folder of the tower that it was made from
    clip.save_pretrained(folder)
    build.tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP_PICTURES, indent=2) + "\n")


def _replace(folder: Path, write) -> None:
    """Write beside, then swap, so that a stop in between never leaves half a checkpoint."""
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    write(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
