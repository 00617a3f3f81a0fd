"""Losses of guide methods against numbers that the authors' released code gave.

A few cases are cut to the size of ``tests/golden``; where the whole file is there, all of its cases are tested.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from shared_data import SHARED, needs

from trueline.layout import Region
from trueline.methods.attend_and_excite import excite_loss, subject_maps
from trueline.methods.attention_refocusing import car_loss, gated_loss, sar_loss
from trueline.methods.boxdiff import corner_loss, inner_loss, outer_loss
from trueline.methods.layout_guidance import inside_loss
from trueline.sampling.guidance import Subject, sharpened, smoothed
from trueline.sampling.masks import Cut, region_masks

WHOLE = SHARED / "golden" / "released_losses.npz"
FILES = {"cut": np.load(Path(__file__).parents[1] / "golden" / "released_losses.npz")}
if WHOLE.exists():
    FILES["whole"] = np.load(WHOLE)
END = 11  #: of the prompt, in the release's run that normalises up to it


class Case:
    """One case of a file: its inputs, and what the release made of them."""

    def __init__(self, file: str, name: str):
        self.file, self.name, self.exact = FILES[file], name, file == "whole"

    def __getitem__(self, part: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.file[f"{self.name}/{part}"], np.float64))

    def has(self, part: str) -> bool:
        return f"{self.name}/{part}" in self.file.files

    def tokens(self) -> list:
        return self["tokens"].long().tolist()

    def masks(self, cut: Cut, side: int = 16) -> torch.Tensor:
        regions = [Region("a thing", tuple(box)) for box in self["boxes"].tolist()]
        return region_masks(regions, side, side, cut).double()

    def check(self, loss: torch.Tensor, *parts: str, **maps: torch.Tensor) -> None:
        """The loss within 1e-6, and so its gradient; within 1e-5 where the maps were rounded to be cut."""
        assert loss.item() == pytest.approx(float(self["loss"]), abs=1e-6)
        close = {"rtol": 0, "atol": 1e-6} if self.exact else {"rtol": 1e-4, "atol": 1e-5}
        gradients = torch.autograd.grad(loss, list(maps.values())) if maps else ()
        for name, gradient in zip(maps, gradients, strict=True):
            part = "gradient" if name == "maps" else f"gradient_{name}"
            torch.testing.assert_close(gradient, self._gradient(part, gradient), **close)

    def _gradient(self, part: str, like: torch.Tensor) -> torch.Tensor:
        if not self.has("at"):
            return self[part]
        whole = torch.zeros(like.numel(), dtype=torch.float64)
        whole[self["at"].long()] = self[part]
        return whole.view(like.shape)


def cases(kind: str, number: int) -> pytest.MarkDecorator:
    """All cases of a kind in both files: ``number`` in the whole one."""
    found = {
        file: sorted({key.rsplit("/", 1)[0] for key in stored.files if key.startswith(kind)})
        for file, stored in FILES.items()
    }
    assert len(found.get("whole", range(number))) == number and found["cut"]
    skipped = [pytest.param(None, id="whole", marks=needs("golden"))] if "whole" not in found else []
    given = [
        pytest.param(Case(file, name), id=f"{file}-{name.partition('/')[2]}")
        for file, names in found.items()
        for name in names
    ]
    return pytest.mark.parametrize("case", given + skipped)


def picked(case: Case, maps: torch.Tensor) -> torch.Tensor:
    words = sharpened(maps.mean((0, 1)).unflatten(0, (16, 16)), range(1, END))
    return smoothed(torch.stack([words[..., token] for token in case.tokens()]))


@cases("attend-and-excite", 8)
def test_attend_and_excite(case):
    maps = case["maps"].requires_grad_(True)
    found = [Subject(str(token), (token,), (token,), ()) for token in case.tokens()]
    mean, to_end = maps.mean((0, 1)).unflatten(0, (16, 16)), "/plain/" in case.name
    case.check(excite_loss(subject_maps(mean, found, range(1, END), to_end)), maps=maps)


@cases("boxdiff", 12)
def test_boxdiff(case):
    """The inner term of a box of less than five cells is NaN in the release, and counts as 0 in its total."""
    maps = case["maps"].requires_grad_(True)
    own, masks = picked(case, maps), case.masks("round")
    inner, outer, corner = inner_loss(own, masks), outer_loss(own, masks), corner_loss(own, masks)
    for term, total in (("inner", inner.sum()), ("outer", outer.sum()), ("corner", corner.sum())):
        assert total.item() == pytest.approx(float(case[term].nan_to_num(0)), abs=1e-6), term
    assert inner.amax().item() == pytest.approx(float(case["foreground"]), abs=1e-6)
    case.check((inner + outer + corner).sum(), maps=maps)


def test_ours_is_another_boxdiff():
    """The control: the golden numbers tell the two rules apart."""
    case = Case("cut", "boxdiff/grid/2")
    own, masks = picked(case, case["maps"]), case.masks("round")
    assert abs(outer_loss(own, masks, official=False).sum() - case["outer"]) > 0.05
    assert abs(corner_loss(own, masks, official=False).sum() - case["corner"]) > 0.5


@cases("layout-guidance", 6)
def test_layout_guidance(case):
    """The mean over three layers: one in the middle, two in the up block; and over the objects."""
    mid, up = case["mid"].requires_grad_(True), case["up"].requires_grad_(True)
    losses = [
        inside_loss(probs[..., tokens].unflatten(1, (side, side)), mask)
        for probs, side in ((mid[0], 8), (up[0], 16), (up[1], 16))
        for tokens, mask in zip(case.tokens(), case.masks("floor", side), strict=True)
    ]
    case.check(torch.stack(losses).mean(), mid=mid, up=up)


@cases("attention-refocusing/car", 6)
def test_attention_refocusing_across_words(case):
    maps, masks = case["maps"].requires_grad_(True), case.masks("floor")
    owns = torch.eye(len(masks), dtype=torch.bool)
    case.check(car_loss(picked(case, maps), masks, owns, early="-step3/" in case.name), maps=maps)


def joint(case: Case) -> dict[str, torch.Tensor]:
    """The maps; or those in which the mean row of the box's places, of which alone the losses are, is each row."""
    return {"maps": case["maps"].requires_grad_(True)} if case.has("maps") else {}


@cases("attention-refocusing/sar", 3)
def test_attention_refocusing_across_places(case):
    maps, masks = joint(case), case.masks("floor").flatten(1)
    attention = maps["maps"][0, 0] if maps else case["row"].expand(256, -1)
    case.check(sar_loss(attention, masks, torch.eye(len(masks), dtype=torch.bool)), **maps)


@cases("attention-refocusing/gated", 3)
def test_attention_refocusing_across_grounding_tokens(case):
    maps, masks = joint(case), case.masks("floor").flatten(1)
    attention = maps["maps"][0, 0] if maps else case["row"].expand(256, -1)
    slots, owns = torch.eye(len(masks), 30, dtype=torch.float64), torch.eye(len(masks), dtype=torch.bool)
    loss = gated_loss(attention[None, :256, 256:], masks, owns, slots)
    case.check(loss, **maps)
    assert loss.item() == gated_loss(attention[None, :256, 256:], masks, owns, slots[:, None]).item(), (
        "by words"
    )
