"""``trueline train`` from arguments to files, on a tiny random GLIGEN checkpoint and a few scenes."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from trueline.cli import main
from trueline.commands.train import gathered, parser
from trueline.models.alignment import load_net
from trueline.models.backbone import Backbone
from trueline.training import run as running
from trueline.training.recipes.hcma import HcmaObjectiveSettings, HcmaSettings, text_projection
from trueline.training.run import TrainingRun
from trueline.training.settings import Training, read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
NET = ["objective.patch=2", "objective.width=16", "objective.depth=1", "objective.heads=2"]
QUICK = [
    "steps=4",
    "batch=2",
    "warmup=1",
    "lr=0.01",
    "log_every=1",
    "save_every=2",
    "data.n=6",
    "precision=fp32",
]


@pytest.fixture
def train(gated_folder, tmp_path, capsys):
    """Run ``trueline train hcma`` on the tiny checkpoint; gives exit code and stderr."""

    def call(*arguments: str, out: str = "out", settings: list[str] = QUICK + NET) -> tuple[int, str]:
        sets = [part for setting in settings for part in ("--set", setting)]
        where = ["--model", str(gated_folder), "--set", f"data.cache={tmp_path / 'cache'}", "--device", "cpu"]
        code = main(["train", "hcma", *where, *sets, *arguments, "--out", str(tmp_path / out)])
        return code, capsys.readouterr().err

    return call


def record(folder: Path) -> dict:
    return json.loads((folder / "train.json").read_text())


def group_of(run: Path, group: str) -> dict[str, torch.Tensor]:
    """Of the checkpoint of step 4."""
    state = load_file(run / "checkpoints" / "step-00000004.safetensors")
    named = {name.partition("/")[::2]: value for name, value in state.items()}
    return {name: value for (own, name), value in named.items() if own == group}


def test_align_then_joint_then_control(train, tmp_path, gated_folder):
    assert train("--stage", "align", out="align", settings=[*QUICK, *NET, "ema=0.9"])[0] == 0
    final = tmp_path / "align" / "final"
    net = load_net(final)
    assert (net.config.depth, net.config.width, net.config.timesteps) == (1, 16, [0, 1000])
    about = record(final)
    assert about == record(tmp_path / "align") and about["status"] == "complete" and about["steps"] == 4
    assert about["settings"]["objective"]["depth"] == 1 and about["settings"]["data"]["n"] == 6
    assert about["data"]["examples"] == 6 and about["trained"] == sum(p.numel() for p in net.parameters())
    assert about["model"]["source"] == str(gated_folder) and {"commit", "versions", "seconds"} <= set(about)
    averaged, last = (group_of(tmp_path / "align", name) for name in ("average", "weights"))
    assert all(torch.equal(w, averaged[f"alignment.{n}"]) for n, w in net.named_parameters())
    assert not all(torch.equal(averaged[n], last[n]) for n in last)

    more = ["validation.every=2", "validation.n=2", "validation.steps=2", "objective.guidance.beta=0.3"]
    code, _ = train(
        "--stage", "joint", "--set", f"objective.alignment={final}", out="joint", settings=[*QUICK, *more]
    )
    assert code == 0
    joint = Backbone.from_pretrained(tmp_path / "joint" / "final")
    before = Backbone.from_pretrained(gated_folder)
    pairs = zip(before.unet.named_parameters(), joint.unet.parameters(), strict=True)
    changed = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert changed and all(".fuser." in name or name.startswith("position_net") for name in changed)
    assert load_net(tmp_path / "joint" / "final" / "alignment").config.width == 16
    lines = [json.loads(line) for line in (tmp_path / "joint" / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 0, "examples": 6, "left_out": {}}
    assert {"total", "noise", "moved", "unmoved", "gate_attn", "gate_ff"} <= set(lines[1]) and lines[1][
        "moved"
    ] > 0
    sheets = sorted((tmp_path / "joint" / "validation").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-00000002.png", "step-00000004.png"]
    assert Image.open(sheets[0]).size[0] > 2 * 128

    assert train("--stage", "control", out="control", settings=QUICK)[0] == 0
    unets = [tmp_path / run / "final" / "unet" for run in ("joint", "control")]
    weights = [load_file(unet / "diffusion_pytorch_model.safetensors") for unet in unets]
    assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    lines = [json.loads(line) for line in (tmp_path / "control" / "log.jsonl").read_text().splitlines()]
    assert "moved" not in lines[1]
    assert len(list((tmp_path / "cache").iterdir())) == 1, "the three share one cache"


def test_a_lora_of_the_control(train, tmp_path, gated_folder):
    code, _ = train("--stage", "control", settings=[*QUICK, "lora=2", "part=fusers+attention"])
    assert code == 0 and sorted(p.name for p in (tmp_path / "out" / "final").iterdir()) == [
        "lora.json",
        "pytorch_lora_weights.safetensors",
        "train.json",
    ]
    backbone = Backbone.from_pretrained(gated_folder)
    backbone.load_lora(tmp_path / "out" / "final")
    state = group_of(tmp_path / "out", "weights")
    own = dict(backbone.unet.named_parameters())
    assert len(state) > 20 and all(torch.equal(w, own[n.removeprefix("unet.")]) for n, w in state.items())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_the_same_command_goes_on(
    train, tmp_path, monkeypatch, number, code
):
    assert train("--stage", "align", out="whole")[0] == 0
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainingRun, "_progress", lambda self, line: line["step"] == 3 and os.kill(os.getpid(), number)
        )
        stopped, said = train("--stage", "align")
    assert stopped == code and "stopped after step 3 of 4; the checkpoint is in" in said
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert record(tmp_path / "out")["status"] == "stopped" and not (tmp_path / "out" / "final").exists()
    again, said = train("--stage", "align")
    assert again == 0 and "4 steps in" in said
    files = [tmp_path / d / "final" / "diffusion_pytorch_model.safetensors" for d in ("whole", "out")]
    assert files[0].read_bytes() == files[1].read_bytes()
    third, said = train("--stage", "align")
    assert third == 0 and "final is there already, of 4 steps; nothing to do" in said


def test_going_on_with_other_settings_is_refused_before_anything_is_loaded(train, monkeypatch):
    assert train("--stage", "align")[0] == 0
    monkeypatch.setattr(running, "Backbone", None)
    code, said = train("--stage", "align", "--set", "objective.fusion=add")
    assert code == 2 and "objective.fusion: the run in" in said and "began with None, not 'add'" in said
    code, said = train("--stage", "align", settings=["steps=4", *NET])
    assert code == 2 and said.startswith("trueline: batch: the run in")


def test_a_finished_run_can_be_made_longer(train, tmp_path):
    assert train("--stage", "align")[0] == 0
    assert train("--stage", "align", settings=["steps=6", *QUICK[1:], *NET])[0] == 0
    assert record(tmp_path / "out" / "final")["steps"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "objective.dept=6"],
            "objective.dept: unknown key; HcmaObjectiveSettings has patch, width, depth",
        ),
        (["--set", "steps=0"], "steps: input should be greater than or equal to 1 (got 0)"),
        (["--set", "speed=1"], "speed: unknown key; HcmaSettings has"),
        (["--set", "steps.more=1"], "steps.more: steps is a single setting"),
        (["--set", "steps"], "--set: write KEY=VALUE"),
        (["--set", "data.n=7"], "--set: data.n is there twice"),
        (["--stage", "all"], "stage: input should be 'align', 'joint' or 'control' (got 'all')"),
        (["--stage", "joint"], "objective.alignment: give the folder of the net that stage align made"),
        (["--set", "objective.guidance.betta=1"], "objective.guidance: betta: hcma has no such setting"),
        (["--set", "objective.alignment=x", "--stage", "joint"], "x is no alignment net"),
        (["--set", "objective.patch=3"], "objective.patch: must divide the latents' height of 8 (got 3)"),
        (["--set", "t_low=5", "--set", "t_high=5"], "t_low: must be below t_high (got 5 and 5)"),
        (["--data", "nowhere"], "--data: 'nowhere' is neither world"),
        (["--set", "precision=fp16"], "precision: fp16 needs a GPU"),
        (["--set", "validation.every=1", "--set", "validation.layouts=no"], "No such file"),
        (["--config", "no.yaml"], "--config: cannot read no.yaml"),
        (["--set", "part=none", "--stage", "control"], "part: nothing is left to train"),
    ],
)
def test_misuse_is_one_sentence(train, arguments, message):
    given = {text.partition("=")[0] for text in arguments if "=" in text} - {"data.n"}
    of_net = [] if "--stage" in arguments else NET  # of stage align, the default
    settings = [s for s in QUICK + of_net if s.partition("=")[0] not in given]
    code, said = train(*arguments, settings=settings)
    assert code == 2 and message in said, said
    assert len(said.strip().splitlines()) == 1 and said.startswith("trueline: ")


def test_data_of_the_users_own_and_what_of_it_is_left_out(train, tmp_path):
    rows = [{"prompt": f"a cat {i}", "image": f"{i}.png"} for i in range(5)] + [{"prompt": "a cat"}]
    rows[0]["regions"] = [{"phrase": "cat", "box": [0, 0, 0.5, 0.5]}]
    path = tmp_path / "layouts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(4):
        Image.new("RGB", (80, 60), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    quick = [setting for setting in QUICK if not setting.startswith("data.n")] + ["data.max_broken=0.5"]
    code, said = train("--stage", "align", "--data", str(path), settings=quick + NET)
    assert code == 0
    left = tmp_path / "out" / "left_out.jsonl"
    assert (
        f"left out: 1 broken lines, 1 broken pictures; the first: {path}, line 6, broken lines: image" in said
    )
    assert f"all of them are in {left}" in said
    found = [json.loads(line) for line in left.read_text().splitlines()]
    assert [item["what"] for item in found] == [f"{path}, line 6", "example 4"] and "4.png" in found[1]["why"]
    log = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    counts = {"broken lines": 1, "broken pictures": 1}
    assert json.loads(log[0]) == {"step": 0, "examples": 4, "left_out": counts}
    assert record(tmp_path / "out")["data"]["left_out"] == counts


def test_there_is_no_such_recipe(capsys):
    assert main(["train", "alchemy", "--out", "x"]) == 2
    assert "there is no recipe 'alchemy'; there are hcma" in capsys.readouterr().err


def test_flags_go_before_the_stage_and_the_stage_before_the_file(tmp_path):
    path = tmp_path / "some.yaml"
    stages = "  align: {steps: 7, objective: {depth: 2}}\n  joint: {}\n"
    path.write_text(f"steps: 9\nlr: 1e-3\nprecision: fp32\nstages:\n{stages}")

    def read(*arguments: str) -> dict:
        return gathered(parser().parse_args(["hcma", "--out", "x", "--config", str(path), *arguments]))

    found = read("--stage", "align", "--set", "objective.width=8", "--data", "here", "--set", "seed=.5e1")
    wanted = {"steps": 7, "lr": "1e-3", "precision": "fp32", "stage": "align", "data": {"source": "here"}}
    assert found == wanted | {"objective": {"depth": 2, "width": 8}, "seed": 5.0}
    assert HcmaSettings(**found).lr == 1e-3, "YAML reads 1e-3 as text"
    assert read("--stage", "joint")["steps"] == 9
    with pytest.raises(ValueError, match=r"--stage: .* has settings for align, joint; name one of them"):
        read()


@pytest.mark.parametrize("name", ["hcma_world", "hcma_sd14"])
@pytest.mark.parametrize("stage", ["align", "joint", "control"])
def test_the_configurations_that_ship_are_whole(name, stage, capsys):
    config = str(CONFIGS / f"{name}.yaml")
    assert main(["train", "hcma", "--config", config, "--stage", stage, "--out", "x", "--show"]) == 0
    assert f"stage: {stage}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hcma_world", "hcma_sd14"])
def test_joint_and_control_differ_in_the_move_alone(name):
    def settings(stage: str) -> HcmaSettings:
        where = ["--config", str(CONFIGS / f"{name}.yaml"), "--stage", stage, "--out", "x"]
        return HcmaSettings(**(gathered(parser().parse_args(["hcma", *where]))))

    joint, default = settings("joint"), HcmaObjectiveSettings().sampling_steps
    own = joint.objective.model_copy(update={"sampling_steps": default})  # of the move
    assert joint.model_copy(update={"stage": "control", "objective": own}) == settings("control")


def test_the_worlds_clip_gives_the_text_space(gated):
    world = Backbone.from_pretrained("world")
    projection = text_projection(HcmaSettings(), world)
    width = world.text_encoder.config.hidden_size
    assert projection.shape == (width, 128)
    assert text_projection(HcmaSettings(model="elsewhere"), gated) is None
    from importlib.resources import files

    clip = str(files("trueline") / "world" / "weights" / "clip")
    with pytest.raises(ValueError, match=r"objective\.clip: the text encoder of .* is not that of the model"):
        text_projection(HcmaSettings(**{"model": "elsewhere", "objective": {"clip": clip}}), gated)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Training().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["hcma_world", "hcma_world.yaml", "configs/hcma_world.yaml"])
def test_a_config_of_the_package_is_found_by_name_everywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    own = read_yaml(CONFIGS / "hcma_world.yaml")
    assert read_yaml(name) == own
    (tmp_path / "configs").mkdir()
    (tmp_path / name).write_text("steps: 3")
    assert read_yaml(name) == {"steps": 3}, "a file of the user's comes first"
    with pytest.raises(ValueError, match="cannot read other/hcma_world"):
        read_yaml("other/hcma_world.yaml")
