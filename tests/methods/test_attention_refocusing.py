"""Attention-Refocusing: its three terms in numpy, its schedule, and tiny real nets."""

import numpy as np
import pytest
import torch
from numpy_maps import numpy_smooth, numpy_softmax
from tiny import sampled

import trueline.methods.attention_refocusing as module
from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods import make
from trueline.methods.attention_refocusing import (
    AttentionRefocusing,
    car_loss,
    gated_loss,
    least_inside,
    sar_loss,
    words_of,
)
from trueline.methods.boxdiff import BoxDiff
from trueline.methods.dense_diffusion import DenseDiffusion
from trueline.models.text import locate
from trueline.sampling.method import Method

TWO = Layout(
    "a red apple and a blue car",
    regions=[Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))],
    seed=2,
)
CAR = Layout("a red apple and a blue car", regions=[Region("a blue car", (0.5, 0.2, 1.0, 0.8))], seed=1)
CATS = Layout(
    "a cat and a clock",
    regions=[
        Region("clock", (0.0, 0.0, 1.0, 0.4)),
        Region("cat", (0.0, 0.5, 0.4, 1.0)),
        Region("cat", (0.6, 0.5, 0.9, 0.9)),
    ],
    seed=3,
)
PLAIN = Layout("a green chair", seed=4)
#: The first step with two inner steps; 8 x 8 is the tiny nets' finest map.
ONCE = AttentionRefocusing(cells=8, stages=((0.0, 4.0, 2),), dense=0.5, until=0.4, strength=4.0)


def run(backbone, layouts, *methods, steps=1, grounding_schedule=(1.0, 0.0, 0.0), **options):
    options["grounding_schedule"] = grounding_schedule
    return list(sampled(backbone, layouts, methods, steps, 4.0, **options))


def last(backbone, layouts, *methods, **options):
    return run(backbone, layouts, *methods, **options)[-1].z


def change(method, **settings):
    return type(method)(**{**method.model_dump(), **settings})


# Golden numbers: the sums again, box by box, in numpy and float64. A box is (top, bottom, left, right), in cells.


def numpy_car(maps, boxes, early):
    total = 0.0
    for i, own in enumerate(boxes):
        bare = maps[i].copy()
        for top, bottom, left, right in own:
            value = maps[i][top:bottom, left:right].max()
            if value < 0.1:
                total += 6 * (1 - value)
            elif value < 0.2 or early:
                total += 1 - value
            bare[top:bottom, left:right] = 0
        background = bare.copy()
        for j, others in enumerate(boxes):
            for top, bottom, left, right in others if j != i else []:
                value = bare[top:bottom, left:right].max()
                background[top:bottom, left:right] = 0
                if value > 0.15:
                    total += 4 * value
                elif value > 0.1 or early:
                    total += value
        total += len(own) * background.max() / 2
    return total / len(boxes)


def numpy_sar(attention, boxes, grid):
    total = 0.0
    for own in boxes:
        for box in own:
            places = inside(box, grid)
            outside = [k for k in range(grid[0] * grid[1]) if k not in places]
            total += np.mean([attention[q, outside].sum() for q in places])
    return total / len(boxes)


def numpy_gated(attention, boxes, slots, grid):
    """``slots``: of each word, the grounding tokens of its boxes."""
    total = 0.0
    for own, tokens in zip(boxes, slots, strict=True):
        for box, token in zip(own, tokens, strict=True):
            wrong = [k for k in range(attention.shape[-1]) if k != token]
            total += np.mean([head[inside(box, grid)].mean(0)[wrong].max() for head in attention])
    return total / len(boxes)


def inside(box, grid):
    return [y * grid[1] + x for y in range(box[0], box[1]) for x in range(box[2], box[3])]


#: Three words: one with two boxes, one with one, one that shares that box; two of the boxes overlap.
GRID = (4, 5)
REGIONS = [(0, 2, 0, 2), (1, 4, 3, 5), (1, 3, 1, 4)]
BOXES = [[REGIONS[0], REGIONS[1]], [REGIONS[2]], [REGIONS[2]]]
OWNS = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 1]], dtype=torch.bool)
MASKS = torch.zeros(3, *GRID, dtype=torch.float64)
for mask, (top, bottom, left, right) in zip(MASKS, REGIONS, strict=True):
    mask[top:bottom, left:right] = 1
