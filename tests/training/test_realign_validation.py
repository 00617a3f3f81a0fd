"""What ``trueline train realign`` sees in the pictures on the way, and that it stops by what it sees."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import clip_parts
from training_builders import twin

from trueline.cli import main
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.pixels import Images
from trueline.training.early_stop import diversity
from trueline.training.parts import open_part
from trueline.training.recipes.realign import RealignSettings, prepare

LAYOUTS = [Layout("a red apple"), Layout("a red apple"), Layout("a blue car"), Layout("a blue car")]
SHORT = {"sampling_steps": 2, "first": 0, "last": 1}


@pytest.fixture(scope="module")
def clip(tokenizer, tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("clip")
    for part in clip_parts(tokenizer):
        part.save_pretrained(home)
    return str(home)


def redness(images: Images, prompts: list[str]) -> torch.Tensor:
    return 10 * (images[:, 0] - images[:, 2]).mean((1, 2))


def fading(images: Images, prompts: list[str]) -> torch.Tensor:
    """Falls where redness rises."""
    return -redness(images, prompts)


def settings(clip: str | None, objective=None, **more) -> RealignSettings:
    models = {"red": f"{__name__}:redness", "fade": f"{__name__}:fading"} | ({"clip": clip} if clip else {})
    given = {"rewards": {"red": 1.0}, "models": models, "held_out": "fade"} | SHORT | (objective or {})
    if given["held_out"] is None:
        del models["fade"]  # a model that nobody asks is refused
    looks = {"every": 2, "n": 2, "each": 2, "steps": 2}
    return RealignSettings(**({"model": "x", "lora": 2, "validation": looks, "objective": given} | more))


def drawn(seed: int) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def test_scores_by_hand(plain, clip, tmp_path):
    backbone = twin(plain)
    task = prepare(settings(clip), backbone, tmp_path)
    names = open_part(backbone, task.part, lora=2)
    statistics = task.statistics["red"].state.clone()
    images = drawn(0)
    found = task.scores(images, LAYOUTS)
    pixels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2) / 255
    expected = float(redness(pixels, []).mean())
    assert found["reward/red"] == pytest.approx(expected, abs=1e-5)
    assert found["held_out"] == pytest.approx(-expected, abs=1e-5) and task.best == "held_out"
    features = task.measures.features.images(task.measures.features.fitted(pixels))
    wanted = diversity(features, [layout.prompt for layout in LAYOUTS])
    assert found["diversity"] == pytest.approx(wanted, abs=1e-6) and wanted > 0
    assert found["drift"] == 0, "a fresh LoRA changes nothing"
    assert task.scores(images, LAYOUTS) == found, "the same noise each time"
    alike = [images[0], images[0], images[2], images[2]]
    assert task.scores(alike, LAYOUTS)["diversity"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for weight in names.values():
            weight.normal_(std=0.3)
    moved = task.scores(images, LAYOUTS)
    assert moved["drift"] > 0.01 and all(weight.requires_grad for weight in names.values())
    assert torch.equal(task.statistics["red"].state, statistics), "no lesson"


def test_pictures_of_several_sizes_and_more_than_fit_at_once(plain, clip, tmp_path):
    task = prepare(settings(clip), twin(plain), tmp_path)
    open_part(task.measures.nets.backbone, task.part, lora=2)
    images = [image.resize((64, 64) if place % 3 else (48, 64)) for place, image in enumerate(drawn(1) * 5)]
    found = task.scores(images, LAYOUTS * 5)
    reds = [redness(torch.from_numpy(np.array(i)).permute(2, 0, 1)[None] / 255, []) for i in images]
    assert found["reward/red"] == pytest.approx(float(torch.cat(reds).mean()), abs=1e-5)
    assert found["diversity"] > 0 and np.isfinite(found["drift"])


def test_what_cannot_be_looked_at_is_in_the_record(plain, tmp_path):
    whole = settings(None, {"preserve": "none", "held_out": None}, lora=0)
    task = prepare(whole, twin(plain), tmp_path)
    assert set(task.facts["look"]["without"]) == {"diversity", "drift"} and task.best is None
    assert set(task.scores(drawn(2), LAYOUTS)) == {"reward/red"}
    blind = prepare(settings(None, validation={"every": 0}), twin(plain), tmp_path)
    assert not blind.scored and "look" not in blind.facts


def test_patience_needs_a_held_out_score(plain, tmp_path):
    wish = settings(None, {"held_out": None}, validation={"every": 2, "patience": 1})
    with pytest.raises(ValueError, match=r"validation\.patience: .* give objective\.held_out"):
        prepare(wish, twin(plain), tmp_path)


def test_from_the_command_line_it_stops_when_the_reward_is_hacked(plain_folder, clip, tmp_path, capsys):
    """The reward is trained up, what it does not see falls: best is an early step, and loads."""
    given = {
        "steps": 12, "batch": 2, "data.n": 2, "lora": 4, "lr": 0.02, "precision": "fp32", "log_every": 2,
        "save_every": 50, "validation.every": 2, "validation.n": 2, "validation.each": 2, "validation.steps": 2,
        "validation.guidance_scale": 1, "validation.patience": 2, "objective.held_out": "fade",
        "objective.rewards.caption": 0, "objective.rewards.red": 1, "objective.standardise": "false",
        "objective.preserve": "none", "objective.models.red": f"{__name__}:redness",
        "objective.models.fade": f"{__name__}:fading", "objective.models.clip": clip,
        **{f"objective.{key}": value for key, value in SHORT.items()}, "objective.first": 0, "objective.last": 0,
    }  # fmt: skip
    given["objective.rewards"] = json.dumps({"red": 1})
    del given["objective.rewards.caption"], given["objective.rewards.red"]
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = [
        "train",
        "realign",
        "--model",
        str(plain_folder),
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
        *sets,
    ]
    assert main(command) == 0
    said = capsys.readouterr().err
    about = json.loads((tmp_path / "train.json").read_text())
    assert about["status"] == "complete" and about["steps"] < 12 and about["best"]["waited"] == 2
    assert "stopped early, 2 validations without a better one; the best held_out" in said
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["step"] == about["best"]["step"] == about["steps"] - 4
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    looks = {line["step"]: line for line in lines if "look/held_out" in line}
    assert looks[about["steps"]]["look/reward/red"] > looks[0]["look/reward/red"]
    assert looks[0]["look/diversity_kept"] == 1 and looks[0]["look/drift"] == 0 < looks[2]["look/drift"]
    assert len(list((tmp_path / "validation").iterdir())) == len(looks)
    backbone = Backbone.from_pretrained(plain_folder)
    backbone.load_lora(tmp_path / "best")
    other = copy.deepcopy(backbone)
    other.unload_lora()
    other.load_lora(tmp_path / "final")
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().err
