"""Losses of guide methods against numbers that the authors' released code gave (``tests/golden/README.md``)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trueline.layout import Region
from trueline.methods.attend_and_excite import excite_loss, subject_maps
from trueline.methods.attention_refocusing import car_loss, gated_loss, sar_loss
from trueline.methods.boxdiff import inner_loss
from trueline.methods.layout_guidance import inside_loss
from trueline.sampling.guidance import Subject, sharpened, smoothed
from trueline.sampling.masks import region_masks

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "released_losses.npz")
END = 11  #: of the prompt, in the release's run that normalises up to it


def tensor(name: str, *shape: int) -> torch.Tensor:
    values = torch.from_numpy(GOLDEN[name].astype(np.float64))
    return values.view(*shape) if shape else values


def masks_of(name: str, side: int = 16) -> torch.Tensor:
    regions = [Region("a thing", tuple(map(float, box))) for box in GOLDEN[f"{name}/boxes"]]
    return region_masks(regions, side, side).double()


def picked(attention: torch.Tensor, name: str) -> torch.Tensor:
    words = sharpened(attention, range(1, END))
    return smoothed(torch.stack([words[..., token] for token in GOLDEN[f"{name}/tokens"].tolist()]))


def check_gradient(name: str, loss: torch.Tensor, maps: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(loss, maps)
    expected = torch.zeros(gradient.numel(), dtype=torch.float64)
    expected[GOLDEN[f"{name}/at"]] = tensor(f"{name}/gradient")
    torch.testing.assert_close(gradient.flatten(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "to_end"), [("plain", True), ("eot", False)])
def test_attend_and_excite(kind, to_end):
    maps = tensor("attend-and-excite/maps", 16, 16, 16).requires_grad_(True)
    tokens = GOLDEN["attend-and-excite/tokens"].tolist()
    found = [Subject(str(token), (token,), (token,), ()) for token in tokens]
    loss = excite_loss(subject_maps(maps, found, range(1, END), to_end))
    assert loss.item() == pytest.approx(float(GOLDEN[f"attend-and-excite/{kind}/loss"]), abs=1e-6)
    check_gradient(f"attend-and-excite/{kind}", loss, maps)


def test_the_inner_loss_of_boxdiff():
    """Its refinement's loss, and one of three terms. The others count otherwise: see the class."""
    maps, masks = picked(tensor("boxdiff/maps", 16, 16, 16), "boxdiff"), masks_of("boxdiff")
    inner = inner_loss(maps, masks, 0.2)
    assert inner.sum().item() == pytest.approx(float(GOLDEN["boxdiff/inner"]), abs=1e-6)
    assert inner.amax().item() == pytest.approx(float(GOLDEN["boxdiff/foreground"]), abs=1e-6)


def test_layout_guidance():
    """The mean over three layers: one in the middle, two in the up block."""
    middle, up = (tensor(f"layout-guidance/{name}").requires_grad_(True) for name in ("mid", "up"))
    layers = [(middle[0], 8), (up[0], 16), (up[1], 16)]
    losses = [
        inside_loss(probs.unflatten(1, (side, side)), masks_of("layout-guidance", side)[0])
        for probs, side in layers
    ]
    loss = torch.stack(losses).mean()
    assert loss.item() == pytest.approx(float(GOLDEN["layout-guidance/loss"]), abs=1e-6)
    for name, gradient in zip(("mid", "up"), torch.autograd.grad(loss, (middle, up)), strict=True):
        expected = tensor(f"layout-guidance/gradient_{name}")
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("step", "early"), [(3, True), (30, False)])
def test_attention_refocusing_across_words(step, early):
    name = "attention-refocusing/car"
    maps = tensor(f"{name}/maps", 16, 16, 16).requires_grad_(True)
    masks = masks_of(name)
    loss = car_loss(picked(maps, name), masks, torch.eye(len(masks), dtype=torch.bool), early)
    assert loss.item() == pytest.approx(float(GOLDEN[f"{name}-step{step}/loss"]), abs=1e-6)
    check_gradient(f"{name}-step{step}", loss, maps)


@pytest.mark.parametrize("kind", ["sar", "gated"])
def test_attention_refocusing_across_places(kind):
    """The loss depends on the mean row of the box's places alone, so that row stands for all of them here."""
    row, masks = (
        tensor(f"attention-refocusing/{kind}/row"),
        masks_of(f"attention-refocusing/{kind}").flatten(1),
    )
    attention, own = row.expand(256, -1), torch.ones(1, 1, dtype=torch.bool)
    if kind == "sar":
        loss = sar_loss(attention, masks, own)
    else:
        slots = torch.eye(30, dtype=torch.float64)[:1]
        loss = gated_loss(attention[None, :, 256:], masks, own, slots)
    assert loss.item() == pytest.approx(float(GOLDEN[f"attention-refocusing/{kind}/loss"]), abs=1e-6)
