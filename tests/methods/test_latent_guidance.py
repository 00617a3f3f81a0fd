"""Attend-and-Excite, BoxDiff, Layout-Guidance: golden numbers, parity, and the claims that all of them make."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.deprecated.stable_diffusion_attend_and_excite import (
    pipeline_stable_diffusion_attend_and_excite as diffusers_module,
)
from numpy_maps import numpy_smooth, numpy_softmax
from tiny import sampled

from trueline.layout import Layout, Region
from trueline.methods import make, of_record
from trueline.methods.attend_and_excite import AttendAndExcite, excite_loss, subject_maps
from trueline.methods.boxdiff import BoxDiff, corner_loss, inner_loss, outer_loss
from trueline.methods.layout_guidance import LayoutGuidance, inside_loss
from trueline.models.attention import Site
from trueline.sampling import guidance
from trueline.sampling.guidance import (
    Subject,
    cross_sites,
    evaluate,
    map_grid,
    mean_map,
    move,
    nearest_scale,
    sharpened,
    smoothed,
)
from trueline.sampling.method import Method
from trueline.sampling.pipeline import Pipeline

CAR = Layout("a red apple and a blue car", regions=[Region("a blue car", (0.5, 0.2, 1.0, 0.8))], seed=1)
TWO = Layout(
    "a red apple and a blue car",
    regions=[Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))],
    seed=2,
)
CATS = Layout(
    "a cat", regions=[Region("cat", (0.1, 0.5, 0.4, 0.9)), Region("cat", (0.6, 0.5, 0.9, 0.9))], seed=3
)
PLAIN = Layout("a green chair", seed=4)
GUIDED = [
    AttendAndExcite(cells=8),
    BoxDiff(cells=8),
    BoxDiff(cells=8, official=False),
    LayoutGuidance(),
    LayoutGuidance(official=False),
]


def run(backbone, layouts, *methods, steps=4, **options):
    return list(sampled(backbone, layouts, methods, steps, 4.0, **options))


def last(backbone, layouts, *methods, **options):
    return run(backbone, layouts, *methods, **options)[-1].z


# Golden numbers: the formulas again, in numpy and float64


@pytest.fixture
def attention():
    logits = np.random.default_rng(0).normal(size=(5, 6, 9)) * 0.3
    return numpy_softmax(logits)


def test_excite_loss_is_that_of_the_least_subject(attention):
    sharp = numpy_softmax(100 * attention[..., 1:-1])
    maxima = [numpy_smooth(sharp[..., token - 1]).max() for token in (2, 5)]
    found = [Subject("a", (1, 2), (2,), ()), Subject("b", (4, 5), (5,), ())]
    got = excite_loss(subject_maps(torch.from_numpy(attention), found, range(1, 6)))
    assert float(got) == pytest.approx(1 - min(maxima), abs=1e-9)
    both = (numpy_smooth(sharp[..., 1]) + numpy_smooth(sharp[..., 4])) / 2
    one = subject_maps(torch.from_numpy(attention), [Subject("ab", (2, 5), (2, 5), ())], range(1, 6))
    assert one[0].numpy() == pytest.approx(both, abs=1e-9)


def test_words_behind_the_end_can_be_left_out(attention):
    got = sharpened(torch.from_numpy(attention), range(1, 6), to_end=False).numpy()
    assert got[..., 1:6] == pytest.approx(numpy_softmax(100 * attention[..., 1:6]))
    assert not got[..., 0].any() and not got[..., 6:].any()


def test_smoothing_is_the_released_kernel():
    kernel = diffusers_module.GaussianSmoothing()
    picture = torch.rand(2, 7, 6)
    padded = torch.nn.functional.pad(picture[:, None], (1, 1, 1, 1), mode="reflect")
    assert torch.allclose(smoothed(picture), kernel(padded)[:, 0], atol=1e-7)


def test_boxdiff_losses_by_hand():
    mask = np.zeros((4, 5))
    mask[1:3, 1:4] = 1  # six cells; the greatest 50% are three, of the fourteen outside seven
    a = np.random.default_rng(1).random((4, 5))
    inside, outside = np.sort((a * mask).ravel())[::-1], np.sort((a * (1 - mask)).ravel())[::-1]
    maps, masks = torch.from_numpy(a)[None], torch.from_numpy(mask)[None]
    rows, columns = np.abs(a.max(1) - mask.max(1)), np.abs(a.max(0) - mask.max(0))
    # rows: box 1..2, so all four rows are within one cell of an edge; columns: box 1..3, edges at 1 and 4
    for official, count, corner in (
        (False, 3, rows.mean() + columns[[0, 1, 3, 4]].mean()),
        (True, 7, rows.sum() / 4 + columns.sum() / 5),
    ):
        assert float(inner_loss(maps, masks, 0.5, official)) == pytest.approx(1 - inside[:3].mean())
        assert float(outer_loss(maps, masks, 0.5, official)) == pytest.approx(outside[:count].mean())
        assert float(corner_loss(maps, masks, 1, official)) == pytest.approx(corner)
        perfect = torch.from_numpy(mask)[None]
        assert float(corner_loss(perfect, masks, 1, official)) == 0
        assert (
            float(outer_loss(perfect, masks, 0.2, official))
            == float(inner_loss(perfect, masks, 0.2, official))
            == 0
        )


def test_a_box_of_few_cells_has_no_inner_term_officially():
    maps = torch.rand(1, 4, 5, dtype=torch.float64).requires_grad_(True)
    masks = torch.zeros(1, 4, 5, dtype=torch.float64)
    masks[0, :2, :2] = 1  # 20% of four cells are none
    assert float(inner_loss(maps, masks)) == 0 and not inner_loss(maps, masks).requires_grad
    assert float(inner_loss(maps, masks, official=False)) == pytest.approx(1 - float(maps[0, :2, :2].max()))
    everywhere = torch.ones_like(masks)
    assert float(outer_loss(maps, everywhere)) == float(outer_loss(maps, everywhere, official=False)) == 0


def test_corners_at_the_edge_of_the_picture_have_no_cells_beyond_it():
    """A box from the first row to the last: the rows 0, 1 and the last, officially; without the second in ours."""
    a, mask = np.random.default_rng(4).random((6, 6)), np.zeros((6, 6))
    mask[:, 2:4] = 1
    maps, masks = torch.from_numpy(a)[None], torch.from_numpy(mask)[None]
    rows, columns = np.abs(a.max(1) - 1), np.abs(a.max(0) - mask.max(0))
    official = rows[[0, 1, 5]].sum() / 6 + columns[[1, 2, 3, 4, 5]].sum() / 6
    assert float(corner_loss(maps, masks)) == pytest.approx(official)
    ours = rows[[0, 5]].mean() + columns[[1, 2, 3, 4]].mean()
    assert float(corner_loss(maps, masks, official=False)) == pytest.approx(ours)


def test_layout_guidance_loss_by_hand():
    rng = np.random.default_rng(2)
    a, mask = rng.random((3, 4, 4, 2)), np.zeros((4, 4))
    mask[:2, 1:] = 1
    share = (a * mask[..., None]).sum((1, 2)) / a.sum((1, 2))
    got = inside_loss(torch.from_numpy(a), torch.from_numpy(mask))
    assert float(got) == pytest.approx(((1 - share) ** 2).mean())


@pytest.mark.parametrize(
    "loss",
    [
        lambda m: excite_loss(m),
        lambda m: inner_loss(m, MASKS).sum() + outer_loss(m, MASKS).sum() + corner_loss(m, MASKS).sum(),
        lambda m: inside_loss(m[..., None], MASKS[0]),
    ],
)
def test_gradients_agree_with_finite_differences(loss):
    maps = torch.rand(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(loss, maps.requires_grad_(True), eps=1e-6, atol=1e-5)


MASKS = torch.zeros(2, 4, 4, dtype=torch.float64)
MASKS[0, :2, :2] = 1
MASKS[1, 1:3, 2:] = 1


def test_maps_of_the_size_nearest_to_what_was_asked(gated):
    from trueline.models.attention import sites

    cross = [site for site in sites(gated.unet) if site.kind == "cross"]
    assert {site.scale for site in cross} == {1, 2}
    assert nearest_scale(cross, (8, 8), 16) == 1
    assert nearest_scale(cross, (8, 8), 4) == 2
    assert nearest_scale(cross, (8, 12), 6) == 1, "the finer of two that are as near"


def test_the_grid_of_a_map_rounds_up_as_the_nets_halving_does():
    assert map_grid(Site("x", "cross", "mid", 2), (9, 5)) == (5, 3)
    assert map_grid(Site("x", "cross", "down", 1), (16, 16)) == (16, 16)


# Parity


def test_attend_and_excite_equals_diffusers(plain):
    """Guided at every step, refined at the first and the third; the word is one token."""
    pipeline = diffusers_module.StableDiffusionAttendAndExcitePipeline(
        plain.vae,
        plain.text_encoder,
        plain.tokenizer,
        plain.unet,
        DDIMScheduler.from_config(plain.scheduler.config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    layout = Layout("a cat and a clock", regions=[Region("cat", (0, 0, 1, 1)), Region("clock", (0, 0, 1, 1))])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    ids = plain.tokenizer(layout.prompt).input_ids
    tokens = [ids.index(plain.tokenizer.convert_tokens_to_ids(f"{word}</w>")) for word in ("cat", "clock")]
    expected = pipeline(
        layout.prompt,
        tokens,
        height=64,
        width=64,
        num_inference_steps=5,
        guidance_scale=4.0,
        latents=noise.clone(),
        output_type="latent",
        max_iter_to_alter=5,
        thresholds={0: 0.9, 2: 0.95},
        scale_factor=7,
        attn_res=(8, 8),
    ).images
    method = AttendAndExcite(scale=7, until=1.0, thresholds=((0.0, 0.9), (0.4, 0.95)), cells=8)
    ours = last(plain, [layout], method, steps=5, latents=noise)
    assert not torch.allclose(ours, last(plain, [layout], steps=5, latents=noise), atol=1e-3), (
        "it does something"
    )
    assert torch.allclose(ours, expected, atol=1e-4)


# What every method of this family claims


@pytest.mark.parametrize("method", GUIDED, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'official', True)}")
def test_its_loss_falls(gated, method, monkeypatch):
    losses, look = [], guidance.evaluate

    def watched(*arguments):
        seen = look(*arguments)
        losses.append(float(seen.loss[0]))
        return seen

    for home in (guidance, sys.modules[type(method).__module__]):
        monkeypatch.setattr(home, "evaluate", watched, raising=False)
    changed = {"until": 0.01, "scale": 2.0}
    if "iterations" in type(method).model_fields:
        changed |= {"iterations": 8, "enough": 0.0}
    else:
        changed |= {"refinements": 8, "thresholds": ((0.0, 0.999),)}
    last(gated, [TWO], method.model_copy(update=changed), steps=2)
    assert len(losses) >= 8 and losses[7] < losses[0]


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "lms", "dpmsolver++"])
def test_a_step_is_taken_in_latents_of_unit_variance(plain, scheduler):
    checked = []

    class Check(Method):
        def guide(self, z, ctx):
            def loss(maps):
                return mean_map(maps, (8, 8))[..., 1:4].square().sum((1, 2, 3)) * 100

            where = cross_sites(ctx, 8)
            seen = evaluate(z, ctx, where, loss)
            unit = float(ctx.stepper.net_input(torch.ones(1)))
            with torch.enable_grad():
                u = (z * unit).detach().requires_grad_(True)
                (expected,) = torch.autograd.grad(loss(ctx.maps(u / unit, where)).sum(), u)
            assert torch.allclose(seen.gradient, expected, rtol=1e-3, atol=1e-6)
            moved = move(z, seen, 0.5, "raw", ctx)
            assert torch.allclose((moved - z) * unit, -0.5 * expected, rtol=1e-3, atol=1e-5)
            sigma = float(ctx.stepper.alpha_sigma()[1])
            less = move(z, seen, 0.5, "variance", ctx)
            assert torch.allclose((less - z) * unit, -0.5 * sigma**2 * expected, rtol=1e-3, atol=1e-5)
            far = move(z, seen, 0.1, "norm", ctx)
            assert float(((far - z) * unit).norm()) == pytest.approx(0.1 * float((z * unit).norm()), rel=1e-4)
            checked.append(unit)
            return z

    last(plain, [TWO], Check(), scheduler=scheduler)
    assert len(checked) == 4


def test_attend_and_excite_reads_the_prompt_where_there_are_no_regions(gated):
    method = AttendAndExcite(cells=8, scale=4.0, refinements=1)
    named = Layout(
        "a red apple and a cat", regions=[Region(p, (0, 0, 1, 1)) for p in ("a red apple", "a cat")], seed=4
    )
    bare = Layout("a red apple and a cat", seed=4)
    options = {"grounding_schedule": (0, 0, 1)}
    assert torch.allclose(
        last(gated, [named], method, **options), last(gated, [bare], method, **options), atol=1e-6
    )


def test_the_pass_stops_after_the_last_map(gated, monkeypatch):
    """Layout-Guidance needs the middle and the first up block; what comes after them does not run."""
    ran = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in (("up1", gated.unet.up_blocks[-1]), ("out", gated.unet.conv_out))
    ]
    try:
        method = AttendAndExcite(cells=4, thresholds=(), until=1.0)
        run(gated, [TWO], method, steps=1)
    finally:
        for handle in handles:
            handle.remove()
    assert ran.count("out") == 1, "once for the prediction, not for the guidance"


def test_mean_of_layers_and_heads(gated):
    seen = run(gated, [CAR], steps=1, record=lambda s: s.kind == "cross" and s.scale == 1)[0].maps
    expected = np.mean([probs[0].mean(0).numpy() for probs in seen.values()], axis=0).reshape(8, 8, -1)
    assert mean_map(seen, (8, 8))[0].numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("move_first", [False, True])
def test_a_descent_ends_for_each_picture_by_itself(gated, monkeypatch, move_first):
    """The losses of three pictures are made up: below the target at once, at the second look, and never."""
    looks, moves, kept = [], [], []
    losses = torch.tensor([[1.0, 9.0, 9.0], [9.0, 1.0, 9.0], [9.0, 9.0, 9.0]])

    class Descend(Method):
        def guide(self, z, ctx):
            active = torch.tensor([True, True, True])
            kept.append(active)
            return guidance.descend(
                z, ctx, lambda site: site.kind == "cross", None, 1.0,
                target_loss=1.0, max_steps=3, active=active, move_first=move_first,
            )  # fmt: skip

    def look(z, *_):
        looks.append(z)
        return guidance.LossAndGradient(losses[len(looks) - 1], torch.ones_like(z))

    def counted(z, result, strength, rule, ctx, active, name):
        moves.append(active.tolist())
        return z

    monkeypatch.setattr(guidance, "evaluate", look)
    monkeypatch.setattr(guidance, "move", counted)
    run(gated, [TWO, CAR, CATS], Descend(), steps=1)
    first = [True, True, True] if move_first else [False, True, True]
    second = [False, move_first, True]
    assert moves == [first, second, [False, False, True]] and kept[0].tolist() == [False, False, True]


# Records


@pytest.mark.parametrize("name", ["attention-refocusing", "boxdiff", "layout-guidance"])
def test_a_record_of_before_official_is_drawn_by_our_rule(gated, name):
    settings = {"cells": 8, "scale": 4.0} if name != "attention-refocusing" else {"cells": 8, "until": 0.3}
    pipe, layout = (
        Pipeline(gated),
        TWO.model_copy(update={"regions": (Region("a red apple", (0.1, 0.2, 0.45, 0.6)),)}),
    )
    ours, released = (make(name, settings | {"official": official}) for official in (False, True))
    then, now = (pipe(layout, methods=[method], steps=2, progress=False) for method in (ours, released))
    old = json.loads(json.dumps(then.records[0]))
    del old["methods"][0]["settings"]["official"]
    again = pipe.remake(old, of_record(old["methods"]))
    assert np.array_equal(again.image, then.images[0]) and not np.array_equal(again.image, now.images[0])
    assert again.record["methods"][0]["settings"]["official"] is False
    assert of_record(now.records[0]["methods"]) == [released]


# The table


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("boxdif", {}, "method: there is no 'boxdif'; there are "),
        ("boxdiff", {"skale": 1}, "boxdiff.skale: boxdiff has no such setting; it has strength"),
        ("boxdiff", {"scale": -1}, "boxdiff.scale: input should be greater than or equal to 0"),
        ("boxdiff", {"scale": "x"}, "boxdiff.scale: input should be a valid number"),
    ],
)
def test_bad_settings_are_one_sentence(name, settings, said):
    with pytest.raises(ValueError, match=r"^(method|boxdiff)[.:]") as raised:
        make(name, settings)
    assert str(raised.value).startswith(said)
    assert math.isfinite(make("boxdiff", {"scale": "7.5"}).scale)
