"""What is trained: which parameters of the U-Net, themselves or by a LoRA; and their running average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from trueline.training.settings import Part

Parameters = dict[str, nn.Parameter]
ADAPTER = "default"  #: the LoRA's name in the U-Net; diffusers' and Backbone.load_lora's own default


def belongs(name: str, part: Part, position_net: bool = True) -> bool:
    """Whether a parameter (or layer) of that name is of the part.

    "fusers": GLIGEN's gated layers and, with ``position_net``, the net that makes their tokens; "attention": the
    U-Net's own self- and cross-attention layers.
    """
    if name.startswith("position_net."):
        return position_net and part in ("fusers", "fusers+attention", "all")
    if ".fuser." in name:
        return part in ("fusers", "fusers+attention", "all")
    if ".attn1." in name or ".attn2." in name:
        return part in ("attention", "fusers+attention", "all")
    return part == "all"


def open_part(
    unet: UNet2DConditionModel, part: Part, position_net: bool = True, lora: int = 0, seed: int = 0
) -> Parameters:
    """Let that part of the U-Net learn, and nothing else of it; its parameters by name, float32.

    ``lora``: rank of a LoRA on each linear layer of the part, which learns in its stead; its first factor is random
    (``seed``), its second 0, so that it begins as no change.

    Raises:
        ValueError: the U-Net has no such part.
    """
    unet.requires_grad_(False)
    if part == "none":
        return {}
    if "fusers" in part and unet.config.attention_type != "gated":
        raise ValueError(
            "part: this U-Net has no grounding layers (fusers); use a GLIGEN checkpoint, or part=attention or all"
        )
    if lora:
        _add_lora(unet, part, position_net, lora, seed)
        return {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    found = {n: weight for n, weight in unet.named_parameters() if belongs(n, part, position_net)}
    for weight in found.values():
        weight.data = weight.data.float()
        weight.requires_grad_(True)
    return found


def _add_lora(unet: UNet2DConditionModel, part: Part, position_net: bool, rank: int, seed: int) -> None:
    from peft import LoraConfig

    layers = [
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and belongs(name, part, position_net)
    ]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), adapter_name=ADAPTER)


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

    def state(self) -> dict:
        return {"count": self.count, "values": self.values}

    def load(self, state: dict) -> None:
        self.count = state["count"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])
