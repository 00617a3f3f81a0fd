"""Which words of a prompt name a detected thing: noun phrases, singulars, and small tables of kinds.

"apple" is named by "a red apple", "person" by "a man", and a detected "pencil" may be what became of "a yellow
pen". Closed word lists, no model; the phrases are those of ``noun_chunks``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from trueline.english.lists import read_lists
from trueline.english.noun_chunks import noun_runs, without_adjectives
from trueline.english.plurals import singular

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_NOT = re.compile(r"\b(?:no|not|without|never)\s+(?:(?:a|an|any|the)\s+)?$", re.IGNORECASE)
_NONE = re.compile(r"(?:no|zero)\s", re.IGNORECASE)
_HOT_DOG = re.compile(r"\bhot dog", re.IGNORECASE)  # a phrase whose noun is none of its kind
_LISTS = read_lists("naming")
_PLACES, _BEFORE = _LISTS["PLACES"], _LISTS["BEFORE"]
#: Before a noun, how many there are.
_NUMBER = re.compile(
    r"(?:(?:the|all|some)\s+)?"
    r"(?:a (?:pair|couple|group|bunch) of|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|several|"
    r"many|multiple|\d+)\s+(?=\w)",
    re.IGNORECASE,
)

#: Kinds, and things that are of them: "person" is named by "a man".
_KINDS = read_lists("kinds")
#: Things that a picture takes for each other.
_ALIKE = list(read_lists("alike").values())

Way = Literal["named", "kind", "sort", "alike", "within"]


@dataclass(frozen=True)
class Noun:
    """A noun phrase. ``phrase``: as written in the prompt, with determiner and adjectives; ``words``: lower case, the
    last one (the head) in the singular; ``absent``: the prompt says that it is not there ("without a hat")."""

    phrase: str
    words: tuple[str, ...]
    absent: bool = False

    @property
    def head(self) -> str:
        return self.words[-1]


@lru_cache(maxsize=512)
def nouns(prompt: str) -> tuple[Noun, ...]:
    """The things that a prompt names, in its order; places ("the left", "top") are none."""
    found, place = [], 0
    for phrase in noun_runs(prompt):
        start = prompt.index(phrase, place)
        place = start + len(phrase)
        words = words_of(phrase)
        if words and words[-1] not in _PLACES:
            absent = _NONE.match(phrase) or _NOT.search(prompt[max(0, start - 20) : start])
            found.append(Noun(phrase, words, bool(absent)))
    return tuple(found)


def words_of(text: str) -> tuple[str, ...]:
    """Lower case words, the last one in the singular; the digits at the end of "dog 2" are no word."""
    words = [word.lower() for word in _WORD.findall(_HOT_DOG.sub("hot-dog", text))]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    return (*words[:-1], singular(words[-1])) if words else ()


def bare_noun(phrase: str) -> str:
    """ "apple" of "two red apples", "teddy bear" of "a brown teddy bear": without determiner, number, adjectives; the
    words before the last are kept as they are. All of ``phrase`` where nothing else is left."""
    run = (noun_runs(phrase) or [phrase])[0]
    left = [word for word in _plain(run).split() if word.lower() not in _BEFORE]
    return " ".join(words_of(" ".join(left))).replace("hot-dog", "hot dog") or phrase.strip()


def _plain(text: str) -> str:
    return without_adjectives(" ".join(_WORD.findall(_HOT_DOG.sub("hot-dog", text))))


def how_named(tag: Sequence[str], noun: Noun) -> Way | None:
    """How a phrase names the thing ``tag`` (``words_of``); None: not at all.

    "named": it is the phrase's noun, whatever the adjectives; "kind": the phrase's noun is of that kind ("person" for
    "a man"); "sort": the thing is of the kind that the phrase names ("sheep" for "a big animal"); "alike": the two
    are taken for each other; "within": it is a noun inside the phrase ("apple" in "an apple tree").
    """
    bare = tuple(word for word in words_of(_plain(" ".join(tag))) if word not in _BEFORE) or tuple(tag)
    if noun.words[-len(bare) :] == bare:
        return "named"
    if len(bare) > 1:
        return None
    thing = bare[0]
    if noun.head in _KINDS.get(thing, ()):
        return "kind"
    if thing in _KINDS.get(noun.head, ()):
        return "sort"
    if any(thing in group and noun.head in group for group in _ALIKE):
        return "alike"
    inner = [singular(word) for word in words_of(_plain(" ".join(noun.words)))[:-1]]
    return "within" if thing in inner else None


def phrase_for(name: str, prompt: str) -> str | None:
    """The first phrase of the prompt that names ``name`` ("a red apple" for "apple"); None without one."""
    tag = words_of(name)
    for how in ("named", "kind"):
        for noun in nouns(prompt):
            if tag and not noun.absent and how_named(tag, noun) == how:
                return noun.phrase
    return None


def described(text: str, prompt: str) -> str | None:
    """The noun phrase of the prompt that ends in the words of ``text`` ("three red cars" for "red car"), where only
    one does."""
    words = tuple(word for word in words_of(text) if word not in _BEFORE)
    there = [noun for noun in nouns(prompt) if words and not noun.absent]
    found = {noun.phrase for noun in there if noun.words[-len(words) :] == words}
    return found.pop() if len(found) == 1 else None


def single(phrase: str, several: bool = False) -> str:
    """One of what a phrase counts: "red car" of "three red cars". Where it counts nothing, it is left as it is,
    unless it is one of ``several``: "car" of "cars"."""
    number = _NUMBER.match(phrase)
    if number is None and not several:
        return phrase
    rest, space, last = phrase[number.end() if number else 0 :].rpartition(" ")
    one = singular(last.lower())
    return f"{rest}{space}{last if one == last.lower() else one}"


def same_words(one: str, other: str) -> bool:
    """Whether one of the phrases stands in the other, as whole words: a language model may leave out the article, or
    take words around the phrase along."""
    first, second = (f" {' '.join(text.casefold().split())} " for text in (one, other))
    return first in second or second in first


def standing(phrase: str | None, prompt: str) -> str | None:
    """``phrase`` as the prompt writes it, whatever the case, the spaces, the marks around it and its article; None
    where it does not stand there as whole words."""
    words = (phrase or "").strip(" \t\n\"'`.,;:!?").split()
    article = len(words) > 1 and words[0].lower() in ("a", "an", "the", "one", "some")
    for form in (words, words[1:]) if article else (words,):
        text = r"\s+".join(map(re.escape, form))
        if form and (found := re.search(rf"(?<!\w){text}(?!\w)", prompt, re.IGNORECASE)):
            return found[0]
    return None