SLOTS = torch.eye(6, dtype=torch.float64)[:3]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("scale", [0.08, 0.16, 0.3, 1.0])
def test_car_is_the_released_sum(scale, early):
    maps = scale * np.random.default_rng(0).random((3, *GRID))
    got = float(car_loss(torch.from_numpy(maps), MASKS, OWNS, early))
    assert got == pytest.approx(numpy_car(maps, BOXES, early), abs=1e-12)


def test_car_of_fixed_numbers():
    """The first word's box is the left column, the second's the right one."""
    values = [[[0.05, 0.3, 0.12], [0.01, 0.01, 0.01]], [[0.01, 0.01, 0.01], [0.2, 0.5, 0.6]]]
    maps, masks = torch.tensor(values, dtype=torch.float64), torch.zeros(2, 2, 3, dtype=torch.float64)
    masks[0, :, 0] = masks[1, :, 2] = 1
    owns = torch.eye(2, dtype=torch.bool)
    first, second = 6 * 0.95 + 0.12 + 0.3 / 2, 4 * 0.2 + 0.5 / 2
    assert float(car_loss(maps, masks, owns, True)) == pytest.approx((first + second + 0.4) / 2)
    assert float(car_loss(maps, masks, owns, False)) == pytest.approx((first + second) / 2)
    assert float(least_inside(maps, masks, owns)) == 0.05
    assert float(car_loss(masks, masks, owns)) == 0
    assert float(car_loss(masks, masks.flip(0), owns)) == 6 + 4, "each word in the other's box"


@pytest.mark.parametrize(
    ("value", "early", "late"),
    [(0.05, 5.7, 5.7), (0.0999, 5.4006, 5.4006), (0.1, 0.9, 0.9), (0.1999, 0.8001, 0.8001), (0.2, 0.8, 0.0)],
)
def test_weights_inside_a_box(value, early, late):
    maps, masks = torch.zeros(1, 2, 2, dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64)
    maps[0, 0, 0], masks[0, 0, 0] = value, 1
    owns = torch.ones(1, 1, dtype=torch.bool)
    assert float(car_loss(maps, masks, owns, True)) == pytest.approx(early)
    assert float(car_loss(maps, masks, owns, False)) == pytest.approx(late)


@pytest.mark.parametrize(
    ("value", "early", "late"),
    [(0.16, 0.64, 0.64), (0.15, 0.15, 0.15), (0.11, 0.11, 0.11), (0.1, 0.1, 0.0), (0.05, 0.05, 0.0)],
)
def test_weights_inside_another_box(value, early, late):
    """Both words are in their boxes; the first is in the second's, too."""
    maps, masks = torch.zeros(2, 2, 2, dtype=torch.float64), torch.zeros(2, 2, 2, dtype=torch.float64)
    maps[0, 0, 0] = maps[1, 1, 1] = masks[0, 0, 0] = masks[1, 1, 1] = 1
    maps[0, 1, 1] = value
    owns = torch.eye(2, dtype=torch.bool)
    assert float(car_loss(maps, masks, owns, True)) == pytest.approx(early / 2)
    assert float(car_loss(maps, masks, owns, False)) == pytest.approx(late / 2)


def test_weights_can_be_others():
    maps, masks = torch.full((1, 2, 2), 0.4), torch.zeros(1, 2, 2)
    masks[0, 0] = 1
    owns = torch.ones(1, 1, dtype=torch.bool)
    got = car_loss(maps, masks, owns, False, inside=((0.5, 3.0), (0.9, 7.0)), elsewhere=())
    assert float(got) == pytest.approx(3 * 0.6 + 0.4 / 2)


def test_sar_is_the_released_sum():
    attention = numpy_softmax(2 * np.random.default_rng(1).normal(size=(20, 20)))
    got = float(sar_loss(torch.from_numpy(attention), MASKS.flatten(1), OWNS))
    assert got == pytest.approx(numpy_sar(attention, BOXES, GRID), abs=1e-12)
    one, owns = MASKS[:1].flatten(1), torch.ones(1, 1, dtype=torch.bool)
    assert float(sar_loss(torch.eye(20, dtype=torch.float64), one, owns)) == 0
    assert float(sar_loss((1 - one).repeat(20, 1) / 16, one, owns)) == pytest.approx(1)


