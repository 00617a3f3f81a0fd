"""ReFL: what is drawn, the reward's gradient in the U-Net, what is preserved, what is refused."""

import copy
from collections import Counter

import pytest
import torch
from tiny import sampled
from tiny_blip import PROCESSOR, bert_tokenizer, blip, blip2_text
from tiny_clip import tiny_clip
from torch import Tensor
from transformers import Blip2TextModelWithProjection, BlipForConditionalGeneration

from trueline.layout import Layout, Region
from trueline.models.lora import without_lora
from trueline.models.schedulers import Stepper, make_scheduler
from trueline.models.stable_diffusion import StableDiffusion
from trueline.perception.caption_nets import Blip2TextEncoder, BlipCaptioner
from trueline.training.losses.denoising import decoded
from trueline.training.losses.refl import ReFL, ReflSettings, drawn_step, phi
from trueline.training.objective import Batch, Nets
from trueline.training.parts import open_part
from trueline.training.rewards.caption import CaptionReward, Cosine
from trueline.training.rewards.clip import ClipReward
from trueline.training.rewards.reward import RewardError
from trueline.training.rewards.weighted import Rewards

LAYOUTS = (
    Layout("a red apple", [Region("a red apple", (0.1, 0.1, 0.6, 0.7))]),
    Layout("a blue car", [Region("a blue car", (0.4, 0.3, 0.9, 0.9))]),
)


class Taste:
    """A smooth score of pixels, another for another prompt."""

    name = "taste"

    def __call__(self, images, prompts, generators=None) -> Tensor:
        made = torch.Generator().manual_seed(7)
        likes = torch.randn(images.shape[1:], generator=made, dtype=torch.float64).to(images)
        gain = torch.tensor([len(prompt) / 10 for prompt in prompts]).to(images)
        return (gain * (images * likes).sum((1, 2, 3)) / 40).tanh()


def rewards(standardise: bool = False) -> Rewards:
    return Rewards({"taste": (Taste(), 1.0)}, standardise)


def batch_of(rows=(0, 1), step: int = 3, dtype=torch.float32, **more) -> Batch:
    made = [torch.Generator().manual_seed(50 + row) for row in rows]
    latents, noise = (torch.stack([torch.randn(4, 8, 8, generator=g) for g in made]).to(dtype) for _ in "ab")
    t = torch.tensor([100, 700])[list(rows)]
    return Batch(latents, tuple(LAYOUTS[row] for row in rows), noise, t, step=step, **more)


def with_lora(backbone: StableDiffusion, moved: bool = True) -> tuple[StableDiffusion, dict]:
    twin = copy.deepcopy(backbone)
    names = open_part(twin, "attention", lora=2)
    if moved:
        torch.manual_seed(8)
        with torch.no_grad():
            for weight in names.values():
                weight.normal_(std=0.3)
    return twin, names


def objective(**settings) -> ReFL:
    given = {"sampling_steps": 4, "span": (1, 3), "scale": 1.0, "preserve": "none"} | settings
    parts = {name: given.pop(name) for name in ("seed", "held_out") if name in given}
    first, last = given.pop("span")
    scored = given.pop("rewards", None) or rewards()
    return ReFL(scored, ReflSettings(first=first, last=last, **given), **parts)


def gradients(made: ReFL, backbone: StableDiffusion, names: dict, batch: Batch) -> tuple[float, list[Tensor]]:
    losses = made(batch, Nets(backbone))
    found = torch.autograd.grad(losses["total"], list(names.values()), allow_unused=True)
    return float(losses["total"].detach()), [
        torch.zeros_like(w) if g is None else g for g, w in zip(found, names.values(), strict=True)
    ]


# The gradient


class Exact(StableDiffusion):
    """Predicts in the nets' own precision; the product rounds to float32."""

    def predict(self, latents, t, text, grounding=None, grounding_scale=1.0):
        return self.unet(latents.to(self.dtype), t, encoder_hidden_states=text.states.to(self.dtype)).sample


