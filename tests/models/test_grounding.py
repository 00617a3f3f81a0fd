"""GLIGEN's grounding: packing, schedule, scale and restoration, on a real tiny gated U-Net."""

import copy

import pytest
import torch
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection
from tiny import as_encoded

from trueline.layout import Layout, Region
from trueline.models.grounding import (
    Grounding,
    alpha_schedule,
    fuser_scale,
    fusers,
    grounded,
    pack,
    position_tokens,
)
from trueline.models.schedules import check_schedule

TWO = Layout("p", [Region("a", (0.1, 0.2, 0.3, 0.4)), Region("bb", (0.5, 0.5, 1, 1))])
ONE = Layout("q", [Region("a", (0, 0, 1, 1))])
NONE = Layout("r")


def lengths(phrases):
    """A stand-in for a text encoder whose vectors can be read: the phrase's length, four times."""
    return torch.tensor([[float(len(phrase))] * 4 for phrase in phrases])


def test_pack_different_region_counts():
    calls = []
    grounding = pack([TWO, ONE, NONE], lambda p: calls.append(p) or lengths(p), slots=5, width=4)
    assert calls == [["a", "bb"]], "each distinct phrase once"
    assert grounding.boxes.shape == (3, 5, 4)
    assert grounding.masks.tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0] * 5]
    torch.testing.assert_close(grounding.boxes[0, 0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert grounding.embeddings[:, :2, 0].tolist() == [[1, 2], [1, 0], [0, 0]]
    assert not grounding.boxes[1, 1:].any() and not grounding.embeddings[2].any()


def test_a_label_is_told_in_place_of_the_phrase():
    calls = []
    dog, cat = Region("a small dog", (0, 0, 1, 1), label="dog"), Region("a cat", (0, 0, 1, 1))
    grounding = pack([Layout("p", [dog, cat])], lambda p: calls.append(p) or lengths(p), slots=2, width=4)
    assert calls == [["dog", "a cat"]] == [[dog.grounding_phrase, cat.grounding_phrase]]
    assert grounding.embeddings[0, :, 0].tolist() == [3, 5]


def test_pack_without_any_region_encodes_nothing():
    grounding = pack([NONE], lambda p: pytest.fail("encoded nothing"), slots=3, width=4)
    assert not grounding.masks.any() and grounding.embeddings.shape == (1, 3, 4)


def test_too_many_regions_for_this_backbone():
    with pytest.raises(ValueError, match=r"regions: this backbone takes at most 1 regions .* \(got 2\)"):
        pack([TWO], lengths, slots=1, width=4)


def test_null_and_cat_and_rows():
    grounding = pack([TWO, ONE], lengths, slots=2, width=4)
    both = Grounding.cat([grounding.null(), grounding])
    assert both.masks.tolist() == [[0, 0], [0, 0], [1, 1], [1, 0]]
    assert not both.boxes[:2].any() and torch.equal(both[2:].boxes, grounding.boxes)
    assert torch.equal(both[[3]].embeddings, grounding.embeddings[1:])


@pytest.mark.parametrize(
    ("steps", "stages", "expected"),
    [
        (10, (0.3, 0, 0.7), [1] * 3 + [0] * 7),
        (10, (0.2, 0.4, 0.4), [1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]),
        (51, (0.3, 0, 0.7), [1] * 15 + [0] * 36),
        (4, (1, 0, 0), [1] * 4),
        (3, (0, 0, 1), [0] * 3),
        (7, (0.5, 0.5, 0), [1, 1, 1, 2 / 3, 1 / 3, 0, 0]),
        (2, (0.3, 0, 0.7), [1, 0]),  # ours from here: GLIGEN's would be 0 throughout
        (3, (0, 0.4, 0.6), [1, 0, 0]),
        (1, (0, 0.01, 0.99), [1]),
        (0, (1, 0, 0), []),
    ],
)
def test_alpha_schedule(steps, stages, expected):
    """Golden values: GLIGEN's alpha_generator, worked by hand; but boxes are on for one step at least."""
    assert alpha_schedule(steps, stages) == pytest.approx(expected)


@pytest.mark.parametrize(
    "stages", [(0.3, 0.7), (0.5, 0.2, 0.2), (-0.1, 0.1, 1), (float("nan"), 0, 1), "abc", 3]
)
def test_bad_schedule(stages):
    with pytest.raises(ValueError, match="grounding_schedule: "):
        check_schedule(stages)


def fuser_inputs(unet):
    generator = torch.Generator().manual_seed(0)
    fuser = fusers(unet)[0]
    return fuser, torch.randn(3, 16, 32, generator=generator), torch.randn(3, 5, 32, generator=generator)


def gligen(fuser, x, objs, scale):
    """The formula of GLIGEN's code, with the fuser's own parts."""
    tokens = torch.cat([x, fuser.linear(objs)], dim=1)
    x = x + scale * fuser.alpha_attn.tanh() * fuser.attn(fuser.norm1(tokens))[:, : x.shape[1]]
    return x + scale * fuser.alpha_dense.tanh() * fuser.ff(fuser.norm2(x))


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 0.35, 1.0])
def test_scale_is_gligens_formula(gated, scale):
    fuser, x, objs = fuser_inputs(gated.unet)
    expected = gligen(fuser, x, objs, scale)
    with fuser_scale(gated.unet, scale):
        scaled = fuser(x, objs)
    torch.testing.assert_close(scaled, expected)
    if scale == 0.35:  # not the same as mixing the fuser's input and output: the test can tell
        assert (x + scale * (fuser(x, objs) - x) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_scale_per_row(gated):
    fuser, x, objs = fuser_inputs(gated.unet)
    with fuser_scale(gated.unet, torch.tensor([0.0, 0.5, 1.0])):
        scaled = fuser(x, objs)
    assert torch.equal(scaled[0], x[0]), "scale 0 leaves a row untouched, exactly"
    torch.testing.assert_close(scaled[1], gligen(fuser, x, objs, 0.5)[1])
    torch.testing.assert_close(scaled[2], fuser(x, objs)[2])


def hooks(unet):
    return [len(module._forward_hooks) for module in unet.modules()]


def test_state_is_restored_after_an_exception(gated):
    unet, position_net, before = gated.unet, gated.unet.position_net, hooks(gated.unet)
    fusers(unet)[1].enabled = False
    grounding = pack([ONE], lambda p: torch.ones(len(p), 32), slots=2, width=32)
    try:
        with pytest.raises(ZeroDivisionError), grounded(unet, grounding, 0.5, like=torch.zeros(1, 4, 8, 8)):
            assert unet.position_net is not position_net and all(f.enabled for f in fusers(unet))
            raise ZeroDivisionError
        assert [fuser.enabled for fuser in fusers(unet)] == [True, False, True, True]
    finally:
        fusers(unet)[1].enabled = True
    assert unet.position_net is position_net and hooks(unet) == before


def test_nothing_is_touched_at_scale_zero(gated):
    grounding = pack([ONE], lambda p: torch.ones(len(p), 32), slots=2, width=32)
    before = hooks(gated.unet)
    for off in (0.0, torch.zeros(1)):
        with grounded(gated.unet, grounding, off, like=torch.zeros(1, 4, 8, 8)) as kwargs:
            assert kwargs is None and hooks(gated.unet) == before
    with grounded(gated.unet, None, 1.0, like=torch.zeros(1, 4, 8, 8)) as kwargs:
        assert kwargs is None


@torch.no_grad()
def test_predict_equals_diffusers_own_grounding(gated):
    """At scale 1 the U-Net given diffusers' arguments; null tokens are not the same as no grounding."""
    grounding = pack([TWO, ONE], lambda p: torch.ones(len(p), 32), slots=30, width=32)
    z, text = torch.randn(2, 4, 8, 8), torch.randn(2, 24, 32)
    args = {"boxes": grounding.boxes, "masks": grounding.masks, "positive_embeddings": grounding.embeddings}
    theirs = gated.unet(z, 9, encoder_hidden_states=text, cross_attention_kwargs={"gligen": args}).sample
    ours = gated.predict(z, 9, as_encoded(text), grounding)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    null, off = (
        gated.predict(z, 9, as_encoded(text), grounding.null()),
        gated.predict(z, 9, as_encoded(text), grounding, 0.0),
    )
    assert (null - off).abs().max() > 1e-3 and (null - ours).abs().max() > 1e-3
    assert torch.equal(off, gated.unet(z, 9, encoder_hidden_states=text).sample)


def test_position_net_runs_in_float32_under_bfloat16():
    torch.manual_seed(0)
    net = GLIGENTextBoundingboxProjection(positive_len=8, out_dim=8)
    grounding = Grounding(torch.rand(1, 3, 4), torch.ones(1, 3), torch.randn(1, 3, 8))
    half = copy.deepcopy(net).bfloat16()
    rounded = copy.deepcopy(half).float()
    exact = rounded(grounding.boxes, grounding.masks, grounding.embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = position_tokens(half, grounding)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, exact)
    naive = half(*(part.bfloat16() for part in (grounding.boxes, grounding.masks, grounding.embeddings)))
    assert (naive.float() - exact).abs().max() > 1e-3, "the test can tell"
    tokens.sum().backward()
    assert all(weight.grad is not None for weight in half.linears.parameters())
