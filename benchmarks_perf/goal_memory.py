"""The most memory of one full-size training step of GOAL: Stable Diffusion 1.4's GLIGEN with CLIP ViT-L/14.

    python benchmarks_perf/goal_memory.py --out results/goal-memory.json && trueline results

Random weights in the shapes of the checkpoints, one picture of 512 x 512 with two boxes, AdamW, the loop of `trueline
train goal` itself. Each case runs in a process of its own. Memory is the GPU's (the most that tensors took) where
there is one, else the most of the process after the nets were made (VmHWM of Linux). bf16 is autocast over weights in
float32, as everywhere in training here.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measured import LAYOUT, TOKENS, entry, origin, row, said
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from hcma_cost import SMALL_TEXT, SMALL_UNET, TEXT, UNET, memory, random_backbone, tokenizer
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from trueline.commands._parser import Parser
from trueline.models.stable_diffusion import StableDiffusion
from trueline.training.accelerator import make_accelerator
from trueline.training.clip import FrozenCLIP
from trueline.training.loop import TrainingLoop
from trueline.training.losses.goal import GoalObjective
from trueline.training.objective import Batch, Nets
from trueline.training.parts import open_part
from trueline.training.recipes.goal import GoalSettings

GOAL_GIB = 24.0  #: of bf16 with both checkpoints, at most
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
SMALL_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TRAINED = ("lora", "full")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="goal_memory.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--trained", nargs="+", choices=TRAINED, default=["lora"], help="default lora")
    top.add_argument("--rank", type=_positive, default=16, help="of the LoRA (default 16)")
    top.add_argument("--checkpointing", nargs="+", choices=("on", "off"), default=["on"], help="default on")
    top.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    top.add_argument(
        "--latent", type=_positive, default=64, help="side of the latents (default 64: 512 pixels)"
    )
    top.add_argument(
        "--steps", type=_positive, default=2, help="AdamW's state is there from the second on (default 2)"
    )
    top.add_argument("--threads", type=_positive, default=1, help="of the CPU (default 1)")
    top.add_argument("--small", action="store_true", help="small nets: to try the script, not to measure")
    top.add_argument("--out", type=Path, help="rows for `trueline results`, such as results/goal-memory.json")
    top.add_argument("--one", nargs=2, metavar=("TRAINED", "CHECKPOINTING"), help=argparse.SUPPRESS)
    return top


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {text})")
    return int(text)


# Nets


def nets(options: argparse.Namespace) -> tuple[StableDiffusion, FrozenCLIP]:
    """GLIGEN's U-Net, text encoder and VAE, and CLIP, with random weights."""
    small = options.small
    shape = (SMALL_UNET if small else UNET) | {"sample_size": options.latent}
    vision = SMALL_VISION if small else VISION
    words = tokenizer()
    text = (SMALL_TEXT if small else TEXT) | {"vocab_size": len(words), "max_position_embeddings": TOKENS}
    text |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    with init_empty_weights():
        backbone = random_backbone(shape, SMALL_TEXT if small else TEXT)
        backbone.vae = AutoencoderKL(
            **(SMALL_VAE if small else VAE),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=8 * options.latent,
            scaling_factor=0.18215,
        ).eval()
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=32 if small else 768)
        clip = CLIPModel(config)
    for net in (backbone.unet, backbone.text_encoder, backbone.vae, clip):
        fill(net)
        net.requires_grad_(False)
    side = vision["image_size"]
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return backbone, FrozenCLIP(clip, words, processor)


def fill(net: nn.Module) -> None:
    """Weights that nets begin with, in seconds: a million random numbers, over and over. Gates are open."""
    numbers = torch.randn(2**20, generator=torch.Generator().manual_seed(0)) * 0.02
    for module in net.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            made = torch.empty(weight.shape)
            if weight.ndim > 1:
                for part in made.view(-1).split(len(numbers)):
                    part.copy_(numbers[: len(part)])
            else:
                made.fill_(0.5 if weight.ndim == 0 else float(name.endswith("weight")))
            setattr(module, name, nn.Parameter(made))


@dataclass
class Same:
    """One picture, again and again, late in the schedule's clean half: DSAlign and MAAlign both count."""

    latents: torch.Tensor

    def batch(self, step: int, places: range) -> Batch:
        noise = torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(step))
        return Batch(self.latents, (LAYOUT,), noise, torch.tensor([400]), step=step)


# Measuring


