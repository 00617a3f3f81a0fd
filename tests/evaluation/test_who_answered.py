"""Who answered is in the row, the record and the exit code: stand-ins are counted and named, too many are exit 1."""

import json
from pathlib import Path

import pytest
from chat_server import ChatServer, by, fail, isolate, say

from trueline import read_layouts
from trueline.chat.answered import NOBODY, Answered
from trueline.cli import main
from trueline.evaluation.benchmarks.nsr_1k import COUNTING, SPATIAL
from trueline.evaluation.tables import check_rows, markdown

PLAN = {
    "regions": [
        {"object": "cat", "phrase": "two cats", "box": box} for box in ([0, 0, 99, 99], [200, 0, 300, 99])
    ]
}
DEAD = "http://127.0.0.1:1/v1"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    isolate(monkeypatch)
    monkeypatch.setenv("TRUELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trueline.chat.asking.REST", 0.0)


def write_prompts(folder: Path, count: int) -> Path:
    """``count`` prompts of NSR-1K's counting part, "two cats 3" and so on."""
    rows = [
        {
            "id": k,
            "prompt": f"two cats {k}",
            "sub-type": "single-category",
            "num_object": [["cat", 2]],
            "object_list": [],
        }
        for k in range(count)
    ]
    for file, content in ((COUNTING, rows), (SPATIAL, [])):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))
    return folder


def unable(*numbers: int):
    """A server that has no plan for these prompts."""

    def choose(body):
        asked = body["messages"][-1]["content"].splitlines()[0]
        return fail(404, "no plan") if any(f'two cats {k}"' in asked for k in numbers) else say(PLAN)

    return by(choose)


def evaluate(data: Path, out: Path, *more: object) -> int:
    return main(
        ["evaluate", "nsr-1k-layout", "--data", str(data), "--out", str(out), "--quiet", *map(str, more)]
    )


def results(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())


def test_a_language_model_that_is_not_there_has_no_row_of_its_own(tmp_path, capsys):
    """The command of the report: it was 100% for llm:x, and exit 0."""
    data = write_prompts(tmp_path / "data", 2)
    model = ["--planner", "llm:x", "--llm.base_url", DEAD, "--llm.timeout", "1", "--n", "2"]
    assert evaluate(data, tmp_path / "out", *model) == 1
    rows, said = results(tmp_path / "out"), capsys.readouterr()
    assert rows and {row["method"] for row in rows} == {"llm:x (2 of 2 by rules)"}
    assert all(row["answered"] == {"rules": row["n"]} for row in rows)
    text = (tmp_path / "out/results.md").read_text()
    assert "| llm:x (2 of 2 by rules) |" in text and "- llm:x (2 of 2 by rules): 2 by rules" in text
    assert said.err.splitlines()[-1] == (
        "trueline: plans of llm:x: 2 of 2 by rules, not llm:x; more than 5%, so this is no result of llm:x"
    )


@pytest.mark.parametrize(("prompts", "failed", "code"), [(20, 0, 0), (20, 1, 0), (20, 2, 1), (3, 1, 1)])
def test_a_share_of_stand_ins_is_in_the_name_and_above_five_percent_in_the_exit_code(
    prompts, failed, code, tmp_path, capsys
):
    data, out = write_prompts(tmp_path / "data", prompts), tmp_path / "out"
    with ChatServer(unable(*range(failed))) as server:
        planners = ["--planner", "first=llm:x", "rules", "--llm.base_url", server.url, "--llm.retries", "0"]
        assert evaluate(data, out, *planners) == code
    name = f"first ({failed} of {prompts} by rules)" if failed else "first"
    rows = {(row["method"], row["metric"], row["category"]): row for row in results(out)}
    own, others = rows[name, "counting_accuracy", ""], rows["rules", "counting_accuracy", ""]
    assert own["answered"] == ({"rules": failed} if failed else {}) | {"first": prompts - failed}
    assert others["answered"] == {"rules": prompts} and others["against"] == name
    assert ("so this is no result of" in capsys.readouterr().err) == (code == 1)


def test_who_made_a_plan_is_still_known_when_it_is_replayed(tmp_path):
    data = write_prompts(tmp_path / "data", 4)
    with ChatServer(unable(0)) as server:
        evaluate(
            data, tmp_path / "one", "--planner", "llm:x", "--llm.base_url", server.url, "--llm.retries", "0"
        )
    plans = tmp_path / "one/plans/llm-x.jsonl"
    made = {layout.id: layout.meta["plan"] for layout in read_layouts(plans)}
    about = [(each["planner"], each.get("asked")) for each in made.values()]
    assert sorted(about, key=str) == [("llm:x", None)] * 3 + [("rules", "llm:x")]
    assert evaluate(data, tmp_path / "two", "--planner", f"again=replay:{plans}") == 1
    assert {row["method"] for row in results(tmp_path / "two")} == {"again (1 of 4 by rules)"}


def test_a_prompt_that_nobody_planned_is_counted_and_is_no_stand_in(tmp_path):
    data, plans = write_prompts(tmp_path / "data", 4), tmp_path / "plans.jsonl"
    plans.write_text('{"prompt": "two cats 0", "regions": [{"phrase": "two cats", "box": [0, 0, 1, 1]}]}\n')
    assert evaluate(data, tmp_path / "out", "--planner", f"mine=replay:{plans}") == 0
    rows = results(tmp_path / "out")
    assert {row["method"] for row in rows} == {"mine"}
    assert all(row["answered"] == {"mine": 1, NOBODY: 3} for row in rows)
    assert "- mine: 1 by mine, 3 by nobody" in (tmp_path / "out/results.md").read_text()


