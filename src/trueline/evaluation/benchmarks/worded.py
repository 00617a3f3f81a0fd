"""Which prompts of a benchmark a small vocabulary can say, and what they mean.

For an embedded domain (the world) that draws some objects in some colours: prompts of CC-500, T2I-CompBench and
NSR-1K made of its words only. The words come from the caller.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from trueline.evaluation.benchmarks.benchmark import Example

_ARTICLES = ("a", "an", "the")
_OPENING = re.compile(r"(?:a (?:photo|picture) of|there (?:is|are)) (?=\S)")
_CLOSING = re.compile(r"(?: (?:is|are))? in the (?:photo|picture)$")


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary by role. ``names``: form -> name ("cats" -> "cat", "cat" -> "cat"); ``numbers``: word -> number
    ("two" -> 2); ``relations``: phrase -> relation ("on the left of" -> "left")."""

    names: Mapping[str, str]
    colours: Collection[str]
    textures: Collection[str]
    numbers: Mapping[str, int]
    relations: Mapping[str, str]


@dataclass(frozen=True)
class Stated:
    """What a prompt says of things of one name. None: it does not say. ``count`` is None for a bare plural."""

    name: str
    colour: str | None
    texture: str | None
    count: int | None


@dataclass(frozen=True)
class Meaning:
    """``relation`` is that of the first of two objects to the second, or None."""

    objects: tuple[Stated, ...]
    relation: str | None


def spoken_by(vocabulary: Collection[str], prompt: str) -> bool:
    """Whether every word of the prompt is in the vocabulary (lower case); punctuation does not count."""
    words = re.findall(r"[\w'-]+", prompt.lower())
    return bool(words) and all(word in vocabulary for word in words)


def meaning(prompt: str, words: Vocabulary) -> Meaning | None:
    """The objects and the relation that a prompt states, or None where it is not understood completely.

    Understood: ``[a photo of | there is] GROUP {, | and GROUP} [[is | are] in the picture]`` and ``GROUP RELATION
    GROUP``, with ``GROUP = [article | number] [colour] [texture] name``; capitals and a final full stop are free. A
    number with a singular other than one, or an article with a plural, is let pass: the number counts.
    """
    text = " ".join(prompt.lower().split()).rstrip(". ")
    text = _CLOSING.sub("", _OPENING.sub("", text, count=1))
    for phrase in sorted(words.relations, key=len, reverse=True):
        first, stated, second = text.partition(f" {phrase} ")
        if stated:
            one, other = _group(first, words), _group(second, words)
            return Meaning((one, other), words.relations[phrase]) if one and other else None
    groups = [_group(part, words) for part in re.split(r",? and |, ", text)]
    return Meaning(tuple(g for g in groups if g), None) if all(groups) else None


def drawable(examples: Iterable[Example], words: Vocabulary) -> list[tuple[Example, Meaning]]:
    """The examples that are understood, each with its meaning."""
    read = ((example, meaning(example.prompt, words)) for example in examples)
    return [(example, understood) for example, understood in read if understood]


def _group(text: str, words: Vocabulary) -> Stated | None:
    rest = text.split()
    count = colour = texture = None
    if rest and (rest[0] in words.numbers or rest[0] in _ARTICLES):
        count = words.numbers.get(rest.pop(0), 1)
    if rest and rest[0] in words.colours:
        colour = rest.pop(0)
    if rest and rest[0] in words.textures:
        texture = rest.pop(0)
    form = " ".join(rest)
    if form not in words.names:
        return None
    if count is None and form == words.names[form]:
        count = 1
    return Stated(words.names[form], colour, texture, count)
