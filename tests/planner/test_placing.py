"""Boxes of the rules planner: relations hold in them, nothing overlaps that should not, sizes are those measured."""

import json
import math
from itertools import chain, combinations, product
from statistics import median

import numpy as np
import pytest

from trueline.boxes import intersection, iou
from trueline.planner.links import Link, ThingGroup, holds
from trueline.planner.placing import place
from trueline.planner.sizes import DEFAULT, MEASURED, RIDDEN, extent, size_of


def group(name: str, amount: int = 1, **more) -> ThingGroup:
    return ThingGroup(name, amount, *extent(name), **more)


def overlap(boxes: list) -> float:
    return max((intersection(a, b) for a, b in combinations(boxes, 2)), default=0.0)


THINGS = ("cat", "train", "giraffe", "mouse", "bed")
KINDS = ("left", "right", "above", "below", "beside", "on")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5])
def test_every_relation_holds_for_every_pair_of_sizes(kind, aspect):
    for one, two in product(THINGS, THINGS):
        groups = [group(one), group(two, 1 if kind == "on" else 2)]
        boxes, broken = place(groups, [Link(kind, 0, 1)], aspect)
        assert not broken and holds(kind, *boxes), (one, two)
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in list(chain(*boxes)))
        if kind != "on":
            assert overlap(list(chain(*boxes))) < 1e-9
        else:
            assert max(iou(a, b) for a, b in product(*boxes)) < 0.1


def test_holds_is_not_true_of_anything():
    left, right = [(0.0, 0.4, 0.2, 0.6)], [(0.7, 0.4, 0.9, 0.6)]
    assert holds("left", left, right) and holds("right", right, left)
    assert not holds("left", right, left) and not holds("above", left, right)
    assert not holds("beside", [(0.0, 0.0, 0.2, 0.2)], [(0.7, 0.6, 0.9, 0.8)]), "diagonal"


def test_things_without_relations_do_not_overlap():
    for amounts in ((1, 1), (5, 3, 1), (10, 10, 10), (30,), (1,) * 12):
        groups = [group(THINGS[i % 5], amount) for i, amount in enumerate(amounts)]
        boxes, _ = place(groups, [])
        assert [len(each) for each in boxes] == list(amounts)
        assert overlap(list(chain(*boxes))) < 1e-9


def test_proportions_stay():
    (cat, train), _ = place([group("cat"), group("train")], [], aspect=2.0)
    (a,), (b,) = cat, train
    width, height = extent("cat")
    assert math.isclose(2.0 * (a[2] - a[0]) / (a[3] - a[1]), width / height, rel_tol=1e-6)
    larger = ((b[2] - b[0]) * (b[3] - b[1]) / ((a[2] - a[0]) * (a[3] - a[1]))) ** 0.5
    assert math.isclose(larger, size_of("train")[0] / size_of("cat")[0], rel_tol=1e-6)


def test_between():
    boxes, _ = place([group("dog"), group("cat", 2)], [Link("between", 0, 1)])
    (dog,), (first, second) = boxes
    assert first[2] <= dog[0] and dog[2] <= second[0]
    boxes, _ = place(
        [group("dog"), group("cat"), group("bird")], [Link("between", 0, 1), Link("between", 0, 2)]
    )
    (dog,), (cat,), (bird,) = boxes
    assert cat[2] <= dog[0] and dog[2] <= bird[0]


def test_in_hold_wear_front_behind_overlap():
    for kind in ("in", "hold", "wear", "front", "behind", "ride"):
        ends = (1, 0) if kind in ("hold", "wear") else (0, 1)
        names = ("hat", "man") if kind == "wear" else ("cat", "box")
        boxes, broken = place([group(names[0]), group(names[1])], [Link(kind, *ends)])
        assert not broken and intersection(boxes[0][0], boxes[1][0]) > 0, kind
    (cat,), (box,) = place([group("cat"), group("box")], [Link("in", 0, 1)])[0]
    assert box[0] <= cat[0] and cat[2] <= box[2] and box[1] <= cat[1] and cat[3] <= box[3]