def test_gated_is_the_greatest_of_the_other_tokens():
    joint = numpy_softmax(2 * np.random.default_rng(2).normal(size=(2, 26, 26)))  # 20 places, 6 tokens
    attention = joint[:, :20, 20:]
    got = float(gated_loss(torch.from_numpy(attention), MASKS.flatten(1), OWNS, SLOTS))
    assert got == pytest.approx(numpy_gated(attention, BOXES, [(0, 1), (2,), (2,)], GRID), abs=1e-12)
    alone = torch.from_numpy(attention[..., :1])
    assert float(gated_loss(alone, MASKS[:1].flatten(1), OWNS[:1, :1], SLOTS[:1, :1])) == 0
    words = torch.eye(6, dtype=torch.float64)[3:, None]  # the token of each word, whatever its box
    got = float(gated_loss(torch.from_numpy(attention), MASKS.flatten(1), OWNS, words))
    assert got == pytest.approx(numpy_gated(attention, BOXES, [(3, 3), (4,), (5,)], GRID), abs=1e-12)


@pytest.mark.parametrize("early", [True, False])
def test_gradients_agree_with_finite_differences(early):
    random = torch.Generator().manual_seed(5)

    def check(loss, *shape):
        x = torch.rand(*shape, dtype=torch.float64, generator=random) * 0.3
        assert torch.autograd.gradcheck(loss, x.requires_grad_(True), eps=1e-7, atol=1e-6)

    check(lambda m: car_loss(m, MASKS, OWNS, early), 3, *GRID)
    check(lambda a: sar_loss(a, MASKS.flatten(1), OWNS), 20, 20)
    check(lambda a: gated_loss(a, MASKS.flatten(1), OWNS, SLOTS), 2, 20, 6)


# Words and steps


def test_words_of_a_phrase_are_without_its_article(plain):
    def words(prompt, *phrases):
        layout = Layout(prompt, regions=[Region(phrase, (0, 0, 1, 1)) for phrase in phrases])
        return [words_of(plain, prompt, found) for found in locate(plain, layout)]

    assert words("a red apple and a blue car", "a red apple", "blue car") == [[(2,), (3,)], [(6,), (7,)]]
    assert words("the cat and the cat", "The cat", "the cat") == [[(2,)], [(5,)]], (
        "each phrase at its own place"
    )
    assert words("a red ox", "red ox") == [[(2,), (3, 4)]], "a word of two tokens"
    assert words("a", "a") == [[(1,)]], "an article is better than nothing"
    assert words("a cat", "chair") == [[]]


def test_the_steps_are_the_released_ones():
    plan = {i: AttentionRefocusing().stage(i, 50) for i in range(50)}
    assert [i for i in plan if plan[i]] == [*range(10), 10, 15, 20, 25, 30, 35]
    for i, stage in plan.items():
        factor, most = (
            (4, 2) if i < 2 else (4, 6) if i < 5 else (3, 3) if i < 10 else (3, 2) if i < 20 else (1, 2)
        )
        assert stage in (None, (factor, most, i < 10))


@pytest.mark.parametrize(
    ("steps", "guided"),
    [(1, [0]), (4, [0, 1, 2]), (10, [*range(8)]), (20, [0, 1, 2, 3, 4, 6, 8, 10, 12, 14])],
)
def test_other_numbers_of_steps_have_the_same_fractions(steps, guided):
    method = AttentionRefocusing()
    assert [i for i in range(steps) if method.stage(i, steps)] == guided
    assert not any(change(method, stages=()).stage(i, steps) for i in range(steps))


def test_the_method_steps_as_its_stages_say(gated, monkeypatch):
    looks = watch(monkeypatch)
    stages = ((0.0, 2.0, 1), (0.25, 1.0, 3), (0.75, 1.0, 4))
    run(
        gated,
        [TWO],
        change(ONCE, stages=stages, dense=0.5, every=1.0, until=1.0, reached=1, enough=0),
        steps=4,
    )
    assert [index for index, _, _ in looks] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "settings", [{"stages": [[0, 4, -1]]}, {"inside": [[0.1]]}, {"every": 0}, {"cells": 1}, {"sar": -1}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"attention-refocusing.{next(iter(settings))}"):
        make("attention-refocusing", settings)
    with pytest.raises(FieldError):
        AttentionRefocusing(**settings)


