"""Which prompts a small vocabulary can say, and what they mean."""

import pytest

from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.worded import (
    Meaning,
    Stated,
    Vocabulary,
    drawable,
    meaning,
    spoken_by,
)
from trueline.layout import Layout

WORDS = Vocabulary(
    names={
        "cat": "cat",
        "cats": "cat",
        "dog": "dog",
        "dogs": "dog",
        "fish": "fish",
        "wine glass": "wine glass",
    },
    colours=("red", "blue"),
    textures=("plain", "striped"),
    numbers={"one": 1, "two": 2, "three": 3},
    relations={"on the left of": "left", "to the left of": "left", "above": "above", "next to": "near"},
)
GLASS = Stated("wine glass", None, None, 1)
CAT, DOG = Stated("cat", None, None, 1), Stated("dog", None, None, 1)


@pytest.mark.parametrize(
    ("prompt", "objects", "relation"),
    [
        (
            "a red cat and a blue dog",
            [Stated("cat", "red", None, 1), Stated("dog", "blue", None, 1)],
            None,
        ),
        (
            "A Red Cat and a blue  dog.",
            [Stated("cat", "red", None, 1), Stated("dog", "blue", None, 1)],
            None,
        ),
        ("the blue striped cat", [Stated("cat", "blue", "striped", 1)], None),
        ("a plain dog", [Stated("dog", None, "plain", 1)], None),
        (
            "two cats, one dog and three fish",
            [Stated("cat", None, None, 2), DOG, Stated("fish", None, None, 3)],
            None,
        ),
        ("a cat, a dog, and a fish", [CAT, DOG, Stated("fish", None, None, 1)], None),
        ("cats", [Stated("cat", None, None, None)], None),
        ("fish", [Stated("fish", None, None, 1)], None),
        ("a cat on the left of a dog", [CAT, DOG], "left"),
        (
            "two red cats above the wine glass",
            [Stated("cat", "red", None, 2), GLASS],
            "above",
        ),
        ("a cat next to a dog", [CAT, DOG], "near"),
        ("there are two cats in the picture", [Stated("cat", None, None, 2)], None),
        ("there is one dog in the photo", [DOG], None),
        ("three dogs are in the picture", [Stated("dog", None, None, 3)], None),
        ("a photo of a cat and one dog", [CAT, DOG], None),
        ("a picture of two fish", [Stated("fish", None, None, 2)], None),
    ],
)
def test_meaning(prompt, objects, relation):
    assert meaning(prompt, WORDS) == Meaning(tuple(objects), relation)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red",  # no name
        "a red orange",
        "a green cat",  # unknown colour
        "four cats",  # unknown number
        "a red and blue cat",  # two colours
        "a black and white photo of a cat",
        "a cat on the left of a dog and a fish",  # of which is it left?
        "a cat and a fish above a dog",
        "a cat on the left of",
        "above a dog",
        "a cat chases a dog",
        "a striped red cat",  # the other order
        "a photo of",
        "there is",
        "cat dog",
        ".",
    ],
)
def test_what_is_not_understood_completely_has_no_meaning(prompt):
    assert meaning(prompt, WORDS) is None


@pytest.mark.parametrize(
    ("prompt", "spoken"),
    [
        ("A red cat, and a dog.", True),
        ("a red cat-dog", False),
        ("a red hat", False),
        ("a caté", False),
        ("...", False),
        ("", False),
    ],
)
def test_spoken_by(prompt, spoken):
    assert spoken_by(frozenset({"a", "red", "cat", "and", "dog"}), prompt) is spoken


def test_drawable_keeps_the_order():
    prompts = ["a dog", "a horse", "a cat"]
    examples = [Example(f"e-{i}", Layout(prompt)) for i, prompt in enumerate(prompts)]
    found = drawable(examples, WORDS)
    assert [(example.id, said.objects[0].name) for example, said in found] == [("e-0", "dog"), ("e-2", "cat")]
