"""GOAL's losses: each formula in numpy, the distance at its ends, gradients through CLIP, VAE and U-Net."""

import copy
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from tiny_clip import MEAN, SIDE, STD, clip_parts, tiny_clip

from trueline.layout import Layout, Region
from trueline.models.attention import sites
from trueline.models.backbone import Backbone
from trueline.models.grounding import grounded, pack
from trueline.models.schedulers import target_of, x0_of
from trueline.models.text import locate_phrase
from trueline.training.clip import FrozenCLIP
from trueline.training.losses.denoising import DenoisingObjective, decoded, noised
from trueline.training.losses.dsalign import DSAlign, region_pictures, spherical_distance
from trueline.training.losses.goal import GoalObjective
from trueline.training.losses.maalign import (
    MAAlign,
    attention_in,
    attention_out,
    box_cells,
    content_only,
    counted,
    why_not,
)
from trueline.training.objective import Batch, Nets

TWO = Layout(
    "a red apple and a blue car",
    [Region("a red apple", (0.0, 0.25, 0.5, 0.75)), Region("a blue car", (0.5, 0.0, 1.0, 0.5))],
)
ONE = Layout("the red chair", [Region("chair", (0.25, 0.25, 1.0, 1.0))])
NONE = Layout("a clock")
LAYOUTS = (TWO, ONE, NONE)


@pytest.fixture(scope="module")
def clip(tokenizer) -> FrozenCLIP:
    return tiny_clip(tokenizer)


def yes(count: int = 3, *but: int) -> torch.Tensor:
    return torch.tensor([row not in but for row in range(count)])


def batch_of(backbone: Backbone, layouts=LAYOUTS, t=(100, 400, 800), **more) -> Batch:
    made = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(len(layouts), 4, 8, 8, generator=made) for _ in range(2))
    return Batch(latents, tuple(layouts), noise, torch.tensor(t[: len(layouts)]), **more)


# Eq. 4


def test_one_step_gives_the_clean_latents_back():
    rng = np.random.default_rng(0)
    x0, noise, said = (rng.normal(size=(3, 4, 8, 8)) for _ in range(3))
    abar = np.array([0.9991, 0.5, 0.0047]).reshape(3, 1, 1, 1)
    z = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * noise
    prediction, latents, clean, drawn, signal = map(torch.from_numpy, (said, z, x0, noise, abar))
    level = signal.sqrt(), (1 - signal).sqrt()
    by_hand = {
        "epsilon": (z - np.sqrt(1 - abar) * said) / np.sqrt(abar),
        "v_prediction": np.sqrt(abar) * z - np.sqrt(1 - abar) * said,
        "sample": said,
    }
    for kind, wanted in by_hand.items():
        assert np.allclose(x0_of(kind, prediction, latents, level), wanted)
        right = target_of(kind, clean, drawn, level)
        assert np.allclose(x0_of(kind, right, latents, level), x0), "a right prediction"
    with pytest.raises(ValueError, match="nothing is known of a model that predicts 'flow'"):
        x0_of("flow", prediction, latents, level)


def test_decoded_pictures_are_those_of_the_backbone(gated):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = gated.decode(z)
        assert torch.equal(decoded(gated, z), wanted) and wanted.min() >= 0 and wanted.max() <= 1
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(decoded(gated, z), wanted), "a VAE may overflow in float16"


# Eq. 7


def test_the_distance_is_the_square_of_half_the_angle():
    rng = np.random.default_rng(1)
    one, other = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in rng.normal(size=(2, 50, 6)))
    angle = np.arccos((one * other).sum(-1))
    found = spherical_distance(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    assert np.allclose(found, (angle / 2) ** 2, atol=1e-9)
    assert np.allclose(found, np.arcsin(np.linalg.norm(one - other, axis=-1) / 2) ** 2, atol=1e-9)
    east, north = torch.eye(2)
    assert float(spherical_distance(east, north)) == pytest.approx(math.pi**2 / 16), (
        "without the usual factor 2"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_value_and_gradient_are_finite_at_equal_and_at_opposite_vectors(dtype, sign):
    one = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, 0.8, 0.1], dtype=dtype), dim=0)
    for off in (0.0, 1e-8, 1e-4, 1e-3, 1e-2):
        other = torch.nn.functional.normalize(sign * one + off * torch.eye(4, dtype=dtype)[1], dim=0)
        other.requires_grad_()
        value = spherical_distance(one, other)
        value.backward()
        wanted = 0 if sign > 0 else (math.pi / 2) ** 2
        assert float(value.detach()) == pytest.approx(wanted, abs=1.7e-2 + 2 * off)
        # The slope at opposite vectors is that of arcsin at the ceiling, 1 / sqrt(2e-6), at most.
        assert other.grad.isfinite().all() and float(other.grad.norm()) < 1200
        if off == 0:
            assert other.grad.abs().max() < 1e-5


