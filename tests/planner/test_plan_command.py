"""``trueline plan``, ``trueline.plan``, and ``trueline generate`` without boxes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trueline
from trueline import Layout, Region, read_layouts
from trueline.cli import main
from trueline.commands._planners import NONE, PLANNERS
from trueline.planner import PLANNERS as TABLE
from trueline.planner import Planned, layouts

LEFT, RIGHT = (0.05, 0.3, 0.45, 0.7), (0.55, 0.3, 0.95, 0.7)
PROMPT = "a red apple to the left of a blue car"
THINGS = {
    PROMPT: (("a red apple", LEFT, "apple"), ("a blue car", RIGHT, "car")),
    "a green clock": (("a green clock", (0.2, 0.2, 0.8, 0.8), "clock"),),
    "freedom": (),
}


@dataclass
class Known:
    """Plans that it knows by heart; mirrored for odd seeds. ``asked`` keeps what it was asked for."""

    name: str = "known"
    asked: list = field(default_factory=list)

    def plan(self, prompt, *, width=None, height=None, seed=None) -> Planned:
        self.asked.append((prompt, width, height, seed))
        if prompt not in THINGS:
            raise ValueError("knows no such prompt;\nask for another")
        things = THINGS[prompt]
        boxes = [
            (1 - x1, y0, 1 - x0, y1) if (seed or 0) % 2 else (x0, y0, x1, y1)
            for _, (x0, y0, x1, y1), _ in things
        ]
        regions = [Region(phrase, box) for (phrase, _, _), box in zip(things, boxes, strict=True)]
        notes = () if things else ("found nothing to draw",)
        return Planned(Layout(prompt, regions), tuple(name for _, _, name in things), notes, self.name)


@pytest.fixture
def known(monkeypatch) -> Known:
    """``--planner rules`` is ``Known`` here: what the command does with plans, not how good they are."""
    planner = Known()
    for module in (trueline.planner, layouts):
        monkeypatch.setattr(module, "make_planner", lambda spec, **settings: planner)
    return planner


def plan(*arguments: object) -> int:
    return main(["plan", *map(str, arguments)])


def test_the_names_of_planners_are_those_of_the_table():
    assert tuple(TABLE) == PLANNERS
    assert NONE not in TABLE


def test_one_prompt_is_one_line_on_stdout(known, capsys):
    assert plan(PROMPT, "--width", 256, "--height", 128) == 0
    written = capsys.readouterr()
    assert written.err == "", "nothing to say"
    layout = Layout.from_record(json.loads(written.out))
    assert [(r.phrase, r.box.xyxy) for r in layout.regions] == [("a red apple", LEFT), ("a blue car", RIGHT)]
    assert (layout.prompt, layout.width, layout.height, layout.id) == (PROMPT, 256, 128, None)
    assert layout.meta == {"plan": {"planner": "known", "names": ["apple", "car"], "notes": []}}
    assert known.asked == [(PROMPT, 256, 128, None)]


def test_a_seed_reaches_the_planner(known, capsys):
    assert plan(PROMPT, "--seed", 3) == 0
    mirrored = json.loads(capsys.readouterr().out)["regions"][0]["box"]
    assert mirrored == pytest.approx([0.55, 0.3, 0.95, 0.7])


def test_one_bad_prompt_does_not_cost_the_others(known, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "new/layouts.jsonl"
    prompts.write_bytes(f"\ufeff{PROMPT}\n\n  a green clock \r\n".encode() + b"a caf\xe9\nfreedom\n")
    assert plan("a herring", "--file", prompts, "--out", out) == 1
    written = capsys.readouterr()
    assert written.out == ""
    found = read_layouts(out)
    assert [(each.id, each.prompt) for each in found] == [
        ("0001", PROMPT),
        ("0002", "a green clock"),
        ("0004", "freedom"),
    ]
    said = written.err.splitlines()
    assert said[0] == ('trueline: prompt 1 ("a herring"): not planned: knows no such prompt; ask for another')
    assert 'prompt 4 ("a caf' in said[1] and "UTF-8" in said[1]
    assert said[2] == 'trueline: prompt 5 ("freedom"): found nothing to draw'
    assert said[3] == f"trueline: 3 of 5 layouts, 3 boxes in {out}"


def test_none_that_can_be_planned(known, tmp_path, capsys):
    assert plan("a herring", "--out", tmp_path / "layouts.jsonl") == 2
    assert "knows no such prompt" in capsys.readouterr().err
    assert not (tmp_path / "layouts.jsonl").exists()


def test_a_drawing_of_one_and_of_many(known, tmp_path):
    assert plan("a green clock", "--draw", tmp_path / "one.png") == 0
    picture = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    assert picture.shape == (512, 512, 3)
    paper = picture[5, 5]
    assert (picture[256, 110:402] == paper).all(), "paper within the box"
    assert (abs(picture[256, 100:106] - paper).sum(-1) > 50).any(), "its left edge at 0.2"
    assert plan("a green clock", PROMPT, "freedom", "--draw", tmp_path / "all.png") == 0
    assert Image.open(tmp_path / "all.png").width > 3 * 512
    assert plan("a green clock", PROMPT, "--width", 64, "--height", 128, "--draw", tmp_path / "each") == 0
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["0000.png", "0001.png"]
    wide, high = Image.open(tmp_path / "each/0001.png").size
    assert high == 2 * wide


def test_more_than_a_sheet_holds_is_said(known, tmp_path, capsys):
    assert plan(*["a green clock"] * 65, "--width", 64, "--height", 64, "--draw", tmp_path / "all.png") == 0
    assert "the first 64 of 65" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "PROMPT: give a prompt or --file FILE"),
        (["--file", "nowhere.txt"], "--file: cannot read nowhere.txt"),
        (["--file", "EMPTY"], "EMPTY holds no prompt"),
        (
            ["x", "--planner", "astrologer"],
            "--planner: there is no 'astrologer'; there are rules, llm, replay",
        ),
        (["x", "--width", "100"], "--width: must be a multiple of 8"),
        (["x", "--seed", "-1"], "--seed: must be from 0"),
        (["x", "--draw", "boxes.jpg"], "--draw: give FILE.png"),
        (["x", "--out", "."], "--out: . is a folder"),
        (["x", "--boxdiff.scale", "3"], "there is no planner 'boxdiff'; there are rules, llm, replay"),
        (["x", "--llm.url", "http://localhost"], "--llm.url: belongs to --planner llm, which is not given"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").write_text("\n \n")
    assert plan(*arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and said in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["EMPTY"]


def test_it_reads_a_pipe_and_loads_no_torch(tmp_path):
    """A fresh process, with the real rules and a drawing."""
    code = (
        "import sys; from trueline.cli import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules, 'transformers' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    arguments = ["plan", "--file", "-", "--draw", str(tmp_path / "boxes.png")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=b"two cats\na dog\n",
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert [len(json.loads(line)["regions"]) for line in done.stdout.splitlines()] == [2, 1]
    assert done.stderr.splitlines()[-1] == b"False False"
    assert (tmp_path / "boxes.png").exists()


# From Python


def test_plan_from_python(known):
    layout = trueline.plan("a green clock", known, width=512, height=256, seed=1)
    assert (layout.width, layout.height, layout.seed) == (512, 256, None)
    assert [r.phrase for r in layout.regions] == ["a green clock"]
    assert layout.meta["plan"]["planner"] == "known"
    assert trueline.plan("freedom", known).meta["plan"]["notes"] == ["found nothing to draw"]
    assert Layout.from_record(layout.to_record()) == layout
    with pytest.raises(ValueError, match="knows no such prompt"):
        trueline.plan("a herring", known)
    with pytest.raises(ValueError, match="prompt: is empty"):
        trueline.plan(" ", known)
    with pytest.raises(ValueError, match="url: belongs to a planner by name"):
        trueline.plan("a green clock", known, url="http://localhost")


def test_plan_from_python_by_rules():
    layout = trueline.plan("two cats")
    assert layout.meta["plan"]["names"] == ["cat", "cat"]
    assert layout.meta["plan"]["planner"] == "rules"


# Generate

FAST = ["--steps", "1", "--quiet"]
BOXDIFF = ["--method", "boxdiff", "--boxdiff.refinements", "0"]


@pytest.fixture
def generate(gated_folder):
    """``trueline generate`` with a tiny net of random weights."""

    def call(out: Path, *arguments: object) -> int:
        model = ["--model", str(gated_folder)]
        return main(["generate", *FAST, *model, "--out", str(out), *map(str, arguments)])

    return call


def record_of(out: Path, name: str = "0000-0") -> dict:
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def test_a_method_of_boxes_gets_planned_ones_and_the_record_says_so(known, generate, tmp_path, capsys):
    out, given = tmp_path / "out", tmp_path / "given"
    assert generate(out, PROMPT, *BOXDIFF) == 0
    assert "trueline: 2 boxes planned by known" in capsys.readouterr().err
    record = record_of(out)
    assert record["layout"]["meta"]["plan"]["planner"] == "known"
    assert [r["phrase"] for r in record["layout"]["regions"]] == ["a red apple", "a blue car"]
    assert json.loads((out / "state.json").read_text())["answered"] == {"plans": {"known": 1}}
    boxes = [f"a red apple@{','.join(map(str, LEFT))}", f"a blue car@{','.join(map(str, RIGHT))}"]
    assert generate(given, PROMPT, *BOXDIFF, "--box", boxes[0], "--box", boxes[1]) == 0
    assert record_of(given)["sha256"] == record["sha256"], "the same picture as with those boxes by hand"
    assert "meta" not in record_of(given)["layout"]
    known.asked.clear()
    assert main(["generate", "--regenerate", str(out / "0000-0.json"), "--out", str(tmp_path / "again")]) == 0
    assert "bit for bit" in capsys.readouterr().out
    assert known.asked == [], "the record holds the boxes; nobody plans anew"


def test_boxes_of_the_user_are_never_replaced(known, generate, tmp_path, capsys):
    layouts = tmp_path / "layouts.jsonl"
    own = Layout(PROMPT, [Region("a red apple", (0.1, 0.1, 0.9, 0.9))], id="own", meta={"mine": 1})
    bare = Layout("a green clock", id="bare", meta={"mine": 2}, negative_prompt="a cat")
    trueline.write_layouts(layouts, [own, bare])
    assert generate(tmp_path / "mixed", "--layout", layouts, *BOXDIFF) == 0
    assert known.asked == [], "a list that has boxes is as its user wants it"
    assert record_of(tmp_path / "mixed", "bare-0")["layout"].get("regions", []) == []
    assert generate(tmp_path / "asked", "--layout", layouts, "--planner", "rules") == 0
    assert [prompt for prompt, *_ in known.asked] == ["a green clock"]
    kept = record_of(tmp_path / "asked", "own-0")["layout"]
    assert [r["box"] for r in kept["regions"]] == [[0.1, 0.1, 0.9, 0.9]] and kept["meta"] == {"mine": 1}
    filled = record_of(tmp_path / "asked", "bare-0")["layout"]
    assert [r["phrase"] for r in filled["regions"]] == ["a green clock"]
    assert (filled["negative_prompt"], filled["meta"]["mine"]) == ("a cat", 2)
    assert filled["meta"]["plan"]["planner"] == "known"


def test_missing_boxes_are_planned_in_python():
    boxed = Layout("a cat", [Region("a cat", (0.1, 0.1, 0.5, 0.5))])
    made = layouts.plan_missing([boxed, Layout(PROMPT)], Known())
    assert made[0] is boxed and [region.phrase for region in made[1].regions] == ["a red apple", "a blue car"]
    with pytest.raises(ValueError, match=r"^planner: prompt 2 cannot be planned \(knows no such prompt"):
        layouts.plan_missing([boxed, Layout("a cat")], Known())


def test_nobody_plans_unasked(known, generate, tmp_path, capsys):
    assert generate(tmp_path, "a green clock") == 0
    assert known.asked == [] and "meta" not in record_of(tmp_path)["layout"]
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["planner"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a green clock", *BOXDIFF, "--planner", "none"], "regions: BoxDiff needs at least one region"),
        (
            ["freedom", *BOXDIFF],
            "--planner: known finds nothing that a box could hold; give boxes, or leave BoxDiff",
        ),
        (
            ["a herring", *BOXDIFF],
            "--planner: prompt 1 cannot be planned (knows no such prompt; ask for another)",
        ),
        (["a green clock", "--llm.url", "x"], "--llm.url: belongs to --planner llm, which is not given"),
    ],
)
def test_what_cannot_be_planned_is_refused(known, generate, tmp_path, capsys, arguments, said):
    assert generate(tmp_path, *arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("*.png"))


def test_a_record_takes_no_planner(capsys):
    assert main(["generate", "--regenerate", "x.json", "--planner", "rules"]) == 2
    assert "the record says everything; leave --planner out" in capsys.readouterr().err


def test_a_method_that_is_switched_off_needs_no_plan(known, generate, tmp_path):
    assert generate(tmp_path, "a green clock", *BOXDIFF, "--boxdiff.strength", "0") == 0
    assert known.asked == []
