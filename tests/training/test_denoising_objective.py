"""The denoising loss: its formulas in numpy, what the U-Net is shown, and HCMA's move before it."""

import numpy as np
import pytest
import torch
from training_builders import stream, twin

from trueline.layout import Layout, Region
from trueline.methods.hcma import HCMA, displacement
from trueline.models.alignment import AlignmentNet
from trueline.models.alignment_loss import alignment_losses, targets
from trueline.models.grounding import Grounding, pack
from trueline.models.schedulers import Stepper, make_scheduler, target_of
from trueline.training.losses.denoising import (
    DenoisingObjective,
    corrected_noise,
    ground,
    noised,
    snr_weight,
)
from trueline.training.objective import Batch, Nets
from trueline.training.recipes.hcma import Aligner

SHAPE = (3, 4, 8, 8)


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_formulas_against_numpy():
    x0, noise, step = numbers(0), numbers(1), 0.1 * numbers(2)
    abar = np.array([0.9991, 0.5, 0.0047]).reshape(3, 1, 1, 1)
    clean, eps, move, signal = tensors(x0, noise, step, abar)
    level = signal.sqrt(), (1 - signal).sqrt()
    z = noised(clean, eps, level)
    assert np.allclose(z, np.sqrt(abar) * x0 + np.sqrt(1 - abar) * noise)
    velocity = np.sqrt(abar) * noise - np.sqrt(1 - abar) * x0
    assert np.allclose(target_of("v_prediction", clean, eps, level), velocity)
    assert np.allclose(target_of("epsilon", clean, eps, level), noise)
    assert np.allclose(target_of("sample", clean, eps, level), x0)
    with pytest.raises(ValueError, match="nothing is known of a model that predicts 'flow'"):
        target_of("flow", clean, eps, level)
    after = corrected_noise(eps, z, z + move, level)
    assert np.allclose(noised(clean, after, level), z + move), "it is the noise that the moved latents hold"
    again = signal.sqrt() * (z + move) - (1 - signal).sqrt() * target_of("v_prediction", clean, after, level)
    assert np.allclose(again, x0), "and its velocity leads back to the clean latents"


def test_min_snr_by_hand():
    signal = torch.tensor([0.9, 0.5, 0.1]).view(3, 1, 1, 1)  # SNR 9, 1, 1/9
    snr = (signal / (1 - signal)).flatten()
    assert snr_weight("epsilon", snr, 5.0).tolist() == pytest.approx([5 / 9, 1, 1])
    assert snr_weight("v_prediction", snr, 5.0).tolist() == pytest.approx([5 / 10, 1 / 2, 1 / 10])
    assert snr_weight("sample", snr, 5.0).tolist() == pytest.approx([5, 1, 1 / 9])


@pytest.mark.parametrize("kind", ["gated", "gated_v"])
def test_the_loss_is_that_of_diffusers_parts(request, kind):
    """diffusers' scheduler and U-Net called by hand, GLIGEN's tokens as its pipeline passes them."""
    backbone = request.getfixturevalue(kind)
    batch = stream(drops=(0.5, 0.0)).batch(0, range(4))
    scheduler, unet = backbone.scheduler, backbone.unet
    z = scheduler.add_noise(batch.latents, batch.noise, batch.t)
    velocity = scheduler.get_velocity(batch.latents, batch.noise, batch.t)
    wanted = velocity if kind == "gated_v" else batch.noise
    grounding = pack(batch.layouts, backbone.encode_phrases, 30, unet.config.cross_attention_dim)
    tokens = {"boxes": grounding.boxes, "masks": grounding.masks, "positive_embeddings": grounding.embeddings}
    with torch.no_grad():
        text = backbone.encode(batch.captions).states
        more = {"gligen": tokens}
        out = unet(z, batch.t, encoder_hidden_states=text, cross_attention_kwargs=more).sample
        losses = DenoisingObjective()(batch, Nets(backbone))
    assert float(losses["total"]) == pytest.approx(float((out - wanted).square().mean()), rel=1e-5)
    rows = (out - wanted).square().flatten(1).mean(1)
    assert float(losses["noise_high"]) == pytest.approx(float(rows[batch.t >= 500].mean()), rel=1e-5)
    weighted = DenoisingObjective(snr_gamma=1.0)(batch, Nets(backbone))
    weights = snr_weight(scheduler.config.prediction_type, backbone.snr(batch.t), 1.0)
    assert float(weighted["total"].detach()) == pytest.approx(float((weights * rows).mean()), rel=1e-4)
    assert "" in batch.captions


def test_dropped_boxes_are_null_tokens(gated, plain):
    batch = stream().batch(0, range(3))
    kept = torch.tensor([True, False, True])
    some = Batch(batch.latents, batch.layouts, batch.noise, batch.t, boxed=kept)
    grounding, whole = ground(gated, some), ground(gated, batch)
    assert isinstance(grounding, Grounding) and not grounding.masks[1].any() and grounding.masks[0].any()
    all_of_it = Batch(batch.latents, batch.layouts, batch.noise, batch.t)
    assert torch.equal(ground(gated, all_of_it).masks[kept], grounding.masks[kept]) and whole is not None
    assert ground(plain, some) is None
    # Null tokens all the same run through the fusers, as in GLIGEN: the loss is not that of a U-Net without them.
    none = Batch(batch.latents, batch.layouts, batch.noise, batch.t, boxed=torch.zeros(3, dtype=torch.bool))
    with torch.no_grad():
        null = DenoisingObjective()(none, Nets(gated))["total"]
        z = noised(batch.latents, batch.noise, gated.noise_level(batch.t))
        bare = gated.predict(z, batch.t, gated.encode(none.captions))
    assert float(null) != pytest.approx(float((bare - batch.noise).square().mean()), rel=1e-4)