def test_the_distance_against_finite_differences():
    made = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 5, generator=made, dtype=torch.float64) for _ in range(2))
    one, other = (torch.nn.functional.normalize(v, dim=-1).requires_grad_() for v in (one, other))
    assert torch.autograd.gradcheck(spherical_distance, (one, other))


# Eq. 5, 6, 8, 9


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def seen(clip: FrozenCLIP, picture: np.ndarray) -> np.ndarray:
    pixels = (picture - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        out = clip.model.get_image_features(torch.from_numpy(pixels[None]).float())
    return unit(out.pooler_output.numpy())[0]


def read(clip: FrozenCLIP, text: str) -> np.ndarray:
    ids = clip.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return unit(clip.model.get_text_features(**ids).pooler_output.numpy())[0]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.arcsin(np.linalg.norm(one - other) / 2) ** 2)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(2).uniform(size=(3, 3, SIDE, SIDE)).astype(np.float32)


def test_local_and_global_distances_in_numpy(clip, pictures):
    found = DSAlign()(clip, lambda z: z, torch.from_numpy(pictures), LAYOUTS, yes(), yes())
    for row, layout in enumerate(LAYOUTS):
        whole = distance(read(clip, layout.prompt), seen(clip, pictures[row]))
        assert float(found.globe[row]) == pytest.approx(whole, rel=1e-4)
        parts = []
        for region in layout.regions:
            x0, y0, x1, y1 = (round(side * SIDE) for side in region.box.xyxy)
            mask = np.zeros((SIDE, SIDE), np.float32)
            mask[y0:y1, x0:x1] = 1
            parts.append(distance(read(clip, region.phrase), seen(clip, pictures[row] * mask)))
        assert float(found.local[row]) == pytest.approx(np.mean(parts) if parts else 0.0, rel=1e-4)
    assert found.has_local.tolist() == [True, True, False] and found.has_globe.all()


def test_what_is_off_is_neither_counted_nor_decoded(clip, pictures):
    clean, asked = torch.from_numpy(pictures), []

    def decode(z):
        asked.append(len(z))
        return z

    whole = DSAlign()(clip, decode, clean, LAYOUTS, yes(), yes())
    local = DSAlign(globe=False)(clip, decode, clean, LAYOUTS, yes(), yes(3, 0))
    globe = DSAlign(local=False)(clip, decode, clean, LAYOUTS, yes(3, 1), yes())
    nothing = DSAlign()(clip, decode, clean, LAYOUTS, ~yes(), ~yes())
    assert asked == [3, 1, 2], "a picture without a box and one whose boxes are dropped are not decoded"
    assert local.local.tolist() == pytest.approx([0, float(whole.local[1]), 0]) and not local.globe.any()
    assert globe.globe.tolist() == pytest.approx([float(whole.globe[0]), 0, float(whole.globe[2])])
    assert not globe.local.any() and not nothing.local.any() and not nothing.has_globe.any()
    alone = DSAlign()(clip, decode, clean[1:2], LAYOUTS[1:2], yes(1), yes(1))
    assert torch.allclose(alone.local, whole.local[1:2]) and torch.allclose(alone.globe, whole.globe[1:2])


def test_only_what_is_above_the_true_pictures_distance_counts(clip, pictures):
    clean, truth = torch.from_numpy(pictures).requires_grad_(), torch.from_numpy(pictures[::-1].copy())

    def identity(z):
        return z

    own, true = (DSAlign()(clip, identity, latents, LAYOUTS, yes(), yes()) for latents in (clean, truth))
    found = DSAlign(floor=True)(clip, identity, clean, LAYOUTS, yes(), yes(), truth=truth)
    above = (own.globe - true.globe).clamp(min=0)
    assert 0 < int((above > 0).sum()) < len(above), "pictures on either side"
    assert torch.allclose(found.globe, above, atol=1e-7)
    assert float(found.local[1].detach()) == pytest.approx(0.0, abs=1e-7), "it is its own truth"
    (gradient,) = torch.autograd.grad(found.globe.sum(), clean)
    assert torch.equal(gradient.flatten(1).any(1), above > 0)
    same = DSAlign(floor=True)(clip, identity, truth, LAYOUTS, yes(), yes(), truth=truth)
    assert not same.globe.any() and not same.local.any() and same.has_globe.all()
    with pytest.raises(ValueError, match="with a floor it needs the training pictures' latents"):
        DSAlign(floor=True)(clip, identity, clean, LAYOUTS, yes(), yes())


