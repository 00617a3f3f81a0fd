"""Region-based MultiDiffusion: fusing, bootstrapping, and the whole loop against one that fuses latents."""

import hashlib

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny import exact, sampled, tiny_backbone

from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods.multidiffusion import (
    MultiDiffusion,
    background_seed,
    bootstrapped,
    colour_latents,
    fuse,
)
from trueline.models.schedulers import Stepper, make_scheduler
from trueline.sampling.masks import region_masks
from trueline.sampling.method import Method
from trueline.seeds import WIDE, noise_generators

APPLE = Region("a red apple", (0.05, 0.3, 0.6, 0.75))
CAR = Region("a blue car", (0.4, 0.3, 0.95, 0.7), negative="the green chair")
CAT = Region("cat", (0.3, 0.6, 0.5, 0.95))
TWO = Layout("a red apple to the left of a blue car", [APPLE, CAR], seed=2, negative_prompt="clock")
ONE = Layout("a cat and a clock", [CAT], seed=1)
BARE = Layout("a blue car", seed=3)


def run(backbone, layouts, *methods, **options):
    return list(sampled(backbone, layouts, methods, **({"steps": 5} | options)))[-1].z


def first(backbone, layouts, *methods, **options):
    """The latents after the first of five steps."""
    return next(sampled(backbone, layouts, methods, **({"steps": 5} | options))).z


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Add(Method):
    def combine(self, prediction, cond, uncond, z, ctx):
        return prediction + 5


# Fusing


