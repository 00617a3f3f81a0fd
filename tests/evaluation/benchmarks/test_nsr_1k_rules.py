"""NSR-1K: LayoutGPT's published layouts give its published numbers, and every rule by hand."""

from collections import defaultdict
from functools import cache

import pytest
from shared_data import SHARED, needs

from trueline.evaluation.benchmarks.nsr_1k import (
    NSR1K,
    category_of,
    counting_image,
    counting_layout,
    relation_of,
    spatial_image,
    spatial_layout,
)
from trueline.evaluation.metrics.observations import aggregate, total
from trueline.perception import Detection
from trueline.planner.replay import replay

DATA = SHARED
PLANS = DATA / "nsr_1k/layoutgpt_llm_layouts"
needs_plans = needs("nsr_1k/layoutgpt_llm_layouts")
GPT4, LLAMA = "gpt4.{}.k-similar.k_8.px_64.json", "llama-13b.{}.k-similar.k_8.px_256.json"
LEFT, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.7, 0.4, 0.9, 0.6)


@cache
def truths():
    with pytest.warns(UserWarning, match="38 boxes"):
        return {example.truth["query"]: example.truth for example in NSR1K(DATA).examples}


# -------------------------------------------------------------------------------------------------- golden test


def counting_rows(file):
    rows = defaultdict(list)
    for plan in replay(PLANS / "counting" / file.format("counting")):
        truth = truths()[plan.query]
        rows[truth["sub_type"]].append(counting_layout(plan.names, truth["counts"], truth["sub_type"]))
    return rows


@needs_plans
@pytest.mark.parametrize(
    ("file", "precision", "recall", "accuracy", "mae"),
    [(GPT4, 81.02, 85.63, 78.11, 0.276), (LLAMA, 78.92, 83.41, 68.06, 0.358)],
)
def test_golden_counting(file, precision, recall, accuracy, mae):
    rows = [row for group in counting_rows(file).values() for row in group]
    assert len(rows) == 3810
    values = aggregate(rows)
    assert round(100 * values["counting_precision"], 2) == precision
    assert round(100 * values["counting_recall"], 2) == recall
    assert round(100 * values["counting_accuracy"], 2) == accuracy
    assert round(values["counting_mae"], 3) == mae
    assert total(rows)["counting_precision"][1] == 3810 - 5 * 100, "comparison prompts have an accuracy only"


@needs_plans
def test_golden_counting_by_sub_type():
    values = {kind: aggregate(rows)["counting_accuracy"] for kind, rows in counting_rows(GPT4).items()}
    assert {kind: round(100 * value, 2) for kind, value in values.items()} == {
        "single-category": 85.96,
        "two-categories": 66.90,
        "comparison": 78.80,
        "real": 81.65,
    }


@needs_plans
@pytest.mark.parametrize(("file", "accuracy", "unmatched"), [(GPT4, 91.59, 36), (LLAMA, 45.02, 70)])
def test_golden_spatial(file, accuracy, unmatched):
    plans = replay(PLANS / "spatial" / file.format("spatial"))
    rows = []
    for plan in plans:
        truth = truths()[plan.query]
        rows.append(spatial_layout(plan.things, truth["first"], truth["second"], truth["relation"]))
    assert total(rows)["spatial_unmatched"] == (unmatched, 1415)
    assert round(100 * aggregate(rows)["spatial_accuracy"], 2) == accuracy


# ------------------------------------------------------------------------------------------------------ layouts


def test_counts_of_a_layout():
    names = ["dog", "dog", "dog", "cat", None]
    assert counting_layout(names, [("dog", 2), ("cat", 2)], "two-categories") == {
        "counting_precision": (3 / 4, 1),
        "counting_recall": (3 / 4, 1),
        "counting_mae": (1.0, 1),
        "counting_accuracy": (0, 1),
    }


def test_strange_names_cost_precision_only():
    row = counting_layout(["dog", "tree"], [("dog", 1)], "real")
    assert row["counting_precision"] == (0.5, 1) and row["counting_recall"] == (1, 1)
    assert row["counting_accuracy"] == (1, 1) and row["counting_mae"] == (0, 1)


def test_nothing_right_is_zero():
    assert counting_layout([], [("dog", 2)], "real") == {
        "counting_precision": (0, 1),
        "counting_recall": (0, 1),
        "counting_mae": (2, 1),
        "counting_accuracy": (0, 1),
    }


@pytest.mark.parametrize(
    ("truth", "found", "right"),
    [
        ((3, 1), (3, 2), 1),
        ((3, 1), (3, 3), 0),
        ((3, 1), (2, 1), 0),
        ((1, 3), (1, 2), 1),
        ((2, 2), (2, 2), 1),
        ((2, 2), (2, 1), 0),
    ],
)
def test_comparison(truth, found, right):
    names = ["dog"] * found[0] + ["cat"] * found[1]
    counts = [("dog", truth[0]), ("cat", truth[1])]
    assert counting_layout(names, counts, "comparison") == {"counting_accuracy": (right, 1)}