# On nets


def watch(monkeypatch):
    """(index of the step, maps, losses) of each look."""
    looks, evaluate = [], module.evaluate

    def watched(z, ctx, where, loss):
        kept = []
        seen = evaluate(z, ctx, where, lambda maps: kept.append(maps) or loss(maps))
        looks.append((ctx.index, {site: probs.detach() for site, probs in kept[0].items()}, seen.loss))
        return seen

    monkeypatch.setattr(module, "evaluate", watched)
    return looks


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("early", [0.0, 0.3])
def test_the_loss_of_a_net_is_that_of_its_maps(gated, monkeypatch, early, official):
    """From the recorded maps, in numpy: layers, heads, words, boxes on the 8 x 8 map, grounding tokens. Officially
    ``int()`` cuts a box, each word has the token of its number, and up layers count twice."""
    looks = watch(monkeypatch)
    run(gated, [TWO, CATS], change(ONCE, early=early, car=1.5, sar=2.0, gated=5.0, official=official))
    _, maps, losses = looks[0]
    assert {site.scale for site in maps} == {1}
    by_kind = {
        kind: np.stack([probs.double().numpy() for site, probs in maps.items() if site.kind == kind])
        for kind in sorted({site.kind for site in maps})
    }
    assert set(by_kind) == ({"cross", "gated", "self"} if early else {"cross", "self"})
    clock, left, right = (0, 3, 0, 8), (4, 8, 0, 3), (4, 7, 4 if official else 5, 7)
    expected = {
        0: ([2, 3, 6, 7], [[(0, 4, 0, 4)]] * 2 + [[(4, 8, 4, 8)]] * 2, [(0,), (0,), (1,), (1,)]),
        1: ([5, 2], [[clock], [left, right]], [(0,), (1, 2)]),
    }
    if official:
        expected[0] = (*expected[0][:2], [(0,), (1,), (2,), (3,)])
        expected[1] = (*expected[1][:2], [(0,), (1, 1)])
    places = [site.place for site in maps if site.kind == "gated"]
    assert not early or set(places) == {"down", "up"}
    weights = [1 + (official and place == "up") for place in places]
    for row, (tokens, boxes, slots) in expected.items():
        cross = by_kind["cross"][:, row].mean((0, 1)).reshape(8, 8, -1)
        sharp = numpy_softmax(100 * cross[..., 1:-1])
        words = np.stack([numpy_smooth(sharp[..., token - 1]) for token in tokens])
        total = 1.5 * numpy_car(words, boxes, early=bool(early))
        total += 2.0 * numpy_sar(by_kind["self"][:, row].mean((0, 1)), boxes, (8, 8))
        if early:
            joint = np.average(by_kind["gated"][:, row], 0, weights)[:, :64, 64:]
            total += 5.0 * numpy_gated(joint, boxes, slots, (8, 8))
        assert float(losses[row]) == pytest.approx(4 * total, rel=1e-5)


def test_a_weight_of_0_leaves_its_layers_alone(gated, monkeypatch):
    looks = watch(monkeypatch)
    for off in ("car", "sar", "gated"):
        run(gated, [TWO], change(ONCE, stages=((0.0, 1.0, 1),), **{off: 0.0}))
    kinds = [{site.kind for site in maps} for _, maps, _ in looks]
    assert kinds == [{"self", "gated"}, {"cross", "gated"}, {"cross", "self"}]
    assert torch.equal(last(gated, [TWO], change(ONCE, car=0, sar=0, gated=0)), last(gated, [TWO]))


def test_the_gated_term_is_there_while_the_grounding_is_on(gated):
    without = change(ONCE, gated=0.0)
    off = {"grounding_schedule": (0.0, 0.0, 1.0)}
    assert torch.equal(last(gated, [TWO], ONCE, **off), last(gated, [TWO], without, **off))
    assert not torch.equal(last(gated, [TWO], ONCE), last(gated, [TWO], without))
    only = change(ONCE, car=0.0, sar=0.0, strength=500.0)
    assert not torch.allclose(last(gated, [TWO], only), last(gated, [TWO]), atol=1e-3)
    assert torch.equal(last(gated, [TWO], only, **off), last(gated, [TWO], **off))


