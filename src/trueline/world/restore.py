"""Starts a build from the weights that ship, so that the world can be trained further without its checkpoints."""

import json
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
)

from trueline.models.grounding_layers import is_grounding
from trueline.world.denoiser import make_unet
from trueline.world.seer import load_seer
from trueline.world.workspace import Workspace


def restore(work: Workspace, weights: Path) -> list[str]:
    """Fill the folders of the stages that ``weights`` (as :mod:`.pack` writes them) hold; returns their names.

    A stage that has begun is left alone, and so are captioner, matcher and seer where ``weights`` lacks them. The
    restored nets are float16 rounded and averaged ones, without the optimiser's state: training further warms up
    again and is not the run that would have gone on.
    """
    pipeline = weights / "pipeline"
    gated = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    plain = make_unet(gated=False)
    plain.load_state_dict({n: v for n, v in gated.state_dict().items() if not is_grounding(n)})
    vae = AutoencoderKL.from_pretrained(pipeline / "vae")
    nets = {
        "tokenizer": CLIPTokenizer.from_pretrained(pipeline / "tokenizer"),
        "text": CLIPTextModel.from_pretrained(pipeline / "text_encoder").float(),
        "vae": vae,
        "decoder": vae,
        "unet": plain,
        "grounding": gated,
        "clip": CLIPModel.from_pretrained(weights / "clip").float(),
    }
    blips = {"captioner": BlipForConditionalGeneration, "matcher": BlipForImageTextRetrieval}
    for name, kind in blips.items():
        if (weights / name).exists():
            nets[name] = kind.from_pretrained(weights / name).float()
    if (weights / "seer").exists():
        nets["seer"] = load_seer(weights / "seer")
    restored = []
    for stage, net in nets.items():
        folder = work.stage(stage)
        if any(folder.iterdir()):
            continue
        net.save_pretrained(folder if stage == "tokenizer" else folder / "final")
        (folder / "done.json").write_text(json.dumps({"restored": True, "seconds": 0}) + "\n")
        restored.append(stage)
    return restored
