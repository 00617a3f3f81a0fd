"""What a user meets first: cheap checks come first, others' bars are silent, names of diffusers are known."""

import json
import os
import socket
import subprocess
import sys

import pytest
import yaml

from trueline import Pipeline
from trueline.cli import TRACEBACK, main
from trueline.models import checkpoint
from trueline.models.pretrained import Checkpoint

LLM = ["--planner", "llm:x", "--llm.base_url", "http://127.0.0.1:9/v1", "--llm.timeout", "1"]
HUB = "grounding-dino=owner/name"  #: asks the network
REALIGN = ["generate", "a cat", "--realign", "--segmenter", "none"]
NOT_THERE = (
    "'./missing' cannot be read: it is neither a folder nor a Hub id such as owner/name; check the path"
)
CHEAP = {
    "model-before-detector": ([*REALIGN, "--model", "./missing", "--detector", HUB], f"--model: {NOT_THERE}"),
    "model-before-planner": (["generate", "a cat", *LLM, "--model", "./missing"], f"--model: {NOT_THERE}"),
    "model-without-owner": (["generate", "a cat", "--model", "missing"], "--model: 'missing' cannot be read"),
    "model-no-checkpoint": (["generate", "a cat", *LLM, "--model", "."], ". is no checkpoint"),
    "model-a-file": (["generate", "a cat", *LLM, "--model", "a.txt"], "a.txt is a file; give the folder"),
    "device": (["generate", "a cat", *LLM, "--device", "nosuch"], "--device: 'nosuch' is not a device"),
    "device-without-numbers": (["generate", "a cat", "--device", "meta"], "--device: 'meta' is not a device"),
    "lora": (["generate", "a cat", *LLM, "--lora", "a.safetensors"], "--lora: a.safetensors cannot be read:"),
    "detector": (
        [*REALIGN, *LLM, "--detector", "owlv2=./missing"], f"--detector: owlv2: {NOT_THERE}"
    ),
    "tagger": ([*REALIGN, "--tagger", "noun-phrases=owlv2=./missing"], f"--tagger: owlv2: {NOT_THERE}"),
    "evaluate-model": (["evaluate", "world", "--model", "./missing", "--judges", HUB], f"--model: {NOT_THERE}"),
    "evaluate-judge": (
        ["evaluate", "world", "--judges", HUB, "clip=./missing", "--n", "1"], f"--judges: clip: {NOT_THERE}"
    ),
    "evaluate-lora": (
        ["evaluate", "world", "--judges", HUB, "--loras", "mine=./missing", "--n", "1"], "--loras: "
    ),
    "dataset-model": (["dataset", "build", "--model", "./missing", "--detector", HUB], f"--model: {NOT_THERE}"),
    "dataset-clip": (
        ["dataset", "build", "--detector", HUB, "--clip", "clip=./missing"], f"--clip: clip: {NOT_THERE}"
    ),
    "dataset-seed": (["dataset", "build", "--seed", f"{2**63}"], "--seed: must be from 0 to 9223372036854775807"),
    "train-model": (["train", "goal", "--model", "./missing"], f"--model: {NOT_THERE}"),
    "train-data": (["train", "goal", "--data", "./missing"], "--data: './missing' is neither world"),
    "train-clip": (["train", "goal", "--set", "objective.clip=./missing"], f"objective.clip: {NOT_THERE}"),
    "train-alignment": (
        ["train", "hcma", "--stage", "joint", "--set", "objective.alignment=./missing"],
        "./missing is no alignment net: it has no config.json; give the folder",
    ),
    "report-model": (["world", "report", "--model", "./missing"], f"--model: {NOT_THERE}"),
    "report-count": (["world", "report", "--n", "0"], "--n: must be at least 1 (got 0)"),
    "report-steps": (["world", "report", "--steps", "0"], "--steps: must be a whole number from 1 to 1000"),
    "report-out-a-folder": (["world", "report"], "--out: . is a folder; give a file"),
    "evaluate-copies": (
        ["evaluate", "world", "--images-per-prompt", "1000000000"], "--images-per-prompt: must be from 1 to 1000"
    ),
    "report-out": (["world", "report"], "--out: cannot write to /proc/here"),
    "plan-out": (["plan", "a cat", *LLM], "--out: cannot write to /proc/here"),
    "plan-model": (["plan", "a cat", "--planner", "llm:transformers=./missing"], f"transformers: {NOT_THERE}"),
}  # fmt: skip


