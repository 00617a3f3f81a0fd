"""Where a method leads: into the boxes it was given, and not somewhere else.

The other generic tests (``test_every_method.py``) hold for a method with its masks turned inside out: its own loss
still falls, and its pictures still change. Here each method is measured against plain sampling by something that it
does not compute itself, on boxes that it was given and on the same boxes exchanged. Every method of the table is
here, or says why not.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar, NamedTuple

import pytest
import torch
from tiny import sampled
from torch import Tensor

from trueline.layout import Layout, Region
from trueline.methods import METHODS, make
from trueline.models.alignment import load_net
from trueline.models.alignment_loss import alignment_losses, targets
from trueline.sampling.method import Method
from trueline.sampling.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")

LEFT, RIGHT = (0.05, 0.35, 0.4, 0.75), (0.6, 0.35, 0.95, 0.75)
PROMPT = "a red apple and a blue car"
#: Where the words of both phrases stand in the prompt, each word one token, the start token 0.
TOKENS = {"a red apple": (1, 2, 3), "a blue car": (5, 6, 7)}
SEEDS = (1, 2)
#: Grounding off: boxes act through the method alone.
UNGROUNDED = (0.0, 0.0, 1.0)


def layouts(exchanged: bool = False) -> list[Layout]:
    """The same two things in their boxes, or each in the other's box."""
    boxes = (RIGHT, LEFT) if exchanged else (LEFT, RIGHT)
    regions = [Region(phrase, box) for phrase, box in zip(TOKENS, boxes, strict=True)]
    return [Layout(PROMPT, regions, seed=seed) for seed in SEEDS]


def first_step(backbone, given: Sequence[Layout], *methods: Method):
    """The first of eight steps, with its cross-attention: of moved latents, and as edited."""
    return next(
        sampled(
            backbone,
            given,
            methods,
            8,
            guidance_scale=4.0,
            grounding_schedule=UNGROUNDED,
            record=lambda site: site.kind == "cross",
        )
    )


def inside(box: Sequence[float], side: int) -> Tensor:
    """1 for each cell of a square map whose centre is in the box, 0 for the others; flat."""
    x0, y0, x1, y1 = box
    centres = (torch.arange(side) + 0.5) / side
    across, down = (centres > x0) & (centres < x1), (centres > y0) & (centres < y1)
    return (down[:, None] & across[None, :]).float().flatten()


# What is measured: one number per picture and region, of the boxes in ``layouts()``. Higher is better.


def attention_mass(backbone, given: Sequence[Layout], *methods: Method) -> Tensor:
    """The share of a phrase's cross-attention that is inside its box, mean over layers."""
    maps = first_step(backbone, given, *methods).maps
    shares = []
    for phrase, box in zip(TOKENS, (LEFT, RIGHT), strict=True):
        of_layers = []
        for probs in maps.values():
            seen = probs[..., list(TOKENS[phrase])].float().mean((1, 3))
            of_layers.append((seen * inside(box, math.isqrt(seen.shape[1]))).sum(1) / seen.sum(1))
        shares.append(torch.stack(of_layers).mean(0))
    return torch.stack(shares, 1)


def greatest_share(backbone, given: Sequence[Layout], *methods: Method) -> Tensor:
    """How far one place or another is for the word of the more neglected thing, and not for other words."""
    maps = first_step(backbone, given, *methods).maps.values()
    finest = [probs.float().mean(1) for probs in maps if probs.shape[2] == max(p.shape[2] for p in maps)]
    shares = (100 * torch.stack(finest).mean(0)[..., 1:-1]).softmax(-1)
    return torch.stack([shares[..., tokens[-1] - 1].amax(1) for tokens in TOKENS.values()], 1).amin(1)


class Latents(Method):
    """Keeps what the methods before it made of the latents of the first step."""

    kept: ClassVar[list[Tensor]] = []

    def guide(self, z, ctx):
        self.kept.append(z.clone())
        return z


def alignment(backbone, given: Sequence[Layout], *methods: Method) -> Tensor:
    """How well the latents inside the boxes fit their phrases, by the net that ships with the world."""
    net = load_net(make("hcma", {}).folder)
    Latents.kept.clear()
    step = first_step(backbone, given, *methods, Latents())
    wanted = targets(net, backbone, layouts())
    with torch.no_grad():
        t = torch.full((len(given),), step.t).long()
        aligned = net(Latents.kept[0], t, wanted.boxes, wanted.present)
        return -alignment_losses(aligned, wanted.caption, wanted.labels, wanted.present)[1]


