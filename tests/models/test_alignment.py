"""HCMA's alignment net, its losses and its first training stage: formulas in numpy, gradients, files."""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.models.embeddings import get_fourier_embeds_from_boundingbox
from torch import nn

from trueline.layout import Layout, Region
from trueline.models.alignment import (
    Aligned,
    AlignmentNet,
    coverage,
    fourier_features,
    load_net,
    misfit,
)
from trueline.models.alignment_loss import (
    alignment_gradient,
    alignment_losses,
    balance_weights,
    complexity_weights,
    ideal_displacement,
    step_of,
    targets,
)
from trueline.models.backbone import CheckpointError
from trueline.training.losses.denoising import noised
from trueline.training.losses.hcma import AlignmentObjective
from trueline.training.objective import Batch, Nets

FUSIONS, POOLINGS = ("concat", "add", "multiply"), ("box", "grid")
LAYOUTS = (
    Layout(
        "a red apple and a blue car",
        regions=[Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))],
    ),
    Layout("a cat", regions=[Region("cat", (0.3, 0.6, 0.55, 0.95))]),
    Layout("the green chair"),
)


def tiny_net(**settings):
    torch.manual_seed(0)
    sizes = dict(
        sample_size=8, patch=2, text_width=6, text_features=5, width=8, depth=1, heads=2, frequencies=3
    )
    net = AlignmentNet(**(sizes | settings))
    with torch.no_grad():  # LayerNorm and biases begin at 1 and 0, where mistakes hide
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(2.0)
    return net.eval()