def test_a_plain_net_has_no_gated_term(plain):
    assert torch.equal(last(plain, [TWO], ONCE), last(plain, [TWO], change(ONCE, gated=0.0)))
    with pytest.raises(ValueError, match=r"gated: .* only term, and this backbone has no grounding layers"):
        last(plain, [TWO], change(ONCE, car=0.0, sar=0.0))
    off = change(ONCE, car=0.0, sar=0.0, strength=0.0)
    assert torch.equal(last(plain, [TWO], off), last(plain, [TWO]))


def test_maps_are_of_the_size_asked_for(gated, monkeypatch):
    looks = watch(monkeypatch)
    run(gated, [TWO], change(ONCE, cells=4))
    assert {site.scale for site in looks[0][1]} == {2}
    assert {probs.shape[2] for probs in looks[0][1].values()} == {16, 16 + gated.max_regions}


def test_the_inner_loop_ends_for_each_picture_by_itself(gated, monkeypatch):
    looks = watch(monkeypatch)
    pair, once = [TWO, CATS], change(ONCE, stages=((0.0, 4.0, 1),))
    run(gated, pair, once)
    low, high = sorted(looks[0][2].tolist())
    between = change(ONCE, stages=((0.0, 4.0, 3),), reached=1.0, enough=(low + high) / 2)
    got, first = run(gated, pair, between)[0].z, run(gated, pair, once)[0].z
    every = run(gated, pair, change(between, enough=0.0))[0].z
    done = int(looks[0][2].argmin())
    assert torch.equal(got[done], first[done]) and not torch.equal(got[done], every[done])
    assert torch.equal(got[1 - done], every[1 - done]) and not torch.equal(got[1 - done], first[1 - done])
    # Later steps do not look at the loss, but at the attention that was reached.
    late = change(between, dense=0.0, enough=1e9)
    assert torch.equal(run(gated, pair, late)[0].z, every)
    assert torch.equal(run(gated, pair, change(late, reached=0.0))[0].z, first)


def test_a_mask_is_used_and_a_box_below_a_cell_is_a_cell(plain):
    def drawn(**region):
        layout = Layout("a cat", regions=[Region("cat", **region)], seed=5)
        return last(plain, [layout], ONCE)

    mask = np.zeros((16, 16), dtype=bool)
    mask[2:10, 4:8] = True
    boxed = drawn(box=(0.25, 0.125, 0.5, 0.625))
    assert torch.equal(drawn(box=(0.0, 0.0, 1.0, 1.0), mask=mask), boxed)
    assert not torch.equal(drawn(box=(0.0, 0.0, 1.0, 1.0)), boxed)
    cell = drawn(box=(0.5, 0.5, 0.625, 0.625))
    assert cell.isfinite().all() and torch.equal(drawn(box=(0.53, 0.53, 0.54, 0.54)), cell)


# What every method of latent guidance claims


@pytest.mark.parametrize("backbone", ["gated", "plain"])
def test_strength_zero_is_plain_sampling(request, backbone):
    backbone = request.getfixturevalue(backbone)
    assert torch.equal(last(backbone, [TWO], change(ONCE, strength=0.0)), last(backbone, [TWO]))
    assert not torch.allclose(last(backbone, [TWO], ONCE), last(backbone, [TWO]), atol=1e-3)


def test_a_picture_does_not_depend_on_its_batch_mates(gated):
    layouts = [CAR, TWO, CATS, PLAIN]
    together = last(gated, layouts, ONCE)
    for row, layout in enumerate(layouts[:3]):
        assert torch.allclose(together[row : row + 1], last(gated, [layout], ONCE), atol=1e-5)
    assert torch.allclose(together[3:], last(gated, [PLAIN]), atol=1e-5)


