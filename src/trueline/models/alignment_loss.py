"""The losses of HCMA's alignment, their gradient with respect to noisy latents, and the length of a step.

Formulas by the numbers of ``models.alignment``. No U-Net takes part; everything is per picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trueline.layout import Layout
from trueline.models.alignment import Aligned, AlignmentNet, Boxes, Latents, Slots, Times
from trueline.models.backbone import Backbone
from trueline.models.devices import at_least_float32

Weighting = Literal["fixed", "gradient", "complexity"]
Rule = Literal["constant", "norm"]
PerPicture = Float[Tensor, " batch"]


@dataclass(frozen=True)
class AlignmentTargets:
    """What a batch of layouts wants: text features of captions and labels, boxes, and which slots hold a region."""

    caption: Float[Tensor, "batch d_t"]
    labels: Float[Tensor, "batch regions d_t"]
    boxes: Boxes
    present: Bool[Tensor, "batch regions"]


def targets(net: AlignmentNet, backbone: Backbone, layouts: Sequence[Layout]) -> AlignmentTargets:
    """Of the prompts, and of the regions' phrases (the paper's category labels), on the net's device.

    Float32. As many slots as the layout with most regions has, none if none has any.
    """
    phrases = [region.phrase for layout in layouts for region in layout.regions]
    features = net.text_targets(backbone, [layout.prompt for layout in layouts] + phrases)
    batch, most = len(layouts), max(len(layout.regions) for layout in layouts)
    # On the CPU, and moved once: on a GPU each box by itself would be a copy of its own.
    boxes = torch.zeros(batch, most, 4, dtype=features.dtype)
    present = torch.zeros(batch, most, dtype=torch.bool)
    for row, layout in enumerate(layouts):
        for slot, region in enumerate(layout.regions):
            boxes[row, slot] = torch.tensor(region.box.xyxy)
        present[row, : len(layout.regions)] = True
    present = present.to(features.device)
    labels = features.new_zeros(batch, most, features.shape[1])
    labels[present] = features[batch:]  # row by row, as the phrases are
    return AlignmentTargets(features[:batch], labels, boxes.to(features.device), present)


def alignment_losses(
    aligned: Aligned,
    caption: Float[Tensor, "batch d_t"],
    labels: Float[Tensor, "batch regions d_t"],
    present: Slots,
) -> tuple[PerPicture, PerPicture]:
    """L_G and L_L, 0..2 each: (7) and (11). L_L is 0 for a picture without regions (the paper's 1/M has no value)."""
    globe, local = map(at_least_float32, aligned)
    held = present.to(local.dtype)
    of_boxes = (1 - F.cosine_similarity(local, labels.to(local), dim=-1)) * held
    return (
        1 - F.cosine_similarity(globe, caption.to(globe), dim=-1),
        of_boxes.sum(1) / held.sum(1).clamp(min=1),
    )


def complexity_weights(count: Int[Tensor, " batch"]) -> tuple[PerPicture, PerPicture]:
    """Factors of lambda_1 and lambda_2 by the number of boxes M: 2 / (1 + M) and 2 M / (1 + M).

    As if the caption and each label had one share of a sum of 2: M = 1 is the fixed weighting, and so is M = 0, where
    the local loss is 0.
    """
    boxes = count.clamp(min=1).float()
    return 2 / (1 + boxes), 2 * boxes / (1 + boxes)


def balance_weights(globe: Latents, local: Latents) -> tuple[PerPicture, PerPicture]:
    """Factors that give both gradients of a picture the mean of their norms; 1 and 1 where one of them is 0."""
    one, other = (gradient.flatten(1).norm(dim=1) for gradient in (globe, local))
    mean = (one + other) / 2
    both = (one > 0) & (other > 0)
    first, second = (torch.where(both, mean / norm, 1.0) for norm in (one, other))
    return first, second


def alignment_gradient(
    net: AlignmentNet,
    z: Latents,
    t: Times,
    wanted: AlignmentTargets,
    weights: tuple[float, float] = (1.0, 1.0),
    weighting: Weighting = "fixed",
) -> tuple[PerPicture, Latents]:
    """lambda_1 L_G + lambda_2 L_L of each picture and its gradient with respect to its unit-variance latents.

    In the net's own dtype, without autocast. ``weights``: (lambda_1, lambda_2). ``weighting`` (the paper fixes the
    two, and names adaptive ones as future work): "fixed"; "gradient", which makes the two gradients equally long
    before lambda (``balance_weights``, constants to the gradient); "complexity" (``complexity_weights``). Where one
    lambda is 0, there is nothing to weigh: it is "fixed".
    """
    weighting = weighting if all(weights) else "fixed"
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        moved = z.detach().to(net.text_projection.dtype).requires_grad_(True)
        aligned = net(moved, t, wanted.boxes.to(moved), wanted.present)
        globe, local = alignment_losses(aligned, wanted.caption, wanted.labels, wanted.present)
        first, second = torch.full_like(globe, weights[0]), torch.full_like(local, weights[1])
        if weighting == "complexity":
            factors = complexity_weights(wanted.present.sum(1))
            first, second = first * factors[0], second * factors[1]
        if weighting != "gradient":
            loss = first * globe + second * local
            # Rows do not touch each other in this net: the gradient of the sum is each row's own.
            return loss.detach(), torch.autograd.grad(loss.sum(), moved)[0]
        of_globe = torch.autograd.grad(globe.sum(), moved, retain_graph=True)[0]
        of_local = torch.autograd.grad(local.sum(), moved)[0]
    factors = balance_weights(of_globe, of_local)
    first, second = first * factors[0], second * factors[1]
    gradient = first.view(-1, 1, 1, 1) * of_globe + second.view(-1, 1, 1, 1) * of_local
    return (first * globe + second * local).detach(), gradient


# The step


def ideal_displacement(alpha: Any, sigma: Any, next_alpha: Any, next_sigma: Any) -> Any:
    """RMS per element of a DDIM step whose predictions are right, from one noise level to the next.

    z = alpha x0 + sigma noise with x0 and noise of unit variance moves by (d alpha) x0 + (d sigma) noise. Numbers or
    tensors. For Stable Diffusion's schedule and 50 steps .009 at the start, .038 near the end.
    """
    return ((next_alpha - alpha) ** 2 + (next_sigma - sigma) ** 2) ** 0.5


def step_of(gradient: Latents, rule: Rule, displacement: PerPicture | float) -> Latents:
    """What is taken from the latents, without eta (or beta).

    "constant": the gradient itself, the letter of (12). "norm": along the gradient, as long as the picture's
    reference displacement (RMS ``displacement`` in all elements); the form of sketch-guided diffusion, norms per
    picture. A gradient of 0 gives no step.
    """
    if rule == "constant":
        return gradient
    length = gradient.flatten(1).norm(dim=1).clamp(min=1e-30)
    reference = displacement * math.sqrt(gradient[0].numel())
    return gradient * (reference / length).view(-1, 1, 1, 1)