@pytest.mark.parametrize("base", ["table", "chair", "car", "plate"])
@pytest.mark.parametrize("amounts", [(2, 1), (1, 2, 1), (5, 3, 4), (12,)])
@pytest.mark.parametrize("seed", [None, 3])
def test_what_stands_on_a_base_lies_within_its_width(base, amounts, seed):
    things = [group(name, n) for name, n in zip(("vase", "cup", "plate"), amounts, strict=False)]
    links = [Link("on", i, len(things)) for i in range(len(things))]
    *upon, ((x0, y0, x1, _),) = place([*things, group(base)], links, seed=seed)[0]
    for box in chain(*upon):
        assert x0 - 1e-9 <= box[0] and box[2] <= x1 + 1e-9 and box[1] < y0
    assert overlap(list(chain(*upon))) < 1e-9
    assert min(box[2] - box[0] for box in chain(*upon)) > 0.02


def test_a_base_grows_as_its_things_shrink():
    table = group("table")
    (_, ((x0, y0, x1, y1),)), broken = place([group("cup", 5), table], [Link("on", 0, 1)])
    assert not broken
    assert 1.2 < (x1 - x0) / (y1 - y0) / (table.width / table.height) <= 1.6 + 1e-9
    usual = place([group("cup"), table], [Link("on", 0, 1)])[0][1][0]
    assert math.isclose((usual[2] - usual[0]) / (usual[3] - usual[1]), table.width / table.height), "one fits"
    (cats, (box,)), _ = place([group("cat", 6), group("box")], [Link("in", 0, 1)])
    assert all(box[0] < cat[0] and cat[2] < box[2] and box[1] < cat[1] and cat[3] < box[3] for cat in cats)


def test_a_thing_at_the_end_of_a_table_is_on_it():
    table = [(0.1, 0.6, 0.9, 0.9)]
    assert holds("on", [(0.1, 0.5, 0.2, 0.63)], table)
    assert not holds("on", [(0.0, 0.5, 0.1, 0.63)], table), "beside"
    assert not holds("on", [(0.1, 0.45, 0.2, 0.55)], table), "in the air"
    assert not holds("on", [(0.1, 0.8, 0.2, 0.95)], table), "before it"
    assert not holds("above", [(0.1, 0.5, 0.2, 0.63)], table)


@pytest.mark.parametrize("mount", RIDDEN)
def test_riders_are_in_proportion(mount):
    (((rx0, ry0, rx1, ry1),), ((x0, y0, x1, y1),)), broken = place(
        [group("man"), group(mount)], [Link("ride", 0, 1)]
    )
    across, down, rider, below = RIDDEN[mount]
    assert not broken and x1 - x0 > y1 - y0 and x0 <= rx0 and rx1 <= x1
    assert math.isclose((x1 - x0) / (y1 - y0), across / down, rel_tol=1e-6)
    shrunk = (ry1 - ry0) / (y1 - y0) / (rider / down)
    assert 0.5 < shrunk <= 1 + 1e-6
    assert ry0 < y0 < ry1 < y1 and math.isclose(ry1 - y0, below / down * (y1 - y0), rel_tol=1e-6)


def test_a_mount_without_a_rider_keeps_its_shape_and_a_child_is_smaller():
    ((x0, y0, x1, y1),) = place([group("horse")], [])[0][0]
    assert math.isclose((x1 - x0) / (y1 - y0), MEASURED["horse"][1], rel_tol=1e-6)
    tall = {}
    for rider in ("man", "child"):
        (person,), (horse,) = place([group(rider), group("horse")], [Link("ride", 0, 1)])[0]
        tall[rider] = (person[3] - person[1]) / (horse[3] - horse[1])
    assert tall["child"] < 0.9 * tall["man"] < 0.6


def test_each_rider_has_a_mount():
    men, horses = place([group("man", 3), group("horse", 3)], [Link("ride", 0, 1, each=True)])[0]
    assert all(holds("ride", [man], [horse]) for man, horse in zip(men, horses, strict=True))
    assert overlap(horses) < 1e-9 and overlap(men) < 1e-9


