"""One process of a ReFL training: ``test_two_processes.py`` runs it alone, and this file twice at a time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from tiny import tiny_backbone
from torch import Tensor
from training_builders import loop_of, stream
from transformers import CLIPTokenizer

from trueline.training.losses.refl import ReFL, ReflSettings
from trueline.training.objective import Batch, Losses, Nets
from trueline.training.parts import open_part
from trueline.training.rewards.weighted import Rewards
from trueline.training.settings import Optimisation, Validation
from trueline.training.validation import Validator

PICTURES = 4  #: of a step, over all processes
FALLS = {0: 0.1, 1: 0.5, 2: 0.4, 3: 0.3}


class Taste:
    """A smooth score of pixels, another for another prompt."""

    name = "taste"

    def __call__(self, images, prompts, generators=None) -> Tensor:
        likes = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(7)).to(images)
        gain = torch.tensor([len(prompt) / 10 for prompt in prompts]).to(images)
        return (gain * (images * likes).sum((1, 2, 3)) / 40).tanh()


class Noted:
    """The objective, and of each step: the late step, and which prompts this process saw."""

    def __init__(self, objective: ReFL):
        self.objective, self.late, self.prompts = objective, [], []

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        losses = self.objective(batch, nets)
        self.late.append(int(losses["late"]))
        self.prompts += [layout.prompt for layout in batch.layouts]
        return losses


def train(folder: Path, tokenizer: Path, processes: int, checkpointing: bool) -> dict:
    """Two steps, which a falling score ends; what this process saw, and the gradients of the last step."""
    torch.set_num_threads(1)
    backbone = tiny_backbone(CLIPTokenizer.from_pretrained(tokenizer), gated=False)
    backbone.enable_gradient_checkpointing(checkpointing)
    names = open_part(backbone, "attention", lora=2)
    torch.manual_seed(8)
    with torch.no_grad():
        for weight in names.values():
            weight.normal_(std=0.3)
    rewards = Rewards({"taste": (Taste(), 1.0)})
    objective = Noted(ReFL(rewards, ReflSettings(scale=1.0, sampling_steps=4, first=0, last=3), seed=3))
    plan = Optimisation(
        batch=PICTURES // processes,
        steps=4,
        warmup=0,
        lr=1e-3,
        clip=0,
        precision="fp32",
        log_every=1,
        save_every=9,
    )
    settings = Validation(every=1, patience=1)
    validator = Validator(settings, lambda step, _: {"held_out": FALLS[step]}, True, "held_out")
    fit = loop_of(
        folder,
        objective,
        Nets(backbone, {"rewards": rewards}),
        {f"unet.{n}": w for n, w in names.items()},
        stream(0),
        plan,
        statistics=rewards.running,
        validator=validator,
    )
    assert fit.accelerator.num_processes == processes
    list(fit)
    return {
        "step": fit.step,
        "late": objective.late,
        "prompts": objective.prompts,
        "gradients": {name: weight.grad.clone() for name, weight in fit.trained.items()},
        "weights": {name: weight.detach().clone() for name, weight in fit.trained.items()},
        "statistics": rewards.running["taste"].state.clone(),
        "best": fit.validator.best.state(),
    }


if __name__ == "__main__":
    home = Path(sys.argv[1])
    found = {
        str(sparing): train(home / f"two-{sparing}", home / "tokenizer", 2, sparing)
        for sparing in (False, True)
    }
    torch.save(found, home / f"process-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
