"""HCMA as a method: its step by hand, when it is taken, what is said of it, and that it costs no U-Net pass."""

import gc
import json
import shutil
import weakref

import pytest
import torch
from tiny import sampled

import trueline.methods.hcma as module
from trueline.cli import main
from trueline.layout import Layout, Region
from trueline.methods import make
from trueline.methods.boxdiff import BoxDiff
from trueline.methods.hcma import HCMA, displacement
from trueline.models.alignment import AlignmentNet
from trueline.models.alignment_loss import alignment_losses, targets
from trueline.models.backbone import Backbone, CheckpointError
from trueline.models.schedulers import Stepper, make_scheduler
from trueline.sampling.method import Method
from trueline.sampling.pipeline import Pipeline

TWO = Layout(
    "a red apple and a blue car",
    regions=[Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))],
    seed=2,
)
CAR = Layout("a blue car", regions=[Region("a blue car", (0.5, 0.2, 1.0, 0.8))], seed=1)
CATS = Layout(
    "a cat",
    regions=[Region(word, (x, 0.5, x + 0.3, 0.9)) for word, x in (("cat", 0), ("clock", 0.3), ("cat", 0.6))],
    seed=3,
)
PLAIN = Layout("a green chair", seed=4)
SCHEDULERS = ("ddim", "euler", "lms", "dpmsolver++")


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write_net(backbone, folder, **settings):
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "patch": 2} | settings
    net = AlignmentNet.for_backbone(backbone, draw(32, 12), **sizes)
    net.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def net(gated, tmp_path_factory):
    return write_net(gated, tmp_path_factory.mktemp("hcma") / "net")


class Seen(Method):
    """Keeps the latents that it is shown, step by step."""

    at: list

    def guide(self, z, ctx):
        self.at.append(z.clone())
        return z


def run(backbone, layouts, *methods, steps=4, **options):
    return list(sampled(backbone, layouts, methods, steps, 4.0, **options))


def last(backbone, layouts, *methods, **options):
    return run(backbone, layouts, *methods, **options)[-1].z


def moves(backbone, layouts, method, **options):
    """What the method takes from the latents at each step: (steps, batch, c, h, w)."""
    before, after = Seen(at=[]), Seen(at=[])
    run(backbone, layouts, before, method, after, **options)
    return torch.stack(before.at) - torch.stack(after.at)


def moved(backbone, layouts, method, **options):
    """At which steps which pictures are moved."""
    return (moves(backbone, layouts, method, **options) != 0).flatten(2).any(-1)


# The step


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_constant_step_by_hand(gated, net, scheduler):
    """eta times the gradient of lambda_1 L_G + lambda_2 L_L, in latents of unit variance."""
    checked = []

    class Check(Method):
        def guide(self, z, ctx):
            own = AlignmentNet.from_pretrained(net)
            goal = targets(own, ctx.backbone, ctx.layouts)
            with torch.enable_grad():
                unit = ctx.stepper.net_input(z).detach().requires_grad_(True)
                seen = own(unit, ctx.t.expand(3), goal.boxes, goal.present)
                globe, local = alignment_losses(seen, goal.caption, goal.labels, goal.present)
                (2 * globe + 0.5 * local).sum().backward()
            after = HCMA(
                weights=net, rule="constant", eta=30, strength=0.5, global_weight=2, local_weight=0.5
            ).guide(z, ctx)
            step = ctx.stepper.net_input(z) - ctx.stepper.net_input(after)
            assert torch.allclose(step, 15 * unit.grad, rtol=1e-3, atol=1e-5)
            checked.append(float(step.abs().amax()))
            return z

    run(gated, [TWO, PLAIN, CAR], Check(), scheduler=scheduler)
    assert len(checked) == 4 and min(checked) > 1e-3


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_norm_step_is_as_long_as_the_schedulers_own(gated, net, scheduler):
    """beta ideal steps long in each picture, and along the gradient."""
    layouts, lengths = [TWO, PLAIN, CAR], []

    class Check(Method):
        def guide(self, z, ctx):
            plain = HCMA(weights=net, rule="constant").guide(z, ctx) - z
            step = HCMA(weights=net, beta=0.4).guide(z, ctx) - z
            unit = ctx.stepper.net_input(step)
            lengths.append((unit.square().mean((1, 2, 3)).sqrt() / displacement(ctx.stepper)).tolist())
            assert torch.nn.functional.cosine_similarity(step.flatten(1), plain.flatten(1)).min() > 0.999
            return z

    run(gated, layouts, Check(), scheduler=scheduler)
    assert lengths == [pytest.approx([0.4] * 3, rel=1e-3)] * 4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [4, 20])
