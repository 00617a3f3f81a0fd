"""T2I-CompBench's rules on boxes made by hand, and its prompts."""

from collections import Counter

import numpy as np
import pytest
from shared_data import SHARED, needs

from trueline.evaluation.benchmarks.t2i_compbench.prompts import complex_kind, parse_numeracy, parse_spatial
from trueline.evaluation.benchmarks.t2i_compbench.rules import (
    nearness,
    numeracy_score,
    pair_3d,
    position_2d,
    position_3d,
    resized,
    spatial_3d_score,
    spatial_raw,
    spatial_score,
    three_in_one,
    without_duplicates,
)
from trueline.perception import Detection

DATA = SHARED / "t2i_compbench"
needs_data = needs("t2i_compbench")
SIZE = (512, 512)
LEFT, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.7, 0.4, 0.9, 0.6)
TOP, BOTTOM = (0.4, 0.0, 0.6, 0.2), (0.4, 0.7, 0.6, 0.9)


def lines(name):
    return [line.strip() for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line.strip()]


# ------------------------------------------------------------------------------------------------- 2D-spatial


def test_resized_as_the_official_transform():
    assert resized((512, 512)) == (479, 479)
    assert resized((1024, 512)) == (480, 240), "the long side is at most 480"


@pytest.mark.parametrize(
    ("first", "second", "relation", "value"),
    [
        (LEFT, RIGHT, "on the left of", 1),
        (RIGHT, LEFT, "on the left of", 0),
        (RIGHT, LEFT, "on the right of", 1),
        (TOP, BOTTOM, "on the top of", 1),
        (BOTTOM, TOP, "on the top of", 0),
        (BOTTOM, TOP, "on the bottom of", 1),
        (TOP, BOTTOM, "on the left of", 0),
        (LEFT, RIGHT, "behind", 0),
        (LEFT, LEFT, "on the left of", 0),
        ((0, 0, 10, 10), (30, 30, 40, 40), "on the left of", 0),  # the diagonal belongs to neither axis
        ((0, 0, 10, 10), (31, 30, 41, 40), "on the left of", 1),
    ],
)
def test_position(first, second, relation, value):
    assert position_2d(first, second, relation, "official") == value


def test_overlap_from_a_tenth_on_costs():
    # 8 x 10 shared of 100 + 100 - 80
    assert position_2d((0, 0, 10, 10), (2, 0, 12, 10), "on the left of", "official") == pytest.approx(
        0.1 / (80 / 120)
    )


@pytest.mark.parametrize("relation", ["next to", "near", "on side of"])
def test_next_to_needs_one_near_axis(relation):
    def at(x, y):
        return position_2d((0, 0, 0, 0), (x, y, x, y), relation, "official")

    assert at(149, 400) == at(400, 149) == 1
    assert at(150, 300) == 0.5 and at(200, 160) == 0.75


def test_next_to_is_measured_in_the_resized_picture():
    boxes = [Detection("cat", (0, 0, 0.1, 0.1)), Detection("dog", (0.5, 0.5, 0.6, 0.6))]
    assert spatial_raw(boxes, "cat", "dog", "next to", (64, 64)) == pytest.approx(
        0.5 + 0.5 * 150 / (0.5 * 479)
    )


def test_score_weighs_confidence_and_relation():
    boxes = [Detection("cat", LEFT, 0.8), Detection("dog", RIGHT, 0.6)]
    assert spatial_raw(boxes, "cat", "dog", "on the left of", SIZE) == pytest.approx(0.2 + 0.15 + 0.5)
    assert spatial_score(boxes, "cat", "dog", "on the left of", SIZE) == pytest.approx(0.85)
    assert spatial_raw(boxes, "dog", "cat", "on the left of", SIZE) == pytest.approx(0.35)
    assert spatial_score(boxes, "dog", "cat", "on the left of", SIZE) == 0, "below .5 is nothing"


def test_one_object_alone_never_counts():
    assert spatial_raw([Detection("cat", LEFT)], "cat", "dog", "next to", SIZE) == 0.25
    assert spatial_score([Detection("cat", LEFT)], "cat", "dog", "next to", SIZE) == 0
    assert spatial_raw([], "cat", "dog", "next to", SIZE) == 0