def test_what_surrounds_a_region(clip, pictures):
    picture = torch.from_numpy(pictures[0])
    region = Region("a red apple", (0.25, 0.5, 0.75, 1.0))
    inside = np.s_[:, SIDE // 2 :, SIDE // 4 : 3 * SIDE // 4]
    for background, value in (
        ("black", 0.0),
        ("grey", 0.5),
        ("mean", pictures[0].mean((1, 2), keepdims=True)),
    ):
        wanted = np.broadcast_to(value, pictures[0].shape).copy()
        wanted[inside] = pictures[0][inside]
        found = region_pictures(clip, picture, [region], background)[0]
        assert np.allclose(found, wanted, atol=1e-6), background
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    smooth = np.stack([down, across, 0.5 + 0.4 * np.sin(9 * down)]).astype(np.float32)
    part = Image.fromarray((smooth[inside].transpose(1, 2, 0) * 255).round().astype(np.uint8))
    resized = np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    cropped = region_pictures(clip, torch.from_numpy(smooth), [region], "crop")[0]
    assert np.abs(cropped.numpy() - resized).max() < 1.5 / 255


def test_clip_sees_what_its_processor_makes(clip, tokenizer):
    """But for rounding to 8 bits, of which the processor's resizing does more."""
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
    processor = clip_parts(tokenizer)[2]
    wanted = processor(picture, return_tensors="pt").pixel_values
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    found = clip.fitting(pixels)
    assert found.shape == wanted.shape and (found - wanted).abs().max() < 1.5 / 255 / min(STD)
    plain = torch.nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic")
    assert (clip.fitting.normalised(plain) - wanted).abs().max() > 0.3, "without a filter it would not"


def test_texts_are_read_once_and_long_ones_keep_their_end(clip):
    both = clip.texts(["a cat", "a red apple", "a cat"])
    assert torch.equal(both[0], both[2]) and np.allclose(both[0], read(clip, "a cat"), atol=1e-5)
    assert clip.texts(["a cat and " * 40]).isfinite().all()


def test_a_clip_whose_parts_do_not_fit(tokenizer):
    model, words, processor = clip_parts(tokenizer)
    processor.crop_size = {"height": 48, "width": 48}
    with pytest.raises(
        ValueError, match="its processor makes pictures of 48 x 48 pixels, its model reads 32"
    ):
        FrozenCLIP(model, words, processor)
    model, words, processor = clip_parts(tokenizer)
    model.config.text_config.vocab_size = 9
    with pytest.raises(ValueError, match=r"its tokenizer has \d+ tokens, its model knows 9"):
        FrozenCLIP(model, words, processor)
    processor.resample = 0
    with pytest.raises(ValueError, match="its processor resizes with filter 0"):
        FrozenCLIP(clip_parts(tokenizer)[0], words, processor)


def test_weights_by_signal():
    snr = torch.tensor([9, 1, 1 / 9])
    assert DSAlign().weight(snr).tolist() == [1, 1, 1]
    assert DSAlign(snr_gamma=2.0).weight(snr).tolist() == pytest.approx([1, 0.5, 1 / 18])


# Eq. 12, 13

GRID = (4, 4)


@pytest.fixture
def site(gated):
    return next(s for s in sites(gated.unet) if s.kind == "cross" and s.place == "up")


@pytest.fixture
def made(site) -> tuple[dict, np.ndarray]:
    """Maps (3 pictures, 2 heads, 16 cells, 24 keys) of two layers."""
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(2, 3, 2, 16, 24)) * 2
    maps = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    other = type(site)(f"{site.name}.other", site.kind, site.place, site.scale)
    tensors = {site: torch.from_numpy(maps[0]), other: torch.from_numpy(maps[1])}
    return tensors, maps


# Tokens of "a red apple and a blue car": start, a, red, apple, and, a, blue, car; each word is one token.
PHRASES = {(0, 0): [1, 2, 3], (0, 1): [5, 6, 7], (1, 0): [3]}
CELLS = {(0, 0): (0, 1, 2, 3), (0, 1): (2, 0, 4, 2), (1, 0): (1, 1, 4, 4)}  # xyxy on the grid


