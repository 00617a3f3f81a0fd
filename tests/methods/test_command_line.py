"""Methods from the shell: generate, regenerate, evaluate, and the list of them."""

import json

import pytest
from PIL import Image

from trueline.cli import main
from trueline.commands._methods import split_settings
from trueline.commands._rows import read_rows
from trueline.methods import METHODS

BOXES = [
    "a red apple and a blue car",
    "--box",
    "a red apple@.05,.3,.45,.7",
    "--box",
    "a blue car@.55,.3,.95,.7",
]
FAST = ["--steps", "4", "--quiet", "--guidance-scale", "4"]
BOXDIFF = ["--method", "boxdiff", "--boxdiff.refinements", "1", "--boxdiff.scale=5"]


def generate(out, *more):
    return main(["generate", *BOXES, *FAST, "--out", str(out), *more])


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_settings_are_taken_out_of_the_command_line():
    rest, given = split_settings(["a", "--boxdiff.scale", "-3", "--n", "2", "--boxdiff.thresholds=[[0,0.1]]"])
    assert rest == ["a", "--n", "2"]
    assert given == {"boxdiff": {"scale": -3, "thresholds": [[0, 0.1]]}}


def test_generate_with_a_method_and_again(tmp_path, capsys):
    assert generate(tmp_path / "plain") == 0
    assert generate(tmp_path / "guided", *BOXDIFF) == 0
    assert pixels(tmp_path / "plain/0000-0.png") != pixels(tmp_path / "guided/0000-0.png")
    record = json.loads((tmp_path / "guided/0000-0.json").read_text())
    assert record["methods"][0]["name"] == "BoxDiff"
    assert record["methods"][0]["settings"]["scale"] == 5
    capsys.readouterr()
    again = [
        "generate",
        "--regenerate",
        str(tmp_path / "guided/0000-0.json"),
        "--out",
        str(tmp_path / "again"),
    ]
    assert main(again) == 0
    assert "bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "boxdif"], "--method: there is no 'boxdif'"),
        (["--boxdiff.scale", "3"], "--boxdiff.scale: belongs to --method boxdiff, which is not given"),
        (["--method", "boxdiff", "--boxdiff.scale"], "--boxdiff.scale: give it a value"),
        (["--method", "boxdiff", "--boxdiff.speed", "3"], "boxdiff has no such setting"),
        (
            ["--method", "boxdiff", "--boxdiff.scale", "big"],
            "--boxdiff.scale: input should be a valid number",
        ),
        (["--method", "boxdiff", "--method", "boxdiff"], "--method: boxdiff is there twice"),
        (["--magic.scale", "3"], "there is no method 'magic'"),
        (["--method", "boxdiff", "--scheduler", "pndm"], "pndm"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, more, said):
    assert generate(tmp_path, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[-1]
    assert not list(tmp_path.glob("*.png"))


def test_a_method_of_boxes_without_a_box(tmp_path, capsys):
    bare = ["generate", "a red apple", "--planner", "none"]
    assert main([*bare, *FAST, *BOXDIFF, "--out", str(tmp_path)]) == 2
    assert "regions: BoxDiff needs at least one region" in capsys.readouterr().err


def test_the_list_of_methods(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    for name, entry in METHODS.items():
        assert name in printed and entry.paper in printed
        assert main(["methods", name]) == 0
        assert f"--{name}.strength" in capsys.readouterr().out
    assert main(["methods", "magic"]) == 2
    assert "invalid choice" in capsys.readouterr().err


def test_evaluate_compares_methods_with_and_without_grounding(tmp_path, capsys):
    names = ["plain", "gligen", "boxdiff", "gligen+boxdiff"]
    settings = ["--boxdiff.refinements", "1", "--boxdiff.scale", "5"]
    command = ["evaluate", "world", "--n", "6", "--steps", "3", "--quiet", "--out", str(tmp_path / "out")]
    assert main([*command, "--methods", *names, *settings]) in (0, 1)
    made = {name: pixels(tmp_path / f"out/pictures/{name}/color-0000-0.png") for name in names}
    assert len(set(made.values())) == 4
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert {row["method"] for row in rows} == {*names, "reference", "reference-vae"}
    assert main([*command, "--methods", *names, "--boxdiff.scale", "6"]) == 2
    assert "pictures of boxdiff with other settings" in capsys.readouterr().err
    assert main([*command, "--methods", "boxdiff", "boxdif"]) == 2
    assert "there is no 'boxdif'" in capsys.readouterr().err


def test_rows_of_an_evaluation_are_sums_with_settings_of_their_own():
    rows = read_rows(
        ["plain", "gligen+boxdiff@scale=7,until=.3+structured", "boxdiff", "boxdiff@thresholds=[[0, .2]]"],
        {"boxdiff": {"scale": 5.0, "refinements": 3}},
    )
    plain, both, usual, listed = rows
    assert not (plain.grounded or plain.methods or plain.needy)
    assert (
        both.grounded and both.needy and [type(m).__name__ for m in both.methods] == ["BoxDiff", "Structured"]
    )
    assert (both.methods[0].scale, both.methods[0].until, both.methods[0].refinements) == (7, 0.3, 3)
    assert (usual.methods[0].scale, usual.grounded) == (5, False)
    assert listed.methods[0].thresholds == ((0.0, 0.2),)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("boxdiff+boxdiff", "has boxdiff twice"),
        ("gligen+boxdif", "there is no 'boxdif'"),
        ("boxdiff@scale", "NAME@setting=value"),
        ("boxdiff@colour=3", "boxdiff has no such setting"),
        ("boxdiff@until=3", "boxdiff.until"),
        ("boxdiff+plain", "plain stands alone"),
        ("boxdiff+gligen", "gligen first"),
        ("gligen+gligen", "gligen first"),
        ("gligen@scale=2", "without settings"),
        ("hcma@weights=../net", r"as --NAME\.setting"),
    ],
)
def test_rows_that_cannot_be_drawn(row, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_rows([row], {})


def test_a_setting_of_a_method_in_no_row():
    with pytest.raises(
        ValueError, match=r"--boxdiff\.scale: belongs to --methods boxdiff, which is not given"
    ):
        read_rows(["plain", "structured"], {"boxdiff": {"scale": 5.0}})