def test_exactly_half_passes():
    sure = [Detection("cat", LEFT), Detection("dog", RIGHT)]
    assert spatial_score(sure, "dog", "cat", "on the left of", SIZE) == 0.5


@pytest.mark.parametrize(("mode", "value"), [("official", 0.5), ("fixed", 1.0)])
def test_on_top_of(mode, value):
    sure = [Detection("cat", TOP), Detection("dog", BOTTOM)]
    assert spatial_score(sure, "cat", "dog", "on top of", SIZE, mode) == value
    assert spatial_score(sure, "cat", "dog", "on the top of", SIZE, mode) == 1.0


def test_the_surest_of_a_label_counts_and_people_are_persons():
    boxes = [Detection("person", RIGHT, 0.6), Detection("person", LEFT, 0.9), Detection("pig", RIGHT, 1.0)]
    assert spatial_score(boxes, "girl", "pig", "on the left of", SIZE) == pytest.approx(0.225 + 0.25 + 0.5)
    asked_as_written = [Detection("girl", LEFT), Detection("pig", RIGHT)]
    assert spatial_score(asked_as_written, "girl", "pig", "on the left of", SIZE, "fixed") == 1
    assert spatial_raw(asked_as_written, "girl", "pig", "on the left of", SIZE) == 0.25, (
        "officially no person"
    )


def test_a_thing_stands_in_no_direction_of_itself():
    box = (0.11506428541024612, 0.6022678617710301, 0.9486943475686217, 0.7265788989794165)
    for relation in ("on the left of", "on the right of", "on the top of", "on the bottom of"):
        assert spatial_raw([Detection("girl", box)], "girl", "girl", relation, SIZE, "fixed") == 0.5


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode"):
        spatial_score([], "cat", "dog", "next to", SIZE, "Official")


# --------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("prompt", "parsed"),
    [
        ("a girl on the top of a frog", ("girl", "on the top of", "frog")),
        ("A chair hidden by a mouse", ("chair", "hidden by", "mouse")),
        ("The red hat was on top of the brown coat rack.", ("hat", "on top of", "coat rack")),
        ("The striped black and white cat lay next to the soft grey blanket.", ("cat", "next to", "blanket")),
        ("The juicy red tomato lay next to the ripe orange pepper.", ("tomato", "next to", "pepper")),
        ("The orange sat near the square and the oval.", ("orange", "near", "square")),
        ("The colorful hot air balloon floated near the clouds.", ("hot air balloon", "near", "clouds")),
    ],
)
def test_parse_spatial(prompt, parsed):
    assert parse_spatial(prompt) == parsed


@pytest.mark.parametrize("prompt", ["", "a nearby cat", "a cat", "next to a dog", "a cat near the", "near"])
def test_no_relation_is_none(prompt):
    assert parse_spatial(prompt) is None


def test_parse_numeracy():
    assert parse_numeracy("three knives, two sheep, a cake and women") == [
        ("knife", 3),
        ("sheep", 2),
        ("cake", 1),
    ]
    assert parse_numeracy("two dogs sang a lively tune by the station") == [("dog", 2)]


@needs_data
def test_every_spatial_prompt_is_understood():
    for name in ("spatial_val.txt", "3d_spatial_val.txt"):
        prompts = lines(name)
        parsed = [parse_spatial(prompt) for prompt in prompts]
        assert len(prompts) == 300 and None not in parsed
        for prompt, found in zip(prompts, parsed, strict=True):
            words = prompt.split()
            assert (found.first, found.second) == (words[1], words[-1]), prompt
    relations = Counter(parse_spatial(prompt).relation for prompt in lines("spatial_val.txt"))
    assert relations["on the right of"] == 56 and relations["near"] == 24 and relations["on side of"] == 37


@needs_data
def test_87_of_the_88_complex_prompts_with_a_relation_are_understood():
    prompts = lines("complex_val_spatial.txt") + lines("complex_val_spatialaction.txt")
    parsed = [parse_spatial(prompt) for prompt in prompts]
    assert len(prompts) == 88
    assert [prompt for prompt, found in zip(prompts, parsed, strict=True) if found is None] == [prompts[-1]]
    assert sum(found is not None and found.relation == "on top of" for found in parsed) == 33


