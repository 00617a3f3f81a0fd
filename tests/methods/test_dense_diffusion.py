"""DenseDiffusion: the pull on hand-made logits, and on every layer of tiny real nets."""

import numpy as np
import pytest
import torch
from seen_logits import logits_of, opened
from tiny import sampled, tiny_backbone

from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods.dense_diffusion import DenseDiffusion, covered_area, matched_pairs, regularised
from trueline.models.attention import sites
from trueline.sampling.method import Method

# Boxes on the lines of the 8 x 8 and of the 4 x 4 map.
APPLE = Region("a red apple", (0, 0, 0.5, 0.5))
CAR = Region("blue car", (0.5, 0.25, 1, 1))
CLOCK = Region("clock", (0.25, 0.25, 0.75, 0.5))  # over both of them
BOTH = Layout("a red apple and a blue car", [APPLE, CAR], seed=1)
THREE = Layout("the clock left of a blue car and a red apple", [CAR, APPLE, CLOCK], seed=2)
NONE = Layout("a cat", seed=3)


def run(backbone, layouts, *methods, **options):
    return list(sampled(backbone, layouts, methods, **({"steps": 6} | options)))


# The pure functions


def pulled_in_numpy(logits, match, size_weight, strength):
    """The paper's equations, one number at a time, in float64."""
    out = logits.copy()
    for b, h, q, k in np.ndindex(*logits.shape):
        row, gain = logits[b, h, q], size_weight[b, q] * strength[b]
        if match[b, q, k] > 0:
            out[b, h, q, k] += gain * (row.max() - row[k])
        if match[b, q, k] < 0:
            out[b, h, q, k] -= gain * (row[k] - row.min())
    return out


def test_regularised_is_the_papers_formula():
    random = np.random.default_rng(0)
    logits = 5 * random.standard_normal((3, 2, 4, 5))
    match = random.integers(-1, 2, (3, 4, 5)).astype(float)
    size_weight, strength = random.random((3, 4)), np.array([0.9, 0.2, 1.7])
    expected = pulled_in_numpy(logits, match, size_weight, strength)
    inputs = [torch.from_numpy(x) for x in (logits, match, size_weight, strength)]
    np.testing.assert_allclose(regularised(*inputs).numpy(), expected, rtol=0, atol=1e-12)
    single = [regularised(*(x[i : i + 1] for x in inputs)) for i in range(3)]
    assert torch.equal(torch.cat(single), regularised(*inputs)), "each picture by its own row and strength"


def test_regularised_by_hand():
    logits = torch.tensor([[[[4.0, 0.0, 2.0], [1.0, 3.0, -1.0]]]])
    match = torch.tensor([[[1.0, 1.0, -1.0], [0.0, -1.0, 1.0]]])
    half = regularised(logits, match, torch.ones(1, 2), torch.tensor([0.5]))
    assert half.tolist() == [[[[4.0, 2.0, 1.0], [1.0, 1.0, 1.0]]]]
    whole = regularised(logits, match, torch.ones(1, 2), torch.tensor([1.0]))
    assert whole.tolist() == [[[[4.0, 4.0, 0.0], [1.0, -1.0, 3.0]]]]
    one_row = regularised(logits, match, torch.tensor([[0.0, 1.0]]), torch.tensor([1.0]))
    assert one_row.tolist() == [[[[4.0, 0.0, 2.0], [1.0, -1.0, 3.0]]]]


def test_nothing_to_say_changes_no_bit():
    logits = torch.randn(2, 2, 7, 9, generator=torch.Generator().manual_seed(0)) * 30
    weight, strength = torch.ones(2, 7), torch.ones(2)
    assert torch.equal(regularised(logits, torch.zeros(2, 7, 9), weight, strength), logits)
    assert torch.equal(regularised(logits, torch.ones(2, 7, 9), weight, 0 * strength), logits)
    assert torch.equal(regularised(logits, torch.ones(2, 7, 9), 0 * weight, strength), logits)


