"""Prompts of templates over colour, shape, texture, space and number: our own, in the phrasing of CC-500 and
T2I-CompBench, which the world's language knows too."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from trueline.dataset import Want, Wish
from trueline.dataset.words import NUMBERS, RELATIONS, TemplateWords
from trueline.english.plurals import article, plural

Rng = np.random.Generator
StatedPrompt = tuple[str, tuple[Want, ...], str | None]  # prompt, what it wants, relation
TRIES = 200  #: draws in a row that give nothing new before a category counts as used up


def template_wishes(words: TemplateWords, count: int, seed: int = 0) -> list[Wish]:
    """``count`` different prompts, as many of each of the words' categories (the first get what is left over). A
    category's prompts are the same for any larger count.

    Raises:
        ValueError: the words do not make so many.
    """
    categories = words.categories
    wishes = []
    for place, category in enumerate(categories):
        number = count // len(categories) + (place < count % len(categories))
        wishes += _category(words, category, number, seed)
    return wishes


def _category(words: TemplateWords, category: str, count: int, seed: int) -> list[Wish]:
    rng = np.random.default_rng([seed, zlib.crc32(category.encode())])
    make, found, idle = _MAKERS[category], dict[str, StatedPrompt](), 0
    while len(found) < count:
        said = make(rng, words)
        idle = idle + 1 if said[0] in found else 0
        found.setdefault(said[0], said)
        if idle > TRIES:
            raise ValueError(
                f"templates: the words make about {len(found)} different prompts of {category}, fewer than "
                f"{count}; ask for fewer, or give more words"
            )
    return [Wish(f"{category}-{n:04d}", category, *said) for n, said in enumerate(found.values())]


# One prompt of each category


def _color(rng: Rng, words: TemplateWords) -> StatedPrompt:
    names, colours = _some(rng, words.objects, 2), _some(rng, words.colours, 2)
    return _listed(rng, [_want(name, colour=colour) for name, colour in zip(names, colours, strict=False)])


def _shape(rng: Rng, words: TemplateWords) -> StatedPrompt:
    names, shapes = _some(rng, words.objects, 2), _some(rng, words.shapes, 2)
    return _listed(rng, [_want(name, shape=shape) for name, shape in zip(names, shapes, strict=False)])


def _object(rng: Rng, words: TemplateWords) -> StatedPrompt:
    most = min(3, words.most, len(words.objects))
    return _listed(rng, [_want(name) for name in _some(rng, words.objects, int(rng.integers(2, most + 1)))])


def _texture(rng: Rng, words: TemplateWords) -> StatedPrompt:
    names, textures = _some(rng, words.objects, 2), _some(rng, words.textures, 2)
    colours = _some(rng, words.colours, 2) if words.coloured_textures else [None, None]
    kinds = zip(names, textures, colours, strict=False)
    return _listed(rng, [_want(name, colour=colour, texture=texture) for name, texture, colour in kinds])


def _spatial(rng: Rng, words: TemplateWords) -> StatedPrompt:
    coloured = bool(words.colours) and rng.random() < 0.5
    colours = _some(rng, words.colours, 2) if coloured else [None, None]
    one, other = (_want(n, colour=c) for n, c in zip(_some(rng, words.objects, 2), colours, strict=False))
    phrase = str(rng.choice(list(RELATIONS)))
    return f"{one.phrase} {phrase} {other.phrase}", (one, other), RELATIONS[phrase]


def _numeracy(rng: Rng, words: TemplateWords) -> StatedPrompt:
    """One or two kinds, of the first at least two."""
    coloured = bool(words.colours) and rng.random() < 0.5
    first = int(rng.integers(2, words.most + 1))
    second = int(rng.integers(0, min(2, words.most - first) + 1))
    colours = _some(rng, words.colours, 2) if coloured else [None, None]
    names = _some(rng, words.objects, 2)
    wants = [
        _want(name, number, colour)
        for name, number, colour in zip(names, (first, second), colours, strict=False)
        if number
    ]
    if rng.random() < 0.25:
        return f"there are {_join([_spelled(want) for want in wants])} in the picture", tuple(wants), None
    return _join([_spelled(w) if w.count != 1 else w.phrase for w in wants]), tuple(wants), None


_MAKERS: dict[str, Callable[[Rng, TemplateWords], StatedPrompt]] = {
    "color": _color,
    "shape": _shape,
    "object": _object,
    "texture": _texture,
    "spatial": _spatial,
    "numeracy": _numeracy,
}


def _some(rng: Rng, words: Sequence[str], count: int) -> list[str]:
    """Different ones, as far as there are so many; ``count`` of them in any case."""
    drawn = [str(word) for word in rng.permutation(list(words))[:count]]
    return drawn + [drawn[0]] * (count - len(drawn))


def _want(
    name: str, count: int = 1, colour: str | None = None, texture: str | None = None, shape: str | None = None
) -> Want:
    """Shapes stand in the phrase alone: no detector here reads them."""
    noun = " ".join(filter(None, (shape, colour, texture, name)))
    return Want(article(noun), name, count, colour, texture)


def _listed(rng: Rng, wants: Sequence[Want]) -> StatedPrompt:
    text = _join([want.phrase for want in wants])
    return (f"a photo of {text}" if rng.random() < 0.2 else text), tuple(wants), None


def _spelled(want: Want) -> str:
    """ "three red cats", "one cat"."""
    number = want.count or 1
    adjectives = want.phrase.split(" ", 1)[1].removesuffix(want.label)
    return f"{NUMBERS[number]} {adjectives}{plural(want.label) if number > 1 else want.label}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