@needs_data
def test_numeracy_prompts_give_every_known_object():
    pairs = [line.split(" - ") for line in lines("new_objects.txt")]
    forms = {form.strip(): singular.strip() for singular, plural in pairs for form in (singular, plural)}
    prompts = lines("numeracy_val.txt")
    assert len(prompts) == 300 and all(parse_numeracy(prompt) for prompt in prompts)
    for form, singular in forms.items():
        assert parse_numeracy(f"four {form}") == [(singular, 4)]
    assert Counter(len(parse_numeracy(prompt)) for prompt in prompts) == {1: 91, 2: 89, 3: 48, 4: 37, 5: 35}


@needs_data
def test_three_parts_of_the_complex_prompts():
    parts = lines("complex_val_spatial.txt"), lines("complex_val_action.txt")
    kinds = Counter(complex_kind(prompt, *parts) for prompt in lines("complex_val.txt"))
    assert kinds == {"spatial": 58, "action": 212, "spatialaction": 30}


# --------------------------------------------------------------------------------------------------- numeracy


def row_of(label, n, width=0.1):
    return [Detection(label, (i * 0.12, 0, i * 0.12 + width, 0.1), 0.9 - i / 100) for i in range(n)]


@pytest.mark.parametrize(("found", "value"), [(0, 0.0), (1, 0.5), (2, 0.5), (3, 1.0), (4, 0.5)])
@pytest.mark.parametrize("mode", ["official", "fixed"])
def test_half_for_being_there_half_for_the_count(found, value, mode):
    assert numeracy_score(row_of("dog", found), [("dog", 3)], SIZE, mode) == value


def test_objects_share_the_weight():
    boxes = row_of("dog", 2) + row_of("cat", 1)
    assert numeracy_score(boxes, [("dog", 2), ("cat", 3), ("cow", 1), ("bee", 1)], SIZE) == (1 + 0.5) / 4


def test_duplicates_go():
    outer = Detection("dog", (0.0, 0.0, 0.5, 0.5), 0.9)
    within = Detection("dog", (0.1, 0.1, 0.2, 0.2), 0.8)
    beside = Detection("dog", (0.4, 0.0, 0.9, 0.5), 0.7)
    other = Detection("cat", (0.0, 0.0, 0.5, 0.5), 0.6)
    for mode in ("official", "fixed"):
        assert without_duplicates([within, beside, other, outer], SIZE, mode) == [outer, beside, other]


def test_inclusive_pixels_in_official_mode():
    big = Detection("dog", (0.0, 0.0, 0.5, 0.5), 0.9)
    # 2 x 2 pixels of which 1.78 lie within: 89 %, or (2.78 x 3) / 9 = 93 % with pixels counted inclusively
    small = Detection("dog", tuple(v / 479 for v in (239.5 - 1.78, 100, 239.5 + 0.22, 102)), 0.8)
    assert without_duplicates([big, small], SIZE, "official") == [big]
    assert without_duplicates([big, small], SIZE, "fixed") == [big, small]


@pytest.mark.parametrize(("mode", "value"), [("official", 1.0), ("fixed", 0.0)])
def test_names_within_names(mode, value):
    assert numeracy_score(row_of("carrot", 2), [("car", 2)], SIZE, mode) == value
    both = [*row_of("carrot", 2), Detection("car", (0.5, 0.5, 1, 1))]
    assert numeracy_score(both, [("car", 2)], SIZE, mode) == 0.5, "only where it is not there itself"


@pytest.mark.parametrize(("mode", "value"), [("official", 1.0), ("fixed", 0.0)])
def test_names_of_unidet(mode, value):
    assert numeracy_score(row_of("boat", 2), [("ship", 2)], SIZE, mode) == value
    assert numeracy_score(row_of("ship", 2), [("ship", 2)], SIZE, mode) == 1


def test_numeracy_without_objects():
    with pytest.raises(ValueError, match="objects: is empty"):
        numeracy_score([], [], SIZE)


# -------------------------------------------------------------------------------------------------- 3D-spatial