def test_a_key_that_another_method_forbids_stays_forbidden():
    logits = torch.tensor([[[[-torch.inf, 1.0, 3.0, 2.0]]]])
    match = torch.tensor([[[1.0, 1.0, -1.0, 0.0]]])
    out = regularised(logits, match, torch.ones(1, 1), torch.tensor([0.5]))
    assert out.tolist() == [[[[-torch.inf, 2.0, 2.0, 2.0]]]]


def test_gradients_of_other_methods_pass_through():
    logits = torch.tensor([[[[-torch.inf, 1.0, 3.0, 2.0]]]], requires_grad=True)
    match = torch.tensor([[[1.0, 1.0, -1.0, 0.0]]])
    out = regularised(logits, match, torch.ones(1, 1), torch.tensor([0.25]))
    out[..., 1:].mul(torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    # 1 + (3 - 1) / 4, 3 - (3 - 1) / 4, 2: each passes on 3/4 of its own, 1/4 to the extreme that it is pulled to.
    assert logits.grad.tolist() == [[[[0, 0.75 + 2.5, 0.25 + 7.5, 100]]]]


def test_half_precision_stays_half():
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    match = torch.eye(4)[None] * 2 - 1
    out = regularised(logits, match, torch.ones(1, 4), torch.tensor([0.9]))
    assert out.dtype == torch.bfloat16
    exact = regularised(
        logits.double(), match.double(), torch.ones(1, 4).double(), torch.tensor([0.9]).double()
    )
    torch.testing.assert_close(out.double(), exact, rtol=0.02, atol=0.02)


def test_pairs_by_hand():
    masks = torch.tensor(
        [[[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]]
    )  # the second place is in both regions
    tokens = torch.tensor([[[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]])
    words = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0]])  # start, two phrases, another word, end
    assert matched_pairs(masks, tokens, words)[0].tolist() == [
        [0, 1, -1, -1, 0],
        [0, 1, 1, -1, 0],
        [0, -1, 1, -1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert matched_pairs(masks, masks, torch.ones(1, 4))[0].tolist() == [
        [1, 1, -1, -1],
        [1, 1, 1, -1],
        [-1, 1, 1, -1],
        [0, 0, 0, 0],
    ]
    assert not matched_pairs(masks[:, :0], tokens[:, :0], words).any(), "no region, nothing to say"


def test_area_counts_overlaps_once_and_is_the_papers_for_masks_that_tile():
    overlapping = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]])
    assert covered_area(overlapping)[0].tolist() == [0.5, 0.75, 0.5, 0]
    everywhere = torch.ones(1, 3, 4)  # the paper's sum would be 3, and 1 - 3 turn the pull around
    assert covered_area(everywhere)[0].tolist() == [1, 1, 1, 1]
    owner = torch.randint(0, 3, (2, 20), generator=torch.Generator().manual_seed(0))
    tiling = torch.stack([(owner == n).float() for n in range(3)], dim=1)
    paper = torch.einsum("bnq,bnk->bq", tiling, tiling) / 20
    torch.testing.assert_close(covered_area(tiling), paper)


# In the nets

#: Tokens after the start token, by hand: the tiny tokenizer has whole words.
TOKENS_OF = {
    BOTH: {"a red apple": [1, 2, 3], "blue car": [6, 7]},  # a red apple and a blue car
    THREE: {"blue car": [6, 7], "a red apple": [9, 10, 11], "clock": [2]},
}
WORDS_OF = {BOTH: 7, THREE: 11}


def masks_by_hand(layout, side):
    rows, columns = (np.indices((side, side)) + 0.5) / side
    boxes = [region.box.xyxy for region in layout.regions]
    return [((columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)).ravel() for x0, y0, x1, y1 in boxes]


