"""What is trained: which parameters of the U-Net, themselves or by a LoRA; and their running average."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trueline.models.backbone import Backbone, Part
from trueline.seeds import seed_torch

Parameters = dict[str, nn.Parameter]
ADAPTER = "default"  #: the LoRA's name in the U-Net; diffusers' and Backbone.load_lora's own default


def open_part(
    backbone: Backbone, part: Part, position_net: bool = True, lora: int = 0, seed: int = 0
) -> Parameters:
    """Let that part of the denoiser learn, and nothing else of it; its parameters by name, float32.

    ``lora``: rank of a LoRA on each linear layer of the part, which learns instead of it; its first factor is random
    (``seed``), its second 0, so that it begins as no change.

    Raises:
        ValueError: the denoiser has no such part.
    """
    net = backbone.denoiser
    net.requires_grad_(False)
    chosen = backbone.trainable(part, position_net)
    if lora and chosen:
        _add_lora(net, chosen, lora, seed)
        return {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    for weight in chosen.values():
        weight.data = weight.data.float()
        weight.requires_grad_(True)
    return chosen


def _add_lora(net: Any, chosen: Parameters, rank: int, seed: int) -> None:
    from peft import LoraConfig

    layers = [
        name
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear) and f"{name}.weight" in chosen
    ]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        seed_torch(seed)
        net.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), adapter_name=ADAPTER)


class Average:
    """Exponential moving average of parameters, by name, in float32.

    It begins as a plain average: after n updates the decay is at most (1 + n) / (10 + n).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.decay, self.count = decay, 0
        self.values = {name: weight.detach().float().clone() for name, weight in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        own = [parameters[name].float() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), own, 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, value in self.values.items():
            parameters[name].copy_(value)

    @contextmanager
    def shown(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """The averages stand where the parameters stood; those return on leaving."""
        before = {name: parameters[name].detach().clone() for name in self.values}
        try:
            self.copy_to(parameters)
            yield
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    parameters[name].copy_(value)

    def load(self, count: int, values: Mapping[str, torch.Tensor]) -> None:
        """Go on from averages of ``count`` updates."""
        self.count = count
        for name, value in self.values.items():
            value.copy_(values[name])