def hand_mask(key) -> np.ndarray:
    x0, y0, x1, y1 = CELLS[key]
    mask = np.zeros(GRID)
    mask[y0:y1, x0:x1] = 1
    return mask.ravel()


def by_hand(maps: np.ndarray, loss) -> list[float]:
    """Mean over the regions of each picture of loss(their maps (layers, heads, cells, tokens), mask)."""
    found = []
    for row, layout in enumerate(LAYOUTS):
        keys = [(row, place) for place in range(len(layout.regions))]
        parts = [loss(maps[:, row][..., PHRASES[key]], hand_mask(key)) for key in keys]
        found.append(float(np.mean(parts)) if parts else 0.0)
    return found


def largest(values: np.ndarray, share: float) -> float:
    return float(np.sort(values)[::-1][: max(1, int(share * len(values)))].mean())


@pytest.mark.parametrize(
    ("settings", "peaks"),
    [
        ({}, lambda a: [a.mean((0, 1, 3))]),
        ({"heads": "each"}, lambda a: [a[i, h].mean(-1) for i in range(2) for h in range(2)]),
        ({"tokens": "each"}, lambda a: [a.mean((0, 1))[:, k] for k in range(a.shape[-1])]),
        ({"tokens": "sum"}, lambda a: [a.mean((0, 1)).sum(-1)]),
        ({"tokens": "head"}, lambda a: [a.mean((0, 1))[:, -1]]),
        (
            {"heads": "each", "tokens": "each"},
            lambda a: [a[i, h, :, k] for i in range(2) for h in range(2) for k in range(a.shape[-1])],
        ),
    ],
)
def test_attention_in_and_out_in_numpy(plain, made, settings, peaks):
    tensors, maps = made
    found = MAAlign(**settings)(tensors, GRID, LAYOUTS, plain, yes())
    wanted = by_hand(maps, lambda a, m: np.mean([1 - (p * m).max() for p in peaks(a)]))
    assert found.inside.tolist() == pytest.approx(wanted, rel=1e-9)
    wanted = by_hand(maps, lambda a, m: np.mean([(p * (1 - m)).max() for p in peaks(a)]))
    assert found.outside.tolist() == pytest.approx(wanted, rel=1e-9)
    assert found.has.tolist() == [True, True, False] and found.regions == 3 and not found.missing


def test_the_mean_of_the_greatest_and_the_softmax_over_the_words(plain, made):
    tensors, maps = made
    found = MAAlign(top=0.5)(tensors, GRID, LAYOUTS, plain, yes())
    wanted = by_hand(maps, lambda a, m: 1 - largest(a.mean((0, 1, 3))[m > 0], 0.5))
    assert found.inside.tolist() == pytest.approx(wanted)
    lengths = (7, 3, 2)
    own = np.zeros_like(maps)
    for row, length in enumerate(lengths):
        kept = maps[:, row, :, :, 1 : 1 + length]
        own[:, row, :, :, 1 : 1 + length] = kept / kept.sum(-1, keepdims=True)
    # Heads and layers are averaged first, so that the mean of the maps is what is made a softmax of.
    mean = maps.mean((0, 2))
    for row, length in enumerate(lengths):
        kept = mean[row, :, 1 : 1 + length]
        assert np.allclose(
            content_only(torch.from_numpy(mean[row]), range(1, 1 + length))[:, 1 : 1 + length],
            kept / kept.sum(-1, keepdims=True),
        )
    each = MAAlign(softmax="content", heads="each")(tensors, GRID, LAYOUTS, plain, yes())
    wanted = by_hand(own, lambda a, m: np.mean([(p.mean(-1) * (1 - m)).max() for p in a.reshape(4, 16, -1)]))
    assert each.outside.tolist() == pytest.approx(wanted)


def test_two_boxes_of_one_phrase_do_not_fight(plain, site):
    """Attention all within both boxes: nothing is outside; by the letter of (13) each is outside the other's."""
    twins = Layout("two cats", [Region("cat", (0, 0, 0.5, 1)), Region("cat", (0.5, 0, 1, 0.5))])
    maps = torch.zeros(1, 1, 16, 24)
    maps[0, 0, 0], maps[0, 0, 3] = 0.5, 0.7  # of every token: in the first box, and in the second
    both = MAAlign()({site: maps}, GRID, [twins], plain, yes(1))
    assert float(both.outside) == 0 and float(both.inside) == pytest.approx(1 - 0.6)
    letter = MAAlign(union=False)({site: maps}, GRID, [twins], plain, yes(1))
    assert float(letter.outside) == pytest.approx(0.6)


