"""The ``values`` part of the seam: what the values of cross-attention read, where it is not what the keys read."""

import pytest
import torch
from tiny import as_encoded, sampled

from trueline.layout import Layout
from trueline.models.attention import tapped
from trueline.sampling.method import Method


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def texts():
    return torch.randn(2, 2, 24, 32, generator=torch.Generator().manual_seed(2))


def cross(site):
    return site.kind == "cross"


@torch.no_grad()
def test_values_may_read_another_context_than_keys(plain, latents, texts):
    text, other = texts
    with tapped(plain.unet, cross, values=lambda site, context: other) as maps:
        mixed = plain.predict(latents, 500, as_encoded(text))
    first = next(iter(maps))
    with tapped(plain.unet, cross) as own:
        expected = plain.predict(latents, 500, as_encoded(text))
    assert torch.equal(maps[first], own[first]), "keys and queries of the first layer are as before"
    assert (mixed - expected).abs().max() > 1e-3
    with tapped(plain.unet, cross, values=lambda site, context: context):
        assert torch.equal(plain.predict(latents, 500, as_encoded(text)), expected)


@torch.no_grad()
def test_skipped_rows_keep_their_values(plain, latents, texts):
    text, other = texts
    seen = []

    def values(site, context):
        seen.append(len(context))
        return other[1:]

    with tapped(plain.unet, cross, values=values, skip=1):
        mixed = plain.predict(latents, 500, as_encoded(text))
    expected = plain.predict(latents, 500, as_encoded(text))
    torch.testing.assert_close(mixed[0], expected[0], rtol=1e-5, atol=1e-5)
    assert (mixed[1] - expected[1]).abs().max() > 1e-3 and set(seen) == {1}


class Negated(Method):
    def values(self, text, layouts, backbone):
        return text.with_states(-text.states)


class Doubled(Method):
    def values(self, text, layouts, backbone):
        return text.with_states(2 * text.states)


def final(backbone, *methods):
    return list(sampled(backbone, [Layout("a red apple"), Layout("a cat")], methods, 4, seeds=[0, 1]))[-1].z


def test_the_values_hook_acts_in_order_and_its_default_changes_nothing(gated):
    plain = final(gated)
    assert torch.equal(final(gated, Method()), plain), "nothing is tapped for it"
    assert (final(gated, Negated()) - plain).abs().max() > 1e-3
    twice = final(gated, Negated(), Negated())
    torch.testing.assert_close(twice, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(final(gated, Negated(), Doubled()), final(gated, Doubled(), Negated()))


def test_what_guiding_methods_see_has_the_values_too(gated):
    seen = []

    class Peek(Method):
        def guide(self, z, ctx):
            prediction, _ = ctx.predict_cond(z)
            seen.append(prediction)
            return z

        def combine(self, prediction, cond, uncond, z, ctx):
            seen.append(cond)
            return prediction

    final(gated, Negated(), Peek())
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-5)