def nearness(backbone, given: Sequence[Layout], *methods: Method) -> Tensor:
    """How near the clean latents inside each box are to those of the box's phrase drawn alone."""
    x0, rows = first_step(backbone, given, *methods).x0, []
    for phrase, box in zip(TOKENS, (LEFT, RIGHT), strict=True):
        alone = first_step(backbone, [Layout(phrase, seed=seed) for seed in SEEDS]).x0
        cells = inside(box, x0.shape[-1]).view(x0.shape[-2:])
        rows.append(-((x0 - alone) ** 2 * cells).sum((1, 2, 3)).sqrt())
    return torch.stack(rows, 1)


class Direction(NamedTuple):
    """How a method is measured. ``nets``: the checkpoint on which it has a signal; ``boxes``: it reads them."""

    measure: Callable[..., Tensor] = attention_mass
    settings: dict[str, object] | None = None
    nets: str = "world"
    boxes: bool = True


#: A method that guides or edits and is not here is measured by its attention mass, with its own settings.
DIRECTIONS = {
    # Released code cuts boxes by ``int()``: it leads half a cell up and left of where is measured.
    "attention-refocusing": Direction(settings={"official": False}),
    "attend-and-excite": Direction(greatest_share, {"cells": 8, "refinements": 0}, nets="tiny", boxes=False),
    "boxdiff": Direction(settings={"strength": 0.3}),  # at full length the first step alone overshoots
    "hcma": Direction(alignment),
    "multidiffusion": Direction(nearness, {"bootstrap": 0}),
}
#: Methods without a direction to measure, and why.
WITHOUT = {
    "composable": "it reads no boxes and leaves attention alone; its sum is compared in test_composable.py",
    "token-weights": "it reads no boxes; what its words gain is in test_edits_of_words.py",
    "perturbed-attention": "it reads no boxes; its sum is compared in test_perturbed_attention.py",
    "structured": "it reads no boxes and keeps attention as it is; its values are compared in test_structured.py",
}
MEASURED = {
    name: DIRECTIONS.get(name, Direction())
    for name, entry in METHODS.items()
    if name not in WITHOUT and (name in DIRECTIONS or {"guide", "edit"} & set(entry.hooks.split(", ")))
}


@pytest.fixture(scope="module")
def nets(plain):
    world = Pipeline.from_pretrained("world", device="cpu", dtype=torch.float32).backbone
    return {"tiny": plain, "world": world}


@pytest.fixture(scope="module")
def measured(nets):
    """What a method's direction measures of it, and of plain sampling without it."""
    once = cache(
        lambda measure, kind, method, exchanged: measure(
            nets[kind], layouts(exchanged), *([method] if method else [])
        )
    )

    def found(name: str, method: Method | None = None, exchanged: bool = False) -> Tensor:
        return once(MEASURED[name].measure, MEASURED[name].nets, method, exchanged)

    return found


def test_every_method_has_a_direction_or_says_why_not():
    assert set(MEASURED) | set(WITHOUT) == set(METHODS)
    assert not set(MEASURED) & set(WITHOUT) and set(DIRECTIONS) <= set(METHODS)
    assert all(len(reason) > 20 for reason in WITHOUT.values())


@pytest.mark.parametrize("name", MEASURED)
def test_a_method_leads_into_the_boxes_that_it_was_given(name, measured):
    method, plain = make(name, MEASURED[name].settings or {}), measured(name)
    led = measured(name, method)
    assert led.mean() > plain.mean() and (led > plain).float().mean() >= 0.75, "towards them"
    if MEASURED[name].boxes:
        misled = measured(name, method, exchanged=True)
        assert misled.mean() < led.mean(), "and not towards wherever it is easy"


@pytest.mark.parametrize("name", MEASURED)
def test_a_method_turned_round_does_not(name, measured):
    """The control: what is measured sees a step, or a pull, that has the wrong sign."""
    turned = make(name, MEASURED[name].settings or {}).model_copy(update={"strength": -1.0})
    assert measured(name, turned).mean() <= measured(name).mean()