def test_checkpointing_changes_no_gradient(gated):
    found = []
    for checkpointing in (False, True):
        backbone = twin(gated)
        backbone.enable_gradient_checkpointing(checkpointing)
        weights = [w.requires_grad_() for n, w in backbone.unet.named_parameters() if ".fuser." in n]
        DenoisingObjective()(stream().batch(0, range(2)), Nets(backbone))["total"].backward()
        found.append(torch.cat([weight.grad.flatten() for weight in weights]))
    assert torch.allclose(*found, atol=1e-7) and found[0].abs().max() > 1e-5


def test_the_net_sees_the_moved_latents_and_no_gradient_goes_through_the_move(gated):
    batch, seen = stream().batch(0, range(3)), []
    scale = torch.ones((), requires_grad=True)

    def align(z, t, layouts):
        seen.append((z, t, layouts))
        step = torch.full_like(z, 0.5) * scale
        step[1] = float("nan")
        return z - step

    objective = DenoisingObjective(align)
    weight = next(w for n, w in gated.unet.named_parameters() if ".fuser." in n)
    weight.requires_grad_()
    try:
        losses = objective(batch, Nets(gated))
        losses["total"].backward()
        assert scale.grad is None and weight.grad.abs().max() > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None
    z, t, layouts = seen[0]
    assert layouts == batch.layouts and torch.equal(t, batch.t)
    assert float(losses["unmoved"]) == pytest.approx(1 / 3)
    assert float(losses["moved"]) == pytest.approx(0.5 * (2 / 3) ** 0.5)
    moved = z - 0.5 * torch.tensor([1.0, 0, 1]).view(3, 1, 1, 1)
    level = gated.noise_level(t)
    with torch.no_grad():
        text, grounding = gated.encode(batch.captions), ground(gated, batch)
        out = gated.predict(moved, t, text, grounding)
        corrected = DenoisingObjective(align, corrected=True)(batch, Nets(gated))
    assert float(losses["total"].detach()) == pytest.approx(
        float((out - batch.noise).square().mean()), rel=1e-5
    )
    aim = corrected_noise(batch.noise, z, moved, level)
    assert float(corrected["total"]) == pytest.approx(float((out - aim).square().mean()), rel=1e-5)


def test_a_timestep_that_the_model_does_not_have(gated):
    with pytest.raises(ValueError, match="t: this model has the timesteps 0 to 999"):
        gated.noise_level(torch.tensor([1000]))


def test_signal_to_noise_is_that_of_the_level(gated):
    t = torch.tensor([0, 500, 999])
    alpha, sigma = gated.noise_level(t)
    assert torch.allclose(gated.snr(t), (alpha / sigma).square().flatten())
    assert (gated.snr(t).diff() < 0).all()


# HCMA's move


@pytest.fixture(scope="module")
def net(gated) -> AlignmentNet:
    torch.manual_seed(0)
    sizes = {"patch": 2, "width": 16, "depth": 1, "heads": 2, "timesteps": (0, 900)}
    return AlignmentNet.for_backbone(gated, **sizes).eval().requires_grad_(False)


LAYOUTS = [
    Layout("a red apple", [Region("a red apple", (0.1, 0.1, 0.6, 0.7))]),
    Layout(
        "a blue car and a cat", [Region("a blue car", (0, 0, 0.5, 0.5)), Region("a cat", (0.5, 0.5, 1, 1))]
    ),
    Layout("the green chair"),
]


def test_the_move_lowers_the_alignment_loss_of_each_row(gated, net):
    z, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([100, 500, 800])
    wanted = targets(net, gated, LAYOUTS)

    def loss(latents) -> torch.Tensor:
        aligned = net(latents, t, wanted.boxes, wanted.present)
        return sum(alignment_losses(aligned, wanted.caption, wanted.labels, wanted.present))

    moved = Aligner(net, gated, HCMA(beta=0.2))(z, t, LAYOUTS)
    assert (loss(moved) < loss(z)).all()
    length = (moved - z).square().flatten(1).mean(1).sqrt()
    assert torch.allclose(length, 0.2 * Aligner(net, gated, HCMA()).displacement(t), rtol=1e-4)
    alone = Aligner(net, gated, HCMA(beta=0.2))(z[1:2], t[1:2], LAYOUTS[1:2])
    assert torch.allclose(alone, moved[1:2], atol=1e-6), "a row does not depend on its batch mates"


def test_the_displacement_is_that_of_sampling(gated, net):
    stepper = Stepper(make_scheduler("ddim", gated.scheduler), 50, "cpu")
    aligner = Aligner(net, gated, HCMA(), steps=50)
    for index in (0, 20, 40):
        stepper.index = index
        at = stepper.timesteps[index].view(1)
        assert float(aligner.displacement(at)) == pytest.approx(displacement(stepper), rel=1e-4)


def test_rows_outside_the_nets_timesteps_or_the_methods_window_stay(gated, net):
    z, t = torch.randn(4, 4, 8, 8), torch.tensor([30, 499, 899, 900])
    layouts = [LAYOUTS[0]] * 4

    def changed(**settings) -> list[bool]:
        moved = Aligner(net, gated, HCMA(**settings))(z, t, layouts)
        return (moved != z).flatten(1).any(1).tolist()

    assert changed() == [True, True, True, False]
    assert changed(start=0.2) == [True, True, False, False]
    assert changed(stop=0.5) == [False, False, True, False]
    assert changed(rule="constant", eta=0.0) == [False] * 4
