"""Plans out of a file, looked up by their prompts."""

import json
from pathlib import Path

import pytest
from shared_data import SHARED, needs

from trueline.layout import Layout, Region, write_layouts
from trueline.planner import make_planner
from trueline.planner.layouts import filled
from trueline.planner.replay import ReplayPlanner, replay

DATA = SHARED
GPT4 = DATA / "nsr_1k/layoutgpt_llm_layouts/spatial/gpt4.spatial.k-similar.k_8.px_64.json"
PROMPT = "a toilet to the left of a dog"


def row(query=1, iteration=0, prompt=PROMPT, things=(("toilet", [0, 0.25, 0.5, 0.75]),)):
    return {"query_id": query, "iter": iteration, "prompt": prompt, "object_list": [list(t) for t in things]}


def published(tmp_path, *rows) -> Path:
    path = tmp_path / "gpt4.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_published_plan_is_found_by_its_prompt(tmp_path):
    things = [("toilet", [0, 0.25, 0.5, 0.75]), (None, [0, 0, 0, 0]), ("dog", [0.5, 0.5, 1.25, 0.875])]
    path = published(tmp_path, row(prompt="a cat"), row(2, 0, PROMPT, things))
    planner = make_planner(f"replay:{path}")
    planned = planner.plan("  a toilet to the\nleft of a dog ")
    assert planner.name == planned.planner == f"replay:{path}"
    assert planned.layout.prompt == PROMPT and planned.names == ("toilet", "dog")
    assert [r.box.xyxy for r in planned.layout.regions] == [(0, 0.25, 0.5, 0.75), (0.5, 0.5, 1, 0.875)]
    assert planned.notes == ("1 of 3 published boxes cannot be drawn and are left out",)
    assert planner.plan("a cat").notes == ()


def test_iterations_and_seeds(tmp_path):
    rows = [row(1, i, PROMPT, [(f"dog{i}", [0, 0, 1, 1])]) for i in (2, 0, 1)]
    path = published(tmp_path, *rows)
    first, second = make_planner(f"replay:{path}"), make_planner(f"replay:{path}", iteration=1)
    assert first.plan(PROMPT).names == ("dog0",) and second.plan(PROMPT).names == ("dog1",)
    assert [first.plan(PROMPT, seed=s).names[0] for s in (0, 1, 2, 3)] == ["dog0", "dog1", "dog2", "dog0"]
    assert second.plan(PROMPT, seed=2).names == ("dog0",)
    with pytest.raises(
        ValueError, match=r"gpt4\.json: has no iteration 5 of 'a toilet .*; there are 0, 1, 2"
    ):
        make_planner(f"replay:{path}", iteration=5).plan(PROMPT)


def test_two_queries_of_one_prompt_are_not_mixed(tmp_path):
    rows = [row(q, i, PROMPT, [(f"dog{q}{i}", [0, 0, 1, 1])]) for q in (7, 8) for i in (0, 1)]
    planner = ReplayPlanner(published(tmp_path, *rows))
    assert [planner.plan(PROMPT, seed=seed).names[0] for seed in (0, 1, 2)] == ["dog70", "dog71", "dog70"]


def test_the_picture_s_size_is_taken_over(tmp_path):
    planner = ReplayPlanner(published(tmp_path, row()))
    assert planner.plan(PROMPT).layout.width is None
    layout = planner.plan(PROMPT, width=640, height=320).layout
    assert (layout.width, layout.height, layout.regions[0].box.xyxy) == (640, 320, (0, 0.25, 0.5, 0.75))
    with pytest.raises(ValueError, match="width"):
        planner.plan(PROMPT, width=3)


def test_layouts_in_json_lines_are_plans_too(tmp_path):
    path = tmp_path / "plans.jsonl"
    regions = [
        Region("two red apples", (0, 0, 0.5, 1)),
        Region("a teddy bear", (0.5, 0, 1, 1), negative="blue"),
    ]
    layouts = [
        Layout("apples and a bear", regions, width=256, height=256, meta={"mine": 1}),
        Layout("nothing"),
        Layout("apples and a bear", regions[:1]),
    ]
    write_layouts(path, layouts)
    planner = make_planner(f"replay:{path}")
    planned = planner.plan("apples and a bear")
    assert planned.layout == layouts[0] and planned.names == ("apple", "teddy bear") and planned.notes == ()
    assert planner.plan("apples and a bear", seed=1).layout == layouts[2]
    assert make_planner(f"replay:{path}", iteration=1).plan("apples and a bear").names == ("apple",)
    assert planner.plan("nothing").notes == (f"{path} has no boxes for this prompt",)
    assert planner.plan("apples and a bear", width=512).layout.regions[1].negative == "blue"


def test_what_a_planner_wrote_comes_back(tmp_path):
    """``trueline plan --out FILE``, then ``--planner replay:FILE``."""
    planned = make_planner("rules").plan("three cats and a red chair")
    write_layouts(tmp_path / "plans.jsonl", [filled(Layout("three cats and a red chair"), planned)])
    again = make_planner(f"replay:{tmp_path}/plans.jsonl").plan("three cats and a red chair")
    assert again.names == planned.names and again.layout.regions == planned.layout.regions


def test_names_in_a_file_that_do_not_fit_are_not_used(tmp_path):
    regions = [Region("a red apple", (0, 0, 1, 1))]
    for names in (["a", "b"], [3], "x", None):
        write_layouts(tmp_path / "p.jsonl", [Layout("x", regions, meta={"plan": {"names": names}})])
        assert ReplayPlanner(tmp_path / "p.jsonl").plan("x").names == ("apple",)


@pytest.mark.parametrize("prompt", ["another", "", "a toilet to the left of a dogs", "\ud800", "x" * 5000])
def test_a_prompt_that_is_not_there(tmp_path, prompt):
    path = published(tmp_path, row())
    with pytest.raises(ValueError, match=r"gpt4\.json: has no plan of '") as caught:
        ReplayPlanner(path).plan(prompt)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_cannot_be_replayed(tmp_path):
    with pytest.raises(ValueError, match="replay needs a file"):
        make_planner("replay")
    with pytest.raises(ValueError, match=r"none\.json: cannot read it"):
        make_planner(f"replay:{tmp_path}/none.json")
    with pytest.raises(ValueError, match="cannot read it"):
        make_planner(f"replay:{tmp_path}")
    with pytest.raises(ValueError, match="holds no plan"):
        make_planner(f"replay:{published(tmp_path)}")
    with pytest.raises(ValueError, match="turn: no such setting of replay; there is iteration"):
        make_planner(f"replay:{published(tmp_path, row())}", turn=1)
    for iteration in (-1, "1", True):
        with pytest.raises(ValueError, match="iteration: must be a whole number"):
            make_planner(f"replay:{published(tmp_path, row())}", iteration=iteration)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: prompt"):
        make_planner(f"replay:{tmp_path}/bad.jsonl")


@needs("nsr_1k/layoutgpt_llm_layouts")
def test_every_published_prompt_is_found():
    planner, plans = make_planner(f"replay:{GPT4}"), replay(GPT4)
    first = {" ".join(plan.prompt.split()): plan for plan in reversed(plans) if plan.iteration == 0}
    assert len(first) > 200
    for prompt, plan in first.items():
        assert planner.plan(prompt).layout == plan.layout()
