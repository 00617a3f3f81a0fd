"""Planners in ``trueline evaluate``: several in one table, and planned boxes for pictures."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from shared_data import SHARED, needs

from trueline import Layout, Region, read_layouts
from trueline.cli import main
from trueline.commands._layout_scores import Column
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.benchmarks.nsr_1k import COUNTING, SPATIAL
from trueline.evaluation.layout_scores import rule_of
from trueline.evaluation.planned_benchmark import PlannedBenchmark
from trueline.planner import Planned

DATA = SHARED
GPT4 = [
    DATA / f"nsr_1k/layoutgpt_llm_layouts/{kind}/gpt4.{kind}.k-similar.k_8.px_64.json"
    for kind in ("counting", "spatial")
]

LEFT, RIGHT, TOP = (0.0, 0.4, 0.3, 0.7), (0.6, 0.4, 0.9, 0.7), (0.3, 0.0, 0.6, 0.3)
#: prompt -> names and boxes.
PLANS = {
    "two cats": [("cat", LEFT), ("cat", RIGHT)],
    "a dog and three cats": [("dog", LEFT), ("cat", RIGHT), ("cat", TOP)],  # one cat too few
    "more dogs than cats, two dogs": [("dog", LEFT), ("dog", RIGHT), ("cat", TOP)],
    "a cat to the left of a dog": [("cat", LEFT), ("dog", RIGHT)],
    "a cat above a dog": [("cat", LEFT), ("dog", RIGHT)],  # beside it
    "a cat on the left of a dog": [("cat", LEFT), ("dog", RIGHT)],
    "a girl on the top of a frog": [("girl", LEFT), ("frog", RIGHT)],  # beside it
    "two boys": [("boy", LEFT), ("boy", RIGHT)],
    "three drums and a cow": [("drum", LEFT), ("drum", RIGHT), ("cow", TOP)],
    "a photo of a cat": [("cat", LEFT)],
}


@dataclass
class Listed:
    """The plans above; other prompts are refused. With a seed, plans are without their last box."""

    name: str = "listed"
    asked: list = field(default_factory=list)

    def plan(self, prompt, *, width=None, height=None, seed=None) -> Planned:
        self.asked.append((prompt, seed))
        if prompt not in PLANS:
            raise ValueError("not on the list")
        things = PLANS[prompt] if seed is None else PLANS[prompt][:-1]
        regions = [Region(f"a {name}", box) for name, box in things]
        notes = ("a remark",) if prompt == "two cats" else ()
        return Planned(Layout(prompt, regions), tuple(name for name, _ in things), notes, self.name)


@pytest.fixture
def listed(monkeypatch) -> Listed:
    """``--planner rules`` is ``Listed`` here: how plans are scored, not how good the rules are."""
    planner = Listed()
    monkeypatch.setattr("trueline.planner.make_planner", lambda spec, **settings: planner)
    return planner


def counting(query, prompt, kind, counts):
    return {"id": query, "prompt": prompt, "sub-type": kind, "num_object": counts, "object_list": []}


def spatial(query, prompt, relation):
    box = [0.1, 0.1, 0.2, 0.2]
    return {"id": query, "prompt": prompt, "relation": relation, "obj1": ["cat", box], "obj2": ["dog", box]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("plans")
    files = {
        COUNTING: [
            counting(1, "two cats", "single-category", [["cat", 2]]),
            counting(2, "a dog and three cats", "two-categories", [["dog", 1], ["cat", 3]]),
            counting(3, "more dogs than cats, two dogs", "comparison", [["dog", 2], ["cat", 1]]),
            counting(4, "a prompt that is refused", "real", [["cat", 1]]),
        ],
        SPATIAL: [spatial(5, "a cat to the left of a dog", "left"), spatial(6, "a cat above a dog", "top")],
    }
    for file, content in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content))
    lines = {
        "spatial_val": "a cat on the left of a dog\na girl on the top of a frog\n",
        "numeracy_val": "two boys\nthree drums and a cow\n",
        "color_val": "a red apple\n",
    }
    (root / "t2i_compbench").mkdir()
    for name, text in lines.items():
        (root / "t2i_compbench" / f"{name}.txt").write_text(text)
    (root / "geneval").mkdir()
    clauses = [{"class": "cat", "count": 1}]
    prompts = [
        {"tag": "single_object", "include": clauses, "prompt": f"a photo of {a}"} for a in ("a cat", "it")
    ]
    (root / "geneval/evaluation_metadata.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    return root


def evaluate(benchmark: str, data: Path, out: Path, *more: object) -> int:
    given = ["--data", str(data), "--out", str(out), "--quiet", *map(str, more)]
    return main(["evaluate", benchmark, *given])


def table(out: Path) -> dict[tuple[str, str, str], dict]:
    rows = json.loads((out / "results.json").read_text())
    return {(row["method"], row["category"], row["metric"]): row for row in rows}


def test_every_prompt_counts_also_one_without_a_plan(listed, data, tmp_path, capsys):
    assert evaluate("nsr-1k-layout", data, tmp_path, "--planner", "rules") == 0
    found = {key[1:]: row["value"] for key, row in table(tmp_path).items()}
    assert found["", "counting_accuracy"] == pytest.approx(
        100 * 2 / 4
    )  # cats, comparison; not dog+cats, refused
    assert found["", "counting_precision"] == pytest.approx(100 * (1 + 1 + 0) / 3)  # without the comparison
    assert found["", "counting_recall"] == pytest.approx(100 * (1 + 3 / 4 + 0) / 3)
    assert found["", "spatial_accuracy"] == pytest.approx(50)
    assert found["comparison", "counting_accuracy"] == 100
    assert found["real", "counting_accuracy"] == 0
    row = table(tmp_path)["listed", "", "counting_accuracy"]
    assert (row["n"], row["images_per_prompt"], row["seeds"]) == (4, 1, [])
    assert row["low"] <= row["value"] <= row["high"] and "official" in row["protocol"]
    said = capsys.readouterr().err
    assert "1 of 6 plans could not be made and are without boxes; the first: counting-000004: not on" in said
    assert "1 of 6 plans have notes" in said


def test_plans_are_kept_as_layouts(listed, data, tmp_path):
    assert evaluate("nsr-1k-layout", data, tmp_path, "--planner", "my.rules=rules") == 0
    kept = {layout.id: layout for layout in read_layouts(tmp_path / "plans/my.rules.jsonl")}
    assert len(kept) == 6
    cats = kept["counting-000001"]
    assert [r.phrase for r in cats.regions] == ["a cat", "a cat"]
    assert cats.meta["plan"] == {"planner": "listed", "names": ["cat", "cat"], "notes": ["a remark"]}
    assert kept["counting-000004"].regions == ()
    assert kept["counting-000004"].meta["plan"] == {"planner": "listed", "error": "not on the list"}


def test_the_true_boxes_are_hidden_from_the_planner(listed, data, tmp_path):
    """A prompt that is refused keeps none of the benchmark's own boxes."""
    PLANS_BEFORE = dict(PLANS)
    try:
        del PLANS["a cat above a dog"]
        assert evaluate("nsr-1k-layout", data, tmp_path, "--planner", "rules") == 0
    finally:
        PLANS.update(PLANS_BEFORE)
    assert table(tmp_path)["listed", "", "spatial_unmatched"]["value"] == 50
    kept = {layout.id: layout for layout in read_layouts(tmp_path / "plans/listed.jsonl")}
    assert kept["spatial-000006"].regions == ()