def expected_logits(kind, logits, layout, strength, official):
    """Straight from masks, words and the equations."""
    side = int(logits.shape[-2] ** 0.5)
    masks = masks_by_hand(layout, side)
    together = np.any([np.outer(mask, mask) for mask in masks], axis=0)
    if kind == "self":
        match = np.where(together, 1.0, -1.0)
    else:
        match = np.zeros((side * side, logits.shape[-1]))
        match[:, slice(None) if official else slice(1, 1 + WORDS_OF[layout])] = -1
        for region, mask in zip(layout.regions, masks, strict=True):
            match[np.ix_(mask, TOKENS_OF[layout][region.phrase])] = 1
    match[~np.any(masks, axis=0)] = 0
    size_weight = 1 - together.sum(axis=1) / side**2
    return pulled_in_numpy(
        logits.double().numpy()[None], match[None], size_weight[None], np.array([strength])
    )[0]


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_every_layer_is_pulled_as_the_equations_say(kind, official, request):
    backbone = request.getfixturevalue(kind)
    layouts = [BOTH, NONE, THREE]
    calls = logits_of(backbone, layouts, DenseDiffusion(official=official), steps=10)
    early = [call for call in calls if call[1].index < 3]
    assert {site for site, *_ in early} == {site for site in sites(backbone.unet) if opened(site)}
    assert {ctx.index for _, ctx, *_ in calls} == set(range(10))
    for site, ctx, before, after in early:
        strength = (1.0 if site.kind == "cross" else 0.3) * (float(ctx.t) / 1000) ** 5
        assert ctx.t == [901, 801, 701][ctx.index]
        assert torch.equal(after[1], before[1]), "no regions, no pull"
        for row, layout in ((0, BOTH), (2, THREE)):
            expected = expected_logits(site.kind, before[row], layout, strength, official)
            np.testing.assert_allclose(after[row].numpy(), expected, rtol=0, atol=1e-5)
            assert (after[row] - before[row]).abs().max() > 1e-3
    assert all(torch.equal(before, after) for _, ctx, before, after in calls if ctx.index >= 3)


def released(logits, mask, size_weight, creg, t):
    """The two lines of the released code (naver-ai/DenseDiffusion@54a2ea6, ``mod_forward``), in our words."""
    low, high = logits.min(-1, keepdims=True), logits.max(-1, keepdims=True)
    gain = size_weight[:, None] * creg * (t / 1000) ** 5
    raised = logits + (mask > 0) * gain * (high - logits)
    return raised - (mask <= 0) * gain * (raised - low)


def test_masks_that_tile_give_the_released_logits(plain):
    """Which is what it is made for: all places and all tokens, those of start, end and padding among them."""
    left, right = Region("a red apple", (0, 0, 0.5, 1)), Region("a blue car", (0.5, 0, 1, 1))
    tiling = Layout("a red apple and a blue car", [left, right], seed=4)
    tokens = {0: [1, 2, 3], 1: [5, 6, 7]}
    for site, ctx, before, after in logits_of(plain, [tiling], DenseDiffusion(), steps=10):
        if site.kind != "cross" or ctx.index >= 3:
            continue
        side = int(before.shape[-2] ** 0.5)
        masks = masks_by_hand(tiling, side)
        mask = np.zeros((side * side, before.shape[-1]))
        for place, own in tokens.items():
            mask[np.ix_(masks[place], own)] = 1
        size_weight = np.full(side * side, 0.5)
        expected = released(before[0].double().numpy(), mask, size_weight, 1.0, float(ctx.t))
        np.testing.assert_allclose(after[0].numpy(), expected, rtol=0, atol=1e-5)


def test_size_and_power_weigh_the_pull(plain):
    settings = DenseDiffusion(
        size=0, power=1, creg=0.5, sreg=0, duration=1, phrases_alone=False, official=False
    )
    whole = Layout("a red apple", [Region("a red apple", (0, 0, 1, 1))], seed=0)
    for site, ctx, before, after in logits_of(plain, [whole], settings, steps=2):
        match = torch.zeros(1, *before.shape[2:])
        match[..., 1:4] = 1
        gain = 0.5 * ctx.t.float() / 1000 if site.kind == "cross" else 0 * ctx.t.float()
        expected = before + gain * match[:, None] * (before.amax(-1, keepdim=True) - before)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    for *_, before, after in logits_of(plain, [whole], DenseDiffusion(official=False), steps=2):
        assert torch.equal(before, after), "with size 1 a region that fills the picture has nothing to pull"


