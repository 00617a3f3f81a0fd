"""The attention seam on a real tiny GLIGEN U-Net."""

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from tiny import as_encoded

from trueline.models.attention import Site, sites, tapped
from trueline.models.grounding import Grounding, grounded


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 24, 32, generator=generator)
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5]], [[0.4, 0.2, 0.9, 0.9]]])
    grounding = Grounding(boxes, torch.ones(2, 1), torch.randn(2, 1, 32, generator=generator))
    return z, text, grounding


def run(backbone, inputs):
    z, text, grounding = inputs
    return backbone.predict(z, 500, as_encoded(text), grounding)


def test_sites_have_kind_and_place(gated, plain):
    found = sites(gated.unet)
    assert len(found) == len(set(found)) == 12
    assert {(s.place, s.kind) for s in found} == {
        (place, kind) for place in ("down", "mid", "up") for kind in ("self", "cross", "gated")
    }
    assert found[0] == Site("down_blocks.0.attentions.0.transformer_blocks.0.attn1", "self", "down", 1)
    assert {s.kind for s in sites(plain.unet)} == {"self", "cross"}


@torch.no_grad()
def test_tapping_without_edits_changes_nothing_but_rounding(gated, inputs):
    expected = run(gated, inputs)
    with tapped(gated.unet, lambda site: True) as maps:
        actual = run(gated, inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert set(maps) == set(sites(gated.unet))
    for site, probs in maps.items():
        torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))
        places = 16 if site.place == "mid" else 64
        keys = {"self": places, "cross": 24, "gated": places + 1}[site.kind]
        queries = places + 1 if site.kind == "gated" else places
        assert probs.shape == (2, 2, queries, keys)


@torch.no_grad()
def test_an_edit_of_logits_reaches_the_probabilities_and_the_output(gated, inputs):
    def forbid_first_token(site, logits):
        return logits.index_fill(-1, torch.tensor([0]), -torch.inf)

    with tapped(gated.unet, lambda site: site.kind == "cross", [forbid_first_token]) as maps:
        edited = run(gated, inputs)
    assert all(site.kind == "cross" and not probs[..., 0].any() for site, probs in maps.items())
    assert (edited - run(gated, inputs)).abs().max() > 1e-4


@torch.no_grad()
def test_edits_compose_in_order(gated, inputs):
    def where(site):
        return site.kind == "self"

    with tapped(gated.unet, where, [lambda s, x: x + 1.5, lambda s, x: x * 2]):
        two = run(gated, inputs)
    with tapped(gated.unet, where, [lambda s, x: (x + 1.5) * 2]):
        one = run(gated, inputs)
    torch.testing.assert_close(two, one)


@torch.no_grad()
def test_skipped_rows_are_neither_edited_nor_recorded(gated, inputs):
    plain_output = run(gated, inputs)
    seen = []

    def scramble(site, logits):
        seen.append(len(logits))
        return logits.flip(-1)

    with tapped(
        gated.unet, lambda site: True, [scramble], record=lambda s: s.kind == "cross", skip=1
    ) as maps:
        output = run(gated, inputs)
    torch.testing.assert_close(output[0], plain_output[0], rtol=1e-5, atol=1e-5)
    assert (output[1] - plain_output[1]).abs().max() > 1e-4
    assert set(seen) == {1}
    assert {site.kind for site in maps} == {"cross"} and all(len(probs) == 1 for probs in maps.values())


def test_gradients_flow_from_a_map_to_the_latents(gated, inputs):
    z, text, grounding = inputs
    z, text, grounding = z[:1].double(), text[:1], grounding[:1]
    site = next(s for s in sites(gated.unet) if s.place == "up" and s.kind == "cross")

    def loss(latents):
        with tapped(gated.unet, lambda s: s == site) as maps:
            gated.predict(latents, 500, as_encoded(text), grounding)
        return maps[site][0, :, 10, 3].sum()

    z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(z + 1e-2 * direction) - loss(z - 1e-2 * direction)) / 2e-2
    assert gradient.norm() > 0
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_processors_are_restored_exactly_also_after_an_exception(gated, inputs):
    before = gated.unet.attn_processors
    with pytest.raises(ZeroDivisionError), tapped(gated.unet, lambda site: site.kind == "cross"):
        for key, processor in gated.unet.attn_processors.items():
            assert (processor is before[key]) == ("attn2" not in key), "untouched layers keep their processor"
        raise ZeroDivisionError
    after = gated.unet.attn_processors
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)


def test_matching_no_layer_is_an_error(plain):
    refused = pytest.raises(
        ValueError, match="no attention layer matches; this U-Net has down/cross, down/self"
    )
    with refused, tapped(plain.unet, lambda site: site.kind == "gated"):
        pass


def test_a_processor_of_someone_else_is_not_silently_replaced(tokenizer):
    from tiny import tiny_backbone

    unet = tiny_backbone(tokenizer, gated=False).unet
    refused = pytest.raises(RuntimeError, match="is a _Tap; a tap would silently switch it off")
    with tapped(unet, lambda site: site.kind == "self"), refused, tapped(unet, lambda site: True):
        pass
    foreign = IPAdapterAttnProcessor2_0(hidden_size=32, cross_attention_dim=32)
    key = next(key for key in unet.attn_processors if key.endswith("attn2.processor"))
    unet.set_attn_processor(unet.attn_processors | {key: foreign})
    with (
        pytest.raises(RuntimeError, match="IPAdapterAttnProcessor2_0"),
        tapped(unet, lambda site: site.kind == "cross"),
    ):
        pass


@torch.no_grad()
def test_half_precision_stays_half(tokenizer, inputs):
    from tiny import tiny_backbone

    backbone = tiny_backbone(tokenizer, gated=True).to(dtype=torch.bfloat16)
    z, text, grounding = inputs
    with (
        grounded(backbone.unet, grounding, 1.0, like=z.bfloat16()) as kwargs,
        tapped(backbone.unet, lambda s: True) as maps,
    ):
        output = backbone.unet(
            z.bfloat16(), 500, encoder_hidden_states=text.bfloat16(), cross_attention_kwargs=kwargs
        ).sample
    assert output.dtype == torch.bfloat16 and all(probs.dtype == torch.bfloat16 for probs in maps.values())
