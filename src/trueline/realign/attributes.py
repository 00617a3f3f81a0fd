"""Colours, textures and numbers of phrases, and whether a detection has them. No torch."""

import re

from PIL.Image import Image

from trueline.english.naming import nouns
from trueline.english.plurals import singular
from trueline.english.words import NUMBERS
from trueline.perception import Detection
from trueline.perception.colours import GENEVAL_COLOURS, MIG_RANGES, colour_share, hue_colours

COLOURS = (*GENEVAL_COLOURS, "gray")
TEXTURES = ("striped", "checkered", "spotted", "dotted")
_SPELLED = {"grey": "gray"}
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def _words(phrase: str) -> list[str]:
    return [_SPELLED.get(word, word) for word in _WORD.findall(phrase.lower())]


def colour_of(phrase: str) -> str | None:
    """The first colour that the phrase names."""
    return next((word for word in _words(phrase) if word in COLOURS), None)


def texture_of(phrase: str) -> str | None:
    return next((word for word in _words(phrase) if word in TEXTURES), None)


def count_of(phrase: str) -> int | None:
    """How many the phrase speaks of: 1 for "a cat" and "the red cat", 2 for "two cats"; None where it does not say
    ("cats", "several cats")."""
    words = _words(phrase)
    if not words:
        return 1
    for word in words[:-1]:
        if word in ("pair", "couple"):
            return 2
        number = int(word) if word.isdecimal() and len(word) < 4 else NUMBERS.get(word)
        if number:
            return number
    several = singular(words[-1]) != words[-1] and words[0] not in ("a", "an")
    return None if several else 1


def count_in(prompt: str, phrase: str) -> int | None:
    """``count_of``, as often as the phrase stands in the prompt: 2 for "a cat" of "a cat and a cat"."""
    count = count_of(phrase)
    times = sum(noun.phrase.casefold() == phrase.casefold() for noun in nouns(prompt))
    return count and count * max(times, 1)


def has_attributes(detection: Detection, phrase: str) -> bool:
    """False where the detector has read a colour or a texture that is not the phrase's."""
    colour, texture = colour_of(phrase), texture_of(phrase)
    wrong_colour = colour and detection.colour and _SPELLED.get(detection.colour, detection.colour) != colour
    return not (wrong_colour or (texture and detection.texture and detection.texture != texture))


def attribute_score(image: Image, detection: Detection, phrase: str) -> float:
    """How much of the phrase's colour and texture the detection has, 0..2: by the detector's own reading, else by the
    share of its pixels in the colour's range (COCO-MIG's; orange by the mean hue)."""
    colour, texture = colour_of(phrase), texture_of(phrase)
    points = float(bool(texture) and detection.texture == texture)
    if colour is None:
        return points
    if detection.colour is not None:
        return points + (_SPELLED.get(detection.colour, detection.colour) == colour)
    if colour in MIG_RANGES:
        return points + colour_share(image, detection, colour)
    return points + (colour == "orange" and hue_colours(image, [detection])[0].colour == colour)
