"""What ``trueline train`` refuses: to go on with other nets, data or processes; and, first, what cannot work."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import clip_parts

from trueline.cli import main
from trueline.commands.train import gathered, parser
from trueline.training import run as running
from trueline.training.recipes.recipe import checksum
from trueline.training.settings import Training, check_same, identity

QUICK = {
    "steps": 2,
    "batch": 2,
    "warmup": 0,
    "save_every": 1,
    "log_every": 1,
    "data.n": 4,
    "precision": "fp32",
}
NET = {
    f"objective.{name}": value for name, value in (("patch", 2), ("width", 16), ("depth", 1), ("heads", 2))
}


@pytest.fixture
def train(tmp_path, capsys):
    """Run ``trueline train`` with these settings; gives exit code and stderr."""

    def call(
        recipe: str, model: Path, out: str = "out", data: Path | None = None, **changes
    ) -> tuple[int, str]:
        given = QUICK | {"data.cache": tmp_path / "cache"} | changes
        sets = [
            part for key, value in given.items() if value is not None for part in ("--set", f"{key}={value}")
        ]
        where = ["--model", str(model), "--device", "cpu", "--out", str(tmp_path / out)]
        source = ["--data", str(data)] if data else []
        return main(["train", recipe, *where, *source, *sets]), capsys.readouterr().err

    return call


@pytest.fixture
def model(gated_folder, tmp_path) -> Path:
    """A checkpoint whose weights may change."""
    return Path(shutil.copytree(gated_folder, tmp_path / "model"))


@pytest.fixture
def clip(tokenizer, tmp_path) -> Path:
    for part in clip_parts(tokenizer):
        part.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def changed(folder: Path) -> None:
    """Another number in each weight of the only file of weights, as another training run leaves it."""
    (path,) = folder.glob("*.safetensors")
    state = {
        name: value + 0.01 if value.is_floating_point() else value for name, value in load_file(path).items()
    }
    save_file(state, path, metadata={"format": "pt"})


def refused(result: tuple[int, str], key: str) -> None:
    code, said = result
    assert code == 2 and said.startswith(f"trueline: {key}: the run in "), said
    assert len(said.strip().splitlines()) == 1 and "set it back, or choose another folder" in said


CONTROL = {"stage": "control"}


# Going on


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_another_base_under_the_same_name(train, model, part):
    assert train("hcma", model, **CONTROL)[0] == 0
    changed(model / part)
    refused(train("hcma", model, **CONTROL, steps=4), f"nets.{part}")


def test_another_clip_under_the_same_name(train, model, clip):
    given = {"objective.clip": clip}
    assert train("goal", model, **given)[0] == 0
    changed(clip)
    refused(train("goal", model, **given, steps=4), "nets.clip")


def test_another_alignment_net_under_the_same_name(train, model, tmp_path):
    assert train("hcma", model, out="align", stage="align", **NET)[0] == 0
    given = {"stage": "joint", "objective.alignment": tmp_path / "align" / "final"}
    assert train("hcma", model, **given)[0] == 0
    changed(tmp_path / "align" / "final")
    refused(train("hcma", model, **given, steps=4), "nets.alignment")


def test_another_text_space_of_the_alignment_net(train, model, monkeypatch):
    given = {"stage": "align", **NET}
    assert train("hcma", model, **given)[0] == 0
    from trueline.training.recipes import hcma

    monkeypatch.setattr(hcma, "text_projection", lambda settings, backbone: torch.full((32, 16), 0.1))
    refused(train("hcma", model, **given, steps=4), "nets.text_projection")


@pytest.mark.parametrize(("name", "value"), [("processes", 2), ("mixed_precision", "fp16")])
def test_other_processes_or_another_resolved_precision(train, model, monkeypatch, name, value):
    """``precision: auto`` is bf16 on one machine and fp32 on another."""
    given = CONTROL | {"precision": None}
    assert train("hcma", model, **given)[0] == 0
    found = running.TrainingRun._bound
    monkeypatch.setattr(
        running.TrainingRun, "_bound", lambda self, *parts: found(self, *parts) | {name: value}
    )
    refused(train("hcma", model, **given, steps=4), name)


def test_other_pictures_that_can_be_read(train, model, tmp_path):
    """COCO's pictures are read by their names alone, so that one which is repaired comes into the same cache."""
    folder = tmp_path / "coco"
    (folder / "val").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(4)]
    captions = [{"image_id": i, "caption": "a cat"} for i in range(4)]
    (folder / "captions_val.json").write_text(json.dumps({"images": images, "annotations": captions}))
    instances = {"images": images, "annotations": [], "categories": []}
    (folder / "instances_val.json").write_text(json.dumps(instances))
    for i in range(3):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(folder / "val" / f"{i}.png")
    given = CONTROL | {"data.max_broken": 0.5}
    assert train("hcma", model, data=folder, **given)[0] == 0
    Image.new("RGB", (64, 64)).save(folder / "val" / "3.png")
    code, said = train("hcma", model, data=folder, **given, steps=4)
    refused((code, said), "order")
    assert "'3 pictures, " in said and "'4 pictures, " in said