def test_the_reference_displacement_is_what_an_ideal_step_does(gated, scheduler, steps):
    """A known picture, noised; the scheduler is told the true noise, and moves as far as was said."""
    picture, noise = draw(2, 4, 64, 64, seed=1), draw(2, 4, 64, 64, seed=2)
    stepper = Stepper(make_scheduler(scheduler, gated.scheduler), steps, "cpu")
    alpha, sigma = stepper.alpha_sigma()
    z = (alpha * picture + sigma * noise) / stepper.net_input(torch.ones(()))
    for index in range(steps):
        expected, before = displacement(stepper), stepper.net_input(z)
        z = stepper.step(noise, z, torch.zeros(2, dtype=torch.bool), [torch.Generator()] * 2)
        after = stepper.net_input(z) if index < steps - 1 else z  # at the end all latents are unscaled
        assert float((after - before).square().mean().sqrt()) == pytest.approx(expected, rel=0.02, abs=1e-5)


def test_each_loss_can_act_alone(gated, net):
    both = moves(gated, [TWO], HCMA(weights=net, rule="constant", eta=30), steps=1)
    globe = moves(gated, [TWO], HCMA(weights=net, rule="constant", eta=30, local_weight=0), steps=1)
    local = moves(gated, [TWO], HCMA(weights=net, rule="constant", eta=30, global_weight=0), steps=1)
    assert torch.allclose(both, globe + local, atol=1e-5)
    assert globe.abs().amax() > 1e-3 and local.abs().amax() > 1e-3


@pytest.mark.parametrize("weighting", ["gradient", "complexity"])
def test_weightings_are_per_picture(gated, net, weighting):
    def first(**settings):
        method = HCMA(weights=net, rule="constant", eta=30, **settings)
        return moves(gated, [CATS, CAR, PLAIN], method, steps=1)[0]

    globe, local = first(local_weight=0), first(global_weight=0)
    if weighting == "complexity":
        factors = torch.tensor([[0.5, 1, 1], [1.5, 1, 0]])  # three boxes, one, none
    else:
        lengths = torch.stack([part.flatten(1).norm(dim=1) for part in (globe, local)])
        factors = lengths.mean(0) / lengths
        factors[:, 2] = torch.tensor([1.0, 0.0])  # nothing to balance
    rows = factors.view(2, 3, 1, 1, 1)
    assert torch.allclose(first(weighting=weighting), rows[0] * globe + rows[1] * local, atol=1e-5)
    assert not torch.allclose(first(weighting=weighting)[0], first()[0], atol=1e-4)


# Nothing


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 0},
        {"beta": 0},
        {"rule": "constant", "eta": 0},
        {"global_weight": 0, "local_weight": 0},
        {"strength": 0, "weights": "/nowhere"},
        {"beta": 0, "weights": "/nowhere"},
    ],
)
def test_no_step_is_plain_sampling_bit_for_bit(gated, net, settings):
    method, plain = HCMA(**({"weights": net} | settings)), last(gated, [TWO, PLAIN], steps=2)
    assert torch.equal(last(gated, [TWO, PLAIN], method, steps=2), plain)
    assert not torch.equal(last(gated, [TWO, PLAIN], HCMA(weights=net), steps=2), plain)


def test_a_step_of_0_is_said(gated):
    with pytest.warns(UserWarning, match="eta is 0; HCMA leaves it plain"):
        steps = run(gated, [PLAIN], HCMA(weights="/nowhere", rule="constant", eta=0))
    assert list(steps[-1].notes) == [(0, "eta is 0; HCMA leaves it plain")]