@pytest.fixture
def nothing_loaded(monkeypatch):
    """Neither network nor weights: where they are asked for, it is noted and refused."""
    asked: list[str] = []

    def refuse(what: str):
        def called(*_: object, **__: object) -> None:
            asked.append(what)
            raise OSError(what)

        return called

    monkeypatch.setattr(socket.socket, "connect", refuse("network"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse("network"))
    monkeypatch.setattr(checkpoint, "load", refuse("weights"))
    monkeypatch.setattr(Checkpoint, "_read", refuse("a model"))
    return asked


@pytest.mark.parametrize("name", CHEAP)
def test_cheap_things_are_checked_first(nothing_loaded, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRACEBACK, raising=False)
    (tmp_path / "a.txt").write_text("")
    line, sentence = CHEAP[name]
    others = {"report-out": "/proc/here/x.json", "plan-out": "/proc/here/x.jsonl", "report-out-a-folder": "."}
    out = others.get(name, "out")
    assert main([*line, "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trueline: {sentence}") and said.count("\n") == 1
    assert nothing_loaded == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--device nosuch", "--device: 'nosuch' is not a device of this machine"),
        ("--threads -1", "--threads: must be at least 1 (got -1)"),
        ("--threads 0", "--threads: must be at least 1 (got 0)"),
        ("--steps 0", "--steps: "),
        ("--lr nan", "--lr: "),
    ],
)
def test_the_build_of_the_world_is_checked_first(nothing_loaded, tmp_path, capsys, line, sentence):
    assert main(["world", "build", "--folder", str(tmp_path / "work"), *line.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trueline: {sentence}") and said.count("\n") == 1


def test_settings_are_shown_without_a_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "goal", "--set", "steps=7", "--show"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["steps"] == 7
    assert main(["train", "goal"]) == 2
    assert capsys.readouterr().err == "trueline: --out: give the folder in which the run lives\n"
    assert list(tmp_path.iterdir()) == []


def test_other_libraries_show_no_bars():
    """Those that are imported after the command began, and those that were there before."""
    code = """
import sys
if sys.argv[1] == "before":
    import diffusers, huggingface_hub, transformers
    from trueline.commands._model import silence_libraries
    silence_libraries()
else:
    from trueline.cli import main
    main(["--version"])
import huggingface_hub.utils, transformers.utils.logging as theirs
print(huggingface_hub.utils.are_progress_bars_disabled(), theirs.is_progress_bar_enabled(), theirs.get_verbosity())
"""
    others = ("HF_", "TRANSFORMERS_", "DIFFUSERS_")
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    for when in ("before", "after"):
        command = [sys.executable, "-c", code, when]
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=True)
        assert done.stdout.splitlines()[-1] == "True False 40", when
        assert when == "before" or done.stderr == ""


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ("gligen_boxes", "Layout(prompt, regions=[Region(phrase, (x0, y0, x1, y1)), ...])"),
        ("gligen_phrases", "Layout(prompt, regions=[Region(phrase, (x0, y0, x1, y1)), ...])"),
        ("gligen_scheduled_sampling_beta", "it is called grounding_schedule"),
        ("token_indices", "methods=[AttendAndExcite(...)]"),
        ("nonsense", "no such option; the options are batch_size, "),
    ],
)
def test_what_users_of_diffusers_write_in_a_call(gated, option, cure):
    for call in (Pipeline(gated), Pipeline(gated).stream):
        with pytest.raises(TypeError) as caught:
            call("a cat", **{option: 1})
        assert str(caught.value).startswith(f"{option}: ") and cure in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ("torch_dtype", "it is called dtype"),
        ("variant", "leave it out"),
        ("safety_checker", "leave it out"),
        ("device_map", "it is called device"),
        ("nonsense", "no such option; the options are cache_dir, device, dtype, local_files_only, revision"),
    ],
)
def test_what_users_of_diffusers_write_to_load(nothing_loaded, option, cure):
    with pytest.raises(TypeError) as caught:
        Pipeline.from_pretrained("world", **{option: 1})
    assert str(caught.value).startswith(f"{option}: ") and cure in str(caught.value)
    assert nothing_loaded == []


def test_a_name_of_diffusers_is_no_option_of_ours():
    """Or its sentence is never read."""
    from inspect import signature

    from trueline.models.backbone import Backbone
    from trueline.sampling.diffusers_names import OF_CALLS, OF_LOADING
    from trueline.sampling.options import Sampling
    from trueline.sampling.request import OF_LAYOUTS, STEPS, Request

    assert not OF_CALLS.keys() & {*Request.model_fields, *Sampling.model_fields, *OF_LAYOUTS, STEPS}
    assert not OF_LOADING.keys() & {*signature(Backbone.from_pretrained).parameters}
    assert json.dumps(OF_CALLS | OF_LOADING).isascii()
