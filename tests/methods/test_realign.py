"""RealignDiff's modulation: equations 8 and 9 in numpy, its limits, and every layer of tiny real nets."""

import json

import numpy as np
import pytest
import torch
from seen_logits import logits_of
from tiny import sampled

from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods.dense_diffusion import covered_area
from trueline.methods.realign import (
    LIKELIHOODS,
    SURPLUS,
    Reweighting,
    effective_strength,
    overlap,
    reweighted,
    union_area,
)
from trueline.models.attention import sites
from trueline.sampling.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # notes are read where they are counted

# Boxes on the lines of the 8 x 8 and of the 4 x 4 map.
APPLE = Region("a red apple", (0, 0, 0.5, 0.5))
CAR = Region("blue car", (0.5, 0.25, 1, 1))
BOTH = Layout("a red apple and a blue car", [APPLE, CAR], seed=1)
TOKENS_OF = {"a red apple": [1, 2, 3], "blue car": [6, 7]}


def scored(layout, **scores):
    named = {region.phrase: score for region, score in zip(layout.regions, scores.values(), strict=True)}
    return layout.model_copy(update={"meta": {LIKELIHOODS: named}})


def run(backbone, layouts, *methods, **options):
    return list(sampled(backbone, layouts, methods, **({"steps": 4} | options)))


# The equations


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def equations(q, k, r, s, noise, b):
    """A' of one head as the paper writes it: S (.) M is added to Q K^T before the division by sqrt(d)."""
    scores = q @ k.T
    most, least = scores.max(-1, keepdims=True), scores.min(-1, keepdims=True)
    m = noise * r * (most - scores) * (1 - b) - noise * (1 - r) * (scores - least) * (1 - b)
    return softmax((scores + s * m) / np.sqrt(q.shape[-1]))


def tiled(places=12, phrases=((1, 2), (4,)), keys=7):
    """Two masks that tile the places, and the tokens of their phrases."""
    masks = torch.zeros(1, 2, places, dtype=torch.float64)
    masks[0, 0, :5], masks[0, 1, 5:] = 1, 1
    tokens = torch.zeros(1, 2, keys, dtype=torch.float64)
    for region, own in enumerate(phrases):
        tokens[0, region, list(own)] = 1
    return masks, tokens


def test_equations_8_and_9():
    """Where masks tile the picture and nothing is above the limit, it is the paper's A' to the last digit."""
    random = np.random.default_rng(0)
    q, k = random.standard_normal((12, 8)), random.standard_normal((7, 8))
    masks, tokens = tiled()
    s, noise = np.array([0, 2.0, 2.0, 0, 0.5, 0, 0]), 0.7
    inside, outside = overlap(masks, tokens)
    area = union_area(masks)
    assert area[0].tolist() == pytest.approx([5 / 12] * 5 + [7 / 12] * 7)
    strength = effective_strength(torch.from_numpy(s)[None], torch.tensor([noise], dtype=torch.float64), area)
    logits = torch.from_numpy(q @ k.T / np.sqrt(8))[None, None]
    ours = reweighted(logits, inside, outside, strength).softmax(-1)[0, 0].numpy()
    r = inside[0].numpy()
    np.testing.assert_allclose(
        ours, equations(q, k, r, s, noise, area[0].numpy()[:, None]), rtol=0, atol=1e-14
    )
    assert abs(ours - softmax(q @ k.T / np.sqrt(8))).max() > 0.05