def test_fuse_golden():
    rng = np.random.default_rng(0)
    background, regions = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 2, 3, 4, 4))
    masks = rng.integers(0, 2, size=(2, 2, 4, 4)).astype(float)
    masks[0, 0, 0, :2], masks[0, 1, 0, :2] = (0.3, 0.9), (0.4, 0.8)  # soft, below and above 1 together
    masks[1, 1] = 0  # padding
    expected = np.zeros_like(background)
    for row in range(2):
        for y in range(4):
            for x in range(4):
                first, second = masks[row, :, y, x]
                shares = [max(0.0, 1 - first - second), first, second]
                values = [background[row, :, y, x], regions[row, 0, :, y, x], regions[row, 1, :, y, x]]
                mean = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
                expected[row, :, y, x] = mean
    found = fuse(*(torch.tensor(array) for array in (background, regions, masks)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_outside_all_masks_the_background_stays_bit_for_bit():
    background, regions = random(2, 4, 8, 8), random(2, 2, 4, 8, 8, seed=1)
    masks = torch.stack([region_masks(TWO.regions, 8, 8), torch.zeros(2, 8, 8)])
    found, outside = fuse(background, regions, masks), masks.sum(dim=1) == 0
    assert torch.equal(found[1], background[1])
    assert torch.equal(found[0][:, outside[0]], background[0][:, outside[0]])
    only = (masks[0, 0] == 1) & (masks[0, 1] == 0)
    assert torch.equal(found[0][:, only], regions[0, 0][:, only])
    both = masks[0].sum(dim=0) == 2
    assert both.any()
    torch.testing.assert_close(found[0][:, both], regions[0].mean(dim=0)[:, both])


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_linear_step_of_fused_predictions_is_the_fused_steps(plain, scheduler, prediction_type):
    like = DDIMScheduler.from_config(plain.scheduler.config, prediction_type=prediction_type)
    z, background, regions = random(1, 4, 8, 8), random(1, 4, 8, 8, seed=1), random(1, 2, 4, 8, 8, seed=2)
    masks = region_masks(TWO.regions, 8, 8)[None]

    def stepped(prediction):
        stepper = Stepper(make_scheduler(scheduler, like), 10, "cpu")
        stepper.net_input(z)
        return stepper.step(prediction, z, torch.tensor([False]), [torch.Generator()])

    latents = fuse(stepped(background), torch.stack([stepped(regions[:, i]) for i in (0, 1)], dim=1), masks)
    torch.testing.assert_close(stepped(fuse(background, regions, masks)), latents, rtol=0, atol=1e-5)
    assert (stepped(background) - latents).abs().max() > 1e-2


# Bootstrapping


def test_bootstrapped_golden():
    rng = np.random.default_rng(0)
    latents, noise, colours = (
        rng.normal(size=(2, 3, 4, 4)),
        rng.normal(size=(2, 3, 4, 4)),
        rng.normal(size=(2, 3)),
    )
    masks = rng.integers(0, 2, size=(2, 4, 4)).astype(float)
    expected = np.where(masks[:, None] == 1, latents, 0.6 * colours[:, :, None, None] + 0.8 * noise)
    arguments = (torch.tensor(array) for array in (latents, masks, colours, noise))
    np.testing.assert_allclose(bootstrapped(*arguments, 0.6, 0.8).numpy(), expected, rtol=1e-12)


def test_colours_go_through_the_vae(plain):
    colours = torch.tensor([[1.0, -1.0, 0.2], [-0.5, 0.5, 0.0]])
    with torch.no_grad():
        found = colour_latents(plain, colours)
        whole = plain.vae.encode(torch.ones(2, 3, 64, 64) * colours[:, :, None, None]).latent_dist.mean
    torch.testing.assert_close(found, whole[:, :, 4, 4] * plain.vae.config.scaling_factor)
    assert (found[0] - found[1]).abs().max() > 1e-5


def test_the_backgrounds_seed_belongs_to_prompt_phrase_and_box():
    same = Layout(TWO.prompt, [CAT, APPLE], seed=99)
    words = "('a red apple to the left of a blue car', 'a red apple', (0.05, 0.3, 0.6, 0.75))"
    expected = int(hashlib.sha256(words.encode()).hexdigest()[:16], 16) % 2**63
    assert background_seed(TWO, APPLE) == background_seed(same, APPLE) == expected
    others = [
        (TWO, CAR),
        (ONE, APPLE),
        (TWO, Region("a red apple", (0.05, 0.3, 0.6, 0.8))),
        (TWO, Region("a red car", APPLE.box)),
    ]
    assert len({background_seed(*pair) for pair in [(TWO, APPLE), *others]}) == 5


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmsolver++", "lms"])
def test_the_net_sees_a_colour_at_the_right_noise_level(plain, scheduler, monkeypatch):
    """What goes into the U-Net for a region, against noising by DDIM's own rule at the same time."""
    seen, predict = [], plain.predict
    monkeypatch.setattr(plain, "predict", lambda z, t, *more: seen.append((z, t)) or predict(z, t, *more))
    run(plain, [ONE], MultiDiffusion(bootstrap=1, official=False), scheduler=scheduler, steps=4)
    assert len(seen) == 8
    with torch.no_grad():
        colour = torch.rand(3, generator=noise_generators([background_seed(ONE, CAT) % WIDE])[0]) * 2 - 1
        colour = colour_latents(plain, colour[None])[0, :, None, None]
    inside = region_masks([CAT], 8, 8)[0] == 1
    assert inside.any() and not inside.all()
    for index in range(4):
        (loops, _), (regions, t) = seen[2 * index], seen[2 * index + 1]
        assert len(regions) == 2 and torch.equal(regions[0], regions[1])
        noise = torch.randn(4, 8, 8, generator=noise_generators([(background_seed(ONE, CAT), index + 1)])[0])
        level = float(np.interp(float(t), np.arange(1000), plain.scheduler.alphas_cumprod.numpy()))
        expected = level**0.5 * colour + (1 - level) ** 0.5 * noise
        torch.testing.assert_close(regions[1][:, ~inside], expected[:, ~inside], rtol=0, atol=2e-3)
        assert torch.equal(regions[1][:, inside], loops[0][:, inside])


# The loop


def by_hand(backbone, layout, bootstrap, scale, steps=5, stop=None, official=True):
    """The paper's form: each prompt steps its own latent (replaced outside its mask at first), then the mean."""
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
    scheduler.set_timesteps(steps)
    first = z = torch.randn(1, 4, 8, 8, generator=noise_generators([layout.seed])[0])
    masks = region_masks(layout.regions, 8, 8)
    masks = torch.cat([(1 - masks.sum(dim=0, keepdim=True)).clamp(min=0), masks])
    texts = [layout.prompt, *(region.phrase for region in layout.regions)]
    negatives = [
        layout.negative_prompt,
        *(region.negative or layout.negative_prompt for region in layout.regions),
    ]
    for index, t in enumerate(scheduler.timesteps[:stop]):
        total = torch.zeros_like(z)
        for i, (text, negative) in enumerate(zip(texts, negatives, strict=True)):
            own = z
            if i and index < bootstrap * steps:
                seed = background_seed(layout, layout.regions[i - 1])
                fresh = noise_generators([(seed, index + 1)])[0]
                if official:
                    noise, words = first, hashlib.sha256(layout.prompt.encode()).hexdigest()
                    seed = int(words[:16], 16) % 2**63 + int(torch.randint(20, (), generator=fresh))
                else:
                    noise = torch.randn(1, 4, 8, 8, generator=fresh)
                colour = torch.rand(3, generator=noise_generators([seed % WIDE])[0]) * 2 - 1
                flat = colour_latents(backbone, colour[None])[:, :, None, None].expand_as(z)
                own = torch.where(masks[i] == 1, z, scheduler.add_noise(flat, noise, t[None]))
            eps = backbone.predict(own, t, backbone.encode([text]))
            if scale > 1:
                uncond = backbone.predict(own, t, backbone.encode([negative]))
                eps = uncond + scale * (eps - uncond)
            total += masks[i] * scheduler.step(eps, t, own).prev_sample
        z = total / masks.sum(dim=0)
    return z


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:this backbone has no grounding layers")
@pytest.mark.parametrize("scale", [4.0, 1.0])
@pytest.mark.parametrize(("bootstrap", "official"), [(0.0, True), (0.4, True), (0.4, False)])
def test_a_run_equals_fusing_latents(plain, bootstrap, official, scale):
    method = MultiDiffusion(bootstrap=bootstrap, official=official)
    found = run(plain, [TWO], method, guidance_scale=scale)
    expected = by_hand(plain, TWO, bootstrap, scale, official=official)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - run(plain, [TWO], guidance_scale=scale)).abs().max() > 1e-2


@torch.no_grad()
def test_a_run_equals_fusing_latents_for_velocity(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=False, prediction_type="v_prediction")
    found = run(backbone, [TWO], MultiDiffusion(), guidance_scale=4)
    torch.testing.assert_close(found, by_hand(backbone, TWO, 0.4, 4), rtol=0, atol=1e-4)


def test_regions_of_the_prompt_itself_change_nothing(plain):
    whole = Layout(
        "a blue car", [Region("a blue car", (0, 0, 1, 1)), Region("a blue car", (0, 0, 0.5, 1))], seed=3
    )
    found = run(plain, [whole], MultiDiffusion(bootstrap=0))
    torch.testing.assert_close(found, run(plain, [BARE]), rtol=0, atol=1e-5)


def test_one_step_changes_the_masks_cells_only(gated):
    corner = np.zeros((16, 16), dtype=bool)
    corner[:8, :4] = True
    layout = Layout("a cat", [Region("a red apple", (0, 0, 1, 1), corner)], seed=5)
    moved = run(gated, [layout], MultiDiffusion(), steps=1) != run(gated, [layout], steps=1)
    assert moved[:, :, :4, :2].all() and not moved[:, :, 4:].any() and not moved[:, :, :, 2:].any()


@torch.no_grad()
def test_regions_are_predicted_without_grounding_the_background_with(gated):
    options = {"guidance_scale": 4, "grounding_schedule": (1, 0, 0)}
    found = first(gated, [BARE, TWO], MultiDiffusion(), **options)[1]
    background = first(gated, [BARE, TWO], **options)[1]
    regions = by_hand(gated, TWO, 0.4, 4, stop=1)[0]
    inside = region_masks(TWO.regions, 8, 8).sum(dim=0) > 0
    torch.testing.assert_close(found, torch.where(inside, regions, background), rtol=0, atol=1e-5)
    assert (regions - background)[:, ~inside].abs().max() > 1e-2, "grounding matters here"


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler", "pndm"])
@pytest.mark.parametrize("backbone", ["plain", "gated"])
def test_a_picture_does_not_depend_on_its_batch_mates(backbone, scheduler, request):
    backbone = exact(request.getfixturevalue(backbone))
    together = run(backbone, [ONE, TWO, BARE], MultiDiffusion(), scheduler=scheduler, eta=0.5)
    alone = [run(backbone, [layout], MultiDiffusion(), scheduler=scheduler, eta=0.5) for layout in (ONE, TWO)]
    alone.append(run(backbone, [BARE], scheduler=scheduler, eta=0.5))
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-5)


