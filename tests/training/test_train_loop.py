"""The training loop: exact resume, accumulation, what moves, what is skipped, what is written."""

import json
import math
import resource

import pytest
import torch
from safetensors.torch import load_file
from training_builders import CPU, After, Guessing, fit, loop_of, stream, twin

from trueline.models.grounding import fusers
from trueline.training.accelerator import SHARDED, make_accelerator
from trueline.training.checkpoints import Checkpoints
from trueline.training.loop import TrainingError, TrainingLoop
from trueline.training.losses.denoising import DenoisingObjective
from trueline.training.objective import Nets
from trueline.training.parts import Average, open_part
from trueline.training.settings import Optimisation, Training, Validation, identity
from trueline.training.validation import Validator

QUICK = {"batch": 2, "warmup": 2, "lr": 0.01, "log_every": 2, "save_every": 3, "precision": "fp32"}


def run(made: TrainingLoop) -> list[dict]:
    return list(made)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def timeless(found: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Going on


@pytest.mark.parametrize(("accumulate", "questions"), [(1, 4), (2, 8), (2, 9)], ids=["1", "2", "2-inside"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, plain, accumulate, questions):
    plan = Optimisation(**QUICK, steps=7, accumulate=accumulate, ema=0.9, schedule="cosine", weight_decay=0.1)
    whole, net = fit(tmp_path / "whole", plain, plan)
    run(whole)
    first, _ = fit(tmp_path / "parts", plain, plan, stop=After(questions))
    run(first)
    assert (first.step, first.finished) == (4, False)
    second, again = fit(tmp_path / "parts", plain, plan)
    assert second.step == 4
    run(second)
    assert second.finished
    assert same(dict(net.state_dict()), dict(again.state_dict())), "weights and buffers"
    assert same(whole.average.values, second.average.values)
    states = [made._optimiser.state_dict()["state"] for made in (whole, second)]
    assert all(same(states[0][k], states[1][k]) for k in states[0])
    assert timeless(lines(tmp_path / "whole")) == timeless(lines(tmp_path / "parts"))


def test_resume_needs_all_of_the_state(tmp_path, plain):
    """The check above can fail: another seed, or a run that forgets its optimiser, ends elsewhere."""
    plan = Optimisation(**QUICK, steps=6)
    whole, net = fit(tmp_path / "whole", plain, plan)
    run(whole)
    other, net2 = fit(tmp_path / "other", plain, plan.model_copy(update={"seed": 1}))
    run(other)
    assert not same(dict(net.state_dict()), dict(net2.state_dict()))
    (tmp_path / "whole" / "checkpoints" / "step-00000006.safetensors").unlink()
    checkpoints = Checkpoints(tmp_path / "whole" / "checkpoints", {}, keep=2)
    state = checkpoints.newest()
    groups = {"optimiser.exp_avg", "optimiser.exp_avg_sq", "optimiser.step"}
    assert state.step == 3 and groups < state.tensors.keys()
    kept = {group: held for group, held in state.tensors.items() if not group.startswith("optimiser.")}
    checkpoints.save(3, kept, state.rest)
    forgetful, net3 = fit(tmp_path / "whole", plain, plan)
    run(forgetful)
    assert not same(dict(net.state_dict()), dict(net3.state_dict()))


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_its_log_has_no_line_twice(tmp_path, plain):
    plan = Optimisation(**QUICK | {"log_every": 1}, steps=6)
    whole, net = fit(tmp_path / "whole", plain, plan)
    run(whole)
    killed, _ = fit(tmp_path / "killed", plain, plan)
    for line in killed:
        if line["step"] == 5:
            break  # checkpoint 3 is the last
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "tot')  # cut off in the middle
    again, net2 = fit(tmp_path / "killed", plain, plan)
    assert again.step == 3
    run(again)
    assert same(dict(net.state_dict()), dict(net2.state_dict()))
    assert timeless(lines(tmp_path / "killed")) == timeless(lines(tmp_path / "whole"))


def test_the_last_checkpoints_stay_and_a_spoilt_one_is_passed_over(tmp_path, plain):
    plan = Optimisation(**QUICK | {"save_every": 1, "keep": 2}, steps=5)
    made, _ = fit(tmp_path, plain, plan)
    run(made)
    folder = tmp_path / "checkpoints"
    both = ["step-00000004.safetensors", "step-00000005.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == both
    last = folder / "step-00000005.safetensors"
    whole = last.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for spoilt in (b"", whole[:20], whole[:middle], whole[:-1], whole + b"0", flipped):
        last.write_bytes(spoilt)
        with pytest.warns(UserWarning, match=r"step-00000005\.safetensors cannot be read"):
            again, _ = fit(tmp_path, plain, plan)
        assert again.step == 4
    run(again)
    assert sorted(path.name for path in folder.iterdir()) == both
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the checkpoints can be read"):
        fit(tmp_path, plain, plan)


def test_a_checkpoint_is_a_safetensors_file_that_anyone_can_read(tmp_path):
    tensors = {
        "weights": {"wide": torch.randn(3, 5, dtype=torch.float64), "half": torch.randn(7).bfloat16()},
        "buffers": {"flag": torch.tensor([True]), "count": torch.tensor(2**40), "none": torch.zeros(0, 4)},
        "average": {"turned": torch.randn(4, 6).T, "wide": torch.randn(3).half()},
    }
    rest = {"numbers": [0.1, 2**70, -math.inf], "nothing": None}
    path = Checkpoints(tmp_path, {"lr": 1e-5}, keep=1).save(7, tensors, rest)
    found = load_file(path)
    del found["sha256"]
    flat = {f"{group}/{name}": value for group, held in tensors.items() for name, value in held.items()}
    assert same(flat, found) and all(found[name].dtype == flat[name].dtype for name in flat)
    state = Checkpoints(tmp_path, {"lr": 1e-5}, keep=1).newest()
    assert (state.step, state.rest) == (7, rest)
    assert all(same(tensors[group], state.tensors[group]) for group in tensors)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=1)
    checkpoints.save(1, {"weights": {"value": torch.ones(2)}}, {})
    other = tmp_path / ".step-00000009.safetensors.of_another.tmp"
    other.write_bytes(b"another process writes it")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the system refuses what is beyond
    try:
        with pytest.raises(OSError, match=r"File too large|no space left"):
            checkpoints.save(2, {"weights": {"value": torch.ones(100_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(TypeError, match="JSON"):
        checkpoints.save(2, {}, {"value": lambda: None})
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "step-00000001.safetensors"]
    checkpoints.save(2, {"weights": {"value": torch.zeros(2)}}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "step-00000002.safetensors"]
    assert torch.equal(checkpoints.newest().tensors["weights"]["value"], torch.zeros(2))


@pytest.mark.parametrize(
    ("change", "key"),
    [({"lr": 0.02}, "lr"), ({"data": {"drop_boxes": 0.3}}, "data.drop_boxes"), ({"steps": 9}, None)],
)
def test_going_on_with_other_settings_names_the_key(tmp_path, plain, change, key):
    settings = Training(**QUICK, steps=3)
    made, _ = fit(tmp_path, plain, settings, identity=identity(settings))
    run(made)
    other = Training(**(QUICK | {"steps": 3, "log_every": 5, "tensorboard": True} | change))
    if key is None:  # at a constant rate a run may be made longer
        assert fit(tmp_path, plain, other, identity=identity(other))[0].step == 3
        return
    with pytest.raises(ValueError, match=rf"^{key}: the run in .* began with .*, not .*; set it back"):
        fit(tmp_path, plain, other, identity=identity(other))


def test_a_cosine_cannot_be_made_longer():
    short, long = (identity(Training(schedule="cosine", steps=steps)) for steps in (3, 4))
    assert short != long and short.keys() == long.keys()


# Any nets


class Numbers:
    """A batch, and the stream of it, that know nothing of diffusion."""

    def __init__(self, places=range(0)):
        self.x = torch.randn(len(places), 3, generator=torch.Generator().manual_seed(places.start))

    def batch(self, step: int, places: range) -> "Numbers":
        return Numbers(places)

    def about(self) -> dict:
        return {"rows": len(self.x)}


class Falling(Optimisation):
    """A rate of its own."""

    betas = (0.9, 0.99)

    def rate(self, step: int) -> float:
        return self.lr / (step + 1)


def test_nets_without_a_backbone_are_trained_and_go_on_bit_for_bit(tmp_path):
    def loop(folder, **more) -> tuple[TrainingLoop, torch.nn.Module]:
        torch.manual_seed(1)
        net, plan = torch.nn.Linear(3, 1), Falling(**QUICK | {"log_every": 1}, steps=6, ema=0.5)

        def objective(batch: Numbers) -> dict[str, torch.Tensor]:
            return {"total": (net(batch.x) - batch.x.sum(1, keepdim=True)).square().mean()}

        trained, accelerator = dict(net.named_parameters()), make_accelerator(plan, CPU)
        return TrainingLoop(
            folder, objective, {"net": net}, trained, Numbers(), plan, accelerator, **more
        ), net

    whole, net = loop(tmp_path / "whole")
    found = run(whole)
    assert [line["lr"] for line in found] == pytest.approx([0.01 / (step + 1) for step in range(6)], rel=1e-5)
    assert whole._optimiser.param_groups[0]["betas"] == (0.9, 0.99)
    first, _ = loop(tmp_path / "parts", stop=After(4))
    run(first)
    second, again = loop(tmp_path / "parts")
    assert second.step == 4
    run(second)
    assert same(dict(net.state_dict()), dict(again.state_dict()))
    assert same(whole.average.values, second.average.values)


# One step


def gradients(tmp_path, backbone, **changes) -> dict[str, torch.Tensor]:
    """Of the first step, with clipping far away."""
    plan = Optimisation(**QUICK | {"clip": 1e6} | changes, steps=1)
    made = denoising(tmp_path, twin(backbone), plan, "fusers", stream(0))
    run(made)
    return {name: weight.grad for name, weight in made.trained.items() if weight.grad is not None}


def denoising(folder, backbone, plan, part, of, **options) -> TrainingLoop:
    trained = {f"unet.{n}": w for n, w in open_part(backbone, part, **options).items()}
    return loop_of(folder, DenoisingObjective(), Nets(backbone), trained, of, plan)


def test_two_batches_of_two_are_one_of_four(tmp_path, gated):
    one = gradients(tmp_path / "one", gated, batch=4)
    two = gradients(tmp_path / "two", gated, batch=2, accumulate=2)
    three = gradients(tmp_path / "three", gated, batch=2)
    assert one.keys() == two.keys() and len(one) > 20
    scale = max(float(g.abs().max()) for g in one.values())
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 1e-5 * scale
    assert max(float((one[n] - three[n]).abs().max()) for n in one) > 1e-2 * scale


def moved(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("part", ["fusers", "attention", "fusers+attention", "all"])
def test_only_the_part_that_is_trained_moves(tmp_path, gated, part):
    backbone = twin(gated)
    before = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    run(denoising(tmp_path, backbone, Optimisation(**QUICK, steps=2), part, stream(0)))
    changed = moved(before, backbone.unet.state_dict())
    fuser = {name for name in before if ".fuser." in name}
    position = {name for name in before if name.startswith("position_net.")}
    attention = {name for name in before if ".attn1." in name or ".attn2." in name}
    wanted = {"fusers": fuser | position, "attention": attention, "all": set(before)}
    wanted["fusers+attention"] = wanted["fusers"] | attention
    assert changed == wanted[part]


def test_the_position_net_can_stay_as_it_is(gated):
    names = open_part(twin(gated), "fusers", position_net=False)
    assert names and all(".fuser." in name for name in names)


def test_a_lora_moves_in_the_stead_of_the_weights(tmp_path, gated):
    backbone, text = twin(gated), "a red apple"
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def predict(of) -> torch.Tensor:
        with torch.no_grad():
            return of.predict(z, 500, of.encode([text]))

    before, untouched = predict(backbone), {n: v.clone() for n, v in backbone.unet.state_dict().items()}
    made = denoising(
        tmp_path, backbone, Optimisation(**QUICK, steps=2), "attention", stream(0), lora=2, seed=1
    )
    assert torch.equal(predict(backbone), before), "it begins as no change"
    run(made)
    assert all(".lora_" in name and ".fuser." not in name for name in made.trained)
    after = {
        n.replace(".base_layer", ""): v for n, v in backbone.unet.state_dict().items() if "lora_" not in n
    }
    assert same(untouched, after)
    trained = predict(backbone)
    assert not torch.allclose(trained, before)
    backbone.unet.save_lora_adapter(tmp_path / "lora")
    other = twin(gated)
    other.load_lora(tmp_path / "lora")
    assert torch.allclose(predict(other), trained, atol=1e-6)


@pytest.mark.parametrize("part", ["fusers", "fusers+attention"])
def test_a_plain_u_net_has_no_fusers_to_train(plain, part):
    with pytest.raises(ValueError, match="part: this U-Net has no grounding layers"):
        open_part(plain, part)


def test_nothing_to_train_is_an_error(tmp_path, plain):
    with pytest.raises(ValueError, match="part: nothing is left to train"):
        denoising(tmp_path, plain, Optimisation(**QUICK), "none", stream(0))


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, plain, how):
    plan = Optimisation(**QUICK | {"log_every": 1}, steps=3, ema=0.5)
    made, _ = fit(tmp_path, plain, plan, Guessing({1: how}))
    seen = []
    for line in made:
        seen.append(({n: w.detach().clone() for n, w in made.trained.items()}, line, made.average.count))
    assert same(seen[0][0], seen[1][0]) and not same(seen[1][0], seen[2][0])
    assert [line["skipped"] for _, line, _ in seen] == [0, 1, 1]
    assert [count for _, _, count in seen] == [1, 1, 2]
    assert "total" not in seen[1][1] and all(math.isfinite(v) for _, line, _ in seen for v in line.values())


def test_too_many_of_them_in_a_row_end_the_run(tmp_path, plain):
    plan = Optimisation(**QUICK, steps=9, give_up=3)
    made, _ = fit(
        tmp_path, plain, plan, Guessing({0: "loss", 1: "loss", 3: "loss", 4: "loss", 5: "gradient"})
    )
    with pytest.raises(
        TrainingError,
        match=r"give_up: 3 .*gradient norm nan, step 5\); .*not_finite\.jsonl names their examples; raise",
    ):
        run(made)
    assert made.skipped == 5
    rows = [json.loads(line) for line in (tmp_path / "not_finite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 4, 5] and rows[0]["losses"] == ["nan"]
    assert math.isfinite(rows[2]["losses"][0]) and rows[2]["grad_norm"] == "nan"
    batch = stream(plan.seed).batch(5, range(10, 12))
    assert rows[2]["examples"] == [list(batch.examples)] and rows[2]["timesteps"] == [batch.t.tolist()]


def test_the_cure_for_giving_up_works(tmp_path, plain):
    """In the same folder only give_up may be raised; another rate belongs into another folder."""
    begin = QUICK | {"save_every": 1, "steps": 4}
    settings = Training(**(begin | {"give_up": 2}))
    broken = {1: "loss", 2: "loss"}
    made, _ = fit(tmp_path, plain, settings, Guessing(broken), identity=identity(settings))
    with pytest.raises(TrainingError, match="raise give_up to go on in this folder, or begin in another"):
        run(made)
    more = Training(**(begin | {"give_up": 3}))
    again, _ = fit(tmp_path, plain, more, Guessing(broken), identity=identity(more))
    run(again)
    assert again.step == 4 and again.skipped == 2


def test_a_loss_that_no_gradient_leads_to_is_refused(tmp_path, plain):
    class Deaf(Guessing):
        def __call__(self, batch, nets):
            return {"total": super().__call__(batch, nets)["error"]}

    made, _ = fit(tmp_path, plain, Optimisation(**QUICK), Deaf())
    with pytest.raises(TrainingError, match='no gradient leads from its "total"'):
        run(made)


def test_the_gradient_is_clipped(tmp_path, plain):
    made, _ = fit(tmp_path, plain, Optimisation(**QUICK | {"clip": 1e-3, "log_every": 1}, steps=1))
    (line,) = run(made)
    norm = torch.stack([w.grad.norm() for w in made.trained.values()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3) and line["grad_norm"] > 0.01, "logged before clipping"


def test_rates_by_hand():
    plan = Optimisation(steps=10, warmup=2, lr=1.0, schedule="cosine")
    assert [plan.rate(step) for step in (0, 1, 2, 6)] == pytest.approx([0.5, 1, 1, 0.5])
    assert plan.rate(9) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 7 / 8))
    assert [plan.model_copy(update={"schedule": "constant"}).rate(step) for step in (0, 5, 9)] == [0.5, 1, 1]
    assert Optimisation(warmup=0, lr=2.0).rate(0) == 2.0


def test_the_average_by_hand():
    weight = torch.nn.Parameter(torch.zeros(1))
    average = Average({"w": weight}, decay=0.5)
    expected = 0.0
    for count, value in enumerate((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0), start=1):
        weight.data.fill_(value)
        average.update({"w": weight})
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert float(average.values["w"]) == pytest.approx(expected)
    with average.shown({"w": weight}):
        assert weight.item() == pytest.approx(expected)
    assert weight.item() == 512.0


# What is written


def test_every_term_is_logged_in_both_places(tmp_path, gated):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    backbone, plan = twin(gated), Optimisation(**QUICK, steps=4)
    made = denoising(tmp_path, backbone, plan, "fusers", stream(0))
    made.log._tensorboard = True
    made.observe = lambda: {"gate": float(fusers(backbone.unet)[0].alpha_attn.detach())}
    run(made)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [2, 4]
    terms = {"total", "noise", "noise_low", "noise_high", "grad_norm", "lr", "skipped", "gate", "seconds"}
    assert set(found[-1]) | set(found[0]) == terms | {"step"}
    assert found[0]["lr"] == 0.01 and found[0]["total"] == pytest.approx(found[0]["noise"])
    board = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == terms
    assert board.Scalars("total")[-1].value == pytest.approx(found[-1]["total"])


def test_the_loss_of_a_tiny_u_net_falls(tmp_path, gated):
    backbone = twin(gated)
    plan = Optimisation(**QUICK | {"lr": 2e-3, "log_every": 5}, steps=20)
    found = run(denoising(tmp_path, backbone, plan, "all", stream(0, count=1, times=(600, 1000))))
    assert found[-1]["noise"] < 0.75 * found[0]["noise"]


def test_pictures_are_asked_for_with_the_averaged_weights(tmp_path, plain):
    seen = {}
    validator = Validator(Validation(every=2), lambda step, events: None)
    made, net = fit(tmp_path, plain, Optimisation(**QUICK, steps=5, ema=0.9), validator=validator)

    def show(step, events):
        seen[step] = {name: weight.detach().clone() for name, weight in made.trained.items()}, net.training
        assert same(seen[step][0], made.average.values) and events is None

    validator.draw = show
    whole, twin_net = fit(tmp_path / "silent", plain, Optimisation(**QUICK, steps=5, ema=0.9))
    run(made), run(whole)
    assert list(seen) == [2, 4] and not seen[2][1], "no dropout while drawing"
    assert net.training and same(dict(net.state_dict()), dict(twin_net.state_dict())), (
        "looking changes nothing"
    )
    assert not same({n: w.detach() for n, w in made.trained.items()}, made.average.values)


def test_fp16_needs_a_gpu():
    with pytest.raises(ValueError, match="precision: fp16 needs a GPU"):
        make_accelerator(Optimisation(precision="fp16"), CPU)


@pytest.mark.parametrize(("variable", "what"), SHARDED.items())
def test_weights_spread_over_processes_are_refused(variable, what, monkeypatch):
    """They would be averaged, written and validated in parts, without a word."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ValueError, match=f"accelerate: {what} spreads the weights .* lora and checkpointing"):
        make_accelerator(Optimisation(), CPU)
    monkeypatch.setenv(variable, "false")
    make_accelerator(Optimisation(), CPU)


def test_fp16_scales_its_loss_and_goes_on_with_the_same_scale(tmp_path, plain, monkeypatch):
    """accelerate refuses fp16 on a CPU, so its scaler is put in by hand; 2^30 overflows in the first steps."""

    def scaled(plan, device):
        accelerator = make_accelerator(plan, device)
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
        return accelerator

    monkeypatch.setattr("training_builders.make_accelerator", scaled)
    plan = Optimisation(**QUICK | {"log_every": 1}, steps=18)
    whole, net = fit(tmp_path / "whole", plain, plan)
    found = run(whole)
    skipped = found[-1]["skipped"]
    assert 5 < skipped < 17 and "total" in found[-1] and "total" not in found[0]
    assert whole.accelerator.scaler.get_scale() == 2.0 ** (30 - skipped)
    first, _ = fit(tmp_path / "parts", plain, plan, stop=After(5))
    run(first)
    second, again = fit(tmp_path / "parts", plain, plan)
    assert second.accelerator.scaler.get_scale() == 2.0**25
    run(second)
    assert same(dict(net.state_dict()), dict(again.state_dict()))


def test_bf16_runs_the_forward_pass_in_it_and_keeps_the_weights(tmp_path, gated):
    backbone, seen = twin(gated), []
    made = denoising(
        tmp_path, backbone, Optimisation(**QUICK | {"precision": "bf16"}, steps=1), "fusers", stream(0)
    )
    fuser = fusers(backbone.unet)[0]
    fuser.linear.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    run(made)
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in made.trained.values()} == {torch.float32}
