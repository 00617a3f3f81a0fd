"""Captions of scenes, in the phrasing of CC-500, T2I-CompBench and NSR-1K, with what each one says.

A caption is made of *groups*: things of one kind that are named together ("two red apples"). What the caption
says of each group (and leaves unsaid) is kept with the text, so that a text encoder can be trained to
understand it and a judge can check a picture against it.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from trueline.english.plurals import article, plural
from trueline.world.scenes import SIZE, Scene, Thing
from trueline.world.vocabulary import NEARNESS, NUMBERS, PLACES, RELATIONS

Rng = np.random.Generator


@dataclass(frozen=True)
class CaptionGroup:
    """Things that one noun phrase names. ``colour`` and ``texture`` are None where the caption is silent.

    ``things`` are indices into the scene; ``noun_span`` is the (start, end) of the noun in the caption.
    """

    name: str
    colour: str | None
    texture: str | None
    things: tuple[int, ...]
    noun_span: tuple[int, int]


@dataclass(frozen=True)
class Caption:
    """A sentence and its meaning. ``relation`` holds between the first group and the second, if said."""

    text: str
    groups: tuple[CaptionGroup, ...]
    relation: str | None = None


def relation(a: Thing, b: Thing) -> str | None:
    """Where ``a`` is seen from ``b``: left, right, above, below; None when neither axis is clearly larger."""
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    if abs(dx) > 1.25 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.25 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def place(thing: Thing) -> str | None:
    """Where a lone thing stands in the picture, if that is clear."""
    x, y = (c / SIZE - 0.5 for c in thing.centre)
    if max(abs(x), abs(y)) < 0.08:
        return "middle"
    if abs(x) > 0.16 and abs(x) > 1.5 * abs(y):
        return "left" if x < 0 else "right"
    if abs(y) > 0.16 and abs(y) > 1.5 * abs(x):
        return "above" if y < 0 else "below"
    return None


def _groups(scene: Scene, bare: bool) -> list[tuple[int, ...]]:
    """Indices of the things that are named alike, together, in order of appearance."""
    alike: dict[str, list[int]] = {}
    for i, thing in enumerate(scene.things):
        alike.setdefault(thing.name if bare else thing.noun, []).append(i)
    return [tuple(g) for g in alike.values()]


def _noun_phrase(thing: Thing, number: int, bare: bool, spell_one: bool) -> str:
    noun = plural(thing.name) if number > 1 else thing.name
    adjectives = "" if bare else thing.noun.removesuffix(thing.name)
    words = adjectives + noun
    if number > 1 or spell_one:
        return f"{NUMBERS[number]} {words}"
    return article(words)


def caption(scene: Scene, variant: int = 0) -> Caption:
    """Caption number ``variant`` of a scene: same scene and variant, same sentence."""
    rng = np.random.default_rng([zlib.crc32(scene.id.encode()), len(scene.things), variant])
    bare, counted = rng.random() < 0.1, rng.random() < 0.15
    members = _groups(scene, bare)
    rng.shuffle(members)
    nouns = [_noun_phrase(scene.things[m[0]], len(m), bare, counted) for m in members]
    text, said = _sentence(rng, scene, members, nouns, counted)
    return Caption(text, _read_groups(text, scene, members, nouns, bare), said)


def _sentence(
    rng: Rng, scene: Scene, members: list[tuple[int, ...]], nouns: list[str], counted: bool
) -> tuple[str, str | None]:
    """The text and the relation that it states."""
    first = scene.things[members[0][0]]
    if len(members) == 2 and len(scene.things) == 2 and rng.random() < 0.6:
        stated = relation(first, scene.things[members[1][0]])
        if stated and rng.random() < 0.85:
            return f"{nouns[0]} {rng.choice(RELATIONS[stated])} {nouns[1]}", stated
        return f"{nouns[0]} {rng.choice(NEARNESS)} {nouns[1]}", None
    listed = nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"
    where = place(first) if len(scene.things) == 1 else None
    if where and rng.random() < 0.35:
        return f"{listed} {PLACES[where]}", None
    if counted:
        return f"there {'is' if nouns[0].startswith('one ') else 'are'} {listed} in the picture", None
    return (f"a photo of {listed}" if rng.random() < 0.1 else listed), None


def _read_groups(
    text: str, scene: Scene, members: list[tuple[int, ...]], nouns: list[str], bare: bool
) -> tuple[CaptionGroup, ...]:
    groups: list[CaptionGroup] = []
    at = 0
    for m, noun in zip(members, nouns, strict=True):
        end = text.index(noun, at) + len(noun)
        thing = scene.things[m[0]]
        head = end - len(noun.split()[-1])
        colour, texture = (None, None) if bare else (thing.colour, thing.texture)
        groups.append(CaptionGroup(thing.name, colour, texture, m, (head, end)))
        at = end
    return tuple(groups)