def test_equal_cells_share_the_gradient_and_a_box_over_all_has_no_outside():
    maps = torch.tensor([0.3, 0.5, 0.5, 0.1], requires_grad=True)
    attention_in(maps, torch.tensor([1.0, 1, 1, 0])).backward()
    assert maps.grad.tolist() == [0, -0.5, -0.5, 0]
    for top in (0.0, 0.2):
        assert attention_out(maps, torch.ones(4), top).item() == 0


def test_boxes_on_cells():
    def cells(box, rounding, width=10) -> list[int]:
        return box_cells(Region("cat", box), 1, width, rounding)[0].nonzero().flatten().tolist()

    assert cells((0.3, 0, 0.7, 1), "outer") == [3, 4, 5, 6], "0.3 * 10 is 3 but for rounding"
    assert cells((0.31, 0, 0.66, 1), "outer") == [3, 4, 5, 6] and cells((0.31, 0, 0.64, 1), "half") == [
        3,
        4,
        5,
    ]
    assert cells((0.999, 0, 1, 1), "outer") == [9] and cells((0.12, 0, 0.13, 1), "half") == [1]
    mask = np.zeros((4, 40), bool)
    mask[0, 33] = True
    spot = Region("cat", (0, 0, 1, 1), mask=mask)
    assert box_cells(spot, 1, 10, "outer")[0].nonzero().flatten().tolist() == [8]


def test_a_phrase_that_the_caption_lacks_is_left_out_and_counted(plain, made):
    tensors, _maps = made
    more = Layout(TWO.prompt, [*TWO.regions, Region("the green clock", (0, 0, 1, 1))])
    found = MAAlign()(
        tensors, GRID, (more, ONE, Layout("a cat", [Region("clock", (0, 0, 1, 1))])), plain, yes()
    )
    whole = MAAlign()(tensors, GRID, LAYOUTS, plain, yes())
    assert torch.equal(found.inside, whole.inside) and torch.equal(found.outside, whole.outside)
    assert found.regions == 5 and [place.phrase for place in found.missing] == ["the green clock", "clock"]
    assert found.has.tolist() == [True, True, False]
    some = MAAlign()(tensors, GRID, LAYOUTS, plain, yes(3, 0))
    assert some.has.tolist() == [False, True, False] and float(some.inside[0]) == 0 and some.regions == 1
    half = MAAlign(inside=False)(tensors, GRID, LAYOUTS, plain, yes())
    assert not half.inside.any() and torch.equal(half.outside, whole.outside)


def test_a_last_word_of_another_thing_and_a_cut_phrase_do_not_count(plain, made):
    tensors, _maps = made
    red = Region("a red car", (0, 0, 1, 1))
    more = Layout(TWO.prompt, [*TWO.regions, red, Region("a chair on the apple", (0, 0, 1, 1))])
    found = MAAlign()(tensors, GRID, (more, ONE, NONE), plain, yes())
    whole = MAAlign()(tensors, GRID, LAYOUTS, plain, yes())
    assert torch.equal(found.inside, whole.inside) and torch.equal(found.outside, whole.outside)
    assert [place.phrase for place in found.missing] == ["a red car", "a chair on the apple"]
    assert why_not(found.missing[0]) == (
        "the prompt holds only the last word of the phrase 'a red car', of another thing"
    )
    bare = Layout(
        "a car and an apple", [Region("a red apple", TWO.regions[0].box), Region("a blue car", (0, 0, 1, 1))]
    )
    assert not MAAlign()(tensors, GRID, (bare, ONE, NONE), plain, yes()).missing, (
        "nothing else is said of them"
    )
    cut = locate_phrase(plain, " ".join(["a"] * (plain.text_length - 3)) + " red apple", "a red apple")
    assert cut.tokens and "cut in its middle" in cut.problem and not counted(cut)


def nets_of(unet: UNet2DConditionModel) -> SimpleNamespace:
    """As much of a backbone as knows its attention layers."""
    return SimpleNamespace(sites=lambda: sites(unet))


@pytest.fixture(scope="module")
def like_sd() -> UNet2DConditionModel:
    """Stable Diffusion's blocks, narrow."""
    cross, up = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8, 8, 8, 8),
        down_block_types=(*cross, "DownBlock2D"),
        up_block_types=("UpBlock2D", *up),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
    )


