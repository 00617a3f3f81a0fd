"""Plurals, singulars and articles of English nouns: the only place that knows them.

What we write ("three knives", "an hour") is inflect's. What we read goes by rules and lists of our own, for the words
of a prompt need not be nouns in the plural: inflect makes "bu" of "bus" and "hi" of "his".
"""

from functools import lru_cache
from typing import Any

from trueline.english import words as w

_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "wolf": "wolves",
}  # fmt: skip
_SINGULARS = {many: one for one, many in _IRREGULAR.items()} | {
    "loaves": "loaf", "calves": "calf", "halves": "half", "thieves": "thief", "hooves": "hoof", "scarves": "scarf",
    "wives": "wife", "elves": "elf", "lives": "life", "oxen": "ox", "cacti": "cactus", "dice": "die", "axes": "axe",
    "octopi": "octopus", "busses": "bus", "lice": "louse", "gentlemen": "gentleman", "lenses": "lens",
    "canvases": "canvas", "gases": "gas",
}  # fmt: skip
_ON_OE = ("shoes", "toes", "canoes", "hoes", "oboes", "horseshoes")


@lru_cache(maxsize=4096)
def plural(noun: str) -> str:
    """The plural of a noun, which may be several words: "mice", "teddy bears"."""
    return str(_engine().plural_noun(noun)) or noun


@lru_cache(maxsize=4096)
def article(words: str) -> str:
    """``words`` with the indefinite article: "an apple", "a unicorn"."""
    return str(_engine().a(words))


def plurals(words: str) -> list[str]:
    """How a text may write the words with the last one in the plural: both spellings of one in -o (tomatoes, photos).

    By rules, unlike ``plural``: boxes and plans depend on which plurals are found, and no import has to be paid.
    """
    *before, last = words.split() or [""]
    lower = last.lower()
    if lower in _IRREGULAR:
        forms = [_IRREGULAR[lower]]
    elif lower.endswith("y") and lower[-2:-1] not in ("a", "e", "i", "o", "u"):
        forms = [f"{last[:-1]}ies"]
    elif lower.endswith("o"):
        forms = [f"{last}es", f"{last}s"]
    else:
        forms = [last + ("es" if lower.endswith(("s", "x", "z", "ch", "sh")) else "s")]
    return [" ".join([*before, form]) for form in forms]


@lru_cache(maxsize=4096)
def singular(noun: str) -> str:
    """The singular of an English noun in lower case; a singular comes back as it is."""
    if noun in _SINGULARS:
        return _SINGULARS[noun]
    if noun in w.PLURAL_FORMS or noun in w.UNCHANGED or noun in w.NO_PLURALS or len(noun) < 3:
        return noun
    if noun.endswith("men") and len(noun) > 5:  # firemen, snowmen
        return f"{noun[:-3]}man"
    if noun.endswith("s") and noun not in w.NOUNS and noun[:-1] in w.NOUNS:  # "taxis", "broccolis", "buss"
        return noun[:-1]
    if not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies") and noun[:-1] not in w.ON_IE and len(noun) > 4:
        return f"{noun[:-3]}y"
    uses = noun.endswith("uses") and not noun.endswith(("ouses", "fuses", "cruses"))
    oes = noun.endswith("oes") and noun not in _ON_OE
    hisses = noun.endswith(("sses", "xes", "zzes", "ches", "shes"))
    return noun[:-2] if uses or oes or hisses else noun[:-1]


def is_plural(noun: str) -> bool:
    """Whether the word is a plural by its form. "sheep" and "scissors" are not: their number stands before them."""
    return singular(noun) != noun


@lru_cache(maxsize=4096)
def is_noun_word(word: str) -> bool:
    """Whether one of the lists holds the word, in the singular or the plural, as a noun."""
    return word in w.NOUNS or singular(word) in w.NOUNS


@lru_cache(maxsize=1)
def _engine() -> Any:
    from unittest.mock import patch

    # inflect wraps its functions in typeguard's checks, which takes 1.7 s at import; without them it takes 0.1 s.
    with patch("typeguard.typechecked", lambda function: function):
        import inflect
    return inflect.engine()
