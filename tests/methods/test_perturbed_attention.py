"""Perturbed-attention guidance: the perturbed pass beside diffusers' own, and the sum by hand."""

import pytest
import torch
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0
from tiny import sampled, tiny_backbone

from trueline.layout import Layout
from trueline.methods.perturbed_attention import PerturbedAttention, to_itself
from trueline.sampling.method import Method

CAT = Layout("a cat and a red apple", seed=3)


class Listener(Method):
    """Keeps what came to it."""

    def combine(self, prediction, cond, uncond, z, ctx):
        KEPT.append((prediction.clone(), cond.clone(), z.clone(), ctx))
        return prediction


KEPT: list[tuple] = []


def steps(backbone, *methods, n=4, scale=4.0):
    KEPT.clear()
    last = [*sampled(backbone, [CAT], [*methods, Listener()], n, guidance_scale=scale)][-1]
    return last.z, list(KEPT)


def test_each_place_attends_to_itself():
    probs = to_itself(None, torch.randn(2, 3, 5, 5)).softmax(-1)
    assert torch.equal(probs, torch.eye(5).expand(2, 3, 5, 5))


def perturbed_by_diffusers(backbone, z, ctx):
    """The perturbed half of a pass with diffusers' processor in the middle block's self-attention."""
    before = backbone.unet.attn_processors
    changed = {
        name: PAGIdentitySelfAttnProcessor2_0() if name.startswith("mid_block") and ".attn1." in name else own
        for name, own in before.items()
    }
    backbone.unet.set_attn_processor(changed)
    try:
        states = torch.cat([ctx.text.states] * 2)
        return backbone.unet(torch.cat([z, z]), ctx.t, encoder_hidden_states=states).sample.chunk(2)
    finally:
        backbone.unet.set_attn_processor(before)


@torch.no_grad()
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_the_step_is_diffusers(plain, scale):
    _, seen = steps(plain, PerturbedAttention(), scale=scale)
    _, without = steps(plain, scale=scale, n=1)
    assert len(seen) == 4
    for prediction, cond, z, ctx in seen:
        own, perturbed = perturbed_by_diffusers(plain, z, ctx)
        torch.testing.assert_close(own, cond, rtol=0, atol=1e-5)
        assert (cond - perturbed).abs().max() > 1e-4, "it matters"
        guided = prediction - 3 * (cond - perturbed)
        if ctx.negative is None:
            torch.testing.assert_close(guided, cond, rtol=0, atol=1e-5)
        else:
            uncond = plain.predict(z, ctx.t, ctx.negative)
            torch.testing.assert_close(guided, uncond + scale * (cond - uncond), rtol=0, atol=1e-5)
    assert torch.equal(seen[0][2], without[0][2])


def test_it_ends_and_is_as_strong_as_it_is_told(plain):
    _, seen = steps(plain, PerturbedAttention(until=0.5, strength=0.5, scale=2))
    _, usual = steps(plain)
    first, plain_first = seen[0], usual[0]
    twice = steps(plain, PerturbedAttention(until=0.5, strength=1, scale=2))[1][0][0] - plain_first[0]
    torch.testing.assert_close(2 * (first[0] - plain_first[0]), twice, rtol=0, atol=1e-5)
    for prediction, cond, z, ctx in seen[2:]:
        uncond = plain.predict(z, ctx.t, ctx.negative)
        torch.testing.assert_close(prediction, uncond + 4 * (cond - uncond), rtol=0, atol=1e-5)


def test_velocity_is_guided_alike(tokenizer):
    """In the noise that it means: eps = alpha v + sigma z, so the same scale."""
    backbone = tiny_backbone(tokenizer, gated=False, prediction_type="v_prediction")
    _, seen = steps(backbone, PerturbedAttention())
    prediction, cond, z, ctx = seen[1]
    alpha, sigma = ctx.stepper.alpha_sigma()

    def noise(velocity):
        return alpha * velocity + sigma * z

    with torch.no_grad():
        uncond = backbone.predict(z, ctx.t, ctx.negative)
        _, perturbed = perturbed_by_diffusers(backbone, z, ctx)
    guided = noise(uncond) + 4 * (noise(cond) - noise(uncond)) + 3 * (noise(cond) - noise(perturbed))
    torch.testing.assert_close(noise(prediction), guided, rtol=0, atol=1e-4)


def test_a_block_without_self_attention_is_named(plain, monkeypatch):
    own = [site for site in plain.sites() if site.place != "mid" or site.kind != "self"]
    monkeypatch.setattr(type(plain), "sites", lambda self: own)
    with pytest.raises(ValueError, match="place: this backbone has no self-attention in its mid block"):
        steps(plain, PerturbedAttention())