def test_phrases_look_at_their_boxes_more(gated):
    """Attention mass of a phrase's words within its own box, against plain sampling from the same noise."""
    options = {"steps": 10, "record": lambda site: site.kind == "cross"}
    with_method = run(gated, [BOTH], DenseDiffusion(phrases_alone=False), **options)[0].maps
    without = run(gated, [BOTH], **options)[0].maps
    for site, probs in with_method.items():
        side = int(probs.shape[-2] ** 0.5)
        for region, mask in zip(BOTH.regions, masks_by_hand(BOTH, side), strict=True):
            tokens = TOKENS_OF[BOTH][region.phrase]
            with_it, without_it = (
                m[0][:, torch.from_numpy(mask)][..., tokens].sum() for m in (probs, without[site])
            )
            assert with_it > 1.05 * without_it


def test_a_mask_counts_instead_of_the_box(plain):
    left = np.zeros((8, 8), dtype=bool)
    left[:, :2] = True
    masked = Layout("a red apple", [Region("a red apple", (0, 0, 1, 1), left)], seed=0)
    boxed = Layout("a red apple", [Region("a red apple", (0, 0, 0.25, 1))], seed=0)
    first, second = (run(plain, [layout], DenseDiffusion())[-1].z for layout in (masked, boxed))
    assert torch.equal(first, second)


def test_pictures_that_are_not_square(plain):
    wide = Layout("a red apple", [APPLE], width=128, height=64, seed=0)
    calls = logits_of(plain, [wide], DenseDiffusion(power=0), steps=1)
    site, _, before, after = next(
        call for call in calls if call[2].shape[-2] == 128 and call[0].kind == "cross"
    )
    changed = (before != after).any(dim=-1).all(dim=1)[0].view(8, 16)
    assert changed[:4, :8].all() and changed.sum() == 32, site


# Text


def test_words_of_a_phrase_are_encoded_without_the_prompt(plain):
    text = plain.encode([BOTH.prompt, NONE.prompt])
    before = text.states.clone()
    out = DenseDiffusion().text(text, [BOTH, NONE], plain).states
    apple, car = plain.encode(["a red apple", "blue car"]).states
    expected = before.clone()
    expected[0, 1:4], expected[0, 6:8] = apple[1:4], car[1:3]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    assert torch.equal(text.states, before), "the input is not written to"
    assert (out[0, 6:8] - before[0, 6:8]).abs().max() > 1e-3, "the prompt before it mattered"
    assert DenseDiffusion(phrases_alone=False).text(text, [BOTH, NONE], plain) is text


def test_a_part_of_the_phrase_keeps_its_place_in_it_and_other_forms_are_left(plain):
    part = Layout("red apple and cats", [APPLE, Region("cat", (0.5, 0.5, 1, 1))])  # neither "a ..." nor "cat"
    text = plain.encode([part.prompt])
    out, before = DenseDiffusion().text(text, [part], plain).states, text.states
    torch.testing.assert_close(out[0, 1:3], plain.encode(["a red apple"]).states[0, 2:4], rtol=0, atol=1e-6)
    assert torch.equal(out[0, 3:], before[0, 3:]) and torch.equal(out[0, 0], before[0, 0])


def test_a_phrase_cut_at_the_prompts_end_has_its_first_words(plain):
    long = Layout("a cat and " * 7 + "a red apple", [APPLE])  # 21 words before it, and room for 22
    with pytest.warns(UserWarning, match="prompt cut"):
        text = plain.encode([long.prompt])
    out, before = DenseDiffusion().text(text, [long], plain).states, text.states
    torch.testing.assert_close(out[0, 22], plain.encode(["a red apple"]).states[0, 1], rtol=0, atol=1e-6)
    assert torch.equal(out[0, :22], before[0, :22]) and torch.equal(out[0, 23], before[0, 23])