def test_strength_zero_and_pictures_without_regions_are_plain_bit_for_bit(gated):
    batch = [ONE, TWO, BARE]
    plain = run(gated, batch)
    assert torch.equal(run(gated, batch, MultiDiffusion(strength=0)), plain)
    assert torch.equal(run(gated, [BARE], MultiDiffusion(strength=0)), run(gated, [BARE]))
    fused = run(gated, batch, MultiDiffusion())
    assert torch.equal(fused[2], plain[2])
    assert all((fused[row] - plain[row]).abs().max() > 1e-2 for row in (0, 1))
    ends = [first(gated, batch, MultiDiffusion(strength=s)) for s in (0, 0.25, 1)]
    torch.testing.assert_close(ends[1], 0.75 * ends[0] + 0.25 * ends[2], rtol=0, atol=1e-5)
    assert (ends[2] - ends[0]).abs().max() > 1e-2


def test_the_unconditional_prediction_is_used_again_where_it_is_the_same(plain, gated, monkeypatch):
    rows = []
    for backbone in (plain, gated):
        predict = backbone.predict
        monkeypatch.setattr(
            backbone, "predict", lambda z, *more, predict=predict: rows.append(len(z)) or predict(z, *more)
        )
    run(plain, [ONE, TWO], MultiDiffusion(bootstrap=0.5), steps=2)
    assert rows == [4, 4, 2, 4, 2, 2], "first pass both first regions; then the car, which has a negative"
    rows.clear()
    run(gated, [ONE, BARE], MultiDiffusion(bootstrap=0), steps=2, grounding_schedule=(0.5, 0, 0.5))
    assert rows == [4, 2, 4, 1], "null grounding is not no grounding"