def published(path: Path, rows) -> Path:
    things = lambda names: [[name, list(box)] for name, box in names]  # noqa: E731
    path.write_text(
        json.dumps(
            [
                {"query_id": query, "iter": i, "prompt": "p", "object_list": things(names)}
                for query, i, names in rows
            ]
        )
    )
    return path


def test_published_plans_beside_a_planner(listed, data, tmp_path, capsys):
    """Two rounds; the second lacks prompt 2. The spatial prompts are not asked of it."""
    two = [("cat", LEFT), ("cat", RIGHT)]
    rows = [(q, i, two) for q in (1, 3, 4) for i in (0, 1)] + [(2, 0, [("dog", LEFT)] + [("cat", TOP)] * 3)]
    file = published(tmp_path / "plans.json", rows)
    assert evaluate("nsr-1k-layout", data, tmp_path / "out", "--planner", "rules", f"old=replay:{file}") == 0
    found = table(tmp_path / "out")
    old, own = found["old", "", "counting_accuracy"], found["listed", "", "counting_accuracy"]
    assert old["value"] == pytest.approx(100 * 3 / 8) and (old["n"], old["images_per_prompt"]) == (8, 2)
    assert old["against"] == "listed"
    assert old["difference"] == pytest.approx(old["value"] - own["value"])
    assert ("old", "", "spatial_accuracy") not in found
    assert found["old", "two-categories", "counting_accuracy"]["value"] == 50
    assert (
        evaluate(
            "nsr-1k-layout",
            data,
            tmp_path / "out",
            "--planner",
            "rules",
            f"old=replay:{file}",
            "--against",
            "old",
        )
        == 0
    )
    swapped = table(tmp_path / "out")["listed", "", "counting_accuracy"]
    assert (swapped["against"], swapped["difference"]) == ("old", pytest.approx(-old["difference"]))
    assert "old: 1 of 8 plans are missing and count as plans without boxes" in capsys.readouterr().err
    assert not (tmp_path / "out/plans/old.jsonl").exists(), "published already"