# When


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({}, 6, [0, 1, 2, 3, 4, 5]),
        ({"start": 0.5}, 6, [3, 4, 5]),
        ({"stop": 0.5}, 6, [0, 1, 2]),
        ({"start": 0.3, "stop": 0.7}, 10, [3, 4, 5, 6]),
        ({"start": 0.2, "every": 3}, 10, [2, 5, 8]),
        ({"every": 4, "stop": 0.8}, 5, [0]),
    ],
)
def test_window_and_every_kth_step(gated, net, settings, steps, expected):
    seen = moved(gated, [TWO], HCMA(weights=net, **settings), steps=steps)
    assert torch.nonzero(seen[:, 0]).flatten().tolist() == expected


def test_a_window_between_two_steps_is_said(gated, net):
    with pytest.warns(UserWarning, match="no step of 3 is between start and stop, so nothing is aligned"):
        steps = run(gated, [TWO], HCMA(weights=net, start=0.4, stop=0.6), steps=3)
    assert torch.equal(steps[-1].z, last(gated, [TWO], steps=3))


def test_outside_of_what_the_net_was_trained_for(gated, tmp_path):
    """Timesteps of six: 831, 665, 499, 333, 167, 1."""
    net = write_net(gated, tmp_path / "net", timesteps=(300, 665))
    before, after = Seen(at=[]), Seen(at=[])
    said = "hcma: 4 of 6 steps are not aligned, for the net was trained for 300 <= t < 665 only"
    with pytest.warns(UserWarning, match=said):
        steps = run(gated, [TWO, CAR], before, HCMA(weights=net), after, steps=6)
    assert [step.t for step in steps] == [831, 665, 499, 333, 167, 1]
    differ = [not torch.equal(a, b) for a, b in zip(before.at, after.at, strict=True)]
    assert differ == [False, False, True, True, False, False]
    assert dict(steps[-1].notes) == {(0, said): 1, (1, said): 1}


# Pictures


@pytest.mark.parametrize(
    "method", [{}, {"rule": "constant", "eta": 30, "weighting": "gradient"}, {"weighting": "complexity"}]
)
def test_a_picture_does_not_depend_on_its_batch_mates(gated, net, method):
    layouts = [CATS, PLAIN, TWO, CAR]
    together = last(gated, layouts, HCMA(weights=net, **method), steps=3)
    for row, layout in enumerate(layouts):
        alone = last(gated, [layout], HCMA(weights=net, **method), steps=3)
        assert torch.allclose(together[row : row + 1], alone, atol=1e-4)
    plain = last(gated, layouts, steps=3)
    assert (together - plain).abs().amax((1, 2, 3)).min() > 1e-2, "each is moved"


def test_without_regions_the_whole_is_aligned_and_that_is_said_once(gated, net):
    with pytest.warns(UserWarning, match="the layout has no regions, so it is aligned with its caption only"):
        steps = run(gated, [TWO, PLAIN], HCMA(weights=net))
    note = (1, "hcma: the layout has no regions, so it is aligned with its caption only")
    assert dict(steps[-1].notes) == {note: 1}
    only = last(gated, [TWO, PLAIN], HCMA(weights=net, local_weight=0))
    assert torch.allclose(steps[-1].z[1], only[1], atol=1e-5)
    assert not torch.allclose(steps[-1].z[0], only[0], atol=1e-3)


def test_local_alone_leaves_a_picture_without_regions_plain(gated, net):
    with pytest.warns(UserWarning, match="the layout has no regions; HCMA leaves it plain"):
        steps = run(gated, [TWO, PLAIN], HCMA(weights=net, global_weight=0))
    plain = last(gated, [TWO, PLAIN])
    assert torch.equal(steps[-1].z[1], plain[1]) and not torch.equal(steps[-1].z[0], plain[0])


def test_a_box_below_one_patch_still_counts(gated, tmp_path):
    """Without attention between patches it pulls at the patch that it lies in, and nowhere else."""
    net = write_net(gated, tmp_path / "net", depth=0)
    tiny = Layout("a cat", regions=[Region("cat", (0.55, 0.3, 0.57, 0.33))], seed=5)
    step = moves(gated, [tiny], HCMA(weights=net, global_weight=0), steps=1)[0, 0]
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 4:6] = True
    assert torch.equal((step != 0).any(0), inside)


