"""HRS-Bench's rules by hand, in both modes."""

import csv

import pytest
from shared_data import SHARED, needs

from trueline.evaluation.benchmarks.hrs import colour, counting, hue_colour, level, overall, size, spatial
from trueline.evaluation.metrics.observations import aggregate
from trueline.perception import Detection

DATA = SHARED / "hrs_bench"
needs_data = needs("hrs_bench")


def at(label, x, y, side=0.1, score=0.9):
    return Detection(label, (x, y, x + side, y + side), score)


def row_of(label, n):
    return [at(label, i / 10, 0) for i in range(n)]


def names_of(row):
    return [row[f"obj{i}"] for i in range(1, 5) if row[f"obj{i}"]]


def relations_of(row):
    return [row[f"rel{i}"] for i in (1, 2) if row[f"rel{i}"]]


def rows(name):
    with open(DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------ counting


def test_counting_adds_up():
    first = counting(row_of("cup", 3) + row_of("cat", 1), [("cup", 2), ("cat", 2)])
    assert first == {"counting_precision": (3, 4), "counting_recall": (3, 4), "counting_f1": (6, 8)}
    second = counting([], [("cup", 4)])
    assert second == {"counting_precision": (0, 0), "counting_recall": (0, 4), "counting_f1": (0, 4)}
    values = aggregate([first, second])
    assert values == {"counting_precision": 3 / 4, "counting_recall": 3 / 8, "counting_f1": 6 / 12}
    p, r = values["counting_precision"], values["counting_recall"]
    assert values["counting_f1"] == pytest.approx(2 * p * r / (p + r))


def test_other_classes_do_not_count_and_labels_may_be_capital():
    assert counting(row_of("Cup", 2) + row_of("cow", 5), [("cup", 2)])["counting_f1"] == (4, 4)


def test_one_box_counts_once():
    assert counting(row_of("cup", 2) * 2, [("cup", 2)])["counting_precision"] == (2, 2)


@pytest.mark.parametrize(("mode", "missed"), [("official", 1), ("fixed", 3)])
def test_one_name_twice(mode, missed):
    found = counting(row_of("cup", 2), [("cup", 2), ("cup", 3)], mode)
    assert found["counting_recall"] == (2, 2 + missed)


# ------------------------------------------------------------------------------------------------------- spatial


@pytest.mark.parametrize(
    ("place", "relation", "right"),
    [
        ((0.1, 0.5), "on the left of", 1),
        ((0.9, 0.5), "on the left of", 0),
        ((0.9, 0.5), "on the right of", 1),
        ((0.5, 0.1), "above", 1),
        ((0.5, 0.1), "on", 1),
        ((0.5, 0.1), "under", 0),
        ((0.5, 0.9), "beneath", 1),
        ((0.5, 0.5), "above", 0),
    ],
)
@pytest.mark.parametrize("mode", ["official", "fixed"])
def test_two_objects(place, relation, right, mode):
    seen = [at("cat", *place), at("dog", 0.5, 0.5)]
    assert spatial(seen, ["cat", "dog"], [relation], mode) == {"spatial_accuracy": (right, 1)}


def test_a_missing_object_is_wrong():
    assert spatial([at("cat", 0.1, 0.5)], ["cat", "dog"], ["on the left of"]) == {"spatial_accuracy": (0, 1)}


def test_edges_or_centres():
    wide, small = Detection("cat", (0, 0, 1, 0.1)), Detection("dog", (0.2, 0, 0.3, 0.1))
    for word in ("on the left of", "on the right of"):
        assert spatial([wide, small], ["cat", "dog"], [word]) == {"spatial_accuracy": (1, 1)}
    fixed = [
        spatial([wide, small], ["cat", "dog"], [word], "fixed")["spatial_accuracy"][0]
        for word in ("left", "right")
    ]
    assert fixed == [0, 1]


@pytest.mark.parametrize(("mode", "right"), [("official", 0), ("fixed", 1)])
def test_last_or_surest_detection(mode, right):
    seen = [at("cat", 0.1, 0.5), at("cat", 0.9, 0.5, score=0.5), at("dog", 0.5, 0.5)]
    assert spatial(seen, ["cat", "dog"], ["on the left of"], mode) == {"spatial_accuracy": (right, 1)}


def test_three_objects_and_between():
    seen = [at("cat", 0.5, 0.5), at("dog", 0.1, 0.5), at("cow", 0.9, 0.5)]
    names = ["cat", "dog", "cow"]
    for mode in ("official", "fixed"):
        assert spatial(seen, names, ["on the right of", "on the left of"], mode)["spatial_accuracy"] == (1, 1)
        assert spatial(seen, names, ["on the right of", "above"], mode)["spatial_accuracy"] == (0, 1)
        assert spatial(seen, names, ["between"], mode)["spatial_accuracy"] == (1, 1)
        assert spatial(seen, ["dog", "cat", "cow"], ["among"], mode)["spatial_accuracy"] == (0, 1)


def test_four_objects_both_subjects():
    seen = [at("cat", 0.5, 0.1), at("dog", 0.5, 0.2), at("cow", 0.5, 0.6), at("cup", 0.1, 0.6)]
    names = ["cat", "dog", "cow", "cup"]
    assert spatial(seen, names, ["above", "on the right of"])["spatial_accuracy"] == (1, 1)
    seen[1] = at("dog", 0.5, 0.8)
    assert spatial(seen, names, ["above", "on the right of"])["spatial_accuracy"] == (0, 1)
    middle = [at("cat", 0.4, 0.5), at("dog", 0.5, 0.5), at("cow", 0.1, 0.5), at("cup", 0.9, 0.5)]
    assert spatial(middle, names, ["in the middle of"])["spatial_accuracy"] == (1, 1)


def test_unknown_words_are_errors():
    pair = [at("cat", 0, 0), at("dog", 0.5, 0)]
    with pytest.raises(ValueError, match="'beside'"):
        spatial(pair, ["cat", "dog"], ["beside"])
    with pytest.raises(ValueError, match="two objects to be between"):
        spatial(pair, ["cat", "dog"], ["between"])
    with pytest.raises(ValueError, match="'heavier'"):
        size(pair, ["cat", "dog"], ["heavier"])
    with pytest.raises(ValueError, match="2 to 4 names"):
        spatial(pair, ["cat"], ["above"])


# ---------------------------------------------------------------------------------------------------------- size


def test_size():
    seen = [at("cat", 0, 0, 0.3), at("dog", 0.4, 0, 0.1), at("cow", 0, 0.4, 0.2), at("cup", 0.4, 0.4, 0.6)]
    assert size(seen, ["cat", "dog"], ["bigger"]) == {"size_accuracy": (1, 1)}
    assert size(seen, ["cat", "dog"], ["smaller"]) == {"size_accuracy": (0, 1)}
    assert size(seen, ["cat", "dog", "cup"], ["larger", "smaller"]) == {"size_accuracy": (1, 1)}
    assert size(seen, ["cat", "dog", "cow", "cup"], ["larger", "smaller"]) == {"size_accuracy": (1, 1)}
    assert size(seen, ["cow", "dog", "cat", "cup"], ["larger", "smaller"]) == {"size_accuracy": (0, 1)}
    assert size(seen, ["cat", "pig"], ["bigger"]) == {"size_accuracy": (0, 1)}


# ------------------------------------------------------------------------------------------------ colour, levels


def test_colour_of_any_or_of_the_surest():
    seen = [Detection("cat", (0, 0, 1, 1), 0.9, "blue"), Detection("cat", (0, 0, 1, 1), 0.5, "red")]
    wanted = [("cat", "red"), ("dog", "red")]
    assert colour(seen, wanted) == {"color_accuracy": (1, 2)}
    assert colour(seen, wanted, "fixed") == {"color_accuracy": (0, 2)}


def test_hue_bins():
    bins = [
        (0, "red"),
        (14.9, "red"),
        (15, "orange"),
        (22, "yellow"),
        (39, "green"),
        (78, "blue"),
        (131, "red"),
    ]
    assert [hue_colour(hue) for hue, _ in bins] == [name for _, name in bins]
    for hue in (-1, 180, float("nan")):
        with pytest.raises(ValueError, match="half degrees"):
            hue_colour(hue)


def test_levels_and_their_mean():
    assert [level(i, 6) for i in range(6)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="index"):
        level(6, 6)
    hit, miss = {"spatial_accuracy": (1.0, 1.0)}, {"spatial_accuracy": (0.0, 1.0)}
    levels = [[hit], [miss], [hit, miss]]
    assert overall(levels)["spatial_accuracy"] == 0.5 and overall([[hit, hit], [miss], [miss]])[
        "spatial_accuracy"
    ] == pytest.approx(1 / 3)
    assert overall([[hit, hit], [miss], [miss]], "fixed")["spatial_accuracy"] == 0.5


@needs_data
def test_the_files_are_understood():
    for name, rule in (
        ("spatial_compositions_prompts.csv", spatial),
        ("size_compositions_prompts.csv", size),
    ):
        table = rows(name)
        for index, row in enumerate(table):
            names = names_of(row)
            assert len(names) == 2 + level(index, len(table))
            seen = [at(label, i / 5, i / 5, 0.1 + i / 20) for i, label in enumerate(names)]
            for mode in ("official", "fixed"):
                (observation,) = rule(seen, names, relations_of(row), mode).values()
                assert observation[1] == 1
    same = [row for row in rows("counting_prompts.csv") if row["obj1"] == row["obj2"]]
    assert len(same) == 32
