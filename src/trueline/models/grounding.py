"""GLIGEN's grounding: boxes and phrases as tokens, gated layers with a real scale, scheduled sampling.

Source: Li et al., "GLIGEN: Open-Set Grounded Text-to-Image Generation" (CVPR 2023), and its code
(gligen/GLIGEN, ``ldm/modules/attention.py``, ``text_grounding_net.py``, ``gligen_inference.py``). The nets
are diffusers' own. What differs: a batch holds different boxes per picture; the scale is per picture, so that
a picture without regions runs exactly as plain Stable Diffusion whatever its batch mates; position net and
Fourier features in float32 always.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import GatedSelfAttentionDense
from jaxtyping import Float
from torch import Tensor, nn

from trueline.layout import Layout
from trueline.models.schedules import check_schedule

RELEASED_SCHEDULE = (0.3, 0.0, 0.7)
"""GLIGEN's shipped text-box setting: grounding in the first 30 % of the steps, then none."""

RELEASED_SLOTS = 30
"""Grounding tokens of the released weights. The fuser has no mask: padding takes part in its softmax."""


@dataclass(frozen=True)
class Grounding:
    """Box tokens of a batch before the position net. A slot of mask 0 is a null token, whatever it holds."""

    boxes: Float[Tensor, "batch slots 4"]
    masks: Float[Tensor, "batch slots"]
    embeddings: Float[Tensor, "batch slots width"]

    def null(self) -> "Grounding":
        """The same shape with all slots null: GLIGEN's grounding of the unconditional branch."""
        return Grounding(*(torch.zeros_like(part) for part in self._parts()))

    def __getitem__(self, rows: slice | Sequence[int]) -> "Grounding":
        return Grounding(*(part[rows] for part in self._parts()))

    def to(self, device: torch.device | str) -> "Grounding":
        return Grounding(*(part.to(device) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.boxes, self.masks, self.embeddings

    @staticmethod
    def cat(groundings: Sequence["Grounding"]) -> "Grounding":
        """Stack along the batch, as in ``Grounding.cat([grounding.null(), grounding])`` for guidance."""
        return Grounding(*(torch.cat(parts) for parts in zip(*(g._parts() for g in groundings), strict=True)))


def pack(
    layouts: Sequence[Layout],
    encode_phrases: Callable[[list[str]], Float[Tensor, "phrases width"]],
    slots: int,
    width: int,
) -> Grounding:
    """One row per layout, padded with null tokens to ``slots``; each distinct ``Region.grounding_phrase`` is
    encoded once. On the CPU.

    Raises:
        ValueError: a layout has more regions than the backbone has slots.
    """
    phrases = list(dict.fromkeys(region.grounding_phrase for layout in layouts for region in layout.regions))
    encoded = encode_phrases(phrases).float().cpu() if phrases else torch.zeros(0, width)
    vectors = dict(zip(phrases, encoded, strict=True))
    batch = len(layouts)
    boxes, masks = torch.zeros(batch, slots, 4), torch.zeros(batch, slots)
    embeddings = torch.zeros(batch, slots, width)
    for row, layout in enumerate(layouts):
        count = len(layout.regions)
        if count > slots:
            raise ValueError(
                f"regions: this backbone takes at most {slots} regions in a picture (got {count})"
            )
        for slot, region in enumerate(layout.regions):
            boxes[row, slot] = torch.tensor(region.box.xyxy)
            embeddings[row, slot] = vectors[region.grounding_phrase]
        masks[row, :count] = 1
    return Grounding(boxes, masks, embeddings)


def alpha_schedule(steps: int, stages: Sequence[float]) -> list[float]:
    """Scheduled sampling: scale 1, then a linear decay, then 0, for the given fractions of the steps.

    GLIGEN's ``alpha_generator``: the decay of n steps is (n-1)/n, ..., 1/n, 0, and what rounding leaves over
    is 0. Unlike there, so few steps that both would round to none have one of scale 1, for boxes that were asked
    for must not go unheard.

    Raises:
        ValueError: not three fractions in 0..1 that sum to 1.
    """
    stages = check_schedule(stages)
    full, decay = (int(fraction * steps) for fraction in stages[:2])
    ramp = [k / decay for k in reversed(range(decay))]
    alphas = [1.0] * full + ramp + [0.0] * (steps - full - decay)
    if alphas and stages[0] + stages[1] > 0 and not any(alphas):
        alphas[0] = 1.0
    return alphas


def fusers(unet: nn.Module) -> list[GatedSelfAttentionDense]:
    """The gated layers, subclasses included; empty for a plain U-Net."""
    return [module for module in unet.modules() if isinstance(module, GatedSelfAttentionDense)]


@contextmanager
def fuser_scale(unet: nn.Module, scale: float | Float[Tensor, " rows"]) -> Iterator[None]:
    """Run the fusers at ``scale``, one number or one per batch row; their former state returns on leaving.

    GLIGEN: ``x += scale tanh(a) attn([x; o])``, then ``x += scale tanh(d) ff(x)``. diffusers knows only on
    and off (``enabled``). The two residuals are sequential, so mixing a fuser's input and output is another
    formula; scaling the output of its ``attn`` and of its ``ff`` is this one exactly.
    """
    layers = fusers(unet)
    enabled = [layer.enabled for layer in layers]
    handles = []

    def scaled(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if isinstance(scale, Tensor):
            return output * scale.to(output).view(-1, 1, 1)
        return output * scale

    try:
        for layer in layers:
            layer.enabled = True  # diffusers' GLIGEN pipeline leaves fusers disabled after a call
            handles += [part.register_forward_hook(scaled) for part in (layer.attn, layer.ff)]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, state in zip(layers, enabled, strict=True):
            layer.enabled = state


class _ReadyTokens(nn.Module):
    """Stands where the position net stood: its tokens are already made."""

    def __init__(self, tokens: Float[Tensor, "rows slots width"]):
        super().__init__()
        self.tokens = tokens

    def forward(self, **_: Tensor) -> Float[Tensor, "rows slots width"]:
        return self.tokens


def position_tokens(position_net: nn.Module, grounding: Grounding) -> Float[Tensor, "rows slots width"]:
    """The position net in float32, whatever the dtype of its weights and of autocast; gradients reach the
    weights.

    The highest Fourier frequency is 56: in bfloat16 its phase would be wrong by up to 0.2 rad.
    """
    weights = {name: weight.float() for name, weight in position_net.named_parameters()}
    device = next(iter(weights.values())).device
    boxes, masks, embeddings = (part.to(device, torch.float32) for part in grounding._parts())
    inputs = {"boxes": boxes, "masks": masks, "positive_embeddings": embeddings}
    with torch.autocast(device.type, enabled=False):
        return torch.func.functional_call(position_net, weights, args=(), kwargs=inputs)


@contextmanager
def grounded(
    unet: UNet2DConditionModel,
    grounding: Grounding | None,
    scale: float | Float[Tensor, " rows"],
    like: Float[Tensor, "rows c h w"],
) -> Iterator[dict[str, Any] | None]:
    """Ready the U-Net for one pass; yields its ``cross_attention_kwargs``.

    None, and nothing touched, when there is no grounding or its scale is 0 in all rows: then the fusers do
    not run. Tokens take device and dtype of ``like``, the U-Net's input.
    """
    off = not torch.as_tensor(scale).any()
    if grounding is None or off:
        yield None
        return
    tokens = position_tokens(unet.position_net, grounding).to(like)
    position_net = unet.position_net
    with fuser_scale(unet, scale):
        try:
            unet.position_net = _ReadyTokens(tokens)
            yield {"gligen": {}}
        finally:
            unet.position_net = position_net