def measured(options: argparse.Namespace, trained: str, checkpointing: bool) -> dict[str, float]:
    """GiB of the weights alone and at the most, seconds of a step, and how many parameters learn.

    Raises:
        RuntimeError: a step that was skipped, or a term that did not count.
    """
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, clip = nets(options)
    settings = GoalSettings(
        precision=options.precision,
        steps=options.steps,
        lora=options.rank if trained == "lora" else 0,
        log_every=1,
        save_every=10**9,
        checkpointing=checkpointing,
    )
    backbone.enable_gradient_checkpointing(settings.checkpointing)
    weights = open_part(backbone, settings.part, settings.position_net, settings.lora, settings.seed)
    stream = Same(torch.randn(1, *backbone.latent_size(), generator=torch.Generator().manual_seed(1)))
    with tempfile.TemporaryDirectory() as folder:
        nets_of = Nets(backbone, {"clip": clip})
        fit = TrainingLoop(
            Path(folder),
            partial(GoalObjective(), nets=nets_of),
            nets_of.modules,
            weights,
            stream,
            settings,
            make_accelerator(settings, device),
        )
        gc.collect()
        resting = reset(device)
        began, lines = time.perf_counter(), []
        for line in fit:
            lines.append(line)
            print(json.dumps(line), file=sys.stderr, flush=True)
            if fit.step == options.steps:
                break  # before the checkpoint is written, which is not measured
        most, took = peak(device), (time.perf_counter() - began) / options.steps
    if fit.skipped or not all(name in lines[-1] for name in ("dsa_local", "dsa_global", "maa_in", "maa_out")):
        raise RuntimeError(f"the step is not GOAL's whole step: {lines[-1]}")
    return {
        "resting_gib": resting,
        "peak_gib": most,
        "step_seconds": took,
        "trained_millions": sum(weight.numel() for weight in weights.values()) / 1e6,
    }


def reset(device: torch.device) -> float:
    """GiB in use now; the most is counted anew from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**30
    memory("VmHWM", reset=True)
    return memory("VmRSS")


def peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else memory("VmHWM")


def apart(arguments: Sequence[str], trained: str, checkpointing: str) -> dict[str, float]:
    """The same in a process of its own, so that no case has what another left.

    Raises:
        ValueError: it failed; memory may have been too little.
    """
    command = [sys.executable, __file__, *arguments, "--one", trained, checkpointing]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"{trained}, checkpointing {checkpointing}: exit code {done.returncode} (-9: out of memory)"
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# Rows

ABOUT = {
    "peak_gib": "most memory in the steps, GiB",
    "resting_gib": "memory before the first step, GiB: weights, and on the CPU the libraries too",
    "step_seconds": "wall seconds of a step",
    "trained_millions": "parameters that learn, millions",
}


def rows_of(name: str, found: dict[str, float], made: dict[str, Any], goal: bool) -> list[dict[str, Any]]:
    """Rows of ``trueline.evaluation.tables``. ``goal``: whether the case has one."""
    rows = []
    for metric, protocol in ABOUT.items():
        value = found[metric]
        if not math.isfinite(value):  # where the system is mute
            continue
        holds = "holds" if value <= GOAL_GIB else "**does not hold**"
        about = f"{protocol}; {made['where']}"
        aim = f"at most {GOAL_GIB:g}: {holds}" if goal and metric == "peak_gib" else None
        rows.append(row(made, "GOAL's memory", made["model"], name, metric, [value], about, aim))
    return rows


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.one:
        trained, checkpointing = options.one
        print(json.dumps(measured(options, trained, checkpointing == "on")))
        return 0
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    size = "small nets" if options.small else "GLIGEN 1.4 and CLIP ViT-L/14"
    made = origin("goal_memory.py", arguments)
    made["model"] = f"{size}, random weights"
    made["where"] = f"batch 1, {options.latent} x {options.latent} latents, {options.steps} steps; {device}"
    rows = []
    for trained in options.trained:
        for checkpointing in options.checkpointing:
            what = f"LoRA {options.rank}" if trained == "lora" else "full"
            name = f"{what}, {options.precision}, checkpointing {checkpointing}"
            found = apart(arguments, trained, checkpointing)
            wanted = options.precision == "bf16" and checkpointing == "on" and not options.small
            rows += rows_of(name, found, made, wanted and options.latent == 64)
    return said(rows, options.out)


if __name__ == "__main__":
    entry(main)