def test_a_gradient_that_is_not_finite_is_left_out_for_that_picture_and_counted(gated, net):
    """The second picture's latents are spoilt before the alignment and put right after it, at two steps of four."""
    kept = {}

    class Spoil(Method):
        def guide(self, z, ctx):
            if ctx.index in (1, 2):
                kept[ctx.index] = z[1].clone()
                z[1, 0, 3, 3] = torch.inf
            return z

    class Repair(Method):
        def guide(self, z, ctx):
            if ctx.index in kept:
                assert torch.equal(z[1, :, :3], kept[ctx.index][:, :3]), "not moved"
                z[1] = kept[ctx.index]
            return z

    with pytest.warns(
        UserWarning, match="hcma: a step was left out, for its loss or its gradient was not finite"
    ):
        steps = run(gated, [TWO, CAR], Spoil(), HCMA(weights=net), Repair())
    assert dict(steps[-1].notes) == {
        (1, "hcma: a step was left out, for its loss or its gradient was not finite"): 2
    }
    assert torch.allclose(steps[-1].z[0], last(gated, [TWO], HCMA(weights=net))[0], atol=1e-4)
    outer = last(gated, [CAR], HCMA(weights=net, every=3))  # steps 0 and 3
    assert torch.allclose(steps[-1].z[1], outer[0], atol=1e-4)


# Cost and company


def test_the_unet_runs_no_more_often_and_the_text_is_read_once(gated, net, monkeypatch):
    texts, passes = [], []
    encode = gated.encode_phrases
    monkeypatch.setattr(
        gated, "encode_phrases", lambda phrases: texts.append(len(phrases)) or encode(phrases)
    )
    handle = gated.unet.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    try:
        run(gated, [TWO, CAR], HCMA(weights=net), steps=5)
    finally:
        handle.remove()
    assert passes == [False] * 5, "one for each prediction"
    assert texts == [2, 3], "the grounding's phrases, then all captions and phrases, each once"


def test_the_net_is_read_once_in_a_run(gated, tmp_path, monkeypatch):
    folder, loads = tmp_path / "net", []
    write_net(gated, folder)
    load = module.load_net
    monkeypatch.setattr(module, "load_net", lambda path: loads.append(path) or load(path))
    method = HCMA(weights=str(folder))
    first = last(gated, [TWO], method, steps=3)
    assert len(loads) == 1
    shutil.rmtree(folder)
    write_net(gated, folder, width=24)
    assert not torch.equal(last(gated, [TWO], method, steps=3), first) and len(loads) == 2