def brightness(images, texts):
    return [sum(image.convert("L").getdata()) / 1e6 for image in images]


def test_rows_of_pictures_say_who_planned_their_boxes(tmp_path, gated_folder, capsys):
    """In the table, on the page, and in the key of the votes."""
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "geneval").mkdir(parents=True)
    lines = [
        {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": f"two cats {k}"}
        for k in (0, 1)
    ]
    (data / "geneval/evaluation_metadata.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    command = ["evaluate", "geneval", "--data", data, "--out", out, "--quiet", "--model", gated_folder]
    command += ["--steps", 1, "--dtype", "fp32", "--methods", "plain", "gligen", "--planner", "llm:x"]
    with ChatServer(unable(0)) as server:
        command += ["--llm.base_url", server.url, "--llm.retries", "0", "--judges"]
        assert main([*map(str, command), "none"]) == 1, "also without a table"
        assert main([*map(str, command), f"bright={__name__}:brightness"]) == 1
    names = [f"{name} (boxes by llm:x, 1 of 2 by rules)" for name in ("plain", "gligen")]
    rows = results(out)
    assert list(dict.fromkeys(row["method"] for row in rows)) == names
    assert all(row["answered"] == {"rules": 1, "llm:x": 1} for row in rows if not row["category"])
    assert {row["against"] for row in rows if row["method"] == names[1]} == {names[0]}
    page = (out / "report.html").read_text()
    assert (
        names[0] in page and "1 by rules, 1 by llm:x" in page and "planned by llm:x (1 of 2 by rules)" in page
    )
    assert names[1] in (out / "study/key.json").read_text()
    assert "so this is no result of llm:x" in capsys.readouterr().err


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 0), (2, 1)])
def test_plan(failed, code, tmp_path, capsys):
    prompts = [f"two cats {k}" for k in range(20)]
    with ChatServer(unable(*range(failed))) as server:
        model = ["--planner", "llm:x", "--llm.base_url", server.url, "--llm.retries", "0"]
        assert main(["plan", *prompts, *model, "--out", str(tmp_path / "plans.jsonl")]) == code
    assert len(read_layouts(tmp_path / "plans.jsonl")) == 20, "written all the same"
    said = capsys.readouterr().err
    assert (f"{failed} of 20 by rules" in said) == bool(failed) and ("no result of llm:x" in said) == bool(
        code
    )


def test_generate_with_a_planner_and_a_reasoner_that_are_not_there(tmp_path, gated_folder, capsys):
    tiny = ["--model", str(gated_folder), "--steps", "1", "--quiet", "--out", str(tmp_path / "out")]
    model = ["--llm.base_url", DEAD, "--llm.timeout", "1", "--llm.retries", "0"]
    again = ["--realign", "--detector", "oracle", "--segmenter", "none", "--reasoner", "llm:y"]
    assert main(["generate", "a red apple", "--planner", "llm:x", *again, *model, *tiny]) == 1
    said = capsys.readouterr().err
    assert "1 boxes planned by llm:x (1 of 1 by rules)" in said
    assert "plans: 1 of 1 by rules, not llm:x" in said and "tags: 1 of 1 by rules, not llm:y" in said
    run = json.loads((tmp_path / "out/state.json").read_text())
    assert run["answered"] == {"plans": {"rules": 1}, "tags": {"rules": 1}, "pictures": {"realign": 1}}
    assert run["status"] == "complete"
    record = json.loads((tmp_path / "out/0000-0.json").read_text())
    assert record["layout"]["meta"]["plan"]["planner"] == "rules"
    assert record["realign"]["rounds"][0]["looked"]["by_rules"] == ["apple"]


def test_a_second_stage_that_fails_is_no_picture_of_it(tmp_path, gated_folder, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no such detector")

    monkeypatch.setattr("trueline.realign.stage.observe", broken)
    tiny = ["--model", str(gated_folder), "--steps", "1", "--quiet", "--out", str(tmp_path / "out")]
    again = ["--realign", "--detector", "oracle", "--segmenter", "none"]
    assert main(["generate", "a red apple", *again, *tiny]) == 1
    said = capsys.readouterr().err
    assert "pictures: 1 of 1 by stage one, not realign" in said and "no such detector" in said
    run = json.loads((tmp_path / "out/state.json").read_text())
    assert run["answered"]["pictures"] == {"stage one": 1} and run["status"] == "complete"


def test_counts_that_are_none_are_refused_with_the_row():
    answered = Answered.of("llm:x", ["", "rules", NOBODY])
    assert answered.by == {"llm:x": 1, "rules": 1, NOBODY: 1} and answered.share == pytest.approx(1 / 3)
    row = dict.fromkeys(
        ("benchmark", "model", "method", "metric", "category", "protocol", "command", "commit"), "x"
    )
    row |= {"value": 1, "low": 1, "high": 1, "n": 1, "images_per_prompt": 1, "seeds": []}
    check_rows([row | {"answered": {"a": 1}}])
    assert "Plans" not in markdown([row]), "rows of before say nothing of it"
    for wrong in ([1], {"a": "1"}, {"a": True}):
        with pytest.raises(ValueError, match=r"rows\[0\].answered: must be counts by name"):
            check_rows([row | {"answered": wrong}])