@pytest.mark.parametrize(
    ("settings", "block", "count"),
    [
        ({}, "up_blocks.1.", 3),
        ({"cells": 16}, "up_blocks.1.", 3),
        ({"fraction": 0.25}, "up_blocks.1.", 3),
        ({"cells": 32}, "up_blocks.2.", 3),
        ({"cells": 64}, "up_blocks.3.", 3),
        ({"place": "mid"}, "mid_block.", 1),
        ({"place": "down", "cells": 64}, "down_blocks.0.", 2),
    ],
)
def test_levels_of_stable_diffusion(like_sd, settings, block, count):
    """up_blocks.1 with its three layers is the decoder at 16 x 16; the middle block has 8 x 8."""
    found = MAAlign(**settings).sites(nets_of(like_sd), (64, 64))
    assert len(found) == count and all(s.name.startswith(block) and s.name.endswith("attn2") for s in found)


def test_levels_that_are_not_there(like_sd, gated):
    with pytest.raises(
        ValueError, match=r"^cells: the maps of this U-Net's up blocks have 16 or 32 or 64, not 8"
    ):
        MAAlign(cells=8).sites(nets_of(like_sd), (64, 64))
    with pytest.raises(ValueError, match=r"^fraction: the maps .* mid blocks have 0.125, not 0.5"):
        MAAlign(place="mid", fraction=0.5).sites(nets_of(like_sd), (64, 64))
    with pytest.raises(ValueError, match=r"^cells: .* have 24 or 48 or 96, not 16"):
        MAAlign().sites(nets_of(like_sd), (96, 128))
    assert len(MAAlign(fraction=0.25).sites(nets_of(like_sd), (96, 128))) == 3
    assert [s.place for s in MAAlign().sites(gated, (8, 8))] == ["up"] * 2, "its only level, of 8 cells"


# All of it


def doubled(backbone: Backbone) -> Backbone:
    return copy.deepcopy(backbone).to(dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "losses"),
    [("gated", "dsa"), ("gated_v", "dsa"), ("gated", "maa")],
    ids=["epsilon", "v", "attention"],
)
def test_finite_differences_through_clip_vae_and_u_net(request, clip, kind, losses):
    """One call of the U-Net in float64; the slopes of its losses along random directions of its weights."""
    backbone, lens = doubled(request.getfixturevalue(kind)), copy.deepcopy(clip).double()
    batch = batch_of(backbone, LAYOUTS[:2], (300, 600))
    level, t = tuple(part.double() for part in backbone.noise_level(batch.t)), batch.t
    z = noised(batch.latents.double(), batch.noise.double(), level)
    text = backbone.encode(batch.captions)
    grounding = pack(batch.layouts, backbone.encode_phrases, 3, backbone.unet.config.cross_attention_dim)
    objective = GoalObjective(dsa=float(losses == "dsa"), maa=float(losses == "maa"))
    names = ["attn1.to_q", "attn2.to_k", "fuser.attn.to_v"]
    weights = [
        next(w for n, w in backbone.unet.named_parameters() if name in n and "up" in n) for name in names
    ]

    def loss() -> torch.Tensor:
        with grounded(backbone.unet, grounding, 1.0, z) as kwargs, objective._opened(backbone, z) as maps:
            said = backbone.unet(
                z, t, encoder_hidden_states=text.states, cross_attention_kwargs=kwargs
            ).sample
        clean = x0_of(backbone.predicts, said, z, level)
        distances, attention = objective.alignment(batch, Nets(backbone, {"clip": lens}), clean, maps)
        parts = (
            (attention.inside, attention.outside) if distances is None else (distances.local, distances.globe)
        )
        assert all(part.dtype == torch.float64 for part in parts)
        return torch.stack([part.sum() for part in parts])

    for weight in weights:
        weight.requires_grad_()
    jacobian = [torch.autograd.grad(part, weights, retain_graph=True) for part in loss()]
    generator = torch.Generator().manual_seed(0)
    # Maps are made by a softmax in float32, whose rounding a small step would magnify.
    h, near = (1e-5, {"rtol": 1e-4}) if losses == "dsa" else (1e-3, {"rtol": 2e-2, "atol": 1e-6})
    for place, weight in enumerate(weights):
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        slopes = torch.stack([(gradients[place] * direction).sum() for gradients in jacobian])
        before, around = weight.detach().clone(), []
        for sign in (1, -1):
            with torch.no_grad():
                weight.copy_(before + sign * h * direction)
                around.append(loss())
                weight.copy_(before)
        found = (around[0] - around[1]) / (2 * h)
        assert torch.allclose(slopes, found, **near), (names[place], slopes, found)
        assert (slopes.abs() > 1e-6).all(), "each loss depends on it"