@pytest.mark.parametrize("only", ["car", "sar", "gated"])
def test_its_loss_falls(gated, monkeypatch, only):
    looks = watch(monkeypatch)
    weights = {name: float(name == only) for name in ("car", "sar", "gated")}
    size = {"car": 2.0, "sar": 50.0, "gated": 50.0}[only]
    run(
        gated,
        [TWO],
        change(ONCE, stages=((0.0, 1.0, 5),), strength=size, reached=1.0, enough=0.0, **weights),
        steps=1,
    )
    losses = [float(loss[0]) for _, _, loss in looks]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_nets_are_as_before_also_after_an_error(gated, monkeypatch):
    before = dict(gated.unet.attn_processors)
    weights = {name: value.clone() for name, value in gated.unet.state_dict().items()}
    last(gated, [TWO], ONCE)
    assert gated.unet.attn_processors == before

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(module, "car_loss", broken)  # within the pass that has the net open
    with pytest.raises(RuntimeError, match="broken"):
        last(gated, [TWO], ONCE)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr(gated.unet.up_blocks[-1], "forward", broken)
        last(gated, [TWO], ONCE)
    assert gated.unet.attn_processors == before
    assert all(torch.equal(value, weights[name]) for name, value in gated.unet.state_dict().items())


def test_it_runs_with_other_schedulers_but_not_with_pndm(gated):
    for scheduler in ("euler", "lms", "dpmsolver++"):
        assert last(gated, [TWO], ONCE, scheduler=scheduler, steps=2).isfinite().all()
    with pytest.raises(ValueError, match="pndm"):
        last(gated, [TWO], ONCE, scheduler="pndm")


@pytest.mark.parametrize(
    "other",
    [BoxDiff(cells=8, scale=4.0, refinements=1), DenseDiffusion(duration=1.0)],
    ids=lambda m: type(m).__name__,
)
def test_it_composes(gated, other):
    both = last(gated, [TWO], other, ONCE)
    assert both.isfinite().all()
    assert not torch.allclose(both, last(gated, [TWO], ONCE), atol=1e-4)
    assert not torch.allclose(both, last(gated, [TWO], other), atol=1e-4)


def test_it_needs_regions(gated):
    with pytest.raises(ValueError, match="regions: AttentionRefocusing needs at least one region"):
        last(gated, [PLAIN], AttentionRefocusing())


def test_phrases_that_the_prompt_lacks_are_said_and_not_guided(gated, monkeypatch):
    sentence = "the prompt does not hold the phrase {!r}; it is not guided"
    some = Layout("a cat", regions=[Region("cat", (0, 0, 0.5, 1)), Region("chair", (0.5, 0, 1, 1))], seed=1)
    none = Layout("a cat", regions=[Region("clock", (0, 0, 0.5, 1)), Region("chair", (0.5, 0, 1, 1))], seed=1)
    looks = watch(monkeypatch)
    with pytest.warns(UserWarning, match="'chair'; it is not guided"):
        steps = run(gated, [some], ONCE)
    assert dict(steps[-1].notes) == {(0, sentence.format("chair")): 1} and len(looks) == 2
    with pytest.warns(UserWarning, match="it is not guided"):
        steps = run(gated, [none], ONCE)
    assert set(steps[-1].notes) == {(0, sentence.format(phrase)) for phrase in ("clock", "chair")}
    assert len(looks) == 2, "nothing to look at"
    assert torch.equal(steps[-1].z, last(gated, [none]))
    late = change(
        ONCE, stages=((0.5, 4.0, 2),), dense=1.0, until=1.0
    )  # also where the first step is not guided
    with pytest.warns(UserWarning, match="'chair'; it is not guided"):
        run(gated, [some], late, steps=2)


@pytest.mark.parametrize("kind", ["cross", "self", "gated"])
def test_a_loss_that_is_not_finite_leaves_the_picture_and_its_mates_alone(gated, kind):
    class Poison(Method):
        """NaN in the second picture's maps, in the guided steps only."""

        def taps(self, site):
            return site.kind == kind

        def edit(self, site, logits, ctx):
            if torch.is_grad_enabled():
                logits = torch.cat([logits[:1], logits[1:] * torch.nan])
            return logits

    with pytest.warns(UserWarning, match="its loss or its gradient was not finite"):
        steps = run(gated, [TWO, CAR], ONCE, Poison())
    assert steps[-1].notes == {
        (1, "attention-refocusing: a step was left out, for its loss or its gradient was not finite"): 2
    }
    assert torch.allclose(steps[-1].z[1], last(gated, [TWO, CAR])[1], atol=1e-5)
    assert torch.allclose(steps[-1].z[0], last(gated, [TWO], ONCE)[0], atol=1e-5)