@pytest.mark.parametrize(
    ("kind", "late", "guidance_scale"),
    [("epsilon", 0, None), ("epsilon", 1, 3.0), ("v_prediction", 1, None)],
    ids=["one-call", "two-calls-guided", "two-calls-velocity"],
)
def test_finite_differences_of_the_reward(plain, kind, late, guidance_scale):
    """In float64, where all calls up to the late step have a gradient, so that it is the whole derivative."""
    backbone, names = with_lora(plain)
    backbone.to(dtype=torch.float64)
    backbone.__class__ = Exact
    with torch.no_grad():
        backbone.vae.decoder.conv_out.weight.mul_(0.2)  # so that no pixel is clamped
    backbone.scheduler.register_to_config(prediction_type=kind)
    made = objective(span=(late, late), backprop=late + 1, guidance_scale=guidance_scale)
    batch = batch_of(dtype=torch.float64)
    shown = made.draw(backbone, batch, late).images
    assert shown.dtype == torch.float64 and shown.min() > 0 and shown.max() < 1
    _, slopes = gradients(made, backbone, names, batch)
    assert all(slope.isfinite().all() for slope in slopes) and any(slope.any() for slope in slopes)
    torch.manual_seed(1)
    direction = [torch.randn_like(weight) for weight in names.values()]
    along = sum(float((slope * d).sum()) for slope, d in zip(slopes, direction, strict=True))
    values = []
    for side in (1e-5, -2e-5, 1e-5):
        with torch.no_grad():
            for weight, d in zip(names.values(), direction, strict=True):
                weight.add_(side * d)
        values.append(float(made(batch, Nets(backbone))["total"].detach()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(along, rel=1e-5)
    assert abs(along) > 1e-6


def test_one_call_has_a_gradient_and_the_steps_before_have_none(plain):
    """DRaFT-1 is ReFL at the last step: the sampling loop up to there and one call by hand. DRaFT-3 differs."""
    backbone, names = with_lora(plain)
    batch, steps = batch_of(), 4
    one = gradients(objective(draft=1, sampling_steps=steps), backbone, names, batch)
    refl = gradients(objective(span=(3, 3)), backbone, names, batch)
    assert one[0] == refl[0] and all(map(torch.equal, one[1], refl[1]))

    plain_layouts = [Layout(layout.prompt) for layout in LAYOUTS]
    *_, before, _ = sampled(
        backbone, plain_layouts, steps=steps, scheduler="ddim", guidance_scale=1.0, latents=batch.noise
    )
    stepper = Stepper(make_scheduler("ddim", backbone.scheduler), steps, "cpu")
    stepper.index = steps - 1
    z = before.z
    prediction = backbone.predict(z, stepper.timesteps[-1], backbone.encode([x.prompt for x in LAYOUTS]))
    pixels = decoded(backbone, stepper.x0(prediction, z), through=True)
    loss = (2 - Taste()(pixels, [x.prompt for x in LAYOUTS])).mean()
    slopes = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    assert float(loss.detach()) == pytest.approx(one[0], rel=1e-5)
    for slope, found in zip(slopes, one[1], strict=True):
        torch.testing.assert_close(
            found, torch.zeros_like(found) if slope is None else slope, rtol=1e-3, atol=1e-6
        )

    three = gradients(objective(draft=3, sampling_steps=steps), backbone, names, batch)
    stopped = gradients(objective(draft=3, sampling_steps=steps, detach=True), backbone, names, batch)
    assert three[0] == pytest.approx(one[0], rel=1e-6) == pytest.approx(stopped[0], rel=1e-6)
    whole = [torch.cat([s.flatten() for s in found[1]]) for found in (one, three, stopped)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (whole[a] - whole[b]).norm() > 0.01 * whole[0].norm()


def test_a_bounded_gradient_is_no_longer_than_that_of_x0(plain, monkeypatch):
    backbone, names = with_lora(plain)
    found: list[Tensor] = []

    def noted(method):
        def call(self, *given):
            made = method(self, *given)
            if made.requires_grad:
                made.retain_grad()
                found.append(made)
            return made

        return call

    monkeypatch.setattr(Stepper, "step", noted(Stepper.step))
    monkeypatch.setattr(Stepper, "x0", noted(Stepper.x0))

    def lengths(rows=(0, 1), **more) -> tuple[list[Tensor], Tensor, Tensor]:
        """The gradient of the weights; its length at x0; at the steps before."""
        found.clear()
        made = objective(draft=4, guidance_scale=8.0, **more)
        # As a training step: hooks act where gradients are accumulated, too.
        for weight in names.values():
            weight.grad = None
        made(batch_of(rows), Nets(backbone))["total"].backward()
        slopes = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in names.values()]
        assert len(found) == 4
        *before, last = [z.grad.flatten(1).norm(dim=1) for z in found]
        return slopes, last, torch.stack(before)

    free, last, before = lengths()
    assert (before > 1.05 * last).any(), "guided calls lengthen it"
    bounded, same, kept = lengths(bounded=True)
    torch.testing.assert_close(same, last)
    assert (kept <= last * (1 + 1e-5)).all() and kept.max() > 0
    whole = [torch.cat([slope.flatten() for slope in slopes]) for slopes in (free, bounded)]
    assert (whole[0] - whole[1]).norm() > 0.01 * whole[0].norm()
    apart = [lengths((row,), bounded=True)[0] for row in (0, 1)]
    for together, one, other in zip(bounded, *apart, strict=True):
        torch.testing.assert_close(together, (one + other) / 2, rtol=1e-3, atol=1e-6)


def test_real_rewards_reach_the_lora(plain, tokenizer, tmp_path):
    """B of a fresh LoRA learns (A cannot yet: B is 0), from CLIP and from captions."""
    backbone, names = with_lora(plain, moved=False)
    words = bert_tokenizer(tmp_path)
    captioner = BlipCaptioner(blip(words, BlipForConditionalGeneration), words, PROCESSOR, longest=5)
    encoder = Blip2TextEncoder(blip2_text(words, Blip2TextModelWithProjection), words)
    both = {
        "clip": ClipReward(tiny_clip(tokenizer)),
        "caption": CaptionReward(captioner, Cosine(encoder)),
    }
    for name, reward in both.items():
        made = objective(rewards=Rewards({name: (reward, 1.0)}, standardise=False), held_out=both["clip"])
        found = made(batch_of(), Nets(backbone))
        assert torch.isfinite(found["held_out"]) and f"reward/{name}" in found
        slopes = torch.autograd.grad(found["total"], list(names.values()), allow_unused=True)
        given = dict(zip(names, slopes, strict=True))
        of_b = [slope for n, slope in given.items() if "lora_B" in n and slope is not None]
        assert of_b and all(s.isfinite().all() for s in of_b) and any(s.any() for s in of_b), name
        again = made(batch_of(), Nets(backbone))["total"]
        assert torch.equal(again, found["total"]), "its draws come from the pictures' noise"
    silent = CaptionReward(captioner, Cosine(encoder), "none")
    with pytest.raises(RewardError, match="reward caption: its scores carry no gradient, so training on it"):
        objective(rewards=Rewards({"caption": (silent, 1.0)}))(batch_of(), Nets(backbone))
    logged = objective(rewards=Rewards({"caption": (silent, 0.0), "clip": (both["clip"], 1.0)}))
    assert "reward/caption" in logged(batch_of(), Nets(backbone))


def test_a_batch_is_the_mean_of_its_pictures(plain):
    """Each alone, with the same late step: what two processes would average."""
    backbone, names = with_lora(plain)
    made = objective(preserve="prior")
    together = gradients(made, backbone, names, batch_of())
    apart = [gradients(made, backbone, names, batch_of((row,))) for row in (0, 1)]
    assert together[0] == pytest.approx((apart[0][0] + apart[1][0]) / 2, rel=1e-5)
    for whole, one, other in zip(together[1], apart[0][1], apart[1][1], strict=True):
        torch.testing.assert_close(whole, (one + other) / 2, rtol=1e-3, atol=1e-6)


def test_less_memory_the_same_gradients(plain):
    backbone, names = with_lora(plain)
    made = objective(preserve="prior", span=(3, 3), backprop=2)
    whole = gradients(made, backbone, names, batch_of())
    backbone.enable_gradient_checkpointing()
    sparing = gradients(made, backbone, names, batch_of())
    assert whole[0] == pytest.approx(sparing[0], rel=1e-6)
    for one, other in zip(whole[1], sparing[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


# What is drawn


@pytest.mark.parametrize("guidance_scale", [None, 4.0])
def test_it_draws_what_the_sampling_loop_draws(gated, guidance_scale):
    """With boxes for half of the steps, with and without guidance in its interval, early and at the last step."""
    gated = copy.deepcopy(gated)
    gated.settings |= {"grounding_schedule": [0.5, 0, 0.5], "guidance_interval": [0.25, 0.75]}
    batch = batch_of()
    scale = guidance_scale or 1.0
    steps = list(sampled(gated, LAYOUTS, steps=4, guidance_scale=scale, latents=batch.noise))
    made = objective(guidance_scale=guidance_scale, boxes=True)
    with torch.no_grad():
        for late in (1, 3):
            drawn = made.draw(gated, batch, late)
            torch.testing.assert_close(drawn.clean, steps[late].x0, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(drawn.images, gated.decode(drawn.clean), rtol=0, atol=1e-5)
        plain_pictures = objective(guidance_scale=guidance_scale).draw(gated, batch, 3)
        assert (plain_pictures.clean - drawn.clean).abs().max() > 1e-3, "boxes matter"


def test_the_late_step_is_one_for_all_and_uniform(plain):
    """It comes from (seed, step) alone: not from the pictures, nor from their generator."""
    backbone, _ = with_lora(plain)
    made = objective(sampling_steps=6, span=(2, 5), seed=11)
    with torch.no_grad():
        found = {
            int(
                made(batch_of(rows, 9, generator=torch.Generator().manual_seed(seed)), Nets(backbone))["late"]
            )
            for rows, seed in (((0,), 0), ((1,), 5), ((0, 1), 9))
        }
    assert found == {drawn_step(11, 9, (2, 5))}
    counts = Counter(drawn_step(11, step, (30, 49)) for step in range(4000))
    assert (
        set(counts) == set(range(30, 50)) and min(counts.values()) > 140
    )  # 200 expected, 14 is one deviation
    assert [drawn_step(1, s, (30, 49)) for s in range(9)] != [drawn_step(2, s, (30, 49)) for s in range(9)]


def test_clamped_pixels_keep_their_gradient(plain):
    bright = torch.full((1, 4, 8, 8), 60.0, requires_grad=True)
    with torch.no_grad():
        raw = plain.vae.decode(bright / plain.vae.config.scaling_factor).sample / 2 + 0.5
    shown = decoded(plain, bright, through=True)
    assert (raw < 0).any() or (raw > 1).any()
    torch.testing.assert_close(shown.detach(), raw.clamp(0, 1), atol=1e-5, rtol=0)
    outside = (raw < 0) | (raw > 1)
    assert torch.autograd.grad(shown[outside].sum(), bright)[0].any()


def test_phi():
    scores = torch.tensor([-1.0, 0.5, 3.0])
    assert phi("relu", scores, 2.0).tolist() == [3.0, 1.5, 0.0]
    assert phi("linear", scores, 2.0).tolist() == [3.0, 1.5, -1.0]


# What is preserved


def test_prior_preservation(plain):
    """0 where the LoRA changes nothing, above it after a move, and then with a gradient to it."""
    backbone, names = with_lora(plain, moved=False)
    made, batch = objective(preserve="prior", weight=1.0), batch_of()
    start = made(batch, Nets(backbone))
    assert float(start["preserve"]) == 0 == float(start["drift"])
    with torch.no_grad():
        for weight in names.values():
            weight.normal_(std=0.3)
    moved = made(batch, Nets(backbone))
    assert float(moved["preserve"]) > 1e-6 and float(moved["drift"]) > 1e-3
    assert float(moved["total"].detach()) == pytest.approx(float(moved["refl"] + moved["preserve"]), rel=1e-5)
    ours, base = made.predictions(batch, Nets(backbone), batch.latents)
    assert not base.requires_grad
    slopes = torch.autograd.grad((ours - base).square().mean(), list(names.values()), allow_unused=True)
    assert any(slope is not None and slope.any() for slope in slopes)
    untouched = copy.deepcopy(plain)  # the base really is the net without LoRA
    frozen = made.predictions(batch, Nets(untouched, {"base": untouched.unet}), batch.latents)
    torch.testing.assert_close(base, frozen[1])
    torch.testing.assert_close(frozen[0], frozen[1], atol=0, rtol=0)


def test_a_whole_net_is_preserved_by_a_copy(plain):
    backbone = copy.deepcopy(plain)
    names = open_part(backbone, "attention")
    made, batch = objective(preserve="prior"), batch_of()
    with pytest.raises(ValueError, match=r"preserve: this U-Net has no LoRA to switch off.*nets\['base'\]"):
        made(batch, Nets(backbone))
    nets = Nets(backbone, {"base": copy.deepcopy(plain.unet)})
    assert float(made(batch, nets)["preserve"]) == 0
    with torch.no_grad():
        next(iter(names.values())).add_(0.5)
    own = backbone.unet
    assert float(made(batch, nets)["preserve"]) > 0
    assert backbone.unet is own


def test_the_lora_is_back_whatever_happens(plain):
    backbone, names = with_lora(plain)
    batch = batch_of()
    text = backbone.encode([x.prompt for x in LAYOUTS])

    def predict():
        with torch.no_grad():
            return backbone.predict(batch.latents, 500, text)

    before = predict()
    with pytest.raises(KeyError), without_lora(backbone.unet):
        torch.testing.assert_close(predict(), plain.predict(batch.latents, 500, text).detach())
        raise KeyError
    assert torch.equal(predict(), before)
    assert all(weight.requires_grad for weight in names.values())
    learning = {n for n, weight in backbone.unet.named_parameters() if weight.requires_grad}
    assert learning == set(names)


def test_given_pictures_take_the_noise_loss(plain):
    from trueline.training.losses.denoising import DenoisingObjective

    backbone, _ = with_lora(plain)
    batch = batch_of()
    found = objective(preserve="pictures", weight=0.5)(batch, Nets(backbone))
    wanted = DenoisingObjective()(batch, Nets(backbone))["total"]
    torch.testing.assert_close(found["preserve"], wanted.detach())
    assert float(found["total"].detach()) == pytest.approx(
        float(found["refl"] + 0.5 * wanted.detach()), rel=1e-6
    )


def test_standardised_rewards_follow_the_run(plain):
    backbone, _ = with_lora(plain)
    made = objective(rewards=rewards(standardise=True))
    first = made(batch_of(step=0), Nets(backbone))
    assert float(first["reward"]) == pytest.approx(0, abs=1e-5), "the first batch is its own estimate"
    made(batch_of(step=1), Nets(backbone))
    assert made.rewards.running["taste"].state[0] == 4


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"span": (2, 4)}, "first: must be at most last, and last below the 4 sampling_steps"),
        ({"span": (3, 1)}, "first: must be at most last"),
        ({"backprop": 3}, r"backprop: must be 1 to 2.*got 3"),
        ({"backprop": 0}, "backprop: input should be greater than or equal to 1"),
        ({"scale": 0.0}, "scale: input should be greater than 0"),
    ],
)
def test_settings_that_do_not_fit(settings, problem):
    with pytest.raises(ValueError, match=problem):
        objective(**settings)
