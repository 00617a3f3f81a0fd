"""Puts the finished nets of a build into the folders that ship: a diffusers checkpoint, and nets that look."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, CLIPModel

from trueline.models.backbone import Backbone
from trueline.world.denoiser import MAX_REGIONS, make_scheduler
from trueline.world.scenes import SIZE
from trueline.world.seer import load_seer
from trueline.world.vocabulary import words

if TYPE_CHECKING:
    from trueline.world.build import Build

#: Shares of the sampling steps with the boxes on, fading, and off (GLIGEN's scheduled sampling).
GROUNDING_SCHEDULE = (0.7, 0.1, 0.2)
#: Of the steps, those with classifier-free guidance: at low noise it spoils colours (docs/world.md).
GUIDANCE_INTERVAL = (0.0, 0.7)
#: How the nets that look were shown their pictures: SIZE x SIZE, bicubic, values in -1..1.
PICTURES = {
    "do_resize": True, "size": {"height": SIZE, "width": SIZE}, "resample": 3,
    "do_convert_rgb": True, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip
CLIP_PICTURES = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, **PICTURES}
BLIP_PICTURES = {"image_processor_type": "BlipImageProcessor", **PICTURES}


def pack_world(build: Build, target: Path) -> int:
    """Write ``target``/pipeline and, of clip, captioner, matcher and seer, those that are trained, in float16.

    Returns the bytes of all files in ``target``.
    """
    factor = json.loads((build.stage("latents") / "done.json").read_text())["scaling_factor"]
    vae = build.finished_autoencoder
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
    pack_lookers(build, target)
    return sum(f.stat().st_size for f in target.rglob("*") if f.is_file())


def pack_lookers(build: Build, target: Path) -> list[str]:
    """Write those of ``target``/clip, /captioner, /matcher and /seer that are trained; returns their names."""
    packed = []
    for name, save in LOOKERS.items():
        trained = build.stage(name) / "final"
        if trained.exists():
            _replace(target / name, lambda folder, save=save, trained=trained: save(trained, build, folder))
            packed.append(name)
    return packed


def _save_clip(trained: Path, build: Build, folder: Path) -> None:
    clip = CLIPModel.from_pretrained(trained).half()
    clip.config.text_config._name_or_path = ""  # the folder of the tower that it was made from
    clip.save_pretrained(folder)
    _save_inputs(build, folder, CLIP_PICTURES)


def _save_captioner(trained: Path, build: Build, folder: Path) -> None:
    BlipForConditionalGeneration.from_pretrained(trained).half().save_pretrained(folder)
    _save_inputs(build, folder, BLIP_PICTURES)


def _save_matcher(trained: Path, build: Build, folder: Path) -> None:
    BlipForImageTextRetrieval.from_pretrained(trained).half().save_pretrained(folder)
    _save_inputs(build, folder, BLIP_PICTURES)


def _save_seer(trained: Path, build: Build, folder: Path) -> None:
    seer = load_seer(trained).half()
    seer.register_to_config(_name_or_path="world")
    seer.save_pretrained(folder)


def _save_inputs(build: Build, folder: Path, pictures: dict) -> None:
    """What reads the texts and the pictures for the net in ``folder``."""
    build.tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")


#: Stages whose nets ship beside the pipeline -> what writes them.
LOOKERS = {"clip": _save_clip, "captioner": _save_captioner, "matcher": _save_matcher, "seer": _save_seer}


def _replace(folder: Path, write) -> None:
    """Write beside, then swap, so that a stop in between never leaves half a checkpoint."""
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    write(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
