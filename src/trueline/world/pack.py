"""Puts the finished nets of a build into the folders that ship: a diffusers checkpoint, and nets for perception."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, CLIPModel

from trueline.models.stable_diffusion import StableDiffusion
from trueline.world.denoiser import MAX_REGIONS, make_scheduler
from trueline.world.scenes import SIZE
from trueline.world.seer import load_seer
from trueline.world.vocabulary import words
from trueline.world.workspace import Workspace

#: Shares of the sampling steps with the boxes on, fading, and off (GLIGEN's scheduled sampling).
GROUNDING_SCHEDULE = (0.7, 0.1, 0.2)
#: Of the steps, those with classifier-free guidance: at low noise it spoils colours (docs/world.md).
GUIDANCE_INTERVAL = (0.0, 0.7)
GUIDANCE_SCALE = 4.0
#: How the nets for perception were shown their pictures: SIZE x SIZE, bicubic, values in -1..1.
PICTURES = {
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 3,
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
CLIP_PICTURES = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, **PICTURES}
BLIP_PICTURES = {"image_processor_type": "BlipImageProcessor", **PICTURES}


def pack_world(work: Workspace, target: Path) -> int:
    """Write ``target``/pipeline and, of clip, captioner, matcher and seer, those that are trained, in float16.

    Returns the bytes of all files in ``target``.
    """
    factor = json.loads((work.stage("latents") / "done.json").read_text())["scaling_factor"]
    vae = work.finished_autoencoder
    vae.register_to_config(scaling_factor=round(factor, 6), sample_size=SIZE)
    unet = work.unet("grounding")
    for net in (unet, vae):  # diffusers writes down the folder a net was loaded from, which no user has
        net.register_to_config(_name_or_path="world")
    settings = {
        "max_regions": MAX_REGIONS,
        "grounding_schedule": list(GROUNDING_SCHEDULE),
        "guidance_scale": GUIDANCE_SCALE,
        "guidance_interval": list(GUIDANCE_INTERVAL),
        "vocabulary": list(words()),
    }
    backbone = StableDiffusion(unet, vae, work.tower(), work.tokenizer, make_scheduler(), settings=settings)
    _replace(target / "pipeline", lambda folder: backbone.to(dtype=torch.float16).save_pretrained(folder))
    pack_perception(work, target)
    return sum(f.stat().st_size for f in target.rglob("*") if f.is_file())


def pack_perception(work: Workspace, target: Path) -> list[str]:
    """Write those of ``target``/clip, /captioner, /matcher and /seer that are trained; returns their names."""
    packed = []
    for name, save in PERCEPTION.items():
        trained = work.stage(name) / "final"
        if trained.exists():
            _replace(target / name, lambda folder, save=save, trained=trained: save(trained, work, folder))
            packed.append(name)
    return packed


def _save_clip(trained: Path, work: Workspace, folder: Path) -> None:
    clip = CLIPModel.from_pretrained(trained).half()
    clip.config.text_config._name_or_path = ""  # the folder of the tower that it was made from
    clip.save_pretrained(folder)
    _save_inputs(work, folder, CLIP_PICTURES)


def _save_blip(trained: Path, work: Workspace, folder: Path, kind: Any) -> None:
    kind.from_pretrained(trained).half().save_pretrained(folder)
    _save_inputs(work, folder, BLIP_PICTURES)


def _save_seer(trained: Path, work: Workspace, folder: Path) -> None:
    seer = load_seer(trained).half()
    seer.register_to_config(_name_or_path="world")
    seer.save_pretrained(folder)


def _save_inputs(work: Workspace, folder: Path, pictures: dict) -> None:
    """What reads the texts and the pictures for the net in ``folder``."""
    work.tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")


#: Stages whose nets ship next to the pipeline -> what writes them.
PERCEPTION = {
    "clip": _save_clip,
    "captioner": partial(_save_blip, kind=BlipForConditionalGeneration),
    "matcher": partial(_save_blip, kind=BlipForImageTextRetrieval),
    "seer": _save_seer,
}


def _replace(folder: Path, write) -> None:
    """Write a temporary folder, then swap, so that a stop in between never leaves half a checkpoint."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