@pytest.mark.parametrize(
    ("relation", "near", "value"),
    [
        ("in front of", (0.9, 0.1), 1.0),
        ("in front of", (0.1, 0.9), 0.0),
        ("behind", (0.1, 0.9), 1.0),
        ("hidden by", (0.1, 0.9), 1.0),
        ("behind", (0.5, 0.5), 0.0),
        ("next to", (0.9, 0.1), 0.0),
    ],
)
def test_depth_order(relation, near, value):
    box = (0.0, 0.0, 1.0, 1.0)
    assert position_3d(box, (0.0, 0.0, 0.9, 1.0), relation, near) == value


def test_3d_overlap():
    def value(width, mode="official"):
        return position_3d((0, 0, 1, 1), (0, 0, width, 1), "behind", (0, 1), mode)

    assert value(0.25) == 0.5
    assert (value(0.5, "official"), value(0.5, "fixed")) == (0.0, 1.0), "exactly half is forgotten"
    assert position_3d((0, 0, 0.4, 1), (0.5, 0, 1, 1), "behind", (0, 1)) == 0, "no overlap at all"


def test_3d_score_and_its_boxes():
    cats = [Detection("cat", (0, 0, 1, 1), 0.8), Detection("cat", (0, 0, 0.2, 0.2), 0.6)]
    dog = Detection("dog", (0, 0, 0.8, 1), 0.4)
    assert pair_3d([*cats, dog], "cat", "dog", "official") == (cats[1], dog)
    assert pair_3d([dog, *cats], "cat", "dog", "fixed") == (cats[0], dog)
    assert pair_3d(cats, "cat", "dog") == (cats[0], None)
    assert spatial_3d_score([*cats, dog], "cat", "dog", "behind", (0, 1), "fixed") == pytest.approx(
        0.2 + 0.1 + 0.5
    )
    assert spatial_3d_score(cats, "cat", "dog", "behind", (0, 1)) == pytest.approx(0.2), "no cut at .5"


def test_3d_labels_that_contain_a_name():
    """As ``obj1 in obj[i]`` of the script; a girl that is called so is no person there."""
    carrot, car = Detection("carrot", (0, 0, 1, 1), 0.9), Detection("car", (0, 0, 0.5, 1), 0.8)
    hot_dog = Detection("hot dog", (0, 0, 0.8, 1), 0.4)
    assert pair_3d([car, carrot, hot_dog], "car", "dog") == (car, hot_dog), "the last car before the dog"
    assert pair_3d([car, carrot, hot_dog], "car", "dog", "fixed") == (car, None)
    assert pair_3d([carrot], "car", "dog") == (carrot, None)
    girl, person = Detection("girl", (0, 0, 1, 1), 0.9), Detection("person", (0, 0, 0.5, 1), 0.5)
    assert pair_3d([girl, person, hot_dog], "girl", "dog") == (person, hot_dog)
    assert pair_3d([girl, hot_dog], "girl", "dog", "fixed") == (girl, None)


def test_nearness_and_its_exchanged_axes():
    depth = np.zeros((10, 20))
    depth[:5, :10] = 1  # top left
    depth[5:, :10] = 3  # bottom left
    bottom_left = (0.0, 0.5, 0.5, 1.0)
    assert nearness(depth, bottom_left, "fixed") == 3
    assert nearness(depth, bottom_left, "official") == depth[0:10, 5:10].mean() == 2
    assert np.isnan(nearness(depth, (0.5, 0, 1, 1), "official"))
    assert nearness(depth, (0.01, 0.01, 0.02, 0.02), "fixed") == 1, "at least one pixel"


# ------------------------------------------------------------------------------------------------------ 3-in-1


def test_three_in_one():
    assert three_in_one(0.6, 0.9, 0.3, "spatial") == pytest.approx(0.75)
    assert three_in_one(0.6, 0.9, 0.3, "action") == pytest.approx(0.45)
    assert three_in_one(0.6, 0.9, 0.3, "spatialaction") == pytest.approx(0.6)
    with pytest.raises(ValueError, match="kind"):
        three_in_one(0.6, 0.9, 0.3, "both")


def test_complex_kind_compares_up_to_the_full_stop():
    assert complex_kind("The Cat sat. And more", ["the cat sat"], []) == "spatial"
    assert complex_kind("a dog", ["a cat"], ["A dog.\n"]) == "action"
    assert complex_kind("a cow", ["a cat"], ["a dog"]) == "spatialaction"