def test_settings_that_came_later_still_count():
    before = identity(Training())
    now = before | {"nets.unet": "x", "pictures": "y"}
    check_same(now, dict(now), "here")
    with pytest.raises(ValueError, match=r"^speed: the run in here began with nothing, not 1"):
        check_same(now, now | {"speed": 1}, "here")
    with pytest.raises(ValueError, match=r"^nets\.clip: the run in here began with 'x', not nothing"):
        check_same(now | {"nets.clip": "x"}, now, "here")


def test_a_checksum_is_of_weights_and_buffers():
    net = torch.nn.BatchNorm1d(3)
    sums = [checksum(net)]
    assert checksum(net) == sums[0]
    with torch.no_grad():
        net.running_mean += 1
        sums.append(checksum(net))
        net.weight[1] += 1
        sums.append(checksum(net))
    assert len(set(sums)) == 3


# Before pictures are encoded


@pytest.fixture
def unencoded(monkeypatch):
    """Encoding is not reached."""
    monkeypatch.setattr(running, "encoded", None)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("goal", {}, "objective.clip: give the CLIP of DSAlign"),
        ("goal", {"objective.dsa": 0, "objective.cells": 3}, "objective.cells: the maps of this U-Net's up blocks"),
        ("hcma", CONTROL | {"t_high": 2000}, "t_high: this model has 1000 timesteps (got 2000)"),
        ("hcma", CONTROL | {"part": "none"}, "part: nothing is left to train"),
        ("hcma", CONTROL | {"validation.every": 1, "validation.layouts": "no"}, "validation.layouts: cannot read no"),
        ("hcma", CONTROL | {"validation.every": 1, "validation.patience": 1}, "validation.patience: this run of"),
    ],
)  # fmt: skip
def test_what_can_be_known_is_said_first(train, gated_folder, unencoded, recipe, changes, message):
    code, said = train(recipe, gated_folder, **changes)
    assert code == 2 and said.startswith(f"trueline: {message}"), said


def test_no_grounding_layers_are_said_first(train, plain, tmp_path, unencoded):
    plain.save_pretrained(tmp_path / "plain")
    code, said = train("hcma", tmp_path / "plain", **CONTROL)
    assert code == 2 and said.startswith("trueline: part: this U-Net has no grounding layers"), said


def test_another_base_is_said_first(train, model, monkeypatch):
    assert train("hcma", model, **CONTROL)[0] == 0
    changed(model / "unet")
    monkeypatch.setattr(running, "encoded", None)
    refused(train("hcma", model, **CONTROL, steps=4), "nets.unet")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"width": 128, "height": 128}, "layout 1: cells: the maps of this U-Net's up blocks have 16, not 8"),
        ({"regions": [{"phrase": "cat", "box": [0, 0, 1, 1]}] * 9}, "regions: this backbone takes at most 8"),
        ({"width": 100}, None),
    ],
    ids=["maps", "regions", "no-layout"],
)
def test_layouts_that_cannot_be_drawn_are_refused(train, model, tmp_path, unencoded, layout, message):
    index = json.loads((model / "model_index.json").read_text())
    index["trueline"] = index.get("trueline", {}) | {"max_regions": 8}
    (model / "model_index.json").write_text(json.dumps(index))
    path = tmp_path / "layouts.jsonl"
    path.write_text(json.dumps({"prompt": "a cat"} | layout))
    changes = {"objective.dsa": 0, "objective.cells": 8, "validation.every": 1, "validation.layouts": path}
    code, said = train("goal", model, **changes)
    assert code == 2 and len(said.strip().splitlines()) == 1
    assert said.startswith(f"trueline: validation.layouts: {message or path}"), said


# Files of settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {align: 5}", "stages.align in FILE must hold settings as `key: value` lines (got 5)"),
        ("stages: 5", "stages in FILE must hold settings as `key: value` lines (got 5)"),
        ("on: 1", "FILE has a key that YAML does not read as text (got True); put it in quotes"),
        ("data: {1: 2}", "FILE has a key that YAML does not read as text (got 1)"),
        (
            "stages: {align: {objective: {off: 2}}}",
            "FILE has a key that YAML does not read as text (got False)",
        ),
        ("data: &a {n: *a}", "FILE is nested too deeply, or holds itself"),
    ],
)
def test_a_file_that_is_written_wrongly(text, message, tmp_path, capsys):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    assert main(["train", "hcma", "--config", str(path), "--stage", "align", "--out", "x", "--show"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trueline: --config: {message.replace('FILE', str(path))}"), said


def test_an_empty_section_holds_nothing(tmp_path):
    path = tmp_path / "some.yaml"

    def read(text: str, *arguments: str) -> dict:
        path.write_text(text)
        return gathered(parser().parse_args(["hcma", "--out", "x", "--config", str(path), *arguments]))

    assert read("steps: 3\nstages: {align: }", "--stage", "align") == {"steps": 3, "stage": "align"}
    assert read("steps: 3\nstages:\n") == {"steps": 3}
    assert read("data:\n", "--set", "data.n=3") == {"data": {"n": 3}}
    with pytest.raises(ValueError, match=r"--stage: .* has settings for align; name one of them"):
        read("stage: [align]\nstages: {align: {steps: 1}}")