def draw(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def wanted(net, batch, boxes, present, seed=5):
    """Targets with random text features."""
    width, slots = net.config.text_features, boxes.shape[1]
    dtype = boxes.dtype
    features = (
        draw(batch, width, seed=seed, dtype=dtype),
        draw(batch, slots, width, seed=seed + 1, dtype=dtype),
    )
    return SimpleNamespace(caption=features[0], labels=features[1], boxes=boxes, present=present)


BOXES = torch.tensor([[[0.1, 0.0, 0.6, 0.7], [0.3, 0.3, 0.36, 0.33]], [[0.5, 0.5, 1.0, 1.0], [0, 0, 0, 0]]])
PRESENT = torch.tensor([[True, True], [True, False]])
T = torch.tensor([801, 17])


# Boxes on the grid


def test_fourier_features_by_hand_and_as_gligen_has_them():
    boxes = BOXES.numpy()
    frequencies = 100 ** (np.arange(3) / 3)
    angles = (boxes[..., None] * frequencies).reshape(2, 2, 12)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    assert fourier_features(BOXES, 3).numpy() == pytest.approx(expected, abs=1e-5)
    theirs = get_fourier_embeds_from_boundingbox(8, BOXES).view(
        2, 2, 8, 2, 4
    )  # frequency, sin or cos, corner
    assert torch.allclose(fourier_features(BOXES), theirs.permute(0, 1, 3, 4, 2).flatten(2), atol=1e-6)


def test_coverage_by_hand():
    boxes = torch.tensor([[[0.125, 0.25, 0.5, 1.0], [0.30, 0.55, 0.32, 0.57], [0, 0, 1, 1], [0, 0, 0, 0]]])
    cover = coverage(boxes, (2, 4))[0]
    assert cover[0].numpy() == pytest.approx(np.outer([0.5, 1], [0.5, 1, 0, 0]), abs=1e-6)
    tiny = np.zeros((2, 4))
    tiny[1, 1] = 0.08 * 0.04  # of the one cell it lies in
    assert cover[1].numpy() == pytest.approx(tiny, abs=1e-6)
    assert torch.equal(cover[2], torch.ones(2, 4)) and not cover[3].any()
    areas = (boxes[0, :, 2] - boxes[0, :, 0]) * (boxes[0, :, 3] - boxes[0, :, 1])
    assert cover.sum((1, 2)).numpy() == pytest.approx(areas.numpy() * 8, abs=1e-5)


# The net


def numbers(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mlp(weights, name, x):
    """The layers of ``name`` (0, 2, 4, ...) with GELU between them."""
    layers = sorted({int(key.split(".")[1]) for key in weights if key.startswith(f"{name}.")})
    for layer in layers:
        x = x @ weights[f"{name}.{layer}.weight"].T + weights[f"{name}.{layer}.bias"]
        x = gelu(x) if layer != layers[-1] else x
    return x


def layer_norm(weights, name, x):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_tokens(net, z, t):
    """Patches row by row, MLP, [CLS], positions, time, one layer of two heads, norm."""
    w, c = numbers(net), net.config
    (rows, columns), p = net.grid, c.patch
    patches = [
        z[:, :, y * p : (y + 1) * p, x * p : (x + 1) * p].reshape(len(z), -1)
        for y in range(rows)
        for x in range(columns)
    ]
    tokens = mlp(w, "tokenise", np.stack(patches, 1) @ w["project.weight"].T + w["project.bias"])
    tokens = np.concatenate([np.repeat(w["cls"], len(z), 0), tokens], 1) + w["positions"]
    if c.timed:
        angles = t[:, None] * 10_000 ** (-np.arange(c.width // 2) / (c.width // 2))
        tokens = tokens + mlp(w, "time", np.concatenate([np.cos(angles), np.sin(angles)], 1))[:, None]
    normed = layer_norm(w, "blocks.0.before", tokens)
    q, k, v = np.split(normed @ w["blocks.0.qkv.weight"].T + w["blocks.0.qkv.bias"], 3, -1)
    heads, size = [], c.width // c.heads
    for h in range(c.heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / math.sqrt(size)
        heads.append(softmax(scores) @ v[..., part])
    tokens = tokens + np.concatenate(heads, -1) @ w["blocks.0.out.weight"].T + w["blocks.0.out.bias"]
    block = {key.removeprefix("blocks.0."): value for key, value in w.items()}
    tokens = tokens + mlp(block, "mlp", layer_norm(block, "between", tokens))
    tokens = layer_norm(w, "last", tokens)
    return tokens[:, 0], tokens[:, 1:]


def numpy_local(net, cells, boxes):
    """Cell by cell and box by box, with the concatenations written out."""
    w, c = numbers(net), net.config
    shares = coverage(boxes, net.grid).flatten(2).double().numpy()
    where = fourier_features(boxes, c.frequencies).double().numpy()
    result = np.zeros((*boxes.shape[:2], c.text_features))
    for b in range(boxes.shape[0]):
        for m in range(boxes.shape[1]):
            fused = []
            for n, cell in enumerate(cells[b]):
                place = np.concatenate([where[b, m], shares[b, m, n : n + 1]])
                if c.fusion == "concat":
                    joined = np.concatenate([cell, place])
                    matrix = np.concatenate([w["join.weight"], w["place.weight"]], 1)
                    fused.append(matrix @ joined + w["place.bias"])
                    continue
                mapped = w["place.weight"] @ place + w["place.bias"]
                fused.append(cell + mapped if c.fusion == "add" else cell * mapped)
            weights = shares[b, m] if c.pooling == "box" else np.ones(len(fused))
            pooled = (
                np.average(gelu(np.array(fused)), axis=0, weights=weights)
                if weights.sum()
                else np.zeros(c.width)
            )
            result[b, m] = mlp(w, "local_head", pooled)
    return result


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (4, 6)])
def test_the_encoder_in_numpy(timed, size):
    net = tiny_net(timed=timed, sample_size=size)
    z = draw(2, 4, *size)
    whole, cells = net.tokens(z, T)
    expected = numpy_tokens(net, z.double().numpy(), T.numpy())
    assert whole.shape == (2, 8) and cells.shape == (2, math.prod(size) // 4, 8)
    assert whole.detach().numpy() == pytest.approx(expected[0], abs=1e-4)
    assert cells.detach().numpy() == pytest.approx(expected[1], abs=1e-4)
    later = net.tokens(z, T + 100)[0]
    assert torch.equal(later, whole) is not timed


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_heads_in_numpy(fusion, pooling):
    net = tiny_net(fusion=fusion, pooling=pooling, head_mlp=7)
    z = draw(2, 4, 8, 8)
    whole, cells = (part.detach() for part in net.tokens(z, T))
    aligned = net(z, T, BOXES, PRESENT)
    assert aligned.globe.shape == (2, 5) and aligned.local.shape == (2, 2, 5)
    expected = mlp(numbers(net), "global_head", whole.double().numpy())
    assert aligned.globe.detach().numpy() == pytest.approx(expected, abs=1e-4)
    local = numpy_local(net, cells.double().numpy(), BOXES)
    local[1, 1] = 0  # not present
    assert aligned.local.detach().numpy() == pytest.approx(local, abs=1e-4)
    assert (net.join is None) is (fusion != "concat"), "no parameter that nothing reads"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_where_a_box_looks(fusion):
    """Without attention between cells: a box reads the patches under it, the whole grid reads all of them."""
    box = torch.tensor([[[0.51, 0.26, 0.74, 0.49]]])  # within the patch of row 1, column 2

    def reach(net):
        z = draw(1, 4, 8, 8).requires_grad_(True)
        net(z, T[:1], box, torch.ones(1, 1)).local.square().sum().backward()
        return z.grad[0].abs().sum(0) > 0

    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 4:6] = True
    assert torch.equal(reach(tiny_net(fusion=fusion, depth=0)), inside)
    assert reach(tiny_net(fusion=fusion, depth=0, pooling="grid")).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_box_tells_the_net_where_it_is(pooling):
    """Also by its shape alone, under pooling over the whole grid."""
    net, z = tiny_net(pooling=pooling), draw(1, 4, 8, 8)
    here, there = (
        net(z, T[:1], torch.tensor([[box]]), torch.ones(1, 1)).local
        for box in ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0))
    )
    assert not torch.allclose(here, there, atol=1e-3)


def test_absent_slots_and_batch_mates_do_not_matter():
    net, z = tiny_net(), draw(2, 4, 8, 8)
    aligned = net(z, T, BOXES, PRESENT)
    other = BOXES.clone()
    other[1, 1] = torch.tensor([0.1, 0.1, 0.9, 0.9])
    assert torch.equal(net(z, T, other, PRESENT).local, aligned.local)
    alone = net(z[1:], T[1:], BOXES[1:, :1], PRESENT[1:, :1])
    assert torch.allclose(alone.globe, aligned.globe[1:], atol=1e-6)
    assert torch.allclose(alone.local, aligned.local[1:, :1], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch": 3}, "patch: must divide the latents' height of 8 .got 3."),
        ({"sample_size": (8, 9)}, "patch: must divide the latents' width of 9 .got 2."),
        ({"heads": 3}, "width: must be even and a multiple of heads .got 8 and 3 heads."),
        ({"fusion": "sum"}, "fusion: must be concat, add or multiply .got 'sum'."),
        ({"pooling": "max"}, "pooling: must be box or grid .got 'max'."),
        ({"timesteps": (5, 5)}, "timesteps: must be 0 <= first < past the last .got .5, 5.."),
    ],
)
def test_sizes_that_do_not_fit(settings, said):
    with pytest.raises(ValueError, match=said):
        tiny_net(**settings)


