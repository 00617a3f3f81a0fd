"""The rules planner whole: layouts, phrases that the prompt holds, benchmarks by their rules, any text at all.

``TRUELINE_FUZZ=10000 pytest tests/planner/test_rules_planner.py -k any_text`` runs the long fuzz.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import reading

from trueline.english import words
from trueline.evaluation.benchmarks.nsr_1k import counting_layout, spatial_layout
from trueline.evaluation.benchmarks.t2i_compbench import T2ICompBench
from trueline.evaluation.benchmarks.t2i_compbench.rules import detector_label, numeracy_score, spatial_score
from trueline.evaluation.metrics.observations import aggregate
from trueline.layout import MAX_PROMPT, MAX_REGIONS
from trueline.models.text import locate
from trueline.perception import Detection
from trueline.planner import make_planner
from trueline.planner.rules import COCO, RulesPlanner, coco_category

PLANNER = RulesPlanner(tagger="textblob")
FUZZ = int(os.environ.get("TRUELINE_FUZZ", "200"))
LONGEST = 0.05  #: CPU seconds of a plan


def things(prompt: str, planner: RulesPlanner = PLANNER) -> list:
    plan = planner.plan(prompt)
    return [(name, region.box.xyxy) for name, region in zip(plan.names, plan.layout.regions, strict=True)]


def test_a_plan():
    plan = make_planner("rules", tagger="textblob").plan("two cats to the left of a red chair")
    assert plan.planner == "rules" and plan.notes == ()
    assert plan.names == ("cat", "cat", "chair")
    assert [region.phrase for region in plan.layout.regions] == ["cat", "cat", "a red chair"]
    chair = plan.layout.regions[2].box
    assert all(region.box.x1 <= chair.x0 for region in plan.layout.regions[:2])


def test_settings():
    assert make_planner("rules:coco", tagger="textblob").name == "rules[coco]"
    for wrong, problem in (
        ({"what": "esperanto"}, "vocabulary: input should be 'open' or 'coco'"),
        ({"tagger": "mine"}, "tagger: input should be 'textblob' or 'spacy'"),
        ({"colour": "red"}, "colour: unknown key; RulesPlanner has tagger, vocabulary"),
        ({"what": "coco", "vocabulary": "open"}, "vocabulary: is in rules:coco already; give it once"),
    ):
        with pytest.raises(ValueError, match=f"^{problem}"):
            RulesPlanner.of(**({"what": ""} | wrong))
    with pytest.raises(ValidationError, match="frozen"):
        PLANNER.tagger = None


def test_a_closed_vocabulary():
    plan = make_planner("rules:coco", tagger="textblob").plan("a woman and a plate on a sofa, above a lamp")
    assert plan.names == ("person", "couch")
    assert any("none of COCO's categories: plate, lamp" in note for note in plan.notes)
    assert all(coco_category(name) == name for name in COCO) and len(COCO) == 80
    assert coco_category("water bottle") == "bottle" and coco_category("plate") is None


def test_the_same_prompt_gives_the_same_plan_and_a_seed_another():
    prompt = "three cats, a dog and a bowl"
    assert PLANNER.plan(prompt) == PLANNER.plan(prompt)
    assert PLANNER.plan(prompt, seed=1) == PLANNER.plan(prompt, seed=1)
    assert PLANNER.plan(prompt, seed=1).layout != PLANNER.plan(prompt).layout


def test_the_size_of_the_picture_counts():
    wide, square = PLANNER.plan("a cat", width=1024, height=512).layout, PLANNER.plan("a cat").layout
    assert (wide.width, wide.height) == (1024, 512)
    ratio = [layout.regions[0].box.width / layout.regions[0].box.height for layout in (wide, square)]
    assert ratio[0] == pytest.approx(ratio[1] / 2)
    with pytest.raises(ValueError, match="width"):
        PLANNER.plan("a cat", width=13)


@pytest.mark.parametrize("prompt", ["", "   ", "\0", "a" * (MAX_PROMPT + 1)])
def test_what_is_no_prompt_is_one_sentence(prompt):
    with pytest.raises(ValueError, match="prompt") as error:
        PLANNER.plan(prompt)
    assert "\n" not in str(error.value)


def test_sizes_in_words():
    shares = []
    for size in ("large", "small"):
        dog, car = PLANNER.plan(f"a {size} dog and a car").layout.regions
        shares.append(dog.box.area / car.box.area)
    assert shares[0] > 3 * shares[1]
    mouse, elephant = things("a mouse larger than an elephant")
    assert (mouse[1][2] - mouse[1][0]) * (mouse[1][3] - mouse[1][1]) > 0.99 * (
        (elephant[1][2] - elephant[1][0]) * (elephant[1][3] - elephant[1][1])
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "a table with a vase of flowers, two cups and a plate of food",
        "a bed with six cats and two dogs",
        "a vase with seven roses",
        "a tray with a cup, a bowl and three spoons",
    ],
)
def test_with_on_a_furnishing_means_on_it_and_holds(prompt):
    assert "could not be kept" not in " ".join(PLANNER.plan(prompt).notes)
    base, *upon = [box for _, box in things(prompt)]
    assert all(base[0] - 1e-9 <= box[0] and box[2] <= base[2] + 1e-9 for box in upon if box[3] < base[3])


def test_somebody_on_a_horse_rides_it():
    assert [box for _, box in things("a man on a horse")] == [
        box for _, box in things("a man riding a horse")
    ]
    for other in ("a man on top of a horse", "a cat on a horse"):
        assert things(other)[1][1] != things("a man riding a horse")[1][1]


def test_no_more_regions_than_a_layout_holds():
    plan = PLANNER.plan("100 cats and a dog")
    assert len(plan.names) == MAX_REGIONS and plan.names.count("dog") == 1
    assert any("29 of 100 cats" in note for note in plan.notes)
    many = PLANNER.plan(", ".join(f"a {name}" for name in sorted(words.THINGS)[:60]))
    assert len(many.names) == MAX_REGIONS and any("left out" in note for note in many.notes)


@pytest.mark.parametrize(
    "prompt",
    [
        "two cats to the left of a red chair", "two cats and a cat", "three tomatoes and two knives",
        "a pair of black and white dogs", "a cat's tail", "two slices of pizza on a plate", "five sheep",
        "A man in a hat holding an umbrella", "two men riding horses", "three teddy bears, two buses, a hot dog",
        "a bowl of three apples", "several ponies next to boxes", "A statue of a bird on the glass table",
        "Two red double decker buses", "a snow covered tree", "three wine glasses", "a dozen eggs",
        "Five shelves and two mice, and four children",
    ],
)  # fmt: skip
def test_phrases_are_found_in_the_prompt(prompt, tokenizer):
    plan = PLANNER.plan(prompt)
    located = locate(reading(tokenizer), plan.layout)
    assert located and not any(
        "does not hold" in place.problem for place in located
    )  # it may cut a long prompt


def test_what_is_not_named_is_called_by_its_noun():
    plan = RulesPlanner(tagger="textblob").plan("a blue motorcycle next to a yellow and black one")
    assert [region.phrase for region in plan.layout.regions] == [
        "a blue motorcycle",
        "yellow and black motorcycle",
    ]
    plan = RulesPlanner(tagger="textblob").plan("a black and a grey cat")
    assert [region.phrase for region in plan.layout.regions] == ["black cat", "a grey cat"]


def test_attributes_stay_in_the_phrase():
    plan = PLANNER.plan("a shiny red apple on two old wooden chairs")
    assert [region.phrase for region in plan.layout.regions] == [
        "a shiny red apple",
        *["old wooden chair"] * 2,
    ]


def test_nothing_heavy_is_loaded_before_a_plan():
    code = (
        "import sys, trueline.planner.rules; print({'torch', 'textblob', 'spacy', 'nltk'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------- benchmarks


def counting(nsr_1k, mode: str, planner: RulesPlanner) -> dict[str, dict[str, float]]:
    rows = defaultdict(list)
    for row in json.loads((nsr_1k / "counting/counting.val.json").read_text()):
        seen = counting_layout(planner.plan(row["prompt"]).names, row["num_object"], row["sub-type"], mode)
        rows["counting"].append(seen)
        rows[row["sub-type"]].append(seen)
    return in_percent(rows)


def spatial(nsr_1k, planner: RulesPlanner) -> dict[str, dict[str, float]]:
    rows = defaultdict(list)
    for row in json.loads((nsr_1k / "spatial/spatial.val.json").read_text()):
        seen = spatial_layout(things(row["prompt"], planner), row["obj1"][0], row["obj2"][0], row["relation"])
        rows["spatial"].append(seen)
        rows[row["type"]].append(seen)
    return in_percent(rows)


def in_percent(rows: dict[str, list]) -> dict[str, dict[str, float]]:
    return {
        kind: {name: 100 * value for name, value in aggregate(seen).items()} for kind, seen in rows.items()
    }


def test_nsr_1k(nsr_1k):
    """Below the targets of issue 8 (97 each) are the precision, 86.8, and the spatial accuracy, 95.1."""
    found = counting(nsr_1k, "official", PLANNER) | spatial(nsr_1k, PLANNER)
    assert found["counting"]["counting_recall"] > 97.5
    assert found["counting"]["counting_accuracy"] > 96.5
    assert found["counting"]["counting_precision"] > 86
    for kind in ("single-category", "two-categories"):
        assert found[kind]["counting_accuracy"] == 100
    assert found["comparison"]["counting_accuracy"] >= 99
    assert found["template"]["spatial_accuracy"] == 100
    assert found["spatial"]["spatial_accuracy"] > 94.5


def test_nsr_1k_in_its_own_vocabulary(nsr_1k):
    found = counting(nsr_1k, "fixed", RulesPlanner("textblob", "coco"))
    assert found["counting"]["counting_precision"] > 96
    assert found["counting"]["counting_recall"] > 97
    assert found["counting"]["counting_accuracy"] > 96.5


@pytest.mark.parametrize("category", ["spatial", "numeracy"])
def test_t2i_compbench(category, nsr_1k):
    scores = []
    for example in T2ICompBench(nsr_1k.parent, categories=[category]).examples:
        seen = [Detection(detector_label(name), box, 1.0) for name, box in things(example.prompt)]
        truth = example.truth
        if category == "spatial":
            args = (seen, truth["first"], truth["second"], truth["relation"], (512, 512))
            scores.append(spatial_score(*args) > 0.999)
        else:
            scores.append(numeracy_score(seen, truth["counts"], (512, 512)) > 0.999)
    assert len(scores) == 300 and sum(scores) >= 0.97 * 300


# --------------------------------------------------------------------------------------- any text

_SMALL = (
    *(
        ",",
        ".",
        ";",
        "and",
        "of",
        "which",
        "that",
        "it",
        "them",
        "each",
        "other",
        "'s",
        "more",
        "than",
        "as",
        "not",
    ),
    *(
        "99",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "it\N{RIGHT SINGLE QUOTATION MARK}s",
        "\u732b",
        "\N{PARTY POPPER}",
    ),
)
_WORDS = sorted(
    {
        *words.THINGS,
        *words.RELATIONS,
        *words.PLACES,
        *words.NUMBERS,
        *words.VERBS,
        *words.PARTS,
        *words.ADJECTIVES,
    }
    | {*words.GROUPS, *words.DETERMINERS, *_SMALL}
)
_SAID = st.lists(st.sampled_from(_WORDS), max_size=2000).map(lambda said: " ".join(said)[: MAX_PROMPT + 50])

_TEXT = st.one_of(
    st.text(max_size=MAX_PROMPT + 50), _SAID, st.lists(st.sampled_from(_WORDS), max_size=30).map(" ".join)
)


@settings(max_examples=FUZZ, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(_TEXT)
def test_any_text_gives_a_layout_or_one_sentence(prompt):
    try:
        plan = PLANNER.plan(prompt)
    except ValueError as error:
        assert "prompt" in str(error)
        return
    assert len(plan.names) == len(plan.layout.regions) <= MAX_REGIONS
    assert plan.layout.prompt == prompt
    assert all(name.strip() for name in plan.names)
    assert PLANNER.plan(prompt) == plan
    assert _seconds(prompt) < LONGEST


def _seconds(prompt: str) -> float:
    """CPU seconds of a plan, of the quickest of a few where the machine is busy with other things."""
    spent = []
    for _ in range(5):
        start = time.process_time()
        PLANNER.plan(prompt)
        spent.append(time.process_time() - start)
        if spent[-1] < LONGEST:
            break
    return min(spent)


def test_a_plan_takes_milliseconds():
    PLANNER.plan("a cat")
    for prompt in (
        "a cat on a bed next to two dogs",
        "a dog on " * 200,
        " ".join(_WORDS)[:MAX_PROMPT],
        "a " * 900,
    ):
        assert _seconds(prompt) < LONGEST


@pytest.mark.parametrize(
    ("prompt", "side"),
    [
        ("a cat on a bed next to a window", 1),
        ("a dog on a couch, to the right of a lamp", -1),
        ("a cat on a bed", 0),
        ("a cat laying on top of a bed next to a wall", 1),
    ],
)
def test_things_lie_within_furniture_at_the_side_of_what_they_are_beside(prompt, side):
    boxes = dict(things(prompt, PLANNER))
    (lying, (x0, _, x1, bottom)), (_, base) = list(boxes.items())[:2]
    middle, width = (base[0] + base[2]) / 2, base[2] - base[0]
    assert base[0] <= x0 and x1 <= base[2] and base[1] < bottom <= base[3], lying
    assert bottom - base[1] > 0.5 * (base[3] - base[1]), "not on its upper edge"
    assert (
        abs((x0 + x1) / 2 - middle) < 0.02 * width
        if not side
        else ((x0 + x1) / 2 - middle) * side > 0.1 * width
    )


def test_what_is_on_top_of_a_chair_stands_on_its_upper_edge():
    (_, one), (_, base) = things("a bird on top of a chair")
    assert one[3] - base[1] < 0.2 * (one[3] - one[1])


def test_who_sits_and_what_is_there_too_are_side_by_side():
    plan = PLANNER.plan("a man on a couch with a laptop")
    (_, man), (_, couch), (_, laptop) = things("a man on a couch with a laptop", PLANNER)
    assert man[2] <= laptop[0] and couch[0] - 1e-9 <= man[0] and laptop[2] <= couch[2] + 1e-9
    assert not plan.notes, "being within it holds"
    (_, cat), _, (_, pillow) = things("a cat on a bed with a pillow", PLANNER)
    assert pillow[3] < cat[3], "at the bed's head"