def test_each_has_one_of_its_own():
    men, hats = place([group("man", 3), group("hat", 3)], [Link("wear", 0, 1, each=True)])[0]
    for man, hat in zip(men, hats, strict=True):
        assert man[0] < hat[0] and hat[2] < man[2]


def test_a_contradiction_is_reported():
    _, broken = place([group("cat"), group("dog")], [Link("left", 0, 1), Link("left", 1, 0)])
    assert len(broken) == 1
    _, broken = place([group("cat"), group("dog")], [Link("on", 0, 1), Link("on", 1, 0)])
    assert len(broken) == 1


def test_chains_and_crosses_hold():
    four = [group(name) for name in ("cat", "dog", "bird", "chair")]
    links = [Link("left", 0, 1), Link("above", 1, 2), Link("right", 3, 1)]
    assert place(four, links)[1] == []
    assert place(four, [Link("left", 0, i) for i in (1, 2, 3)])[1] == []


def test_places_of_the_picture():
    boxes, _ = place(
        [group("cup", place=(-1, None)), group("bowl", place=(1, None)), group("kite", place=(None, -1))], []
    )
    (cup,), (bowl,), (kite,) = boxes
    assert cup[2] < bowl[0] and kite[3] <= min(cup[1], bowl[1]) + 1e-9
    ((mouse,),) = place([group("mouse", place=(1, 1))], [])[0]
    assert mouse[0] > 0.5 and mouse[1] > 0.5


def test_a_seed_varies_and_keeps_the_relation():
    groups, links = [group("cat"), group("dog", 2), group("cup")], [Link("left", 0, 1), Link("above", 2, 0)]
    usual, _ = place(groups, links)
    assert place(groups, links)[0] == usual
    seen = []
    for seed in range(20):
        boxes, broken = place(groups, links, seed=seed)
        assert boxes == place(groups, links, seed=seed)[0]
        assert broken == [] and overlap(list(chain(*boxes))) < 1e-9
        seen.append(boxes)
    assert len({json.dumps(boxes) for boxes in (*seen, usual)}) > 15


def test_sizes_of_what_is_not_in_the_table():
    assert size_of("old red bicycle") == MEASURED["bicycle"], "by its last word"
    assert size_of("sofa") == MEASURED["couch"]
    assert size_of("firefighter") == size_of("person")
    assert size_of("gizmo") == DEFAULT
    width, height = extent("train")
    assert math.isclose(width * height, MEASURED["train"][0] ** 2) and math.isclose(
        width / height, MEASURED["train"][1]
    )


def test_the_measured_sizes_are_those_of_the_training_boxes(nsr_1k):
    rows = json.loads((nsr_1k / "spatial/spatial.train.json").read_text())
    pairs = [[(name, (w * h) ** 0.5, w / h) for name, (_, _, w, h) in (r["obj1"], r["obj2"])] for r in rows]
    names = sorted({name for pair in pairs for name, _, _ in pair})
    seen = {name: [ratio for pair in pairs for other, _, ratio in pair if other == name] for name in names}
    mean = np.mean([math.log(side) for pair in pairs for _, side, _ in pair])
    lines = [np.eye(len(names))]
    aims = [np.full(len(names), mean)]
    for (one, a, _), (two, b, _) in pairs:
        line = np.zeros((1, len(names)))
        line[0, names.index(one)] += 1
        line[0, names.index(two)] -= 1
        lines.append(line)
        aims.append(np.array([math.log(a / b)]))
    sides = np.exp(np.linalg.lstsq(np.concatenate(lines), np.concatenate(aims), rcond=None)[0])
    assert set(MEASURED) == {name for name in names if len(seen[name]) >= 4}
    for name, (side, ratio) in MEASURED.items():
        assert abs(side - sides[names.index(name)]) < 0.0051, name
        assert abs(ratio - median(seen[name])) < 0.0051, name