def objective_of(**more) -> GoalObjective:
    return GoalObjective(dsa=0.5, maa=0.25, **more)


@pytest.mark.parametrize("kind", ["gated", "gated_v"])
def test_the_total_is_the_weighted_sum(request, clip, kind):
    backbone = request.getfixturevalue(kind)
    nets, batch = Nets(backbone, {"clip": clip}), batch_of(backbone)
    with torch.no_grad():
        found = objective_of()(batch, nets)
        noise = DenoisingObjective()(batch, nets)["total"]
        control = GoalObjective(dsa=0.0, maa=0.0)(batch, Nets(backbone))
    assert torch.equal(control["total"], noise), "without both it is the control, and needs no CLIP"
    assert float(found["noise"]) == pytest.approx(float(noise), rel=1e-5)
    # Means over the three pictures; one has no box.
    terms = 0.5 * (2 / 3 * found["dsa_local"] + found["dsa_global"]) + 0.25 * 2 / 3 * (
        found["maa_in"] + found["maa_out"]
    )
    assert float(found["total"]) == pytest.approx(float(noise + terms), rel=1e-5)
    assert float(found["unboxed"]) == pytest.approx(1 / 3) and float(found["unphrased"]) == 0


def gradients(
    backbone: Backbone, clip: FrozenCLIP, objective: GoalObjective, batch: Batch
) -> dict[str, torch.Tensor]:
    backbone.unet.requires_grad_(True)
    objective(batch, Nets(backbone, {"clip": clip}))["total"].backward()
    return {name: w.grad for name, w in backbone.unet.named_parameters() if w.grad is not None}


def test_weights_learn_but_those_of_vae_and_clip_do_not(gated, clip):
    backbone = copy.deepcopy(gated)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    batch = batch_of(backbone)
    found = gradients(backbone, clip, objective_of(), batch)
    plain = gradients(copy.deepcopy(gated), clip, GoalObjective(0.0, 0.0), batch)
    for part in (".fuser.", ".attn1.", ".attn2."):
        assert any(
            not torch.allclose(found[n], plain[n], rtol=1e-3, atol=1e-8) for n in found if part in n
        ), part
    frozen = [*backbone.vae.parameters(), *backbone.text_encoder.parameters(), *clip.parameters()]
    assert all(w.grad is None and not w.requires_grad for w in frozen)
    assert not clip.model.training and not backbone.vae.training
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


def test_clip_that_spares_memory_gives_the_same_gradient(clip):
    side = clip.fitting.side[0]
    pictures = torch.rand(5, 3, side, side, generator=torch.Generator().manual_seed(0))

    def taken(sparing):
        kept = {}

        def keep(tensor):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        given = pictures.clone().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            vectors = clip.images(given, sparing)
        slope = torch.autograd.grad(vectors[:, 0].sum(), given)[0]
        return vectors, slope, sum(kept.values())

    (plain, slope, much), (same, again, less) = taken(False), taken(True)
    assert torch.equal(plain, same) and torch.equal(slope, again) and slope.any()
    assert less < 0.6 * much
    assert not any(module.training for module in clip.model.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in clip.model.modules())


def test_checkpointing_changes_no_gradient_and_doubles_no_map(gated, clip, monkeypatch):
    found, sizes = [], []
    call = MAAlign.__call__

    def counted(self, maps, *rest):
        sizes.append((len(maps), [tuple(probs.shape) for probs in maps.values()]))
        return call(self, maps, *rest)

    monkeypatch.setattr(MAAlign, "__call__", counted)
    for checkpointing in (False, True):
        backbone = copy.deepcopy(gated)
        backbone.enable_gradient_checkpointing(checkpointing)
        runs = []
        backbone.vae.decoder.up_blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))  # noqa: B023
        found.append(gradients(backbone, clip, objective_of(), batch_of(backbone)))
        assert len(runs) == 1 + checkpointing, "decoded once, and once more for the gradient"
        assert not backbone.vae.decoder.gradient_checkpointing and not backbone.unet.is_gradient_checkpointing
    assert found[0].keys() == found[1].keys()
    scale = max(float(g.abs().max()) for g in found[0].values())
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-6 * scale, rtol=1e-4) for n in found[0])
    assert sizes == [(2, [(3, 2, 64, 24)] * 2)] * 2