def test_the_net_of_stable_diffusion_has_the_papers_grid():
    with torch.device("meta"):
        net = AlignmentNet()
    assert net.grid == (16, 16) and net.project.in_features == 64 and len(net.blocks) == 6
    blocks = sum(p.numel() for p in net.blocks.parameters())
    assert blocks == 6 * (12 * 384**2 + 13 * 384)  # 3.0 GMAC at 257 tokens, but for attention's own
    assert len([m for m in net.global_head if isinstance(m, nn.Linear)]) == 3


# Losses


def test_losses_by_hand():
    globe, caption = (
        np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]),
        np.array([[4.0, 3.0], [-2.0, 0.0], [5.0, 0.0]]),
    )
    local = np.array([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [9.0, 9.0]], [[1.0, 2.0], [3.0, 4.0]]])
    labels = np.array([[[2.0, 0.0], [1.0, 0.0]], [[0.0, -3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    present = torch.tensor([[True, True], [True, False], [False, False]])
    of_globe, of_local = alignment_losses(
        Aligned(*map(torch.tensor, (globe, local))), torch.tensor(caption), torch.tensor(labels), present
    )
    assert of_globe.numpy() == pytest.approx([1 - 24 / 25, 2, 1])
    assert of_local.numpy() == pytest.approx([(0 + 1 - math.sqrt(0.5)) / 2, 2, 0])
    again = alignment_losses(
        Aligned(*map(torch.tensor, (globe, local))),
        torch.tensor(caption),
        torch.tensor(labels),
        present.double(),
    )
    assert torch.equal(again[1], of_local), "numbers as well as truth values"


def test_losses_are_in_float32_at_least():
    net = tiny_net()
    aligned = Aligned(*(part.bfloat16() for part in net(draw(2, 4, 8, 8), T, BOXES, PRESENT)))
    goal = wanted(net, 2, BOXES, PRESENT)
    assert {loss.dtype for loss in alignment_losses(aligned, goal.caption, goal.labels, PRESENT)} == {
        torch.float32
    }


@pytest.mark.parametrize("weighting", ["fixed", "complexity"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_gradient_agrees_with_finite_differences(fusion, pooling, weighting):
    """The whole alignment loss, in float64, in every direction of a small latent."""
    net = tiny_net(fusion=fusion, pooling=pooling, sample_size=4, in_channels=2).double()
    z, boxes = draw(2, 2, 4, 4, dtype=torch.float64), BOXES.double()
    goal = wanted(net, 2, boxes, PRESENT)
    _, gradient = alignment_gradient(net, z, T.double(), goal, (0.7, 1.9), weighting)
    step, found = 1e-6, torch.zeros_like(z).flatten(1)
    with torch.no_grad():
        for place in range(found.shape[1]):
            for sign in (1, -1):
                moved = z.clone()
                moved.flatten(1)[:, place] += sign * step
                loss = alignment_gradient(net, moved, T.double(), goal, (0.7, 1.9), weighting)[0]
                found[:, place] += sign * loss / (2 * step)
    assert gradient.dtype == torch.float64 and gradient.abs().amax() > 1e-3
    assert torch.allclose(gradient.flatten(1), found, atol=1e-7, rtol=1e-5)


def test_gradients_of_the_three_weightings():
    net, z = tiny_net(), draw(2, 4, 8, 8)
    goal = wanted(net, 2, BOXES, PRESENT)
    losses, parts = zip(
        *(alignment_gradient(net, z, T, goal, weights) for weights in ((1, 0), (0, 1))), strict=True
    )
    loss, gradient = alignment_gradient(net, z, T, goal, (2.0, 0.5))
    assert torch.allclose(loss, 2 * losses[0] + 0.5 * losses[1], atol=1e-6)
    assert torch.allclose(gradient, 2 * parts[0] + 0.5 * parts[1], atol=1e-6)

    lengths = torch.stack([part.flatten(1).norm(dim=1) for part in parts])
    loss, gradient = alignment_gradient(net, z, T, goal, (2.0, 0.5), "gradient")
    factors = lengths.mean(0) / lengths  # per picture: both get the mean of their lengths
    rows = factors.view(2, 2, 1, 1, 1)
    assert torch.allclose(gradient, 2 * rows[0] * parts[0] + 0.5 * rows[1] * parts[1], atol=1e-6)
    assert torch.allclose(loss, 2 * factors[0] * losses[0] + 0.5 * factors[1] * losses[1], atol=1e-6)
    assert (factors[0] - factors[1]).abs().min() > 0.05, "or nothing was balanced"

    _, gradient = alignment_gradient(net, z, T, goal, (2.0, 0.5), "complexity")  # two boxes and one
    expected = torch.stack(
        [
            2 * (2 / 3) * parts[0][0] + 0.5 * (4 / 3) * parts[1][0],
            2 * parts[0][1] + 0.5 * parts[1][1],
        ]
    )
    assert torch.allclose(gradient, expected, atol=1e-6)
    for weighting in ("gradient", "complexity"):
        assert torch.equal(alignment_gradient(net, z, T, goal, (0, 1), weighting)[1], parts[1]), (
            "nothing to weigh"
        )


def test_weights_by_hand():
    globe, local = complexity_weights(torch.tensor([0, 1, 3]))
    assert globe.tolist() == pytest.approx([1, 1, 0.5]) and local.tolist() == pytest.approx([1, 1, 1.5])
    one = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(2, 1, 1, 2)
    other = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(2, 1, 1, 2)
    first, second = balance_weights(one, other)
    assert first.tolist() == pytest.approx([3 / 5, 1]) and second.tolist() == pytest.approx([3, 1])


@pytest.mark.parametrize("weighting", ["fixed", "gradient", "complexity"])
def test_no_regions_at_all(weighting):
    """Zero slots: the global loss alone, and no NaN."""
    net, z = tiny_net(), draw(2, 4, 8, 8)
    goal = wanted(net, 2, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool))
    loss, gradient = alignment_gradient(net, z, T, goal, (1.0, 1.0), weighting)
    only = alignment_gradient(net, z, T, goal, (1.0, 0.0))
    assert torch.allclose(loss, only[0]) and torch.allclose(gradient, only[1], atol=1e-7)
    assert gradient.abs().amax() > 0


def test_the_gradient_ignores_autocast_and_leaves_the_weights_alone():
    net, z = tiny_net(), draw(2, 4, 8, 8)
    goal = wanted(net, 2, BOXES, PRESENT)
    expected = alignment_gradient(net, z, T, goal)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = alignment_gradient(net, z, T, goal)
    assert torch.equal(found[1], expected[1]) and found[1].dtype == torch.float32
    assert not found[0].requires_grad and all(p.grad is None for p in net.parameters())


# The step


def test_the_step_of_each_rule():
    gradient = draw(3, 4, 8, 8)
    gradient[1] *= 1e-6
    gradient[2] = 0
    assert torch.equal(step_of(gradient, "constant", 0.5), gradient)
    step = step_of(gradient, "norm", 0.03)
    assert step.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([0.03, 0.03, 0], rel=1e-5)
    assert torch.nn.functional.cosine_similarity(step[:2].flatten(1), gradient[:2].flatten(1)).tolist() == (
        pytest.approx([1, 1], abs=1e-5)
    )
    each = step_of(gradient, "norm", torch.tensor([0.01, 0.02, 0.03]))
    assert torch.allclose(each[:2], step[:2] * torch.tensor([1 / 3, 2 / 3]).view(2, 1, 1, 1))


def test_the_ideal_displacement_is_the_references():
    """Of Stable Diffusion's schedule at 50 steps; numbers of our own reading of the paper (reference/hcma.md, 9)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1 - betas)
    known = {981: 0.009, 841: 0.016, 701: 0.022, 561: 0.028, 421: 0.032, 281: 0.035, 141: 0.038, 1: 0.012}
    for t, expected in known.items():
        levels = [f(signal[max(s, 0)]) ** 0.5 for s in (t, t - 20) for f in (lambda a: a, lambda a: 1 - a)]
        assert ideal_displacement(*levels) == pytest.approx(expected, abs=5e-4), t


# Texts


def backbone_net(backbone, **settings):
    torch.manual_seed(1)
    return AlignmentNet.for_backbone(
        backbone, draw(32, 12, seed=3), **({"width": 16, "depth": 1, "heads": 2} | settings)
    )


def test_a_net_for_a_backbone(gated):
    net = backbone_net(gated)
    config = net.config
    assert (config.in_channels, tuple(config.sample_size), config.text_width, config.text_features) == (
        4,
        (8, 8),
        32,
        12,
    )
    assert config.patch == 1 and backbone_net(gated, patch=4).grid == (2, 2)
    assert torch.equal(net.text_projection, draw(32, 12, seed=3))
    assert "text_projection" in net.state_dict() and "text_projection" not in dict(net.named_parameters())
    plain = AlignmentNet.for_backbone(gated, width=16, depth=1, heads=2)
    assert torch.equal(plain.text_projection, torch.eye(32)), (
        "without a projection the pooled output as it is"
    )
    with pytest.raises(ValueError, match="text_projection: must have 32 rows, as wide as the text encoder"):
        AlignmentNet.for_backbone(gated, torch.zeros(12, 32))


def test_text_targets_are_the_projected_pooled_output(gated, monkeypatch):
    net, read = backbone_net(gated), []
    encode = gated.encode_phrases
    monkeypatch.setattr(gated, "encode_phrases", lambda texts: read.append(list(texts)) or encode(texts))
    texts = ["a cat", "a red apple", "a cat"]
    found = net.text_targets(gated, texts)
    assert read == [["a cat", "a red apple"]], "each text once"
    assert torch.allclose(found, encode(texts).float() @ net.text_projection, atol=1e-6)
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1], atol=1e-3)


def test_targets_of_layouts(gated):
    net = backbone_net(gated)
    goal = targets(net, gated, LAYOUTS)
    assert goal.present.tolist() == [[True, True], [True, False], [False, False]]
    assert torch.allclose(goal.boxes[0, 1], torch.tensor([0.5, 0.5, 1, 1])) and not goal.boxes[1, 1].any()
    assert torch.allclose(
        goal.caption, net.text_targets(gated, [layout.prompt for layout in LAYOUTS]), atol=1e-6
    )
    assert torch.allclose(goal.labels[1, 0], net.text_targets(gated, ["cat"])[0], atol=1e-5)
    assert torch.allclose(goal.labels[0, 1], net.text_targets(gated, ["a blue car"])[0], atol=1e-5)
    none = targets(net, gated, LAYOUTS[2:])
    assert none.boxes.shape == (1, 0, 4) and none.labels.shape == (1, 0, 12)


def test_targets_are_to_the_last_bit_those_of_each_region_by_itself(gated):
    """Boxes and labels are put together at once."""
    net = backbone_net(gated)
    goal = targets(net, gated, LAYOUTS)
    phrases = [region.phrase for layout in LAYOUTS for region in layout.regions]
    features = net.text_targets(gated, [layout.prompt for layout in LAYOUTS] + phrases)
    labels, boxes, present = torch.zeros(3, 2, 12), torch.zeros(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool)
    of_regions = iter(features[3:])
    for row, layout in enumerate(LAYOUTS):
        for slot, region in enumerate(layout.regions):
            labels[row, slot], boxes[row, slot] = next(of_regions), torch.tensor(region.box.xyxy)
            present[row, slot] = True
    for found, expected in zip(
        (goal.caption, goal.labels, goal.boxes, goal.present),
        (features[:3], labels, boxes, present),
        strict=True,
    ):
        assert torch.equal(found, expected) and found.dtype == expected.dtype


def test_what_does_not_fit_is_said(gated):
    net = backbone_net(gated)
    assert misfit(net.config, gated, (4, 8, 8)) is None
    assert misfit(net.config, gated, (4, 8, 12)) == "is for latents of 4 x 8 x 8, not 4 x 8 x 12"
    assert (
        misfit(tiny_net(in_channels=3).config, gated, (4, 8, 8))
        == "is for latents of 3 x 8 x 8, not 4 x 8 x 8"
    )
    assert misfit(tiny_net().config, gated, (4, 8, 8)) == "is for text features of width 6, not 32"


# Files


@pytest.mark.parametrize(
    "settings", [{}, {"fusion": "add", "pooling": "grid", "timed": False, "timesteps": (5, 900)}]
)
def test_saved_and_loaded_it_is_the_same_net(tmp_path, settings):
    net, z = tiny_net(**settings), draw(2, 4, 8, 8)
    with torch.no_grad():
        net.text_projection.copy_(draw(6, 5))
    net.save_pretrained(tmp_path / "net")
    assert {path.name for path in (tmp_path / "net").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    loaded = load_net(tmp_path / "net")
    before, after = net.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    net.requires_grad_(
        False
    )  # as the loaded one: weights that learn go through other kernels on some processors
    expected, found = net(z, T, BOXES, PRESENT), loaded(z, T, BOXES, PRESENT)
    assert torch.equal(found.globe, expected.globe) and torch.equal(found.local, expected.local)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert {key: loaded.config[key] for key in settings} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
    }


def test_weights_in_half_are_read_in_float32(tmp_path):
    net = tiny_net()
    net.half().save_pretrained(tmp_path / "net")
    loaded = load_net(tmp_path / "net")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.positions, net.positions.float())


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "is no alignment net: it has no config.json; give the folder that",
        ),
        (
            lambda f: rewrite(f, _class_name="UNet2DConditionModel"),
            "of class 'UNet2DConditionModel', not AlignmentNet",
        ),
        (lambda f: rewrite(f, patch=3), "cannot be read: patch: must divide the latents' height of 8"),
        (lambda f: rewrite(f, depth=2), "lack blocks.1.before.bias .and 11 more. of its config"),
        (lambda f: rewrite(f, width=16), "cannot be read: "),
        (
            lambda f: rewrite(f, depth=0),
            "hold blocks.0.before.bias .and 11 more., which its config has no place",
        ),
        (lambda f: rewrite(f, timed=False), "hold time.0.bias .and 3 more., which its config has no place"),
        (lambda f: rewrite(f, fusion="add"), "hold join.weight .and 0 more., which its config has no place"),
        (
            lambda f: rewrite(f, dept=6),
            "cannot be read: its config has 'dept', which AlignmentNet does not know",
        ),
        (lambda f: (f / "config.json").write_text("[1]"), "cannot be read: "),
        (lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(b"no"), "cannot be read: "),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors").rename(f / "diffusion_pytorch_model.bin"),
            "cannot be read: .*diffusion_pytorch_model.safetensors",
        ),
    ],
)
def test_folders_that_hold_no_whole_net(tmp_path, spoil, said):
    tiny_net().save_pretrained(tmp_path / "net")
    spoil(tmp_path / "net")
    with pytest.raises(CheckpointError, match=said) as raised:
        load_net(tmp_path / "net")
    assert "\n" not in str(raised.value)


# Training


def batch_of(layouts, times, seed=0):
    shape = (len(layouts), 4, 8, 8)
    return Batch(draw(*shape, seed=seed), tuple(layouts), draw(*shape, seed=seed + 1), torch.tensor(times))


def test_the_first_stage_by_hand(gated):
    net = backbone_net(gated)
    batch = batch_of(LAYOUTS, [10, 400, 900])
    losses = AlignmentObjective(global_weight=2.0, local_weight=0.5)(batch, Nets(gated, {"alignment": net}))
    z = gated.scheduler.add_noise(batch.latents, batch.noise, batch.t)
    goal = targets(net, gated, LAYOUTS)
    globe, local = alignment_losses(
        net(z, batch.t, goal.boxes, goal.present), goal.caption, goal.labels, goal.present
    )
    assert set(losses) == {"total", "global", "local"}
    found = {name: float(loss.detach()) for name, loss in losses.items()}
    assert found["total"] == pytest.approx((2 * globe + 0.5 * local).mean().item(), rel=1e-5)
    assert found["global"] == pytest.approx(globe.mean().item(), rel=1e-5)
    assert found["local"] == pytest.approx(local[:2].mean().item(), rel=1e-5), "of pictures with regions"
    losses["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    bare = AlignmentObjective()(batch_of(LAYOUTS[2:], [5]), Nets(gated, {"alignment": net}))
    assert bare["local"].item() == 0 and bare["total"].item() == bare["global"].item()


def test_noise_is_of_unit_variance_whatever_the_scheduler(gated):
    z, noise, t = draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=2), torch.tensor([900, 30])
    expected = gated.scheduler.add_noise(z, noise, t)
    assert torch.allclose(noised(z, noise, gated.noise_level(t)), expected, atol=1e-6)
    other = copy.copy(gated)
    other.scheduler = EulerDiscreteScheduler.from_config(gated.scheduler.config)
    assert torch.allclose(noised(z, noise, other.noise_level(t)), expected, atol=1e-5)


def test_a_wrapped_net_trains_too(gated):
    class Wrapper(nn.Module):
        """As the wrapper of a distributed run."""

        def __init__(self, module):
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *inputs):
            self.calls += 1
            return self.module(*inputs)

    net = backbone_net(gated)
    batch, wrapped = batch_of(LAYOUTS, [10, 400, 900]), Wrapper(net)
    losses = AlignmentObjective()(batch, Nets(gated, {"alignment": wrapped}))
    assert torch.equal(losses["total"], AlignmentObjective()(batch, Nets(gated, {"alignment": net}))["total"])
    assert wrapped.calls == 1, "through the wrapper, which adds up gradients"


def test_timesteps_outside_of_the_nets_range_are_refused(gated):
    net = backbone_net(gated, timesteps=(100, 800))
    nets = Nets(gated, {"alignment": net})
    assert AlignmentObjective()(batch_of(LAYOUTS, [100, 400, 799]), nets)["total"] > 0
    for t in (99, 800):
        with pytest.raises(
            ValueError, match="timesteps: the alignment net is for 100 <= t < 800, and a batch has t"
        ):
            AlignmentObjective()(batch_of(LAYOUTS, [200, 400, t]), nets)


def test_it_learns_which_caption_and_which_label(gated):
    """Four latents that noise leaves recognisable; after some steps each is nearest to its own texts."""
    layouts = [
        Layout(
            f"a {word}", regions=[Region(word, (0.0, 0.0, 0.5, 1.0)), Region("clock", (0.5, 0.0, 1.0, 1.0))]
        )
        for word in ("cat", "chair", "red apple", "blue car")
    ]
    net = backbone_net(gated, patch=4)
    nets, optimiser = Nets(gated, {"alignment": net}), torch.optim.Adam(net.parameters(), 3e-3)
    clean = 2 * draw(4, 4, 8, 8)

    def right():
        goal = targets(net, gated, layouts)
        with torch.no_grad():
            t = torch.full((4,), 200)
            z = noised(clean, draw(4, 4, 8, 8, seed=99), gated.noise_level(t))
            seen = net(z, t, goal.boxes, goal.present)
        unit = torch.nn.functional.normalize
        caption = unit(seen.globe, dim=-1) @ unit(goal.caption, dim=-1).T
        label = unit(seen.local[:, 0], dim=-1) @ unit(goal.labels[:, 0], dim=-1).T
        return sum(int((scores.argmax(1) == torch.arange(4)).sum()) for scores in (caption, label))

    before, totals = right(), []
    for step in range(120):
        noise = draw(4, 4, 8, 8, seed=1000 + step)
        t = torch.randint(0, 400, (4,), generator=torch.Generator().manual_seed(step))
        losses = AlignmentObjective()(Batch(clean, tuple(layouts), noise, t), nets)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        totals.append(losses["total"].item())
    assert right() == 8 > before
    assert totals[-1] < 0.2 * totals[0]