def test_a_phrase_that_is_not_in_the_prompt_acts_on_self_attention_only(plain):
    strange = Layout("a red apple", [APPLE, Region("green chair", (0.5, 0.5, 1, 1))], seed=0)
    with pytest.warns(
        UserWarning, match="does not hold the phrase 'green chair'; its region acts on self"
    ) as caught:
        calls = logits_of(plain, [strange, strange], DenseDiffusion(power=0), steps=1)
    assert len(caught) == 2, "once for each picture"
    with pytest.warns(UserWarning, match="green chair"):
        notes = run(plain, [strange, BOTH], DenseDiffusion())[-1].notes
    assert {row: times for (row, _), times in notes.items()} == {0: 1}
    for site, _, before, after in calls:
        if before.shape[-2] == 64 and site.place == "up":
            corner = (before != after).any(dim=-1).all(dim=1)[0].view(8, 8)[4:, 4:]
            assert corner.all() if site.kind == "self" else not corner.any()
    alone = Layout("a cat", [APPLE], seed=0)
    with pytest.warns(UserWarning, match="a red apple"):
        calls = logits_of(plain, [alone], DenseDiffusion(power=0, duration=1), steps=2)
    assert all(torch.equal(before, after) == (site.kind == "cross") for site, _, before, after in calls)


# In the loop


@pytest.mark.filterwarnings("ignore:this backbone has no grounding layers")
@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_a_picture_does_not_depend_on_its_mates(kind, request):
    backbone = request.getfixturevalue(kind)
    layouts = [BOTH, NONE, THREE]
    together = run(backbone, layouts, DenseDiffusion(duration=1))[-1].z
    for row in (0, 2):
        alone = run(backbone, [layouts[row]], DenseDiffusion(duration=1))[-1].z
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    plain_sampling = run(backbone, layouts, record=opened)[-1].z
    assert torch.equal(together[1], plain_sampling[1]), "without regions nothing is changed"
    for row in (0, 2):
        assert (together[row] - plain_sampling[row]).abs().max() > 1e-3


@pytest.mark.parametrize("off", [{"creg": 0, "sreg": 0}, {"duration": 0}])
def test_without_a_pull_it_is_plain_sampling(gated, off):
    zero = run(gated, [BOTH, THREE], DenseDiffusion(**{"phrases_alone": False} | off))[-1].z
    assert torch.equal(zero, run(gated, [BOTH, THREE])[-1].z), "no layer is opened"


def test_each_part_acts_by_itself(gated):
    off = {"creg": 0, "sreg": 0, "phrases_alone": False}
    plain_sampling = run(gated, [BOTH], record=opened)[-1].z
    for on in ({"creg": 1}, {"sreg": 0.3}, {"phrases_alone": True}):
        assert (run(gated, [BOTH], DenseDiffusion(**off | on))[-1].z - plain_sampling).abs().max() > 1e-4, on


def test_works_beside_another_method_and_with_another_scheduler(gated):
    class Forbid(Method):
        """No place may look at the words "a" of the prompt."""

        def taps(self, site):
            return site.kind == "cross"

        def edit(self, site, logits, ctx):
            return logits.index_fill(-1, torch.tensor([1]), -torch.inf)

    for methods in ((Forbid(), DenseDiffusion()), (DenseDiffusion(), Forbid())):
        for scheduler in ("ddim", "euler", "pndm"):
            step = run(gated, [BOTH, THREE], *methods, scheduler=scheduler, record=opened)[0]
            assert step.z.isfinite().all()
            assert all(not probs[..., 1].any() for site, probs in step.maps.items() if site.kind == "cross")


def test_bfloat16(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=True).to(dtype=torch.bfloat16)
    calls = logits_of(backbone, [BOTH, THREE], DenseDiffusion(), steps=4)
    assert all(after.dtype == torch.bfloat16 and after.isfinite().all() for *_, after in calls)


def test_bad_input_is_one_sentence(plain):
    for settings in ({"duration": 1.5}, {"creg": -1}, {"sreg": 3}, {"size": 2}, {"power": -1}, {"crag": 1}):
        with pytest.raises(FieldError, match=next(iter(settings))):
            DenseDiffusion(**settings)