def test_what_the_u_net_is_not_shown_does_not_count(gated, plain, clip):
    nets = Nets(gated, {"clip": clip})

    def logged(backbone=gated, **kept) -> set[str]:
        batch = batch_of(backbone, [TWO, ONE], **{name: torch.tensor(rows) for name, rows in kept.items()})
        with torch.no_grad():
            found = objective_of(bins=0)(batch, Nets(backbone, nets.further))
        return set(found) - {"total", "noise", "unboxed"}

    attention = {"maa_in", "maa_out", "unphrased"}
    assert logged() == {"dsa_local", "dsa_global"} | attention
    assert logged(captioned=[False, False]) == {"dsa_local"}
    assert logged(boxed=[False, False]) == {"dsa_global"}
    assert logged(captioned=[True, False], boxed=[False, True]) == {"dsa_local", "dsa_global"}
    assert logged(plain, boxed=[False, False]) == {"dsa_local", "dsa_global"} | attention, (
        "it is never shown boxes"
    )


def test_late_timesteps_can_be_spared(gated, clip):
    batch = batch_of(gated)  # t = 100, 400, 800
    with torch.no_grad():
        terms = [
            objective_of(dsalign=DSAlign(t_max=limit))(batch, Nets(gated, {"clip": clip}))
            for limit in (None, 500, 100)
        ]
    assert {f"dsa/{low}" for low in (0, 250, 750)} <= set(terms[0])
    assert "dsa/750" not in terms[1] and torch.allclose(terms[1]["dsa/250"], terms[0]["dsa/250"])
    assert not [name for name in terms[2] if name.startswith("dsa")]


def test_the_floor_is_the_batch_s_own_picture(gated, clip):
    batch, nets = batch_of(gated), Nets(gated, {"clip": clip})
    with torch.no_grad():
        free, floored = (
            objective_of(dsalign=DSAlign(floor=floor))(batch, nets)["dsa_global"] for floor in (False, True)
        )
        alone = GoalObjective(maa=0, dsalign=DSAlign(floor=True))
        right, _ = alone.alignment(batch, nets, batch.latents, {})
    assert 0 <= float(floored) < float(free)
    assert not right.globe.any() and not right.local.any(), "the truth itself is as near as it shall be"


def test_terms_are_logged_by_timestep(gated, clip):
    batch = batch_of(gated, [TWO, ONE, TWO], (0, 249, 999))
    with torch.no_grad():
        found = objective_of()(batch, Nets(gated, {"clip": clip}))
        early = objective_of()(batch_of_rows(batch, slice(0, 2)), Nets(gated, {"clip": clip}))
    assert {name for name in found if "/" in name} == {
        f"{k}/{t}" for k in ("noise", "dsa", "maa") for t in (0, 750)
    }
    for name in ("noise/0", "dsa/0", "maa/0"):
        assert float(found[name]) == pytest.approx(float(early[name]), rel=1e-4)
    assert float(early["dsa/0"]) == pytest.approx(float(early["dsa_local"] + early["dsa_global"]), rel=1e-5)
    assert float(early["noise/0"]) == pytest.approx(float(early["noise"]), rel=1e-5)


def batch_of_rows(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.latents[rows], batch.layouts[rows], batch.noise[rows], batch.t[rows])


def test_pictures_without_boxes_and_phrases_that_are_missing(gated, clip):
    nets, objective = Nets(gated, {"clip": clip}), objective_of()
    odd = Layout("a cat", [Region("clock", (0, 0, 0.5, 0.5)), Region("cat", (0.5, 0.5, 1, 1))])
    with torch.no_grad():
        empty = objective(batch_of(gated, [NONE]), nets)
        with pytest.warns(
            UserWarning, match="MAAlign: the prompt does not hold the phrase 'clock'; such regions are"
        ):
            found = objective(batch_of(gated, [odd, TWO]), nets)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            again = objective(batch_of(gated, [odd, TWO]), nets)
    assert float(empty["total"]) == pytest.approx(float(empty["noise"] + 0.5 * empty["dsa_global"]), rel=1e-5)
    assert {"dsa_local", "maa_in", "unphrased"}.isdisjoint(empty) and float(empty["unboxed"]) == 1
    assert float(found["unphrased"]) == pytest.approx(1 / 4) and torch.equal(found["total"], again["total"])


def test_bfloat16_comes_close(gated, clip):
    batch, nets = batch_of(gated), Nets(gated, {"clip": clip})
    with torch.no_grad():
        exact = objective_of()(batch, nets)
        with torch.autocast("cpu", torch.bfloat16):
            rough = objective_of()(batch, nets)
    assert exact.keys() == rough.keys()
    for name, value in exact.items():
        assert float(rough[name]) == pytest.approx(float(value), rel=0.1, abs=0.01), name
