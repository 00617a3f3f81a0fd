"""Grounding layers for a U-Net: made beside the plain weights, which stay as they are, and initialised.

Source of the layers: Li et al., "GLIGEN" (CVPR 2023); the nets are diffusers' own (``attention_type="gated"``).
"""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from trueline.models.backbone import Backbone
from trueline.models.grounding import fusers
from trueline.seeds import seed_torch


def is_grounding(name: str) -> bool:
    """Whether a parameter of the U-Net belongs to the grounding layers."""
    return "fuser" in name or name.startswith("position_net")


def with_grounding(unet: UNet2DConditionModel, seed: int = 0) -> UNet2DConditionModel:
    """The same U-Net with grounding layers of its own: gates at 0, null features 0, the rest as PyTorch draws it.

    That is GLIGEN's published start. All other weights are copied, bit for bit; grounding layers that ``unet`` has
    are left behind. The same seed makes the same layers.

    Raises:
        ValueError: a U-Net that reads several texts, or takes grounding of another kind.
    """
    config = unet.config
    if config.attention_type not in ("default", "gated"):
        raise ValueError(
            f"model: its U-Net has attention layers of type {config.attention_type!r}; boxes can be taught to a "
            "plain Stable Diffusion checkpoint"
        )
    if not isinstance(config.cross_attention_dim, int):
        raise ValueError("model: its U-Net reads texts of several widths; grounding layers need one")
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        made = UNet2DConditionModel.from_config({**config, "attention_type": "gated"})
    plain = {name: weight for name, weight in unet.state_dict().items() if not is_grounding(name)}
    fitted = made.load_state_dict(plain, strict=False)
    if fitted.unexpected_keys or not all(map(is_grounding, fitted.missing_keys)):
        raise ValueError(
            "model: its U-Net has layers that its config.json does not tell of, so it cannot be made again with "
            f"grounding layers ({(fitted.unexpected_keys or fitted.missing_keys)[0]})"
        )
    if unet.dtype != made.dtype:
        made = made.to(unet.dtype)
    made = made.to(unet.device).to(memory_format=torch.channels_last)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def prepare_grounding(unet: UNet2DConditionModel, phrases: Tensor) -> None:
    """Start the grounding layers so that they can be learned quickly (GLIGEN: default init, gates at 0).

    Phrase features are whitened by the first layer of the position net (they are nearly parallel otherwise),
    every linear layer keeps the variance of its input, gates start at 1 (zero-initialised gates see no gradient
    that says what boxes mean). ``phrases``: features (phrases, width) of at least two phrases of the data.
    """
    mean = phrases.mean(0)
    u, s, _ = torch.linalg.svd((phrases - mean).T @ (phrases - mean) / len(phrases))
    whiten = u @ torch.diag((s + 1e-3 * s.max()).rsqrt()) @ u.T
    for module in unet.position_net.linears:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=(2 / module.in_features) ** 0.5)
            nn.init.zeros_(module.bias)
    first = unet.position_net.linears[0]
    width = phrases.shape[1]
    first.weight[:, :width] = first.weight[:, :width] @ whiten
    first.bias.copy_(-(first.weight[:, :width] @ mean))
    unet.position_net.null_positive_feature.copy_(mean)
    for name, module in unet.named_modules():
        if name.endswith("fuser"):
            nn.init.normal_(module.linear.weight, std=module.linear.in_features**-0.5)
            module.alpha_attn.fill_(1.0)
            module.alpha_dense.fill_(1.0)


def gates(backbone: Backbone) -> dict[str, float]:
    """Mean |tanh| of the gates of attention and feed-forward; {} for a U-Net without grounding layers.

    The loss does not show whether grounding is learned (IGLIGEN's issue 5), and gates that stay small are what users
    report when boxes are ignored (GLIGEN's issue 97).
    """
    layers = fusers(backbone.denoiser)
    if not layers:
        return {}
    raw = {
        "gate_attn": [layer.alpha_attn for layer in layers],
        "gate_ff": [layer.alpha_dense for layer in layers],
    }
    return {name: float(torch.stack(list(g)).detach().tanh().abs().mean()) for name, g in raw.items()}
