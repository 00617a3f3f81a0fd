"""Whole guided steps as the released code takes them: refinement, its tests, and which loss is of which latents.

The released rules are written down once more here, by loops over cells, on diffusers' own nets; the golden losses
(``test_released_losses.py``) are what they start from. The latents they lead to are kept in
``tests/golden/released_steps.npz``. All in float64, so that no test turns on rounding.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.deprecated.stable_diffusion_attend_and_excite import (
    pipeline_stable_diffusion_attend_and_excite as diffusers_module,
)
from tiny import exact, sampled

from trueline.layout import Layout, Region
from trueline.methods.boxdiff import BoxDiff
from trueline.methods.layout_guidance import LayoutGuidance

pytestmark = pytest.mark.filterwarnings("ignore")

GOLDEN = Path(__file__).parents[1] / "golden" / "released_steps.npz"
STEPS, GUIDED, SCALE = 20, 10, 4.0
PROMPT = "a red apple and a blue car and a clock"
#: Of the map's 64 cells: 4 x 4, 3 x 5, and 2 x 2, which are too few for an inner term.
BOXES = {
    "a red apple": (0.05, 0.1, 0.45, 0.6),
    "a blue car": (0.55, 0.3, 0.95, 0.95),
    "a clock": (0.6, 0.05, 0.85, 0.25),
}
TOKENS = {"a red apple": (1, 2, 3), "a blue car": (5, 6, 7), "a clock": (9, 10)}
LAYOUT = Layout(PROMPT, [Region(phrase, box) for phrase, box in BOXES.items()], seed=5)


class Net:
    """The U-Net with what its cross-attention attends to, and diffusers' DDIM."""

    def __init__(self, backbone, prompt):
        self.unet, self.maps = backbone.unet, {}
        self.scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
        self.scheduler.set_timesteps(STEPS)
        ids = backbone.tokenizer(["", prompt], padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            self.empty, self.text = backbone.text_encoder(ids)[0].split(1)

    def __enter__(self):
        self.before = self.unet.attn_processors
        self.unet.set_attn_processor({name: self._keeping(name) for name in self.before})
        return self

    def __exit__(self, *_):
        self.unet.set_attn_processor(self.before)

    def _keeping(self, name):
        def attend(attn, hidden_states, encoder_hidden_states=None, **_):
            seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            split = attn.head_to_batch_dim
            query, key, value = (
                split(attn.to_q(hidden_states)),
                split(attn.to_k(seen)),
                split(attn.to_v(seen)),
            )
            probs = (query @ key.transpose(1, 2) * attn.scale).softmax(-1)
            if encoder_hidden_states is not None:
                self.maps[name] = probs
            return attn.to_out[0](attn.batch_to_head_dim(probs @ value))

        return attend

    def look(self, z, t):
        """The maps at latents that can be differentiated by; by the layers' names, (heads, cells, tokens)."""
        self.unet(z, t, encoder_hidden_states=self.text)
        return dict(self.maps)

    def step(self, z, t):
        with torch.no_grad():
            empty, cond = (
                self.unet(z, t, encoder_hidden_states=text).sample for text in (self.empty, self.text)
            )
            return self.scheduler.step(empty + SCALE * (cond - empty), t, z).prev_sample


def free(z):
    return z.detach().requires_grad_(True)


def boxdiff_terms(maps):
    """(inner terms, the sum of the others) by the golden rule: of each subject, cell by cell."""
    smooth = diffusers_module.GaussianSmoothing().double()
    mean = torch.cat([probs for probs in maps.values() if probs.shape[1] == 64]).mean(0)
    sharp = (100 * mean[:, 1:-1]).softmax(-1)
    inner, rest = [], 0.0
    for phrase, box in BOXES.items():
        own = sharp[:, TOKENS[phrase][-1] - 1].view(1, 1, 8, 8)
        own = smooth(torch.nn.functional.pad(own, (1, 1, 1, 1), mode="reflect"))[0, 0]
        left, top, right, bottom = (round(8 * edge) for edge in box)
        inside = [own[y, x] for y in range(top, bottom) for x in range(left, right)]
        others = [
            own[y, x] for y in range(8) for x in range(8) if not (top <= y < bottom and left <= x < right)
        ]
        if len(inside) >= 5:
            inner.append(1 - torch.stack(inside).sort().values[-(len(inside) // 5) :].mean())
        rest = rest + torch.stack(others).sort().values[-(len(others) // 5) :].mean()
        for shadow, low, high in ((own.amax(0), left, right), (own.amax(1), top, bottom)):
            cells = {cell for edge in (low, high) for cell in (edge - 1, edge, edge + 1) if 0 <= cell < 8}
            rest = rest + sum((shadow[cell] - float(low <= cell < high)).abs() for cell in cells) / 8
    return inner, rest


def released_boxdiff(net, z, thresholds, most, scale):
    """The latents after each step, and how often each step's refinement moved them."""
    reached, moves = [], []
    for index, t in enumerate(net.scheduler.timesteps[:GUIDED]):
        size, z = scale * math.sqrt(1 - 0.5 * index / (STEPS - 1)), free(z)
        inner, rest = boxdiff_terms(net.look(z, t))
        loss, wanted, moves = max(inner), 1 - thresholds.get(index, -1), [*moves, 0]
        while loss > wanted and moves[-1] < most:
            z = free(z)
            inner, _ = boxdiff_terms(net.look(z, t))
            loss, moves[-1] = max(inner), moves[-1] + 1
            z = z - size * torch.autograd.grad(loss, z)[0]
        if moves[-1]:
            z = free(z)
            inner, _ = boxdiff_terms(net.look(z, t))  # and ``rest`` is still that of the step's first latents
        (gradient,) = torch.autograd.grad(sum(inner) + rest, z)
        z = net.step(z - size * gradient, t)
        reached.append(z)
    return torch.cat(reached), moves


def layout_loss(maps, subjects):
    layers = [probs for name, probs in maps.items() if name.startswith(("mid", "up"))]
    assert {probs.shape[1] for probs in layers} == {16, 64}
    total = 0.0
    for probs in layers:
        side = math.isqrt(probs.shape[1])
        for phrase, box in subjects.items():
            left, top, right, bottom = (int(side * edge) for edge in box)
            own = probs[..., list(TOKENS[phrase])].unflatten(1, (side, side))
            share = own[:, top:bottom, left:right].sum((1, 2)) / own.sum((1, 2))
            total = total + ((1 - share) ** 2).mean() / len(layers) / len(subjects)
    return total


def released_layout_guidance(net, z, subjects, enough, most, scale, guided):
    """The latents after each step, and how often each step moved them. ``loss`` is never reset."""
    loss, reached, moves = torch.inf, [], []
    for index, t in enumerate(net.scheduler.timesteps[:GUIDED]):
        moves.append(0)
        while loss > enough and moves[-1] < most and index < guided:
            z = free(z)
            value = layout_loss(net.look(z, t), subjects)
            variance = 1 - float(net.scheduler.alphas_cumprod[t])
            z = z - scale * variance * torch.autograd.grad(value, z)[0]
            loss, moves[-1] = float(value), moves[-1] + 1
        z = net.step(z, t)
        reached.append(z)
    return torch.cat(reached), moves


def ours(backbone, layouts, method, noise):
    steps = sampled(backbone, layouts, [method], STEPS, SCALE, latents=noise)
    return torch.stack([next(steps).z for _ in range(GUIDED)], 1).double()


@pytest.fixture(scope="module")
def net(plain):
    return exact(plain)


def noise(seed):
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


THRESHOLDS = {0: 0.0597, 4: 0.064, 8: 0.08}
BOXDIFF = BoxDiff(
    cells=8, refinements=6, thresholds=tuple((index / STEPS, least) for index, least in THRESHOLDS.items())
)
ALONE = [{phrase: BOXES[phrase]} for phrase in ("a red apple", "a blue car")]
LAYOUT_GUIDANCE = LayoutGuidance(scale=300.0, enough=0.6282, iterations=3, until=0.4)


def test_ten_steps_of_boxdiff(net):
    """Each of its refinements ends otherwise: a step after its threshold twice, at its sixth step at last."""
    kept = torch.from_numpy(np.load(GOLDEN)["boxdiff"]).double()
    with Net(net, PROMPT) as opened:
        again, moves = released_boxdiff(opened, noise(1).double(), THRESHOLDS, 6, 20.0)
    assert moves == [2, 0, 0, 0, 3, 0, 0, 0, 6, 0]
    torch.testing.assert_close(again, kept, rtol=0, atol=1e-5)
    with pytest.warns(
        UserWarning, match="the box of 'a clock' covers 4 of the map's cells, too few for the inner"
    ):
        got = ours(net, [LAYOUT], BOXDIFF, noise(1))[0]
    torch.testing.assert_close(got, kept, rtol=0, atol=1e-5)


def test_layout_guidance_ends_for_the_run(net):
    """The first picture reaches its loss in the sixth step, and would be above it in the seventh; the second does in
    the second step. Together as alone."""
    file = np.load(GOLDEN)
    kept = torch.stack([torch.from_numpy(file[f"layout-guidance/{row}"]).double() for row in (0, 1)])
    expected = [[3, 3, 3, 3, 3, 3, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0, 0, 0, 0, 0]]
    with Net(net, PROMPT) as opened:
        for row, subjects in enumerate(ALONE):
            again, moves = released_layout_guidance(
                opened, noise(row + 1).double(), subjects, enough=0.6282, most=3, scale=300.0, guided=8
            )
            assert moves == expected[row]
            torch.testing.assert_close(again, kept[row], rtol=0, atol=1e-5)
    layouts = [Layout(PROMPT, [Region(*only) for only in subjects.items()], seed=1) for subjects in ALONE]
    got = ours(net, layouts, LAYOUT_GUIDANCE, torch.cat([noise(1), noise(2)]))
    torch.testing.assert_close(got, kept, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "guided"), [(51, 10), (50, 10), (20, 4), (100, 20)])
def test_layout_guidance_guides_the_released_share_of_steps(steps, guided):
    assert sum(index / steps < LayoutGuidance().until for index in range(steps)) == guided


@pytest.mark.parametrize("method", [BOXDIFF, LAYOUT_GUIDANCE], ids=lambda m: type(m).__name__)
def test_ours_takes_other_steps(net, method):
    layout = (
        LAYOUT if method is BOXDIFF else Layout(PROMPT, [Region(*only) for only in ALONE[0].items()], seed=1)
    )
    released = ours(net, [layout], method, noise(1))[0]
    other = ours(net, [layout], method.model_copy(update={"official": False}), noise(1))[0]
    assert (released - other).abs().amax() > 1e-2