def test_nothing_outlives_the_run(gated, net, monkeypatch):
    kept, load = [], module.load_net

    def loaded(folder):
        made = load(folder)
        kept.append(weakref.ref(made))
        return made

    monkeypatch.setattr(module, "load_net", loaded)
    steps = sampled(gated, [TWO], [HCMA(weights=net)], 3, 4.0)
    next(steps)
    assert len(kept) == 1 and kept[0]() is not None
    steps.close()
    del steps
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("order", [1, -1])
def test_it_composes_with_boxdiff(gated, net, order):
    both = [HCMA(weights=net), BoxDiff(cells=8, scale=4.0, refinements=1)][::order]
    together = last(gated, [TWO, CAR], *both, steps=2)
    assert together.isfinite().all()
    for one in both:
        assert not torch.allclose(together, last(gated, [TWO, CAR], one, steps=2), atol=1e-3)
    assert torch.allclose(together[1:], last(gated, [CAR], *both, steps=2), atol=1e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_it_runs_on_a_plain_backbone_and_with_other_schedulers(plain, net, scheduler):
    assert last(plain, [TWO, PLAIN], HCMA(weights=net), scheduler=scheduler).isfinite().all()
    with pytest.raises(ValueError, match="pndm"):
        last(plain, [TWO], HCMA(weights=net), scheduler="pndm")


def test_masks_and_negatives_are_said_not_to_be_used(gated, net):
    region = Region("cat", (0, 0, 1, 1), mask="2x2:1,3", negative="a clock")
    with pytest.warns(UserWarning, match="HCMA does not use the"):
        steps = run(gated, [Layout("a cat", regions=[region], seed=1)], HCMA(weights=net), steps=1)
    assert {note for _, note in steps[-1].notes} == {
        f"HCMA does not use the {part} of the regions" for part in ("masks", "negative phrases")
    }


# Bad input


def test_the_world_without_its_net(gated, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "shipped_folder", lambda name: tmp_path / name)
    with pytest.raises(
        CheckpointError, match=r"hcma\.weights: the embedded world has no alignment net here; run `trueline"
    ):
        last(gated, [TWO], HCMA())


def test_a_net_of_another_model_is_refused_before_anything_is_drawn(gated, tmp_path):
    other = write_net(gated, tmp_path / "larger", sample_size=16)
    with pytest.raises(
        ValueError, match=r"hcma.weights: the net in \S+ is for latents of 4 x 16 x 16, not 4 x 8 x 8; give"
    ):
        last(gated, [TWO], HCMA(weights=other))
    AlignmentNet(
        sample_size=8, patch=2, text_width=40, text_features=12, width=8, depth=1, heads=2
    ).save_pretrained(tmp_path / "wider")
    with pytest.raises(ValueError, match="is for text features of width 40, not 32; give"):
        last(gated, [TWO], HCMA(weights=str(tmp_path / "wider")))
    fits = write_net(gated, tmp_path / "net")
    with pytest.raises(ValueError, match="is for latents of 4 x 8 x 8, not 4 x 8 x 12"):
        Pipeline(gated)([TWO, Layout("a cat", width=96, height=64)], methods=[HCMA(weights=fits)], steps=1)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("/nowhere", "hcma.weights: /nowhere is no alignment net: it has no config.json"),
        (None, "of class 'UNet2DCond"),
    ],
)
def test_folders_that_hold_no_net(gated, gated_folder, weights, said):
    with pytest.raises(CheckpointError, match=said):
        last(gated, [TWO], HCMA(weights=weights or str(gated_folder / "unet")))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rule": "adam"}, "hcma.rule: "),
        ({"weighting": "both"}, "hcma.weighting: "),
        ({"start": 0.5, "stop": 0.5}, "hcma.stop: must be greater than start (0.5)"),
        ({"start": 1}, "hcma.stop: "),
        ({"every": 0}, "hcma.every: "),
        ({"eta": -1}, "hcma.eta: "),
        ({"beta": "inf"}, "hcma.beta: "),
        ({"lambda": 1}, "hcma.lambda: hcma has no such setting; it has strength"),
        ({"weights": ""}, "hcma.weights: "),
    ],
)
def test_bad_settings_are_one_sentence(settings, said):
    with pytest.raises(ValueError, match="hcma") as raised:
        make("hcma", settings)
    assert str(raised.value).startswith(said)


# Through the door


def test_a_checkpoint_and_a_net_from_folders(gated_folder, net):
    pipe = Pipeline(Backbone.from_pretrained(gated_folder))
    # One at a time, as it is made again: beside others some processors round otherwise.
    result = pipe([TWO, PLAIN], methods=[HCMA(weights=net)], steps=2, batch_size=1)
    plain = pipe([TWO, PLAIN], steps=2)
    assert all(
        one.tobytes() != other.tobytes() for one, other in zip(result.images, plain.images, strict=True)
    )
    record = json.loads(json.dumps(result.records[0]))
    settings = record["methods"][0]["settings"]
    assert record["methods"][0]["name"] == "HCMA" and settings == HCMA(weights=net).model_dump()
    assert (
        "hcma: the layout has no regions, so it is aligned with its caption only"
        in result.records[1]["notes"]
    )
    again = pipe.remake(record, [make("hcma", settings)])
    assert again.image.tobytes() == result.images[0].tobytes()


def test_from_the_command_line(gated_folder, net, tmp_path, capsys):
    command = [
        "generate",
        "a red apple",
        "--box",
        "a red apple@.1,.1,.6,.6",
        "--model",
        str(gated_folder),
        "--steps",
        "2",
    ]
    command += ["--quiet", "--method", "hcma", "--out", str(tmp_path / "out")]
    assert main([*command, "--hcma.weights", net, "--hcma.beta=.3"]) == 0
    record = json.loads((tmp_path / "out/0000-0.json").read_text())
    assert record["methods"][0]["settings"]["beta"] == 0.3
    command[-1] = str(tmp_path / "other")
    assert main([*command, "--hcma.weights", str(tmp_path)]) == 2
    assert "--hcma.weights: " in capsys.readouterr().err.strip().splitlines()[-1]
