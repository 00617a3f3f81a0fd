"""The recipe of HCMA: how far its joint stage moves latents and when, and settings that would have no effect."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from training_builders import stream

from trueline.cli import main
from trueline.models.alignment import AlignmentNet
from trueline.training.objective import Nets
from trueline.training.recipes.hcma import STAGES_OF, HcmaObjectiveSettings, HcmaSettings, prepare

SIZES = {"patch": 2, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def net(gated, tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hcma") / "net"
    AlignmentNet.for_backbone(gated, **SIZES, timesteps=(100, 900)).save_pretrained(folder)
    return str(folder)


def joint(net: str, sampling_steps: int = 50, times: tuple[int, int] = (0, 1000), **guidance) -> HcmaSettings:
    objective = {"alignment": net, "sampling_steps": sampling_steps, "guidance": guidance}
    given = {"stage": "joint", "model": "elsewhere", "t_low": times[0], "t_high": times[1]}
    return HcmaSettings(**(given | {"objective": objective}))


def logged(gated, settings: HcmaSettings, times: tuple[int, int] = (150, 850)) -> float:
    """What one batch, all of whose rows are moved, logs as "moved" in the task that ``prepare`` makes."""
    task = prepare(settings, gated, Path("unused"))
    with torch.no_grad():
        losses = task.objective(stream(times=times).batch(0, range(4)), Nets(gated))
    assert losses["unmoved"] == 0
    return float(losses["moved"])


# How far


def test_the_move_is_as_long_as_beta_strength_and_the_sampling_steps_say(gated, net):
    base = logged(gated, joint(net, beta=0.1))
    assert base > 1e-4
    assert logged(gated, joint(net, beta=0.3)) == pytest.approx(3 * base, rel=1e-3)
    assert logged(gated, joint(net, beta=0.1, strength=2)) == pytest.approx(2 * base, rel=1e-3)
    # A step of 20 is as long as 2.5 of 50, nearly: the noise levels in between are no straight line.
    assert logged(gated, joint(net, 20, beta=0.1)) == pytest.approx(2.5 * base, rel=0.1)


def test_a_batch_is_moved_by_its_own_displacement_times_beta(gated, net):
    settings = joint(net, 20, beta=0.25)
    aligner = prepare(settings, gated, Path("unused")).objective.align
    batch = stream(times=(150, 850)).batch(0, range(4))
    lengths = 0.25 * aligner.displacement(batch.t)
    assert logged(gated, settings) == pytest.approx(float(lengths.square().mean().sqrt()), rel=1e-3)
    assert (aligner.steps, aligner.stride) == (20, 50)


# When


@pytest.mark.parametrize("steps", [20, 50, 6])
@pytest.mark.parametrize(
    "window", [{}, {"start": 0.25, "stop": 0.8}, {"every": 3}, {"start": 0.3, "every": 2}]
)
def test_the_timesteps_that_a_run_aligns_are_those_that_are_moved(gated, net, steps, window):
    """Of the timesteps that DDIM visits; those between two belong to the lower one."""
    aligner = prepare(joint(net, steps, **window), gated, Path("unused")).objective.align
    gated.scheduler.set_timesteps(steps)
    visited = gated.scheduler.timesteps
    due = [i in aligner.method.steps(steps) and 100 <= int(t) < 900 for i, t in enumerate(visited)]
    assert aligner.acting(visited).tolist() == due and any(due)
    inside = visited[(visited >= 100) & (visited + 1 < 900)]
    assert torch.equal(aligner.acting(inside + 1), aligner.acting(inside))


def test_every_leaves_the_other_steps_alone(gated, net):
    aligner = prepare(joint(net, 10, every=2), gated, Path("unused")).objective.align
    z, t = torch.randn(4, 4, 8, 8), torch.tensor([801, 701, 601, 501])  # steps 1, 2, 3 and 4 of ten
    layouts = [stream().examples.layout(0, torch.Generator())] * 4
    assert (aligner(z, t, layouts) != z).flatten(1).any(1).tolist() == [False, True, False, True]


# What would have no effect


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        ({"beta": 0}, "objective.guidance.beta: is 0, so nothing is moved; set it above 0"),
        ({"rule": "constant", "eta": 0}, "objective.guidance.eta: is 0, so nothing is moved"),
        ({"strength": 0}, "objective.guidance.strength: is 0, so nothing is moved"),
        (
            {"global_weight": 0, "local_weight": 0},
            "objective.guidance.global_weight: it and local_weight are 0",
        ),
        (
            {"start": 0.51, "stop": 0.519},
            "objective.guidance.start: t is drawn from 0 to below 1000, where start",
        ),
    ],
)
def test_a_move_that_moves_nothing_is_refused(gated, net, guidance, said):
    with pytest.raises(ValueError, match="or train stage control") as raised:
        prepare(joint(net, **guidance), gated, Path("unused"))
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("times", [(900, 1000), (0, 100)])
def test_timesteps_that_never_meet_the_nets_are_refused(gated, net, times):
    with pytest.raises(
        ValueError, match=r"^t_low: t is drawn from .* was trained for 100 <= t < 900, so nothing"
    ):
        prepare(joint(net, times=times), gated, Path("unused"))
    prepare(joint(net, times=(times[0] - 1 if times[0] else 0, times[1] + 1)), gated, Path("unused"))


def test_timesteps_at_no_step_that_is_aligned_are_refused(gated, net):
    with pytest.raises(ValueError, match=r"^objective\.guidance\.start: t is drawn from 400 to below 500"):
        prepare(joint(net, 10, times=(400, 500), every=2), gated, Path("unused"))
    prepare(joint(net, 10, times=(400, 501), every=2), gated, Path("unused"))


@pytest.mark.parametrize(
    ("stage", "key", "value", "other"),
    [
        *(("joint", f"objective.{name}", value, "align") for name, value in SIZES.items()),
        ("joint", "objective.timed", False, "align"),
        ("joint", "objective.clip", "CLIP", "align"),
        ("joint", "objective.local_weight", 2, "align"),
        ("control", "objective.width", 8, "align"),
        ("control", "objective.alignment", "DIR", "joint"),
        ("control", "objective.guidance", {"beta": 0.2}, "align or joint"),
        ("control", "objective.sampling_steps", 20, "joint"),
        ("control", "objective.corrected", True, "joint"),
        ("align", "objective.alignment", "DIR", "joint"),
        ("align", "objective.snr_gamma", 5, "joint or control"),
        ("align", "part", "all", "joint or control"),
        ("align", "position_net", False, "joint or control"),
        ("align", "lora", 4, "joint or control"),
    ],
)
def test_a_setting_of_another_stage_is_refused(stage, key, value, other):
    def settings(stage: str) -> HcmaSettings:
        group, _, name = key.rpartition(".")
        return HcmaSettings(**({"stage": stage} | ({group: {name: value}} if group else {name: value})))

    with pytest.raises(ValueError) as raised:
        settings(stage)
    assert str(raised.value) == (
        f"{key}: has no effect in stage {stage}; leave it out, or choose stage {other}"
    )
    for own in other.split(" or "):
        settings(own)


@pytest.mark.parametrize("stage", ["align", "joint", "control"])
def test_defaults_are_taken_by_every_stage_also_where_they_are_written(stage):
    made = HcmaSettings(**{"stage": stage})
    assert HcmaSettings(**made.model_dump()) == made


def test_every_setting_of_the_objective_has_its_stages():
    of_objective = {key.removeprefix("objective.") for key in STAGES_OF if key.startswith("objective.")}
    assert of_objective == set(HcmaObjectiveSettings.model_fields)


def test_a_net_that_learns_from_no_loss_is_refused():
    with pytest.raises(
        ValueError, match=r"^objective\.global_weight: it and local_weight are 0, so the net learns"
    ):
        HcmaSettings(**{"objective": {"global_weight": 0, "local_weight": 0}})
    assert HcmaSettings(**{"objective": {"global_weight": 0}}).objective.local_weight == 1


# Pictures on the way


def test_stage_align_draws_with_the_net_as_it_is(gated_folder, tmp_path):
    sets = {f"objective.{name}": value for name, value in SIZES.items()} | {
        "steps": 2,
        "batch": 2,
        "warmup": 0,
        "lr": 0.01,
        "data.n": 4,
        "precision": "fp32",
        "validation.every": 1,
        "validation.n": 2,
        "validation.steps": 2,
        "objective.guidance.beta": 0.5,
    }
    command = [
        "train",
        "hcma",
        "--stage",
        "align",
        "--model",
        str(gated_folder),
        "--device",
        "cpu",
        "--quiet",
    ]
    command += [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    sheets = sorted((tmp_path / "out" / "validation").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-00000001.png", "step-00000002.png"]
    one, two = (Image.open(sheet).convert("RGB").tobytes() for sheet in sheets)
    assert one != two, "the U-Net is the same: only the net, which moves the latents, has learnt"