def test_composes_with_another_method(gated):
    before = first(gated, [ONE, TWO], Add(), MultiDiffusion())
    after = first(gated, [ONE, TWO], MultiDiffusion(), Add())
    alone = first(gated, [ONE, TWO], MultiDiffusion())
    for row, layout in enumerate((ONE, TWO)):
        inside = region_masks(layout.regions, 8, 8).sum(dim=0) > 0
        torch.testing.assert_close(before[row][:, ~inside], after[row][:, ~inside], rtol=0, atol=1e-5)
        # Inside, the prediction is MultiDiffusion's own; a later method adds to that.
        torch.testing.assert_close(before[row][:, inside], alone[row][:, inside], rtol=0, atol=1e-5)
        assert (after[row] - alone[row]).abs().min() > 0.1


@pytest.mark.parametrize(
    "settings", [{"strength": -0.1}, {"bootstrap": 1.5}, {"bootstrap": float("nan")}, {"steps": 20}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(FieldError, match=next(iter(settings))):
        MultiDiffusion(**settings)


def test_without_guidance_a_negative_is_said_to_be_unused(plain):
    with pytest.warns(UserWarning, match="guidance_scale: MultiDiffusion uses no negatives without it"):
        notes = list(sampled(plain, [ONE, TWO], [MultiDiffusion()], 2, 1.0))[-1].notes
    assert {row: times for (row, _), times in notes.items()} == {1: 1}, "the car of the second has one"