def test_by_hand():
    logits = torch.tensor([[[[4.0, 0.0, 2.0]]]])
    inside, outside = torch.tensor([[[0.0, 1.0, 0.0]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
    half = reweighted(logits, inside, outside, torch.full((1, 1, 3), 0.5))
    assert half.tolist() == [[[[4.0, 2.0, 1.0]]]]
    share = torch.tensor([[[0.0, 0.25, 0.25]]])  # a cell that the mask has a quarter of, and others a half
    mixed = reweighted(logits, share, 2 * share, torch.ones(1, 1, 3))
    assert mixed.tolist() == [[[[4.0, 0 + 0.25 * 4, 2 + 0.25 * 2 - 0.5 * 2]]]]


def test_the_limit_keeps_the_order_which_the_paper_turns_around():
    """The reference's case: s = 2 in the first steps of DDIM 50, (981 / 1000)^5, and a small mask."""
    scores, noise, area = torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([0.981**5]), torch.tensor([[0.05]])
    strength = effective_strength(scores, noise, area)
    assert strength.tolist() == [[[1.0, 1.0, 1.0]]]
    logits = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    ones, none = torch.ones(1, 1, 3), torch.zeros(1, 1, 3)
    literal = reweighted(logits, ones, none, scores[:, None] * noise[:, None, None] * 0.95)
    assert literal.argsort()[0, 0, 0].tolist() == [2, 1, 0], "the smallest is the largest now"
    limited = reweighted(logits, ones, none, strength)
    assert (limited.diff() >= 0).all()

    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(3, 2, 9, 8, generator=generator)
    inside = torch.rand(3, 9, 1, generator=generator).expand(3, 9, 8)
    outside = (1 - inside) * torch.rand(3, 9, 1, generator=generator)
    for s in (0.5, 2.0, 10.0):
        strength = effective_strength(
            torch.full((3, 8), s), torch.ones(3), torch.rand(3, 9, generator=generator)
        )
        out = reweighted(logits, inside, outside, strength)
        order = logits.argsort(-1)
        assert (out.gather(-1, order).diff() >= -1e-5).all(), "of keys that are treated alike"
        low, high = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
        assert ((out >= low - 1e-5) & (out <= high + 1e-5)).all()


def test_strength_by_hand():
    strength = effective_strength(
        torch.tensor([[0.0, 0.5, 2.0]]), torch.tensor([0.8]), torch.tensor([[0.0, 0.25, 1.0]])
    )
    expected = [[[0, 0.4, 1], [0, 0.3, 1], [0, 0, 0]]]
    torch.testing.assert_close(strength, torch.tensor(expected))


def test_shares_by_hand():
    masks = torch.tensor([[[1.0, 0.25, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    tokens = torch.tensor([[[0.0, 1.0, 0, 0, 0, 0], [0.0, 0, 1.0, 0, 0, 0], [0, 0, 0, 0, 1.0, 0]]])
    inside, outside = overlap(masks, tokens)
    # The start, another word, the phrase with the empty mask, the end; the last place is in no mask.
    assert inside[0].tolist() == [[0, 1, 0, 0, 0, 0], [0, 0.25, 0.5, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6]
    assert outside[0].tolist() == [[0, 0, 1, 0, 0, 0], [0, 0.5, 0.25, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]


def test_overlaps_count_once():
    twice = torch.tensor([[[1.0, 1.0, 0, 0], [0, 1.0, 1.0, 0]]])
    tokens = torch.tensor([[[1.0, 0, 1.0], [1.0, 1.0, 0]]])  # the first token is in both phrases
    inside, outside = overlap(twice, tokens)
    assert inside[0].tolist() == [[1, 0, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert outside[0].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert union_area(twice)[0].tolist() == [0.5, 0.75, 0.5, 0]
    assert union_area(torch.ones(1, 3, 4))[0].tolist() == [1, 1, 1, 1], (
        "a sum would be 3, and turn the pull around"
    )


def test_the_area_is_densediffusions_for_disjoint_masks_and_the_same_on_every_grid():
    owner = torch.randint(0, 4, (2, 30), generator=torch.Generator().manual_seed(0))
    tiling = torch.stack([(owner == n).float() for n in range(3)], dim=1)  # 3 is nobody's
    torch.testing.assert_close(union_area(tiling), covered_area(tiling))
    fine = torch.zeros(1, 1, 16, 16)
    fine[..., 3:9, 5:8] = 1
    for cells in (16, 8, 4, 2):
        shares = torch.nn.functional.adaptive_avg_pool2d(fine, cells).flatten(2)
        touched = union_area(shares)[shares[:, 0] > 0]
        torch.testing.assert_close(touched, torch.full_like(touched, 18 / 256))
    assert union_area(torch.zeros(2, 0, 5)).shape == (2, 5)


def test_what_is_forbidden_stays_so_and_gradients_pass():
    logits = torch.tensor([[[[-torch.inf, 1.0, 3.0, 2.0]]]], requires_grad=True)
    inside, outside = torch.tensor([[[1.0, 1, 0, 0]]]), torch.tensor([[[0.0, 0, 1, 0]]])
    out = reweighted(logits, inside, outside, torch.full((1, 1, 4), 0.5))
    assert out.tolist() == [[[[-torch.inf, 2.0, 2.0, 2.0]]]]
    out[..., 1:].sum().backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def test_where_nothing_is_said_no_bit_changes():
    logits = 30 * torch.randn(2, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    none, some = torch.zeros(2, 7, 9), torch.full((2, 7, 9), 0.5)
    assert torch.equal(reweighted(logits, none, none, some), logits)
    assert torch.equal(reweighted(logits, some, some, none), logits)


# In the nets


def expected_logits(kind, logits, layout, scores, noise, surplus=()):
    """From boxes, tokens and the equations, region by region, in float64. ``surplus``: regions of no phrase."""
    places, keys = logits.shape[-2:]
    side = int(places**0.5)
    rows, columns = (np.indices((side, side)) + 0.5) / side
    boxes = [region.box.xyxy for region in (*layout.regions, *surplus)]
    masks = [
        ((columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)).ravel() for x0, y0, x1, y1 in boxes
    ]
    of_keys = masks if kind == "self" else [np.isin(range(keys), TOKENS_OF[r.phrase]) for r in layout.regions]
    direction, gain = np.zeros((places, keys)), np.zeros((places, keys))
    for mask, own, score in zip(
        masks, of_keys, scores, strict=False
    ):  # these two share no place and no token
        direction[np.ix_(np.any(masks, axis=0), own)] = -1
        direction[np.ix_(mask, own)] = 1
        gain[:, own] = score
    area = sum(mask * mask.mean() for mask in masks)
    gain = np.minimum(gain * noise * (1 - area)[:, None], 1)
    up, down = logits.max(-1, keepdims=True) - logits, logits - logits.min(-1, keepdims=True)
    return logits + gain * np.where(direction > 0, up, 0) - gain * np.where(direction < 0, down, 0)


@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_every_layer_is_led_as_the_equations_say(kind, request):
    backbone = request.getfixturevalue(kind)
    certain, doubtful = scored(BOTH, apple=2.0, car=2.0), scored(BOTH, apple=2, car=0.5)
    calls = logits_of(backbone, [certain, Layout("a cat"), doubtful], Reweighting(), steps=10)
    early = [call for call in calls if call[1].index < 3]
    assert {site for site, *_ in early} == {site for site in sites(backbone.unet) if site.kind != "gated"}
    for site, ctx, before, after in [call for call in early if call[1].index in (0, 2)]:
        noise = (1.0 if site.kind == "cross" else 0.3) * (float(ctx.t) / 1000) ** 5
        assert ctx.t == [901, 801, 701][ctx.index]
        assert torch.equal(after[1], before[1]), "no regions"
        for row, points in ((0, (2.0, 2.0)), (2, (2.0, 0.5))):
            wanted = expected_logits(site.kind, before[row].double().numpy(), BOTH, points, noise)
            np.testing.assert_allclose(after[row].numpy(), wanted, rtol=0, atol=2e-5)
            assert (after[row] - before[row]).abs().max() > 1e-3
    assert all(torch.equal(before, after) for _, ctx, before, after in calls if ctx.index >= 3)


def crowded(layout, *surplus):
    return layout.model_copy(update={"meta": {SURPLUS: [each.model_dump(mode="json") for each in surplus]}})


def test_what_is_too_much_is_no_phrases_place(plain):
    """The words of the apple, and in self-attention its places, are pushed out of a second box, and of no other."""
    one = Layout("a red apple", [APPLE])
    second = Region("apple", CAR.box)
    layouts = [crowded(one, second), Layout("a cat"), one]
    for site, ctx, before, after in logits_of(plain, layouts, Reweighting(), steps=10):
        if ctx.index > 0:
            continue
        noise = (1.0 if site.kind == "cross" else 0.3) * 0.901**5
        assert torch.equal(after[1], before[1])
        for row, surplus in ((0, (second,)), (2, ())):
            wanted = expected_logits(site.kind, before[row].double().numpy(), one, (2.0,), noise, surplus)
            np.testing.assert_allclose(after[row].numpy(), wanted, rtol=0, atol=2e-5)
        side = int(before.shape[-2] ** 0.5)
        pushed = (before - after)[0].amax(dim=0).view(side, side, -1)[side // 4 :, side // 2 :]
        assert pushed.amax(dim=(0, 1)).nonzero().flatten().tolist() == (
            TOKENS_OF["a red apple"]
            if site.kind == "cross"
            else [row * side + column for row in range(side // 2) for column in range(side // 2)]
        )


def test_without_its_push_surplus_is_nothing(plain):
    one = Layout("a red apple", [APPLE], seed=1)
    crowd = crowded(one, Region("apple", CAR.box))
    as_in_the_paper = run(plain, [crowd], Reweighting(surplus=False))[-1].z
    assert torch.equal(as_in_the_paper, run(plain, [one], Reweighting())[-1].z)
    assert not torch.equal(as_in_the_paper, run(plain, [crowd], Reweighting())[-1].z)


def test_surplus_is_a_pictures_own(plain):
    one = Layout("a red apple", [APPLE])
    two = [crowded(one, Region("apple", CAR.box)), one]
    together = run(plain, two, Reweighting(), seeds=[1, 1])[-1].z
    assert (together[0] - together[1]).abs().max() > 1e-3
    for row, layout in enumerate(two):
        alone = run(plain, [layout], Reweighting(), seeds=[1])[-1].z
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_tokens_of_no_phrase_and_places_in_no_mask_are_left_alone(plain):
    for site, _, before, after in logits_of(plain, [BOTH], Reweighting(power=0, duration=1), steps=1):
        side = int(before.shape[-2] ** 0.5)
        changed = (before != after).any(dim=1)[0]
        assert not changed.view(side, side, -1)[side // 2 :, : side // 2].any(), "the lower left"
        if site.kind == "cross":
            told = [*TOKENS_OF["a red apple"], *TOKENS_OF["blue car"]]
            others = [k for k in range(before.shape[-1]) if k not in told]
            assert not changed[:, others].any() and changed[:, told].any(dim=0).all()


def test_a_score_of_0_is_no_modulation_and_suppress_pushes_down_everywhere(plain):
    unlikely = scored(BOTH, apple=0, car=2)
    only_car = BOTH.model_copy(update={"regions": (CAR,)})
    settings = {"power": 0, "duration": 1}
    for (site, _, before, after), (*_, other) in zip(
        logits_of(plain, [unlikely], Reweighting(**settings), steps=1),
        logits_of(plain, [only_car], Reweighting(**settings), steps=1),
        strict=True,
    ):
        if site.name == "down_blocks.0.attentions.0.transformer_blocks.0.attn1":  # the first: same input
            assert torch.equal(after, other)
        if site.kind == "cross":
            assert torch.equal(after[..., 1:4], before[..., 1:4])
    for site, _, before, after in logits_of(
        plain, [unlikely], Reweighting(suppress=0.5, **settings), steps=1
    ):
        if site.kind == "cross":
            low = before.amin(-1, keepdim=True)
            half = before[..., 1:4] - 0.5 * (before[..., 1:4] - low)
            torch.testing.assert_close(after[..., 1:4], half, rtol=0, atol=1e-5)


def test_nothing_likely_is_plain_and_says_so(plain):
    nothing = scored(BOTH, apple=0, car=0)
    with pytest.warns(UserWarning, match="the likelihood of every region is 0; Reweighting leaves it plain"):
        step = run(plain, [nothing], Reweighting())[-1]
    assert torch.equal(step.z, run(plain, [nothing])[-1].z)
    with pytest.warns(UserWarning) as caught:
        run(plain, [BOTH], Reweighting(likelihood=0))
    assert "every region is 0" in str(caught[0].message)


def test_scores_are_a_pictures_own(plain):
    """Two pictures with the same words and other scores in one batch, and each of them alone."""
    two = [scored(BOTH, apple=2, car=0.5), scored(BOTH, apple=0.5, car=2)]
    together = run(plain, two, Reweighting(), seeds=[1, 1])[-1].z
    assert (together[0] - together[1]).abs().max() > 1e-3
    for row, layout in enumerate(two):
        alone = run(plain, [layout], Reweighting(), seeds=[1])[-1].z
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_a_record_holds_the_scores(plain):
    pipe = Pipeline(plain)
    doubtful = scored(BOTH, apple=2, car=0.5)
    made = pipe(doubtful, methods=[Reweighting(sreg=0)], steps=3, progress=False)
    again = pipe.remake(json.loads(json.dumps(made.records[0])), [Reweighting(sreg=0)])
    assert again.image.tobytes() == made.images[0].tobytes() and again.record == made.records[0]


def test_a_small_mask_acts_on_coarse_maps_by_its_share(plain):
    """6 x 6 of 64 x 64 pixels, within one cell of each map; at half a cell or nearest it would be lost."""
    mask = np.zeros((64, 64), bool)
    mask[18:24, 34:40] = True
    speck = Layout("a cat", [Region("a cat", (0.5, 0.25, 0.65, 0.4), mask)], seed=0)
    sides = set()
    for site, _, before, after in logits_of(plain, [speck], Reweighting(power=0), steps=1):
        if site.kind == "cross":
            side = int(before.shape[-2] ** 0.5)
            cell, share = 18 * side // 64 * side + 34 * side // 64, 36 / (64 // side) ** 2
            changed = (before != after).any(dim=1)[0]
            assert changed.nonzero().tolist() == [[cell, 1], [cell, 2]], "its words, at one place"
            row = before[0, :, cell]
            wanted = row[:, 1:3] + share * (row.amax(-1, keepdim=True) - row[:, 1:3])
            torch.testing.assert_close(after[0, :, cell, 1:3], wanted, rtol=0, atol=1e-5)
            sides.add(side)
    assert sides == {8, 4}


@pytest.mark.parametrize("off", [{"creg": 0, "sreg": 0}, {"duration": 0}])
def test_without_a_pull_it_is_plain_sampling(gated, off):
    plain_sampling = run(gated, [BOTH])[-1].z
    assert torch.equal(run(gated, [BOTH], Reweighting(**off))[-1].z, plain_sampling)


def test_bad_input_is_one_sentence(plain):
    for settings in ({"duration": 1.5}, {"creg": -1}, {"likelihood": 11}, {"suppress": -1}, {"scores": 1}):
        with pytest.raises(FieldError, match=next(iter(settings))):
            Reweighting(**settings)
    for given, sentence in (
        ([2.0], "must be a dictionary"),
        ({"a red apple": "2"}, "'a red apple' has '2', no score"),
        ({"a red apple": True}, "no score; give a number of 0 to 10"),
        ({"a red apple": -1}, "no score"),
        ({"a cat": 2}, "no region has the phrase 'a cat'"),
    ):
        bad = BOTH.model_copy(update={"meta": {LIKELIHOODS: given}})
        with pytest.raises(ValueError, match=f"meta.likelihoods: .*{sentence}"):
            next(sampled(plain, [bad], [Reweighting()]))
    apple = APPLE.model_dump(mode="json")
    for given, sentence in (
        ("a cat", "must be a list of at most 30 regions"),
        ([apple] * 31, "must be a list of at most 30 regions"),
        ([1], "give regions as a layout has them"),
        ([{"phrase": "a cat"}], "box: is missing; give a value; give regions"),
        ([apple | {"box": [0, 0, 2, 1]}], "box.*give regions"),
    ):
        bad = BOTH.model_copy(update={"meta": {SURPLUS: given}})
        with pytest.raises(ValueError, match=f"meta.surplus: .*{sentence}"):
            next(sampled(plain, [bad], [Reweighting()]))
