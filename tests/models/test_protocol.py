"""The protocol of a backbone: levels of noise, targets, features, images, trainable parts, encoded prompts."""

import copy

import pytest
import torch

from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded, content
from trueline.models.stable_diffusion import StableDiffusion


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_checkpoint_comes_as_its_family(gated_folder):
    loaded = Backbone.from_pretrained(gated_folder)
    assert type(loaded) is StableDiffusion and loaded.denoiser is loaded.unet
    assert list(loaded.nets()) == ["text_encoder", "unet", "vae"]


@pytest.mark.parametrize("kind", ["gated", "gated_v"])
def test_noise_level_target_and_x0_are_those_of_the_scheduler(kind, request):
    backbone = request.getfixturevalue(kind)
    x0, noise, t = draws(3, 4, 8, 8), draws(3, 4, 8, 8, seed=1), torch.tensor([0, 400, 999])
    alpha, sigma = backbone.noise_level(t)
    z = alpha * x0 + sigma * noise
    torch.testing.assert_close(z, backbone.scheduler.add_noise(x0, noise, t))
    wanted = backbone.target(x0, noise, t)
    theirs = noise if kind == "gated" else backbone.scheduler.get_velocity(x0, noise, t)
    torch.testing.assert_close(wanted, theirs)
    torch.testing.assert_close(backbone.x0(wanted, z, t), x0, rtol=1e-3, atol=1e-3)
    for wrong in (-1, 1000):
        with pytest.raises(ValueError, match=r"t: this model has the timesteps 0 to 999 \(got"):
            backbone.noise_level(torch.tensor([5, wrong]))


def test_features_are_what_modules_give_with_gradients(gated):
    text, z = gated.encode(["a red apple"]), draws(1, 4, 8, 8).requires_grad_(True)
    found = gated.features(z, 500, text, ["mid_block", "conv_out"])
    with torch.no_grad():
        torch.testing.assert_close(found["conv_out"], gated.predict(z, 500, text))
    assert found["mid_block"].shape == (1, 64, 4, 4)
    (gradient,) = torch.autograd.grad(found["mid_block"].square().sum(), z)
    assert gradient.abs().max() > 0
    assert not gated.unet.mid_block._forward_hooks
    with pytest.raises(ValueError, match="names: the net has no module 'mid'"):
        gated.features(z, 500, text, ["mid"])
    with pytest.raises(ValueError, match=r"names: the module 'down_blocks\.0' gives no tensor"):
        gated.features(z, 500, text, ["down_blocks.0"])


def test_pictures_to_latents_and_back_with_a_shift(plain):
    plain = copy.deepcopy(plain)
    pictures = draws(2, 3, 64, 64).clamp(-1, 1)
    with torch.no_grad():
        latents = plain.encode_images(pictures)
        shown = plain.decode(latents)
        mean = plain.vae.encode(pictures).latent_dist.mean
        torch.testing.assert_close(latents, mean * plain.vae.config.scaling_factor)
        torch.testing.assert_close(plain.decode_with_gradient(latents).clamp(0, 1), shown)
        plain.vae.register_to_config(shift_factor=0.25)
        shifted = plain.encode_images(pictures)
        torch.testing.assert_close(shifted, (mean - 0.25) * plain.vae.config.scaling_factor)
        torch.testing.assert_close(plain.decode(shifted), shown, rtol=1e-4, atol=1e-4)
    latents.requires_grad_(True)
    assert torch.autograd.grad(plain.decode_with_gradient(latents).sum(), latents)[0].abs().max() > 0


def test_parts_that_can_be_trained(plain, gated):
    names = {part: set(gated.trainable(part)) for part in ("none", "fusers", "attention", "all")}
    assert not names["none"] and names["all"] == {name for name, _ in gated.unet.named_parameters()}
    assert names["fusers"] & names["attention"] == set()
    assert set(gated.trainable("fusers+attention")) == names["fusers"] | names["attention"]
    without = set(gated.trainable("fusers", position_net=False))
    assert without < names["fusers"] and not any("position_net" in name for name in without)
    with pytest.raises(ValueError, match="part: this U-Net has no grounding layers"):
        plain.trainable("fusers")


def test_encoded_prompts_keep_their_words_through_rows_and_joining(plain):
    both = plain.encode(["a red apple", ""])
    assert [len(row[0]) for row in both.spans] == [plain.text_length] * 2 == [both.states.shape[1]] * 2
    assert [content(row[0]) for row in both.spans] == [range(1, 4), range(0)]
    assert both.spans[0][0][1:4] == ((0, 1), (2, 5), (6, 11))
    for rows in ([1], slice(1, 2), torch.tensor([False, True])):
        chosen = both[rows]
        assert len(chosen) == 1 and chosen.spans == both.spans[1:]
        assert torch.equal(chosen.states, both.states[1:])
    joined = Encoded.cat([both[[1]], both])
    assert joined.spans == (both.spans[1], *both.spans) and torch.equal(joined.states[1:], both.states)
    doubled = both.with_states(2 * both.states.double())
    assert doubled.states.dtype == both.states.dtype and doubled.spans == both.spans