def test_less_unmatched_is_better(listed, data, tmp_path):
    file = published(tmp_path / "plans.json", [(5, 0, []), (6, 0, [])])
    assert evaluate("nsr-1k-layout", data, tmp_path / "out", "--planner", "rules", f"old=replay:{file}") == 0
    assert "spatial_unmatched ↓" in (tmp_path / "out/results.md").read_text()


def test_several_plans_of_a_prompt(listed, data, tmp_path):
    more = ["--planner", "rules", "--seeds", 3, 5]
    assert evaluate("nsr-1k-layout", data, tmp_path, *more) == 0
    row = table(tmp_path)["listed", "", "counting_accuracy"]
    assert (row["n"], row["images_per_prompt"], row["seeds"]) == (8, 2, [3, 5])
    assert {seed for _, seed in listed.asked} == {3, 5}
    names = [layout.id for layout in read_layouts(tmp_path / "plans/listed.jsonl")]
    assert names[:2] == ["counting-000001-0", "counting-000001-1"]


def test_kept_plans_score_as_they_did(listed, data, tmp_path, monkeypatch):
    assert evaluate("nsr-1k-layout", data, tmp_path / "one", "--planner", "rules") == 0
    monkeypatch.undo()
    again = f"listed=replay:{tmp_path / 'one/plans/listed.jsonl'}"
    assert evaluate("nsr-1k-layout", data, tmp_path / "two", "--planner", again) == 0
    one, two = (
        {k: (row["value"], row["n"]) for k, row in table(tmp_path / name).items()} for name in ("one", "two")
    )
    assert one == two


def test_some_prompts_only(listed, data, tmp_path):
    assert evaluate("nsr-1k-layout", data, tmp_path, "--planner", "rules", "--n", 2) == 0
    assert len(listed.asked) == 2


def test_compbench_counts_boxes_as_detections(listed, data, tmp_path):
    assert evaluate("t2i-compbench-layout", data, tmp_path, "--planner", "rules") == 0
    found = {key[1:]: row["value"] for key, row in table(tmp_path).items()}
    assert found["spatial", "spatial_accuracy"] == 50
    assert found["spatial", "spatial"] == pytest.approx(
        (1 + 0.5) / 2
    )  # both objects there, half of the score
    assert found["numeracy", "numeracy_accuracy"] == 50
    assert found["numeracy", "numeracy"] == pytest.approx((1 + 0.75) / 2)  # drums are there, two of three
    assert ("", "spatial_raw") not in found


def test_a_name_must_be_the_object():
    truth = {"first": "cat", "relation": "on the left of", "second": "dog"}
    example = Example("spatial-000000", Layout("a cat on the left of a dog"), "spatial", truth)

    def score(name):
        things = ((name, LEFT), ("dog", RIGHT))
        return rule_of("t2i-compbench-layout").score_layout(example, things, "official")

    assert score("Cat")["spatial_accuracy"] == (1, 1)
    assert score("kitten")["spatial"] == (0, 1)
    assert score(None)["spatial_accuracy"] == (0, 1)


def test_names_of_columns():
    assert Column.of("rules") == Column("rules", "rules")
    assert Column.of("gpt4=replay:a.json,b.json") == Column("gpt4", "replay:a.json,b.json")
    assert Column.of("replay:x/gpt4.counting.json,gpt4.spatial.json").name == "gpt4.counting gpt4.spatial"
    assert Column.of("llm:org/model:7b").file == "llm-org-model-7b"
    assert Column.of("llm:a=b").name == "llm:a=b", "a model may have an equals sign in its name"


