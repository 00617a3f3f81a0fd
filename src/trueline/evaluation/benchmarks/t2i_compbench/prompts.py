"""What T2I-CompBench's prompts state, read by rules of our own where the official scripts use spaCy."""

import re
from collections.abc import Collection
from itertools import pairwise
from typing import Literal, NamedTuple

from trueline.english.plurals import plural

RELATIONS_2D = (
    *("on side of", "next to", "near"),
    *("on the left of", "on the right of", "on the bottom of", "on the top of", "on top of"),
)
RELATIONS_3D = ("in front of", "behind", "hidden by")
Kind = Literal["spatial", "action", "spatialaction"]


class SpatialPrompt(NamedTuple):
    """``first`` stands in ``relation`` to ``second``."""

    first: str
    relation: str
    second: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARTICLES = _words("a an the")
_VERBS = _words("is are was were be lay lies lie sat sits sit stood stands stand swam swims hung hangs")
_MODIFIERS = _words(  # colours, materials, shapes and the like of the complex prompts
    """
    red brown blue green white black yellow beige orange purple grey gray pink golden gold silver wooden
    metallic leather satin opaque translucent glossy matte shiny square circular round rectangular oval
    striped tiled hardcover compact tall rocking fluffy soft hard rough smooth bright dark crisp colorful
    sleek juicy ripe sweet tart sour warm cool rugged delicate fragrant rustling bumpy spiky fuzzy prickly
    """
)
_NOUNS_TOO = _words("orange square round oval compact gold silver leather satin")
_PHRASES = re.compile(
    r"\b(?:" + "|".join(sorted((*RELATIONS_2D, *RELATIONS_3D), key=len, reverse=True)) + r")\b", re.IGNORECASE
)


def parse_spatial(prompt: str) -> SpatialPrompt | None:
    """The two objects and the relation phrase of a prompt, or None where it has no relation phrase or no object
    beside it.

    The rule: the first relation phrase splits the prompt. Before it, the noun phrase ends at the first verb (a form
    of be, lie, sit, stand ..., or a word in -ed after the noun phrase's adjectives); after it, at a comma, a full
    stop or "and". Articles and known adjectives in front go, the rest is the object: "The soft pillow was on top of
    the hard rocking chair." gives pillow, "on top of", chair; "... the brown coat rack" gives coat rack (the official
    rule would say coat).
    """
    match = _PHRASES.search(prompt)
    if match is None:
        return None
    first, second = _noun(prompt[: match.start()]), _noun(prompt[match.end() :])
    return SpatialPrompt(first, match[0].lower(), second) if first and second else None


def _noun(text: str) -> str:
    """The noun of the noun phrase that a text begins with; "" where there is none."""
    words = re.split(r"[^\w' -]", text.strip().lower(), maxsplit=1)[0].split()
    start = 0
    while start < len(words) - 1 and _is_modifier(words[start], words[start + 1]):
        start += 1
    noun = [word for word in words[start:] if word not in _ARTICLES]
    for index, word in enumerate(noun):
        if word in _VERBS or word == "and" or (index and word.endswith("ed")):
            noun = noun[:index]
            break
    return " ".join(noun)


def _is_modifier(word: str, following: str) -> bool:
    """Whether a word only describes what follows: "orange" does in "orange pepper", not in "orange was"."""
    if word in _ARTICLES or (word in ("and", "hot") and following in _MODIFIERS):
        return True
    ends = following in _VERBS or following == "and" or following.endswith("ed")
    is_noun = word in _NOUNS_TOO and ends and following not in _MODIFIERS
    return word in _MODIFIERS and not is_noun


_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_NUMBERS = {"a": 1, "an": 1} | {word: number for number, word in enumerate(_NUMBER_WORDS, start=1)}
# The nouns of numeracy prompts (examples/dataset/new_objects.txt of the source, less repetitions).
_OBJECTS = _words(
    """
    airplane apple backpack bag balloon banana bear bee bicycle bird boat book bottle bowl boy bread
    butterfly cake camel camera candle car cat chair chicken clock computer couch cow cup deer desk dog
    drum duck egg fish flag frog giraffe girl goldfish guitar hamburger helicopter helmet horse key kite
    knife lamp lemon man microphone microwave mouse paddle painting peach pear pen person phone pig pillow
    plate printer rabbit refrigerator sheep ship shrimp sink sofa stool strawberry suitcase swan table
    television tent tomato toy train truck turtle vase woman
    """
)
_PLURALS = {"shrimp": "shrimp", "fish": "fishes"}  # as the prompts have them
_SINGULAR = {form: noun for noun in _OBJECTS for form in (_PLURALS.get(noun) or plural(noun), noun)}


def parse_numeracy(prompt: str) -> list[tuple[str, int]]:
    """The objects of a numeracy prompt in the singular, with their counts: a number word or article, one to eight,
    right before a known noun. "two boys and a cake" gives [("boy", 2), ("cake", 1)]."""
    words = re.findall(r"[a-z]+", prompt.lower())
    return [
        (_SINGULAR[noun], _NUMBERS[number])
        for number, noun in pairwise(words)
        if number in _NUMBERS and noun in _SINGULAR
    ]


def complex_kind(prompt: str, spatial_prompts: Collection[str], action_prompts: Collection[str]) -> Kind:
    """Which part of the complex prompts one belongs to: complex_val_spatial (58 of 300), complex_val_action (212) or
    neither (30). Prompts are compared in lower case and up to their first full stop."""

    def key(text: str) -> str:
        return text.strip("\n").split(".")[0].lower()

    if key(prompt) in {key(text) for text in spatial_prompts}:
        return "spatial"
    return "action" if key(prompt) in {key(text) for text in action_prompts} else "spatialaction"
