"""Published plans: LayoutGPT's format, and what is wrong with a file in one sentence."""

import json

import pytest
from shared_data import SHARED, needs

from trueline.planner.replay import PublishedPlan, replay

DATA = SHARED
PLANS = DATA / "nsr_1k/layoutgpt_llm_layouts"

ROW = {
    "query_id": 739,
    "iter": 0,
    "prompt": "a toilet to the left of a dog",
    "object_list": [["toilet", [0.0, 0.25, 0.5, 0.75]], ["dog", [0.5, 0.5, 1.0, 0.875]]],
}


def write(path, rows):
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def test_a_plan_is_read_as_it_stands(tmp_path):
    other = ROW | {"iter": 1, "object_list": [[None, [0, 0, 0, 0]], ["dog", [0.5, 0.5, 0.25, 1.5]]]}
    first, second = replay(write(tmp_path / "plans.json", [ROW, other]))
    things = (("toilet", (0.0, 0.25, 0.5, 0.75)), ("dog", (0.5, 0.5, 1.0, 0.875)))
    assert first == PublishedPlan(739, 0, ROW["prompt"], things)
    assert second.iteration == 1 and second.names == (None, "dog")
    assert second.things == ((None, (0.0, 0.0, 0.0, 0.0)), ("dog", (0.5, 0.5, 0.25, 1.5)))


def test_what_can_be_drawn_of_a_plan():
    things = [
        ("dog", (-0.5, 0.0, 0.5, 0.5)),  # cut
        (None, (0.0, 0.0, 1.0, 1.0)),
        (" ", (0.0, 0.0, 1.0, 1.0)),
        ("cat", (0.5, 0.0, 0.25, 1.0)),  # inverted
        ("cat", (0.0, 0.0, 0.001, 0.001)),  # too small
        ("cow", (0.5, 0.5, 1.0, 1.25)),
    ]
    layout = PublishedPlan(7, 2, "a dog and a cow", tuple(things)).layout()
    assert [(r.phrase, r.box.xyxy) for r in layout.regions] == [
        ("dog", (0, 0, 0.5, 0.5)),
        ("cow", (0.5, 0.5, 1, 1)),
    ]
    assert layout.id == "plan-000007-2" and layout.prompt == "a dog and a cow"
    many = tuple(("dog", (0.0, 0.0, 0.5, 0.5)) for _ in range(40))
    assert len(PublishedPlan(7, 0, "dogs", many).layout().regions) == 30


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"query_id": "739"}, "query_id: input should be a valid integer"),
        ({"iter": True}, "iter: input should be a valid integer"),
        ({"iter": -1}, "iter: input should be greater than or equal to 0"),
        ({"prompt": " "}, "prompt: is empty"),
        ({"prompt": 3}, "prompt: input should be a valid string"),
        ({"object_list": "dog"}, "object_list: input should be a valid list"),
        ({"object_list": [["dog"]]}, r"object_list\[0\]\[1\]: is missing"),
        ({"object_list": [["dog", [0, 0, 1, 1], 2]]}, r"object_list\[0\]: tuple should have at most 2 items"),
        ({"object_list": [[3, [0, 0, 1, 1]]]}, r"object_list\[0\]\[0\]: input should be a valid string"),
        ({"object_list": [["dog", [0, 0, 1]]]}, r"object_list\[0\]\[1\]\[3\]: is missing"),
        ({"object_list": [["dog", [0, 0, 1, True]]]}, r"object_list\[0\]\[1\]\[3\]: input should be a valid"),
        ({"object_list": [["dog", [0, 0, 1, float("nan")]]]}, r"object_list\[0\]\[1\]\[3\]: .* finite"),
        ({"object_list": [["dog", None]]}, r"object_list\[0\]\[1\]: input should be a valid tuple"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, problem):
    path = write(tmp_path / "plans.json", [ROW | {"iter": 5}, ROW | change])
    with pytest.raises(ValueError, match=rf"plans\.json, row 2: {problem}") as caught:
        replay(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["query_id", "iter", "prompt", "object_list"])
def test_a_missing_key_is_named(tmp_path, key):
    row = {name: value for name, value in ROW.items() if name != key}
    with pytest.raises(ValueError, match=f"row 1: {key}: is missing"):
        replay(write(tmp_path / "plans.json", [row]))


def test_two_plans_for_one_place(tmp_path):
    with pytest.raises(ValueError, match="row 2: query_id 739, iter 0 is there twice"):
        replay(write(tmp_path / "plans.json", [ROW, ROW]))


def test_broken_files(tmp_path):
    for text, problem in (
        ('[{"iter": 0,\n', "line 2"),
        ("{}", "list of objects"),
        ("[1]", "list of objects"),
    ):
        with pytest.raises(ValueError, match=problem) as caught:
            replay(write(tmp_path / "plans.json", text))
        assert "plans.json" in str(caught.value) and "LayoutGPT" in str(caught.value)
    with pytest.raises(ValueError, match=r"none\.json: cannot read it"):
        replay(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'[{"prompt": "caf\xe9"}]')
    with pytest.raises(ValueError, match=r"latin\.json: not UTF-8 \(line 1"):
        replay(tmp_path / "latin.json")


@needs("nsr_1k/layoutgpt_llm_layouts")
@pytest.mark.parametrize(
    ("file", "plans", "undrawn"),
    [
        ("counting/gpt4.counting.k-similar.k_8.px_64.json", 3810, 0),
        ("counting/llama-13b.counting.k-similar.k_8.px_256.json", 3810, 13),
        ("spatial/gpt4.spatial.k-similar.k_8.px_64.json", 1415, 0),
        ("spatial/llama-13b.spatial.k-similar.k_8.px_256.json", 1415, 0),
    ],
)
def test_published_plans(file, plans, undrawn):
    found = replay(PLANS / file)
    assert len(found) == plans and len({plan.query for plan in found}) * 5 == plans
    assert sum(len(plan.things) - len(plan.layout().regions) for plan in found) == undrawn
