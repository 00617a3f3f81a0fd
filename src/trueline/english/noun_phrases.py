"""English for the rules planner: noun phrases with counts and attributes, and what their nouns stand for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trueline.english import words as w
from trueline.english.plurals import is_noun_word, is_plural, singular
from trueline.english.tagging import Token

MAX_BEFORE = 6  # determiners, numbers and adverbs of one phrase
MAX_ADJECTIVES = 24
MAX_NOUNS = 6  # in one compound
Kind = Literal["thing", "furnishing", "surroundings", "part", "frame", "abstract", "worn"]


@dataclass(frozen=True)
class NounPhrase:
    """One noun phrase. ``first``, ``last``: its tokens, both included. ``count``: the number that is said, else None.

    ``vague``: how many to draw of "several"; ``name``: its bare noun in the singular; ``core``: the phrase without
    determiner and number, as written.
    """

    first: int
    last: int
    start: int  #: of the phrase in the text, in characters
    end: int
    core: str
    name: str
    kind: Kind
    plural: bool
    count: int | None = None
    vague: int | None = None
    determiner: str = ""
    attributes: tuple[str, ...] = ()
    owner: str = ""  #: the noun of "a cat's tail"

    @property
    def amount(self) -> int:
        """How many to draw."""
        if self.count is not None:
            return self.count
        if self.vague is not None:
            return self.vague
        return w.BARE_PLURAL if self.plural else 1

    @property
    def is_exact(self) -> bool:
        """Whether the words say how many there are."""
        return self.count is not None or (self.vague is None and not self.plural)


def noun_phrase(text: str, tokens: Sequence[Token], at: int) -> NounPhrase | None:
    """The noun phrase that begins at a token, or None: determiner, numbers, adjectives (also joined), nouns."""
    start = at
    determiner, count, vague, inner = _before_nouns(tokens, start)
    nouns, end = _nouns(tokens, inner)
    if end == nouns:
        return None
    if end < len(tokens) and tokens[end].word == "'s":  # "a cat's tail"
        if (owned := noun_phrase(text, tokens, end + 1)) is None:
            return None
        name = singular(tokens[end - 1].word)
        return replace(owned, first=start, start=tokens[start].start, determiner="'s", owner=name)
    head = tokens[end - 1].word
    name, first_of_name = _name(tokens, nouns, end)
    if head == "glasses" and name == head and (count or 0) + (vague or 0) > 1:
        name = name[:-2]  # several: for drinking
    plural = is_plural(head)
    some = any(token.word == "some" for token in tokens[start:inner])
    if some and not plural and head not in w.UNCHANGED | w.PLURAL_FORMS | {"people", "cattle"}:
        vague = None  # "some toothpaste"
    if count and not plural and end - nouns > 1 and singular(tokens[nouns].word) in w.COUNTED_PARTS:
        count = None  # "a two piece painting"
    return NounPhrase(
        first=start,
        last=end - 1,
        start=tokens[start].start,
        end=tokens[end - 1].end,
        core=text[tokens[inner].start : tokens[end - 1].end],
        name=name,
        kind=kind_of(name),
        plural=plural,
        count=count,
        vague=vague,
        determiner=determiner,
        attributes=tuple(token.word for token in tokens[inner:first_of_name] if token.kind in ("J", "N")),
        owner=determiner if determiner in w.POSSESSIVES else "",
    )


def _before_nouns(tokens: Sequence[Token], at: int) -> tuple[str, int | None, int | None, int]:
    """Determiner, number ("two", "two dozen", "all three"), vague number ("a few"), and the token after."""
    determiner = ""
    count: int | None = None
    vague: int | None = None
    end = min(len(tokens), at + MAX_BEFORE)
    while at < end and tokens[at].kind in "DCR":
        token = tokens[at]
        if token.kind == "C":
            number, hint = _number(token.word, tokens, at)
            if token.word in ("dozen", "hundred") and count and number:
                count *= number
            elif number is not None:
                count = number
            vague = hint if hint is not None else vague
        elif token.kind == "D":
            determiner = token.word
        at += 1
    return determiner, count, vague, at


def _nouns(tokens: Sequence[Token], inner: int) -> tuple[int, int]:
    """Where the nouns of a phrase begin and end, after its adjectives, which begin at ``inner``."""
    n, at = len(tokens), inner
    while at < min(n, inner + MAX_ADJECTIVES) and _joins(tokens, at, inner):
        at += 1
    nouns = at
    while at < min(n, nouns + MAX_NOUNS) and tokens[at].kind == "N":
        if at > nouns and _separate(tokens, at):
            break
        at += 1
    while nouns < at < n - 1 and tokens[at].kind == "J" and tokens[at + 1].kind == "N":
        nouns = at = at + 1  # "snow covered branches"
        while at < n and tokens[at].kind == "N":
            at += 1
    return nouns, at


def _number(word: str, tokens: Sequence[Token], at: int) -> tuple[int | None, int | None]:
    if word == "dozen" and at and tokens[at - 1].kind != "C":
        return 12, None
    if word in w.VAGUE:
        return None, w.VAGUE[word]
    if word.isdecimal():
        return int(word[:6]), None
    return w.NUMBERS[word], None


def _joins(tokens: Sequence[Token], at: int, first: int) -> bool:
    """Whether the token is an adjective of the phrase, or joins two of its adjectives."""
    kind, after = tokens[at].kind, tokens[at + 1].kind if at + 1 < len(tokens) else ""
    if kind == "J":
        return True
    if kind == "P":  # "a fenced in pasture"
        particle = tokens[at].word in ("in", "off", "up", "down", "out") and tokens[at - 1].kind == "J"
        return at > first and particle and after in ("J", "N")
    if kind == "R":
        return after in ("J", "N") and at >= first and tokens[at].word not in ("there", "here", "then", "now")
    if at == first or at + 2 >= len(tokens):
        return False
    described = tokens[at - 1].kind == "J"
    if kind in ("&", ","):
        if not described or after != "J":
            return False
        return tokens[at + 2].kind in ("J", "N", "&", ",", "R")
    return False


def _separate(tokens: Sequence[Token], at: int) -> bool:
    """Whether two nouns in a row belong to two phrases: "dogs cats"; a plural does not describe what follows."""
    before, word = tokens[at - 1].word, tokens[at].word
    if not is_plural(before):
        return False
    one = singular(before)
    alive = one in w.ANIMALS or one in w.PEOPLE
    listed = is_plural(word) and one in w.THINGS  # "some tables chairs and a clock"
    return (alive or listed) and f"{before} {word}" not in w.COMPOUNDS


def _name(tokens: Sequence[Token], first: int, end: int) -> tuple[str, int]:
    """The bare noun of the nouns ``first`` to ``end``, and the token where it begins.

    A compound of the list is kept; so is the last but one noun where the last is none of the lists' ("coat rack"): it
    may not say much by itself. A thing and its part ("toilet seat") is the thing.
    """
    shift = max(0, end - 3)
    said = [token.word for token in tokens[shift:end]]
    first, end = first - shift, end - shift
    head = singular(said[end - 1])
    drinks = ("wine", "drinking", "beer", "champagne", "water", "cocktail")
    if head == "glasses" and end - first > 1 and said[end - 2] in drinks:
        head = "glass"
    for length in (3, 2):
        begin = end - length
        if begin < 0:
            continue
        full = " ".join([*said[begin : end - 1], head])
        if full in w.COMPOUNDS or " ".join(said[begin:end]) in w.COMPOUNDS or full in w.SHORT_NAMES:
            return w.SHORT_NAMES.get(full, full), begin + shift
    if end - first > 1:
        before = singular(said[end - 2])
        part = head in w.PARTS_OF_OTHERS | w.PARTS_OF_COMPOUNDS
        if part and kind_of(before) == "thing" and is_noun_word(before):
            return before, end - 2 + shift
        if not is_noun_word(head) and before not in w.ADJECTIVES:
            return f"{said[end - 2]} {head}", end - 2 + shift
    return head, end - 1 + shift


def kind_of(name: str) -> Kind:
    """What kind of thing a bare noun stands for."""
    if name in w.COMPOUNDS:
        return "thing"
    head = name.rpartition(" ")[2]
    if head in w.COLOURS:
        return "abstract"
    if head in w.FRAMES:
        return "frame"
    if head in w.CLOTHING:
        return "worn"
    if head in w.PEOPLE or head in w.ANIMALS:
        return "thing"
    if head in w.SURROUNDINGS:
        return "surroundings"
    if head in w.FURNISHINGS:
        return "furnishing"
    if head in w.PARTS:
        return "part"
    endings = ("ness", "ment", "ity", "ism", "ance", "ence", "tude", "ology")
    if head in w.ABSTRACT or (head not in w.THINGS and len(head) > 6 and head.endswith(endings)):
        return "abstract"
    return "thing"