@pytest.mark.parametrize(
    ("benchmark", "more", "said"),
    [
        ("nsr-1k-layout", [], "--planner: say who plans: rules, llm:MODEL"),
        ("nsr-1k-layout", ["--planner", "astrologer"], "--planner: there is no 'astrologer'"),
        ("nsr-1k-layout", ["--planner", "rules", "rules"], "--planner: listed is there twice"),
        ("nsr-1k-layout", ["--planner", "replay:"], "write published layouts as replay:FILE"),
        ("nsr-1k-layout", ["--planner", "replay:nowhere.json"], "nowhere.json"),
        ("nsr-1k-layout", ["--planner", "rules", "--methods", "gligen"], "--methods: belongs to benchmarks with"),
        ("nsr-1k-layout", ["--planner", "rules", "--boxdiff.scale", "3"], "--boxdiff.scale: belongs to bench"),
        ("nsr-1k-layout", ["--planner", "rules", "--llm.url", "x"], "--llm.url: belongs to --planner llm"),
        ("nsr-1k-layout", ["--planner", "rules", "--against", "x"], "--against: there is no row x; give one of "),
        ("t2i-compbench-layout", ["--planner", "rules", "--option", "categories=color"], "not for color"),
        ("geneval", ["--planner", "rules", "astrologer"], "--planner: give one"),
        ("geneval", ["--planner", "astrologer"], "--planner: there is no 'astrologer'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(data, tmp_path, monkeypatch, capsys, benchmark, more, said):
    if benchmark == "geneval":
        more = [*more, "--judges", "none"]
    if more == ["--planner", "rules", "rules"]:
        monkeypatch.setattr("trueline.planner.make_planner", lambda spec, **settings: Listed())
    assert evaluate(benchmark, data, tmp_path, *more) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_pictures_of_planned_boxes(listed, data, gated_folder, tmp_path, capsys):
    """GenEval has no boxes: the planned ones are drawn, kept, and part of what the folder belongs to."""
    model = [
        "--model",
        gated_folder,
        "--methods",
        "gligen",
        "--judges",
        "none",
        "--steps",
        "1",
        "--dtype",
        "fp32",
    ]
    out = tmp_path / "out"
    assert evaluate("geneval", data, out, *model, "--planner", "rules") == 0
    said = capsys.readouterr().err
    assert (
        "1 of 2 plans could not be made" in said and "2 layouts without boxes are planned by listed" in said
    )
    with Image.open(out / "pictures/gligen/single_object-000000-0.png") as picture:
        record = json.loads(picture.text["trueline"])
    assert [r["phrase"] for r in record["layout"]["regions"]] == ["a cat"]
    assert record["layout"]["meta"]["plan"]["planner"] == "listed"
    kept = read_layouts(out / "plans.jsonl")
    assert [len(layout.regions) for layout in kept] == [1, 0]
    assert evaluate("geneval", data, out, *model, "--planner", "rules") == 0, "goes on in its folder"
    for planner in ([], ["--planner", "none"]):
        assert evaluate("geneval", data, out, *model[:2], "--methods", "plain", *model[4:], *planner) == 2
        assert "a run with another planner" in capsys.readouterr().err


def test_pictures_of_a_planned_benchmark_are_its_own():
    example = Example("x", Layout("a cat"))

    class Pictured(Benchmark):
        name, source, examples = "b", "s", (example,)

        def reference(self, example):
            return Image.new("RGB", (1, 1)) if example.id == "x" else None

    planned = PlannedBenchmark(Pictured(), {}, "p")
    assert planned.has_reference(example) and planned.reference(example).size == (1, 1)
    assert not planned.has_reference(Example("y", Layout("a dog")))


@needs("nsr_1k/layoutgpt_llm_layouts")
def test_the_published_figures_of_layoutgpt(tmp_path):
    both = f"gpt4=replay:{GPT4[0]},{GPT4[1]}"
    assert evaluate("nsr-1k-layout", DATA, tmp_path, "--planner", both) == 0
    found = {key[2]: round(row["value"], 2) for key, row in table(tmp_path).items() if not key[1]}
    assert found["counting_precision"] == 81.02 and found["counting_recall"] == 85.63
    assert found["counting_accuracy"] == 78.11 and found["spatial_accuracy"] == 91.59
