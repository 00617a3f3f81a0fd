"""``trueline train realign``: a run that goes on bit for bit, over-fitting one reward, what is written, misuse."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_blip import PROCESSOR, bert_tokenizer, blip, blip2_text
from tiny_clip import clip_parts
from training_builders import After, loop_of, stream, twin
from transformers import Blip2ForImageTextRetrieval, BlipForConditionalGeneration

from trueline.cli import main
from trueline.commands.train import gathered, parser
from trueline.models.backbone import Backbone
from trueline.training.loop import TrainingLoop
from trueline.training.objective import Nets
from trueline.training.parts import open_part
from trueline.training.recipes.realign import RealignSettings, prepare
from trueline.training.rewards.models import RewardModels, RewardSettings
from trueline.training.rewards.reward import RewardError

CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = {"batch": 2, "steps": 2, "lora": 2, "lr": 0.01, "log_every": 1, "save_every": 1, "precision": "fp32"}
SHORT = {"sampling_steps": 3, "first": 1, "last": 2}


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("rewards")
    words = bert_tokenizer(home / "words")
    parts = {
        "captioner": (blip(words, BlipForConditionalGeneration), words, PROCESSOR),
        "text_encoder": (blip2_text(words, Blip2ForImageTextRetrieval), words, PROCESSOR),
        "clip": clip_parts(tokenizer),
    }
    for name, saved in parts.items():
        for part in saved:
            part.save_pretrained(home / name)
    return {name: str(home / name) for name in parts}


def settings(folders, objective=None, **more) -> RealignSettings:
    given = {"models": folders, "longest": 5, "held_out": "clip"} | SHORT | (objective or {})
    return RealignSettings(**({"model": "tiny"} | QUICK | more | {"objective": given}))


def fit(folder, backbone: Backbone, wish: RealignSettings, **more) -> TrainingLoop:
    task = prepare(wish, backbone, folder)
    names = open_part(backbone, task.part, lora=wish.lora)
    return loop_of(
        folder,
        task.objective,
        Nets(backbone, task.further),
        {f"unet.{n}": w for n, w in names.items()},
        stream(0),
        wish,
        statistics=task.statistics,
        **more,
    )


def test_a_stopped_run_goes_on_bit_for_bit(plain, folders, tmp_path):
    """With the captions it draws and the running estimates of its rewards."""
    wish = settings(folders, {"rewards": {"caption": 1.0, "clip": 0.0}, "held_out": None})
    whole = fit(tmp_path / "whole", twin(plain), wish)
    lines = list(whole)
    assert {"reward", "reward/caption", "reward/clip", "refl", "preserve", "drift", "late"} <= set(lines[0])
    list(fit(tmp_path / "parts", twin(plain), wish, stop=After(1)))
    second = fit(tmp_path / "parts", twin(plain), wish)
    assert second.step == 1
    list(second)
    for name, weight in whole.trained.items():
        assert torch.equal(weight, second.trained[name]), name
    one, other = (f.statistics["caption"].state for f in (whole, second))
    assert torch.equal(one, other) and one[0] == 4


def redness(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return 10 * (images[:, 0] - images[:, 2]).mean((1, 2))


def test_a_reward_can_be_over_fitted(plain, folders, tmp_path):
    """The check that users of reward training miss: does the score rise at all? By a plug-in of their own."""
    wish = settings(
        folders,
        {"rewards": {"red": 1.0}, "models": {"red": f"{__name__}:redness"}, "held_out": None}
        | {"standardise": False, "preserve": "none", "sampling_steps": 2, "first": 0, "last": 0},
        steps=12,
        lr=0.02,
        lora=4,
    )
    run = fit(tmp_path, twin(plain), wish)

    def score() -> float:  # of pictures from the same noise
        return float(run.objective(stream(9).batch(0, range(4)))["reward"])

    before = score()
    list(run)
    assert score() > before + 0.2 and run.skipped == 0


def test_from_the_command_line(plain_folder, folders, tmp_path, capsys):
    given = {"steps": 1, "batch": 2, "data.n": 2, "lora": 2, "precision": "fp32", "objective.longest": 4}
    given |= {f"objective.{key}": value for key, value in SHORT.items()}
    given |= {f"objective.models.{name}": folder for name, folder in folders.items()}
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    where = ["--model", str(plain_folder), "--device", "cpu", "--out", str(tmp_path)]
    assert main(["train", "realign", *where, *sets, "--set", "objective.held_out=clip"]) == 0
    about = json.loads((tmp_path / "train.json").read_text())
    assert about["status"] == "complete" and "captioner" in about["rewards"]["caption"]
    weights = load_file(tmp_path / "final" / "pytorch_lora_weights.safetensors")
    assert weights and not any("statistics" in name for name in weights)
    backbone = Backbone.from_pretrained(plain_folder)
    backbone.load_lora(tmp_path / "final" / "pytorch_lora_weights.safetensors")
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["held_out"] and line["late"] in (1, 2)
    assert "step 1 of 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["txt", "jsonl", "coco"])
def test_prompts_will_do(plain_folder, folders, tmp_path, capsys, monkeypatch, kind):
    """The pictures are its own: none is read, and none is encoded."""
    monkeypatch.setattr("trueline.training.data.latents.encode_pictures", None)
    source = tmp_path / f"prompts.{kind}"
    if kind == "coco":
        source.mkdir()
        images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in (1, 2)]
        said = [{"id": i, "image_id": i, "caption": f"{i} red apples"} for i in (1, 2)]
        (source / "instances_x.json").write_text(
            json.dumps({"images": images, "annotations": [], "categories": []})
        )
        (source / "captions_x.json").write_text(json.dumps({"images": images, "annotations": said}))
    elif kind == "txt":
        source.write_text("a red apple\n\n  a blue car  \n")
    else:
        source.write_text('{"prompt": "a red apple"}\n{"prompt": 3}\n{"prompt": "a blue car"}\n')
    given = {"steps": 1, "batch": 2, "lora": 2, "precision": "fp32", "objective.rewards.clip": 1}
    given |= {
        "objective.rewards.caption": 0,
        "objective.models.clip": folders["clip"],
        "data.max_broken": 0.5,
    }
    given |= {f"objective.{key}": value for key, value in SHORT.items()}
    given |= {f"objective.models.{name}": folder for name, folder in folders.items()}
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    where = ["--model", str(plain_folder), "--device", "cpu", "--data", str(source)]
    assert main(["train", "realign", *where, *sets, "--out", str(tmp_path / "out")]) == 0, (
        capsys.readouterr().err
    )
    about = json.loads((tmp_path / "out" / "train.json").read_text())
    assert about["data"]["examples"] == 2
    assert about["data"]["left_out"] == ({"broken lines": 1} if kind == "jsonl" else {})
    kept = ["--set", "objective.preserve=pictures", "--out", str(tmp_path / "kept")]
    assert main(["train", "realign", *where, *sets, *kept]) == 2
    said = capsys.readouterr().err
    assert ("no such file" if kind == "coco" else "holds prompts, and this recipe trains on pictures") in said


def test_a_whole_net_is_trained_beside_its_base(plain, folders, tmp_path):
    wish = settings(folders, {"rewards": {"clip": 1.0}, "held_out": None}, lora=0, steps=2, lr=1e-3)
    run = fit(tmp_path, twin(plain), wish)
    lines = list(run)
    assert lines[0]["preserve"] == 0 and lines[1]["preserve"] > 0
    saved = tmp_path / "saved"
    prepared = prepare(wish, twin(plain), tmp_path)
    prepared.save(saved)
    assert not any(
        "statistics" in name or "running" in name
        for name in load_file(next((saved / "unet").glob("*.safetensors")))
    )


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        ({"gradient": "none"}, "objective.reward caption: its scores carry no gradient"),
        (
            {"rewards": {"aesthetic": 1.0}},
            "objective.rewards: there is no reward 'aesthetic'; there are caption",
        ),
        ({"rewards": {"caption": 0.0}}, "objective.rewards: give at least one reward a weight"),
        ({"rewards": {"blip-itm": 1.0}}, "objective.models.blip-itm: give the model to use"),
        ({"models": {}}, "objective.models.captioner: give the model"),
        (
            {"models": {"text_encdoer": "x"}},
            "objective.models: there is no part 'text_encdoer'; there are captioner",
        ),
        ({"models": {"captioner": "/nowhere"}}, "objective.models.captioner: the config.json"),
        ({"rewards": {"clip": 1.0}}, "objective.held_out: clip is trained on"),
        ({"last": 3}, "objective.first: must be at most last, and last below the 3 sampling_steps"),
        ({"draft": 4}, "objective.draft: must be at most the 3 sampling_steps (got 4)"),
        ({"captions": 1}, "objective.captions: must be 2 or more"),
        ({"scheduler": "heun"}, "objective.scheduler: unknown name 'heun'"),
    ],
)
def test_misuse_is_said_in_one_sentence(plain, folders, objective, problem):
    with pytest.raises(ValueError) as caught:
        prepare(settings(folders, objective), twin(plain), Path())
    assert str(caught.value).startswith(problem), str(caught.value)
    assert "\n" not in str(caught.value)
    if "gradient" in objective:
        assert isinstance(caught.value, RewardError)


def test_a_held_out_score_that_looks_with_a_trained_net_is_said(plain, folders):
    shared = {"models": folders | {"text_encoder": "clip"}}
    with pytest.warns(UserWarning, match="held_out: clip reads .*clip.* no independent score"):
        prepare(settings(folders, shared), twin(plain), Path())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(settings(folders), twin(plain), Path())


@pytest.mark.parametrize(
    ("name", "scale", "draft"), [("realign_world", 0.1, 6), ("realign_sd14", 1e-3, None)]
)
def test_the_published_settings_are_valid(name, scale, draft):
    options = parser().parse_args(["realign", "--config", str(CONFIGS / f"{name}.yaml"), "--out", "x"])
    made = RealignSettings(**gathered(options))
    assert made.objective.scale == scale and made.objective.draft == draft and made.lora


@pytest.mark.parametrize("part", ["captioner", "blip-itm"])
def test_a_net_of_the_worlds_that_is_not_there_is_said_with_the_cure(tmp_path, monkeypatch, part):
    monkeypatch.setattr("trueline.training.rewards.models.shipped_folder", lambda name: tmp_path / "net")
    settings = RewardSettings(rewards={"clip": 1}, models={part: "world"})
    with pytest.raises(
        ValueError,
        match=rf"objective\.models\.{part}: .*net holds no {part} of the world; run `trueline world build`",
    ):
        RewardModels(settings, True, "cpu").model(part)


def test_the_worlds_own_nets_are_told_apart():
    models = RewardModels(RewardSettings(rewards={"caption": 1}), True, "cpu")
    assert models.shared("blip-itc", ["blip-itm"]) == "the world's matcher"
    assert not models.shared("blip-itm", ["caption", "clip"]), (
        "nothing in common, though all are called world"
    )
    assert models.shared("clip", ["caption"]) == "the world's clip", "its texts are read by the CLIP"
