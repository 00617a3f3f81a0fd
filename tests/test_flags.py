"""The library names arguments, and a command names flags."""

import json
import shutil
from importlib import import_module

import pytest

from trueline import Pipeline
from trueline.cli import COMMANDS, main
from trueline.commands import dataset
from trueline.commands._parser import Parser, with_flags
from trueline.files import Folder, pixel_hash
from trueline.models.shipped import own_guidance_scale
from trueline.world.pack import GUIDANCE_SCALE


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command line that must be refused; gives its one sentence."""

    def call(*arguments: str) -> str:
        assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err.removeprefix("trueline: ").rstrip("\n")

    return call


@pytest.mark.parametrize(
    ("options", "line", "problem"),
    [
        ({"steps": 0}, ["--steps", "0"], "must be a whole number from 1 to 1000 (got 0)"),
        ({"eta": 2}, ["--eta", "2"], "must be a number from 0 to 1 (got 2"),
        ({"scheduler": "x"}, ["--scheduler", "x"], "must be one of ddim, dpmsolver++"),
        ({"guidance_interval": (1, 0)}, ["--guidance-interval", "1,0"], "must be start < stop in 0..1"),
        ({"guidance_scale": -1}, ["--guidance-scale", "-1"], "must be a number of at least 0 (got -1"),
        ({"width": 100}, ["--width", "100"], "must be a multiple of 8 from 64"),
        ({"strict": True, "scheduler": "y"}, ["--strict", "--scheduler", "y"], "must be one of ddim"),
    ],
)
def test_python_reads_arguments_and_the_shell_flags(gated, gated_folder, refused, options, line, problem):
    name = list(options)[-1]
    with pytest.raises(ValueError, match=rf"^{name}: ") as caught:
        Pipeline(gated)("a cat", progress=False, **options)
    assert problem in str(caught.value) and "--" not in str(caught.value)
    sentence = refused("generate", "a cat", "--model", gated_folder, *line)
    assert sentence.startswith(f"--{name.replace('_', '-')}: ") and problem in sentence


def test_a_folder(refused, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ValueError, match=r"^out: cannot write to "):
        Folder(tmp_path / "out")
    for line in (["generate", "a cat"], ["evaluate", "world", "--judges", "none", "--n", "1"]):
        assert refused(*line).startswith("--out: cannot write to ")


@pytest.fixture
def parser(monkeypatch):
    """As if it had read the command line."""
    top = Parser()
    top.add_argument("prompt", nargs="?")
    top.add_argument("--batch-size", type=int)
    top.add_argument("--method")
    monkeypatch.setattr(Parser, "running", top)


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("batch_size: must be 1", "--batch-size: must be 1"),
        ("methods: HCMA needs batch_size: 2", "--method: HCMA needs batch_size: 2"),
        ("boxdiff.scale: must be positive", "--boxdiff.scale: must be positive"),
        ("--method: there is no x", "--method: there is no x"),
        ("steps: is no flag of this command", "steps: is no flag of this command"),
        ("boxdiff: is no setting", "boxdiff: is no setting"),
        ("objective.scale: of no method", "objective.scale: of no method"),
        ("prompt: is empty", "prompt: is empty"),
        ("batch_size", "batch_size"),
        ("/tmp/a: is no folder", "/tmp/a: is no folder"),
    ],
)
def test_only_names_of_flags_are_changed(parser, sentence, told):
    assert with_flags(sentence, {"methods": "--method"}, ("boxdiff",)) == told


def test_there_may_be_no_parser_yet(monkeypatch):
    monkeypatch.setattr(Parser, "running", None)
    assert with_flags("steps: must be 1", {}, ()) == "steps: must be 1"


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_of_flags_name_flags_that_are_there(command):
    module = import_module(f"trueline.commands.{command}")
    for flag in getattr(module, "FLAGS", {}).values():
        assert flag in module.parser()._option_string_actions, flag


@pytest.mark.parametrize(("own", "scale"), [(None, 7.5), (3, 3.0)])
def test_the_guidance_scale_of_every_command_is_the_models_own(gated_folder, tmp_path, own, scale):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(gated_folder, model)
    index = json.loads((model / "model_index.json").read_text())
    index["trueline"] = index.get("trueline", {}) | ({} if own is None else {"guidance_scale": own})
    (model / "model_index.json").write_text(json.dumps(index))
    line = ["--model", str(model), "--steps", "1", "--out"]
    assert main(["generate", "a cat", *line, str(out / "generated")]) == 0
    assert json.loads((out / "generated" / "0000-0.json").read_text())["guidance_scale"] == scale
    assert (
        main(
            ["evaluate", "world", "--methods", "plain", "--n", "1", "--judges", "none", *line, str(out / "e")]
        )
        == 0
    )
    found = [path.read_text() for path in (out / "e").rglob("*.json")]
    assert any(f'"guidance_scale": {scale}' in text for text in found)
    build = dataset.build_parser().parse_args([*line, str(out)])
    assert dataset._settings(build).sampling.guidance_scale == scale
    given = dataset.build_parser().parse_args([*line, str(out), "--guidance-scale", "0"])
    assert dataset._settings(given).sampling.guidance_scale == 0


def test_the_worlds_guidance_scale():
    assert (
        own_guidance_scale("world")
        == Pipeline.from_pretrained("world").backbone.guidance_scale
        == GUIDANCE_SCALE
        == 4
    )
    assert own_guidance_scale("owner/name") is None, "known when it is here"


def test_no_guidance_may_be_asked_for(gated):
    gated.settings["guidance_scale"] = 9
    try:
        pipe = Pipeline(gated)
        given = [
            pipe("a cat", steps=1, seeds=1, **how)
            for how in ({}, {"guidance_scale": 0}, {"guidance_scale": 1})
        ]
    finally:
        del gated.settings["guidance_scale"]
    assert [each.records[0]["guidance_scale"] for each in given] == [9, 0, 1]
    own, none, unguided = (pixel_hash(each.images[0]) for each in given)
    assert own != none == unguided
