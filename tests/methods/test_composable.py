"""Composable Diffusion: the formula, what is composed, and the whole loop against one written out by hand."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny import sampled

from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods.composable import Composable, compose, split_prompt
from trueline.models.grounding import pack
from trueline.sampling.method import Method
from trueline.seeds import noise_generators

APPLE = Region("a red apple", (0.05, 0.3, 0.45, 0.7))
CAR = Region("a blue car", (0.5, 0.3, 0.95, 0.7), negative="the green chair")
SPLIT = Layout("a red apple | a blue car | the clock", seed=1)
REGIONS = Layout("a red apple to the left of a blue car", [APPLE, CAR], seed=2, negative_prompt="clock")
BARE = Layout("a cat and a clock", seed=3)


def run(backbone, layouts, *methods, **options):
    return list(sampled(backbone, layouts, methods, **({"steps": 5} | options)))[-1].z


def first(backbone, layouts, *methods, **options):
    """The latents after the first of five steps."""
    return next(sampled(backbone, layouts, methods, **({"steps": 5} | options))).z


class Add(Method):
    amount: float = 5.0

    def combine(self, prediction, cond, uncond, z, ctx):
        return prediction + self.amount


@pytest.fixture
def counted(monkeypatch):
    """Rows of each pass through the U-Net, which runs as ever."""
    rows = []

    def watch(backbone):
        predict = backbone.predict
        monkeypatch.setattr(backbone, "predict", lambda z, *more: rows.append(len(z)) or predict(z, *more))
        return rows

    return watch


# The formula


def test_compose_golden():
    rng = np.random.default_rng(0)
    uncond, parts = rng.normal(size=(2, 1, 2, 2)), rng.normal(size=(2, 3, 1, 2, 2))
    weights = np.array([[7.5, -2.0, 0.5], [3.0, 0.0, 0.0]])
    expected = uncond.copy()
    for row in range(2):
        for part in range(3):
            expected[row] += weights[row, part] * (parts[row, part] - uncond[row])
    found = compose(*(torch.tensor(array) for array in (uncond, parts, weights)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_one_part_is_classifier_free_guidance_bit_for_bit_and_padding_has_no_part():
    uncond, cond = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = uncond + 7.3 * (cond - uncond)
    assert torch.equal(compose(uncond, cond[:, None], torch.full((2, 1), 7.3)), guided)
    padded = torch.stack([cond, uncond, uncond], dim=1)
    assert torch.equal(compose(uncond, padded, torch.tensor([[7.3, 0, 0]] * 2)), guided)


def test_a_part_and_its_opposite_cancel():
    uncond, cond = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = torch.stack([cond, cond], dim=1)
    torch.testing.assert_close(compose(uncond, both, torch.tensor([[5.0, -5.0]])), uncond)


# What is composed


def test_split_prompt():
    assert split_prompt(" a red apple|a blue car | ") == ["a red apple", "a blue car"]
    with pytest.raises(ValueError, match=r"prompt: '\| \|' has no words around its"):
        split_prompt("| |")


@pytest.mark.parametrize(
    ("settings", "layout", "expected"),
    [
        ({}, SPLIT, {"a red apple": 4, "a blue car": 4, "the clock": 4}),
        ({"weights": (2, -3)}, SPLIT, {"a red apple": 2, "a blue car": -3, "the clock": 4}),
        ({"weights": (None, -3)}, SPLIT, {"a red apple": 4, "a blue car": -3, "the clock": 4}),
        ({}, REGIONS, {"a red apple": 4, "a blue car": 4, "the green chair": -4}),
        ({"negative_weight": 1}, REGIONS, {"a red apple": 4, "a blue car": 4, "the green chair": -1}),
        ({"negative_weight": 0}, REGIONS, {"a red apple": 4, "a blue car": 4}),
        ({}, BARE, {"a cat and a clock": 4}),
        ({}, Layout("two cats", [Region("cat", (0, 0, 0.4, 1)), Region("cat", (0.5, 0, 1, 1))]), {"cat": 4}),
        ({"weights": (1, 2)}, Layout("cat|cat"), {"cat": 3}),
        ({}, Layout("a | b", [CAR]), {"a": 4, "b": 4, "the green chair": -4}),
    ],
)
def test_parts(settings, layout, expected):
    assert Composable(**settings).parts(layout, 4) == expected


# The loop


def by_hand(backbone, layout, recipe, *, steps=5, scale_of_grounding=0.0):
    """DDIM with the formula written out, one U-Net row at a time."""
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
    scheduler.set_timesteps(steps)
    z = torch.randn(1, 4, 8, 8, generator=noise_generators([layout.seed])[0])
    grounding = null = None
    if scale_of_grounding:
        grounding = pack([layout], backbone.encode_phrases, backbone.max_regions, 32)
        null = grounding.null()
    with torch.no_grad():
        for t in scheduler.timesteps:
            nothing = backbone.encode([layout.negative_prompt])
            uncond = backbone.predict(z, t, nothing, null, scale_of_grounding)
            eps = uncond.clone()
            for text, weight in recipe:
                part = backbone.predict(z, t, backbone.encode([text]), grounding, scale_of_grounding)
                eps += weight * (part - uncond)
            z = scheduler.step(eps, t, z).prev_sample
    return z


def test_a_run_is_the_formula(plain):
    found = run(plain, [SPLIT], Composable(weights=(None, -3.0)), guidance_scale=4)
    expected = by_hand(plain, SPLIT, [("a red apple", 4), ("a blue car", -3), ("the clock", 4)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - run(plain, [SPLIT], guidance_scale=4)).abs().max() > 1e-2


def test_parts_see_the_grounding_of_their_picture(gated):
    recipe = [("a red apple", 4), ("a blue car", 4), ("the green chair", -2)]
    found = run(
        gated, [BARE, REGIONS], Composable(negative_weight=2), guidance_scale=4, grounding_schedule=(1, 0, 0)
    )
    expected = by_hand(gated, REGIONS, recipe, scale_of_grounding=1.0)
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=1e-4)
    assert (by_hand(gated, REGIONS, recipe) - expected).abs().max() > 1e-2, "grounding matters here"


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler", "pndm"])
@pytest.mark.parametrize("backbone", ["plain", "gated"])
def test_a_picture_does_not_depend_on_its_batch_mates(backbone, scheduler, request):
    backbone = request.getfixturevalue(backbone)
    batch = [SPLIT, REGIONS, BARE]
    # The weights of three parts add up to 9: rounding of the net grows that much.
    options = {"scheduler": scheduler, "guidance_scale": 3}
    together = run(backbone, batch, Composable(), **options)
    alone = torch.cat([run(backbone, [layout], Composable(), **options) for layout in batch])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_strength_zero_and_pictures_of_one_part_are_plain_bit_for_bit(gated):
    batch = [SPLIT, REGIONS, BARE]
    plain = run(gated, batch, guidance_scale=7.3)
    assert torch.equal(run(gated, batch, Composable(strength=0), guidance_scale=7.3), plain)
    composed = run(gated, batch, Composable(), guidance_scale=7.3)
    assert torch.equal(composed[2], plain[2])
    assert all((composed[row] - plain[row]).abs().max() > 1e-2 for row in (0, 1))
    # In one step the strength mixes linearly, as DDIM is linear in the prediction.
    ends = [first(gated, batch, Composable(strength=s)) for s in (0, 0.25, 1)]
    torch.testing.assert_close(ends[1], 0.75 * ends[0] + 0.25 * ends[2], rtol=0, atol=1e-5)
    assert (ends[2] - ends[0]).abs().max() > 1e-2


def test_the_prompt_is_not_predicted_twice(plain, counted):
    rows = counted(plain)
    run(plain, [BARE], Composable(), steps=2)
    assert rows == [2, 2]
    rows.clear()
    run(plain, [Layout("a red apple", [APPLE], seed=1)], Composable(), steps=2)
    assert rows == [2, 2], "the phrase is the prompt"
    rows.clear()
    run(plain, [SPLIT, REGIONS, BARE], Composable(), steps=1)
    assert rows == [6, 2, 2, 2], "the third parts are a clock and a negative"
    rows.clear()
    run(plain, [SPLIT], Composable(weights=(1, 0, 1)), steps=1)
    assert rows == [2, 1, 1], "a weight of 0 costs nothing"


def test_without_guidance_it_is_plain_and_says_so(plain, recwarn):
    expected = run(plain, [SPLIT], guidance_scale=1)
    with pytest.warns(UserWarning, match="guidance_scale: Composable does nothing without guidance"):
        assert torch.equal(run(plain, [SPLIT], Composable(), guidance_scale=1), expected)
    recwarn.clear()
    half = run(plain, [SPLIT], Composable(), guidance_interval=(0.5, 1), steps=4)
    assert not recwarn, "it acts in the other half"
    assert not torch.equal(half, run(plain, [SPLIT], guidance_interval=(0.5, 1), steps=4))


def test_what_other_methods_add_stays_added(gated):
    batch = [SPLIT, REGIONS, BARE]
    before, after = first(gated, batch, Add(), Composable()), first(gated, batch, Composable(), Add())
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)
    assert (before - first(gated, batch, Composable())).abs().min() > 0.1


def test_misuse_is_one_sentence(plain):
    with pytest.raises(
        ValueError, match=r"weights: has 3 entries but the prompt 'a \| b' has 2 parts; give at most"
    ):
        run(plain, [SPLIT, Layout("a | b")], Composable(weights=(1, 2, 3)))
    with pytest.raises(ValueError, match=r"prompt: .* write at least one part"):
        run(plain, [Layout("|")], Composable())


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 1.1},
        {"strength": float("nan")},
        {"weights": (101,)},
        {"weights": (float("nan"),)},
        {"negative_weight": -1},
        {"weight": 3},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(FieldError, match=next(iter(settings))):
        Composable(**settings)


def test_methods_that_act_on_the_prompt_are_said_to_be_in_vain(gated):
    class Stretched(Method):
        def text(self, text, layouts, backbone):
            return text.with_states(1.5 * text.states)

    batch = [SPLIT, REGIONS, BARE]
    steps = list(sampled(gated, batch, [Stretched(), Composable()], 2))
    sentence = "Composable predicts the parts and not the prompt, so Stretched cannot act"
    assert {row: times for (row, said), times in steps[-1].notes.items() if said == sentence} == {0: 1, 1: 1}
    composed = run(gated, batch, Composable(), steps=2)
    torch.testing.assert_close(steps[-1].z[:2], composed[:2], rtol=0, atol=1e-5)
    half = list(sampled(gated, batch, [Stretched(), Composable(strength=0.5)], 2))[-1]
    assert not any(said == sentence for _, said in half.notes)
    assert (half.z - run(gated, batch, Composable(strength=0.5), steps=2)).flatten(1).abs().amax(
        1
    ).min() > 1e-4