@pytest.mark.parametrize(
    ("name", "categories", "official", "fixed"),
    [
        ("dogs", ["dog"], "dog", "dog"),
        ("a dog", ["dog"], "dog", "dog"),
        ("plant", ["potted plant"], "potted plant", "potted plant"),
        ("tree", ["dog"], "tree", "tree"),
        # lstrip("the ") takes the h of hat, and then the a: "t" is in "boat"
        ("theta", ["boat"], "boat", "theta"),
        ("dog", ["dog", "hot dog"], "hot dog", "dog"),
        ("the hot dog", ["dog", "hot dog"], "hot dog", "hot dog"),
        ("the", ["the end"], "the end", "the end"),
    ],
)
def test_names(name, categories, official, fixed):
    assert category_of(name, categories, "official") == official
    assert category_of(name, categories, "fixed") == fixed


@pytest.mark.parametrize(
    ("centre", "relation"),
    [
        ((9, 5), "right"),
        ((1, 5), "left"),
        ((5, 1), "top"),
        ((5, 9), "bottom"),
        ((5, 5), "diagonal"),
        ((9, 6), "right"),
        ((6, 1), "top"),
    ],
)
def test_relation_of(centre, relation):
    x, y = centre
    assert relation_of((x - 1, y - 1, x + 1, y + 1), (4, 4, 6, 6)) == relation


def test_same_centre_of_other_boxes_is_no_relation():
    assert relation_of((0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)) == "diagonal"


def test_spatial_layout_names_and_pairs():
    things = [("dogs", RIGHT), ("dogs", LEFT), ("cat", (0.3, 0.4, 0.5, 0.6))]
    right, wrong = {"spatial_accuracy": (1, 1)}, {"spatial_accuracy": (0, 1)}
    matched, unmatched = {"spatial_unmatched": (0, 1)}, {"spatial_unmatched": (1, 1)}
    assert spatial_layout(things, "dog", "cat", "left") == right | matched, "any pair"
    assert spatial_layout(things, "dog", "cat", "right") == right | matched
    assert spatial_layout(things, "dog", "cat", "next to") == right | matched
    assert spatial_layout(things, "dog", "cat", "top") == wrong | matched
    assert spatial_layout(things, "dog", "horse", "left") == wrong | unmatched
    assert spatial_layout([("dog", LEFT), ("cat", (0.0,) * 4)], "dog", "cat", "left") == wrong | unmatched
    assert spatial_layout([(None, LEFT), ("cat", RIGHT)], "dog", "cat", "left") == wrong | unmatched


def test_next_to_is_not_above():
    things = [("dog", (0.4, 0.0, 0.6, 0.2)), ("cat", (0.4, 0.5, 0.6, 0.7))]
    assert spatial_layout(things, "dog", "cat", "next to")["spatial_accuracy"] == (0, 1)


# ----------------------------------------------------------------------------------------------------- pictures


def seen(**counts):
    return [Detection(label, (0, 0, 0.1 + i / 20, 0.1), 0.9) for label, n in counts.items() for i in range(n)]


def test_objects_or_pictures():
    truth = [("dog", 2), ("cat", 1)]
    assert counting_image(seen(dog=2, cat=2), truth, "two-categories") == {"counting_accuracy": (1, 2)}
    assert counting_image(seen(dog=2, cat=2), truth, "two-categories", "fixed") == {
        "counting_accuracy": (0, 1)
    }
    assert counting_image(seen(dog=2, cat=1), truth, "two-categories", "fixed") == {
        "counting_accuracy": (1, 1)
    }


def test_a_comparison_counts_one_of_two():
    truth = [("dog", 3), ("cat", 1)]
    assert counting_image(seen(dog=3, cat=2), truth, "comparison") == {"counting_accuracy": (1, 2)}
    assert counting_image(seen(dog=3, cat=2), truth, "comparison", "fixed") == {"comparison_accuracy": (1, 1)}
    assert counting_image(seen(dog=3, cat=3), truth, "comparison") == {"counting_accuracy": (0, 2)}


def test_glip_threshold_is_exclusive():
    at = [Detection("dog", LEFT, 0.7)]
    assert counting_image(at, [("dog", 1)], "real") == {"counting_accuracy": (0, 1)}
    assert counting_image(at, [("dog", 1)], "real", threshold=0.5) == {"counting_accuracy": (1, 1)}


@needs_plans
def test_the_ceiling_of_glip_counting():
    """Pictures that show just what is asked: 91.6 % by the official rule, 100 % by the fixed one."""
    rows, fixed = [], []
    for truth in truths().values():
        if "counts" in truth:
            things = seen(**{name: n for name, n in truth["counts"]})
            rows.append(counting_image(things, truth["counts"], truth["sub_type"]))
            fixed.append(counting_image(things, truth["counts"], truth["sub_type"], "fixed"))
    assert total(rows)["counting_accuracy"][1] == 1196
    assert round(aggregate(rows)["counting_accuracy"], 3) == 0.916
    assert aggregate(fixed) == {"counting_accuracy": 1.0, "comparison_accuracy": 1.0}


def test_spatial_image():
    things = [Detection("dog", LEFT, 0.9), Detection("cat", RIGHT, 0.8), Detection("dog", RIGHT, 0.2)]
    assert spatial_image(things, "dog", "cat", "left") == {"spatial_accuracy": (1, 1)}
    assert spatial_image(things, "dog", "cat", "next to") == {"spatial_accuracy": (1, 1)}
    assert spatial_image(things, "cat", "dog", "left") == {"spatial_accuracy": (0, 1)}
    assert spatial_image(things, "dog", "cow", "left") == {"spatial_accuracy": (0, 1)}
    assert spatial_image(things, "dog", "cat", "left", threshold=0.85) == {"spatial_accuracy": (0, 1)}
