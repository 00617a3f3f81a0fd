"""The loop: seeds, hooks, gradients, schedulers and latents that move."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from tiny import exact, sampled

import trueline
from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.models.attention import sites
from trueline.models.schedulers import Stepper, make_scheduler
from trueline.models.schedules import SCHEDULERS
from trueline.sampling.method import Method, Step
from trueline.sampling.options import Sampling
from trueline.seeds import noise_generators

APPLE = Layout("a red apple", [Region("a red apple", (0.1, 0.1, 0.5, 0.5))], seed=3)
CAR = Layout("a blue car", seed=4)


def run(backbone, layouts, *methods, **options):
    return list(sampled(backbone, layouts, methods, **({"steps": 6} | options)))


# Methods as a user would write them


class Nudge(Method):
    """Latent guidance in small: down the gradient of one attention map, in the first steps."""

    rate: float = 0.5
    until: float = 0.5

    def guide(self, z, ctx):
        if ctx.progress >= self.until:
            return z
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            _, maps = ctx.predict_cond(z, lambda site: site.kind == "cross" and site.place == "up")
            loss = sum(probs[..., 2].square().flatten(1).sum(1) for probs in maps.values())
            (gradient,) = torch.autograd.grad(loss.sum(), z)
        return z.detach() - self.rate * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


class Boost(Method):
    """Attention modulation in small."""

    gain: float = 3.0

    def taps(self, site):
        return site.kind == "cross"

    def edit(self, site, logits, ctx):
        assert len(logits) == len(ctx.layouts), "conditional rows only"
        return logits + self.gain * torch.eye(logits.shape[-1])[2]


class Halve(Method):
    def text(self, text, layouts, backbone):
        assert len(text) == len(layouts)
        return text.with_states(text.states / 2)


class SecondPrompt(Method):
    """Composable in small: add the direction of another prompt."""

    prompt: str
    weight: float = 2.0

    def combine(self, prediction, cond, uncond, z, ctx):
        other = ctx.predict(z, ctx.backbone.encode([self.prompt] * len(z)))
        return prediction + self.weight * (other - cond)


class Kick(Method):
    """Move the latents of some rows at one step."""

    at: int
    rows: tuple[int, ...] = (0,)

    def guide(self, z, ctx):
        if ctx.index == self.at:
            z[list(self.rows)] += 0.3  # in place: the loop must notice all the same
        return z


# Steps and seeds


def test_steps_tell_the_story(gated):
    steps = run(gated, [APPLE, CAR], record=lambda site: site.kind == "cross")
    assert [step.index for step in steps] == list(range(6)) and {step.steps for step in steps} == {6}
    assert all(earlier.t > later.t for earlier, later in pairwise(steps))
    assert all(step.z.shape == step.x0.shape == (2, 4, 8, 8) for step in steps)
    assert [step.grounding_scale for step in steps] == [1, 0, 0, 0, 0, 0]
    assert set(steps[0].maps) == {site for site in sites(gated.unet) if site.kind == "cross"}
    assert all(len(probs) == 2 for probs in steps[-1].maps.values())
    with pytest.raises(AttributeError):
        steps[0].index = 3


def test_the_last_x0_is_where_the_latents_end(gated, gated_v):
    for backbone in (gated, gated_v):
        for scheduler in SCHEDULERS:
            final = run(backbone, [CAR], scheduler=scheduler, steps=20)[-1]
            tolerance = 1e-4 if scheduler == "euler" else 0.05  # the others stop just short, or mix steps
            assert (final.z - final.x0).abs().max() < tolerance, scheduler


def test_x0_undoes_the_noise_for_every_scheduler(gated, gated_v):
    """Noise known pictures exactly as the scheduler says, give the true prediction, and get them back."""
    clean, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for backbone in (gated, gated_v):
        for name in SCHEDULERS:
            stepper = Stepper(make_scheduler(name, backbone.scheduler), 10, "cpu")
            stepper.index = 4
            stepper.scheduler._step_index = 4
            alpha, sigma = stepper.alpha_sigma()
            z = stepper.scheduler.add_noise(clean, noise, stepper.timesteps[[4, 4]])
            assert torch.isclose(alpha**2 + sigma**2, torch.tensor(1.0))
            velocity = backbone is gated_v
            prediction = alpha * noise - sigma * clean if velocity else noise
            torch.testing.assert_close(stepper.x0(prediction, z), clean, rtol=1e-3, atol=1e-3)


def test_noise_depends_on_seed_and_index_only():
    def draws(*seeds):
        return [torch.randn(4, generator=generator) for generator in noise_generators(seeds)]

    first, second = draws((7, 0), (7, 1))
    assert torch.equal(first, draws(7)[0]) and torch.equal(second, draws(1, 2, (7, 1))[2])
    assert torch.equal(first, torch.randn(4, generator=torch.Generator().manual_seed(7)))
    assert (
        len({tuple(draw.tolist()) for draw in draws(*((seed, i) for seed in (7, 8) for i in range(50)))})
        == 100
    )


def test_seeds_come_from_the_call_then_the_layout_then_chance(gated):
    def first(layout, **options):
        return run(gated, [layout], steps=1, **options)[0].z

    assert torch.equal(first(CAR), first(CAR, seeds=[4]))
    assert not torch.equal(first(CAR), first(CAR, seeds=[5]))
    free = Layout("a blue car")
    assert not torch.equal(first(free), first(free))


@pytest.mark.parametrize("scheduler", ["ddim", None])
def test_fresh_noise_does_not_depend_on_batch_mates(gated, tokenizer, scheduler):
    from diffusers import EulerAncestralDiscreteScheduler
    from tiny import tiny_backbone

    backbone = tiny_backbone(tokenizer, gated=True)
    backbone.scheduler = EulerAncestralDiscreteScheduler.from_config(backbone.scheduler.config)
    backbone = exact(backbone)
    together = run(backbone, [CAR, APPLE], scheduler=scheduler, eta=1.0)[-1].z
    alone = run(backbone, [APPLE], scheduler=scheduler, eta=1.0)[-1].z
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-5)


# Hooks


def test_every_hook_acts_and_strength_zero_is_plain_sampling(gated):
    plain = run(gated, [APPLE, CAR])[-1].z
    for method in (Nudge(), Boost(), Halve(), SecondPrompt(prompt="a cat")):
        assert (run(gated, [APPLE, CAR], method)[-1].z - plain).abs().max() > 1e-3, method
    for method in (Nudge(until=0), Kick(at=99), SecondPrompt(prompt="a cat", weight=0), Method()):
        assert torch.equal(run(gated, [APPLE, CAR], method)[-1].z, plain), method
    # A tap computes the same attention by another kernel.
    torch.testing.assert_close(run(gated, [APPLE, CAR], Boost(gain=0))[-1].z, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("methods", [[Nudge(), Boost(), SecondPrompt(prompt="a cat")], [Boost(), Kick(at=1)]])
@pytest.mark.parametrize("scheduler", ["ddim", "lms", "dpmsolver++", "euler"])
def test_methods_together_do_not_make_a_picture_depend_on_its_mates(gated, methods, scheduler):
    gated = exact(gated)
    together = run(gated, [APPLE, CAR], *methods, scheduler=scheduler)[-1].z
    alone = run(gated, [APPLE], *methods, scheduler=scheduler)[-1].z
    torch.testing.assert_close(alone[0], together[0], rtol=0, atol=1e-5)


def test_methods_act_in_their_order(gated):
    class Double(Method):
        def text(self, text, layouts, backbone):
            return text.with_states(2 * text.states)

    class AddOne(Method):
        def text(self, text, layouts, backbone):
            return text.with_states(text.states + 1)

    assert not torch.equal(
        run(gated, [CAR], Double(), AddOne())[-1].z, run(gated, [CAR], AddOne(), Double())[-1].z
    )


def test_combine_sees_both_parts_and_no_uncond_without_guidance(gated):
    seen = []

    class Watch(Method):
        def combine(self, prediction, cond, uncond, z, ctx):
            seen.append(uncond)
            if uncond is not None:
                torch.testing.assert_close(prediction, uncond + ctx.guidance_scale * (cond - uncond))
            return prediction

    run(gated, [CAR], Watch(), steps=1, guidance_scale=3)
    run(gated, [CAR], Watch(), steps=1, guidance_scale=1)
    assert seen[0] is not None and seen[1] is None


def test_settings_are_frozen_and_unknown_ones_refused():
    with pytest.raises(FieldError, match="gian"):
        Boost(gian=2)
    with pytest.raises(ValidationError):
        Boost().gain = 2


def test_a_method_that_taps_no_layer_is_refused(plain):
    class Gates(Method):
        def taps(self, site):
            return site.kind == "gated"

    with pytest.raises(ValueError, match="methods: Gates matches no attention layer"):
        run(plain, [CAR], Gates())


# Latents that move


def test_pndm_is_refused_for_methods_that_move_latents(gated):
    for method in (Nudge(), Kick(at=2)):
        with pytest.raises(ValueError, match=r"scheduler: pndm .* use ddim"):
            next(sampled(gated, [CAR], [method], scheduler="pndm"))
    assert len(run(gated, [CAR], Boost(), scheduler="pndm")) == 7, "edits of attention are fine"


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "lms", "dpmsolver++"])
def test_a_move_is_not_lost(gated, scheduler):
    moved = run(gated, [CAR], Kick(at=3), scheduler=scheduler)
    plain = run(gated, [CAR], scheduler=scheduler)
    assert torch.equal(moved[2].z, plain[2].z)
    assert (moved[3].z - plain[3].z).abs().mean() > 0.1


@pytest.mark.parametrize("scheduler", ["lms", "dpmsolver++"])
def test_the_step_after_a_move_is_first_order_in_moved_rows_only(gated_v, scheduler):
    """The reference is the same step of a solver without any history."""
    plain = run(gated_v, [APPLE, CAR], scheduler=scheduler, guidance_scale=1, steps=8)
    moved = run(gated_v, [APPLE, CAR], Kick(at=4), scheduler=scheduler, guidance_scale=1, steps=8)
    z = plain[3].z.clone()
    z[0] += 0.3
    fresh = Stepper(make_scheduler(scheduler, gated_v.scheduler), 8, "cpu")
    fresh.scheduler.set_begin_index(4)
    fresh.index = 4
    prediction = gated_v.predict(
        fresh.net_input(z), fresh.timesteps[4], gated_v.encode([APPLE.prompt, CAR.prompt])
    )
    options = {"order": 1} if scheduler == "lms" else {}
    expected = fresh.scheduler.step(prediction, fresh.timesteps[4], z, **options).prev_sample
    torch.testing.assert_close(moved[4].z[0], expected[0], rtol=0, atol=1e-4)
    assert (moved[4].z[0] - plain[4].z[0]).abs().max() > 1e-2
    torch.testing.assert_close(moved[4].z[1], plain[4].z[1], rtol=0, atol=1e-6)
    assert (plain[4].z[1] - expected[1]).abs().max() > 1e-3, "the other row kept its higher order"


def test_latents_sent_back_are_used_and_in_place_edits_are_not(gated):
    plain = run(gated, [CAR])[-1].z
    steps = sampled(gated, [CAR], steps=6)
    step = next(steps)
    step.z.zero_()
    *_, final = steps
    assert torch.equal(final.z, plain)
    steps = sampled(gated, [CAR], steps=6, scheduler="dpmsolver++")
    step = next(steps)
    replaced = steps.send(step.z + 1)
    assert (replaced.z - step.z).abs().mean() > 0.5


def test_latents_sent_back_under_pndm_are_refused(gated):
    steps = sampled(gated, [CAR], steps=6, scheduler="pndm")
    step = next(steps)
    with pytest.raises(ValueError, match="pndm"):
        steps.send(step.z + 1)


# Hygiene


def test_gradients_and_processors_are_the_consumers_own_between_steps(gated):
    before = gated.unet.attn_processors
    steps = sampled(gated, [APPLE], [Boost(), Nudge()], steps=4, record=lambda site: True)
    for step in steps:
        assert torch.is_grad_enabled() and not step.z.requires_grad
        assert all(p is before[key] for key, p in gated.unet.attn_processors.items())
        break  # a consumer that walks away
    del steps
    assert all(p is before[key] for key, p in gated.unet.attn_processors.items())


def test_the_backbones_scheduler_is_never_stepped(gated):
    before = dict(vars(gated.scheduler))
    run(gated, [CAR], scheduler=None)
    assert vars(gated.scheduler).keys() == before.keys() and gated.scheduler.num_inference_steps is None


def test_guidance_acts_within_its_interval_only(gated, monkeypatch):
    rows = []
    predict = type(gated).predict
    monkeypatch.setattr(
        type(gated), "predict", lambda self, z, *more: rows.append(len(z)) or predict(self, z, *more)
    )
    whole = run(gated, [CAR], steps=4)
    assert rows == [2, 2, 2, 2]
    rows.clear()
    middle = run(gated, [CAR], steps=4, guidance_interval=(0.25, 0.75))
    assert rows == [1, 2, 2, 1]
    never = run(gated, [CAR], steps=4, guidance_scale=1.0)
    assert torch.equal(middle[0].z, never[0].z) and not torch.equal(middle[1].z, never[1].z)
    assert not torch.equal(middle[-1].z, whole[-1].z)
    monkeypatch.setitem(gated.settings, "guidance_interval", [0.25, 0.75])
    assert torch.equal(run(gated, [CAR], steps=4)[-1].z, middle[-1].z), "the checkpoint's own is the default"
    assert torch.equal(run(gated, [CAR], steps=4, guidance_interval=(0, 1))[-1].z, whole[-1].z)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps: must be a whole number from 1 to 1000"),
        ({"steps": True}, "steps: "),
        ({"scheduler": "magic"}, "scheduler: must be one of ddim"),
        ({"seeds": [1, 2]}, r"seeds: give one per picture \(1\), got 2"),
        ({"latents": torch.zeros(1, 4, 9, 8)}, "latents: must have shape"),
        ({"generators": [torch.Generator()] * 2}, "generators: give one per picture"),
        ({"grounding_schedule": (1, 1, 1)}, "grounding_schedule: "),
        ({"guidance_interval": (0, 2)}, "guidance_interval: must be start < stop in 0..1"),
        ({"guidance_interval": 0.5}, "guidance_interval: give two fractions"),
    ],
)
def test_misuse_names_the_argument(gated, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(gated, [CAR], **options)


def test_layouts_must_be_there_and_of_one_size(gated):
    with pytest.raises(ValueError, match="layouts: is empty"):
        run(gated, [])
    with pytest.raises(ValueError, match="layouts: one batch has one picture size"):
        run(gated, [CAR, Layout("p", width=128)])
    assert run(gated, [Layout("p", width=128, height=64)], steps=1)[0].z.shape == (1, 4, 8, 16)


def test_boxes_on_a_plain_backbone_warn_unless_a_method_uses_them(plain, recwarn):
    run(plain, [APPLE], Boost(), steps=1)
    assert not recwarn
    with pytest.warns(UserWarning, match="has no grounding layers, so it ignores the boxes"):
        run(plain, [APPLE], steps=1)


def test_the_public_names_are_the_loops(gated):
    assert isinstance(next(trueline.sample(gated, [CAR], sampling=Sampling(steps=1))), Step)
    assert trueline.Method is Method


def test_more_steps_than_the_model_has_timesteps_for_are_refused(gated):
    """With an offset of 1, as Stable Diffusion has, the first of 1000 steps would be at timestep 1000 of 0 to 999."""
    with pytest.raises(
        ValueError, match="steps: this model has 1000 timesteps, too few for 1000 steps; take fewer"
    ):
        gated.stepper("ddim", 1000)
    assert len(gated.stepper("ddim", 999).timesteps) == 999
