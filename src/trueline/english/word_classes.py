"""The class of a word of a prompt: noun, verb, adjective ..., by word lists, by agreement and by its neighbours.

A tagger proposes a class. Lists and agreement ("two dogs stand", "a dog stands", but "a dog stand") correct it where
taggers err: textblob reads "bear" of "a purple bear" as a verb. The classes are those of ``tagging.Token.kind``.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from trueline.english import words as w
from trueline.english.plurals import is_noun_word, is_plural, singular

REACH = 8  # how far the neighbours of a word are looked for, over adverbs
_ADJECTIVES = w.ADJECTIVES | w.LARGE | w.SMALL
_COLOURS = w.COLOURS | w.COLOURS_TOO
_SUBJECTS = ("they", "it", "he", "she", "i", "we", "you")
_OUTSIDE = w.DETERMINERS | w.PRONOUNS | w.SUBORDINATORS | w.AUXILIARIES | w.PREPOSITIONS


def _forms(verb: str) -> set[str]:
    stem = verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "ie", "oe")) else verb
    doubled = verb + verb[-1] if re.search(r"[^aeiou][aeiou][bdglmnprt]$", verb) else stem
    third = verb + ("es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else "s")
    past = f"{stem}ed"
    if re.search(r"[^aeiou]y$", verb):
        third, past = f"{verb[:-1]}ies", f"{verb[:-1]}ied"
    found = {verb, third, f"{stem}ing", f"{doubled}ing", past, f"{doubled}ed"}
    return found | ({f"{verb[:-2]}ying"} if verb.endswith("ie") else set())


VERB_FORMS = frozenset(form for verb in w.VERBS for form in _forms(verb)) | w.IRREGULAR_VERBS
THIRD_PERSON = frozenset(form for verb in w.VERBS for form in _forms(verb) if form.endswith("s"))
MOTION = frozenset(form for verb in w.MOVES for form in _forms(verb)) | w.MOVED  #: forms of verbs of moving


@dataclass(frozen=True)
class _Here:
    """The word at ``at``, and what may be said of it by itself. ``before``: the classes of the words before it."""

    words: list[str]
    before: list[str]
    at: int
    tag: str  #: the tagger's
    last: str  #: the class before, over adverbs
    after: str  #: the word after, over adverbs; "of" for the words of a relation

    @property
    def word(self) -> str:
        return self.words[self.at]

    @property
    def next(self) -> str:
        return self.words[self.at + 1] if self.at + 1 < len(self.words) else ""

    @cached_property
    def noun(self) -> bool:
        return is_noun_word(self.word) or self.tag.startswith("NN")

    @cached_property
    def participle(self) -> bool:
        formed = self.word.endswith(("ing", "ed")) or self.tag in ("VBG", "VBN")
        return formed and self.word not in w.NOT_PARTICIPLES

    @cached_property
    def verb(self) -> bool:
        return self.word in VERB_FORMS or self.tag.startswith("VB") or self.participle

    @cached_property
    def adjective(self) -> bool:
        return self.tag.startswith("JJ") or self.word in _ADJECTIVES

    @cached_property
    def inner(self) -> bool:
        """Whether the noun phrase that it may be in goes on."""
        return _inner(self.after)


def class_of(words: list[str], tags: list[str], before: list[str], at: int) -> str:
    """The class of the word at ``at``; ``before`` holds those of the words before it."""
    last = next((kind for kind in reversed(before[-REACH:]) if kind != "R"), "")
    after = next((other for other in words[at + 1 : at + REACH] if not _is_adverb(other)), "")
    if after in ("next", "left", "right", "close", "far", "adjacent", "opposite") and _starts_relation(
        words, at + 1
    ):
        after = "of"  # "an orange next to a cup"
    here = _Here(words, before, at, tags[at], last, after)
    if closed := _closed(here.word, last, after, words, at):
        return closed
    if f"{here.word} {singular(here.next)}" in w.COMPOUNDS:
        return "N"  # "dining tables"
    if last in ("D", "C", "J"):
        return _in_phrase(here)
    begins = last in ("", ".") and after in ("and", ",")
    if begins and here.word in _COLOURS and _list_of_adjectives(words, at):
        return "J"  # "Orange and brown cat"
    if last == "N":
        return _after_noun(here)
    if here.participle and not (is_noun_word(here.word) and not here.word.endswith("ed")):
        return _participle(here)
    if here.adjective and (here.inner or (here.word not in w.NOUN_TOO and not is_noun_word(here.word))):
        return "J" if here.inner or last != "V" else "R"
    if here.noun and here.verb:
        return "V" if _acts(here) else "N"
    if here.noun or here.tag in ("FW", "SYM"):
        return "N"
    return "R" if here.tag.startswith("RB") else "V" if here.verb else "J" if here.adjective else "R"


def is_latin(word: str) -> bool:
    """Whether it is a number, or a word in Latin letters, accents or not."""
    if word.isascii():
        return word.isalnum() or len(word) == 1 or any(letter.isalpha() for letter in word)
    letters = unicodedata.normalize("NFKD", word)
    return any("a" <= letter <= "z" for letter in letters) or word.isdecimal()


def _in_phrase(here: _Here) -> str:
    """After a determiner, a number or an adjective: an adjective, the noun, or a verb after all."""
    words, at, word, last, after = here.words, here.at, here.word, here.last, here.after
    if here.adjective and after in ("and", "or", ",") and _list_of_adjectives(words, at):
        return "J"
    particle = after in ("in", "off", "up", "down", "out") and at + 2 < len(words) and _inner(words[at + 2])
    if here.participle and last == "D" and particle:
        return "J"  # "a fenced in pasture"
    if _ends_phrase(here):
        if last == "J":
            here.before[-1] = "N"
        return "V"
    if here.participle and not is_noun_word(word):
        return "J" if here.inner or (last == "J" and here.tag.startswith("JJ")) else "N"
    if here.adjective and here.inner and not (is_noun_word(word) and not _noun_follows(words, at)):
        return "J"
    bare = here.tag.startswith("JJ") and not here.noun and word not in w.NOUN_TOO
    return "J" if bare and last != "J" and not here.inner else "N"


def _ends_phrase(here: _Here) -> bool:
    """Whether it is the verb of what stands before: "a blond wearing a hat", "two girls, one wearing a hat"."""
    word, last = here.word, here.last
    if last == "J":
        acting = here.participle and word.endswith("ing") and not here.inner
        place = here.words, here.at
        known = _is_noun_now(*place) and _follows_verb(*place)  # "in black stands up"
        return word in VERB_FORMS and (acting or known)
    if last != "C":
        return False
    going = here.participle and word in VERB_FORMS | w.MADE and here.after in w.PREPOSITIONS - {"of"}
    return word in w.WEAR | w.HOLD or going  # "a family of four walking at the beach"


def _participle(here: _Here) -> str:
    described = here.inner and here.after not in w.DETERMINERS
    if not here.word.endswith("ing"):
        return "J" if described else "V"
    starts = here.last in ("", "P", ".") and here.words[here.at - 1 : here.at] != ["to"]
    one = is_noun_word(here.after) and not is_plural(here.after)
    return "J" if starts and described and one else "V"


def _acts(here: _Here) -> bool:
    """Whether a word that may be a noun or a verb is a verb, by what stands before: "to walk", "they walk"."""
    words, at, word, last = here.words, here.at, here.word, here.last
    said = words[at - 1] if at else ""
    if said == "to" or (last == "V" and word in w.VERBS and said in w.AUXILIARIES):
        return True
    if here.before[-1:] == ["O"] and word in VERB_FORMS and said in _SUBJECTS:
        return True
    if last in ("&", "S", "O") and word in VERB_FORMS and not is_noun_word(word):
        return True
    joined = last in ("&", "S", "O", ",") and (word in THIRD_PERSON or word in w.IRREGULAR_VERBS)
    return joined and here.after in w.DETERMINERS | w.PREPOSITIONS


def _closed(word: str, last: str, after: str, words: list[str], at: int) -> str:
    """The class of a word that belongs to a closed class, else ""."""
    if word in ("'s", "'"):
        return "D"
    if word in (".", "!", "?", ";", ":"):
        return "."
    if word == ",":
        return ","
    if not is_latin(word) or not any(letter.isalnum() for letter in word):
        return "&" if word == "&" else "?"
    if word in ("and", "or", "plus", "nor", "but"):
        return "&"
    if word in ("one", "ones") and last == "J" and not _inner(after):
        return "N"  # "a black cat and a white one"
    if word == "one":
        return "C" if _inner(after) or after == "of" else "O"
    if word in w.COLOURS_TOO and words[at - 1 : at] == ["in"] and not _inner(after):
        return "R"  # "a player in orange"
    if word in ("next", "close", "far", "adjacent") and after in ("to", "from"):
        return "P"
    if word in ("left", "right") and last == "N" and words[at + 1 : at + 2] in (["of"], ["side"]):
        return "P"
    if word in ("left", "right") and words[at - 1 : at] and words[at - 1] in w.POSSESSIVES:
        if after == "side":
            return "J"
        if not _inner(after):
            return "N"  # "a dog on its right"
    particle = word in ("around", "up", "down", "off", "out", "by")
    if particle and after.endswith("ing") and not is_noun_word(after):
        return "R"
    if word in w.NUMBERS or word.isdecimal():
        return "C"
    if word == "all" and last in ("D", "J"):
        return "J"  # "an all terrain vehicle"
    if word in w.VAGUE and after in w.WEAR | w.HOLD and words[at + 1 : at + 2] == [after]:
        return "O"  # "people, many wearing red shirts"
    if word in w.VAGUE and (_inner(after) or after in ("of", "other")):
        return "C"
    if word in ("more", "most", "less", "fewer", "enough", "much"):
        return "R"
    if word in w.SUBORDINATORS and (word != "that" or last == "N" or not _inner(after)):
        return "S"
    if word in w.DETERMINERS:
        return "D" if word != "her" or _inner(after) else "O"
    if word in w.PRONOUNS or (word == "other" and not _inner(after)):
        return "O"
    if word == "can" and (last in ("D", "C", "J") or " ".join(words[max(at - 1, 0) : at + 1]) in w.COMPOUNDS):
        return "N"  # "a trash can"
    if word in w.AUXILIARIES or word.endswith("n't"):
        return "V"
    if word in w.PREPOSITIONS:
        return "P"
    return "R" if _is_adverb(word) else ""


def _after_noun(here: _Here) -> str:
    """Whether a word right after a noun goes on with the phrase (N, J) or ends it (V)."""
    words, at, word, after = here.words, here.at, here.word, here.after
    noun, verb, participle, adjective = here.noun, here.verb, here.participle, here.adjective
    head = words[at - 1]
    if participle and not (is_noun_word(word) and not word.endswith("ed")):
        covered = word in w.COVERED and is_noun_word(after) and not is_plural(head)
        return "J" if covered else "V"
    if f"{head} {word}" in w.COMPOUNDS or f"{head} {singular(word)}" in w.COMPOUNDS:
        return "N"
    if verb and word in VERB_FORMS:
        if is_plural(head) or head in w.UNCHANGED or head in ("people", "cattle"):
            agrees = word in w.VERBS or word in w.IRREGULAR_VERBS  # "two dogs stand"
        else:
            agrees = word in THIRD_PERSON or word in w.IRREGULAR_VERBS  # "a dog stands"
        joined = word in w.VERBS and "and" in words[max(0, at - REACH) : at]
        together = joined and (after in w.PREPOSITIONS or after in ("", "next"))
        if agrees or together:  # "a dog and a cat stand next to"
            return "V"
        alive = head in w.ANIMALS or head in w.PEOPLE
        rests = word in w.POSTURES and alive  # "a cat rest comfortably on a chair"
        if (rests or (word in THIRD_PERSON and singular(word) in w.POSTURES)) and _follows_verb(words, at):
            return "V"  # "a man with flip flops stands near a tree"
    if noun and not (verb and not is_noun_word(word)):
        return "N"
    if adjective:
        return "J" if is_noun_word(after) and not is_noun_word(head) else "V"
    return "V" if verb else "N" if noun else "R"


def _is_adverb(word: str) -> bool:
    return word in w.ADVERBS or (word.endswith("ly") and word not in w.NOT_ADVERBS)


def _inner(word: str) -> bool:
    """Whether a word can stand inside a noun phrase, behind its first word."""
    if not word or not word[0].isalnum() or word in w.NUMBERS:
        return False
    return word not in _OUTSIDE and word not in ("and", "or", "but") and not (_is_verb_only(word))


def _is_verb_only(word: str) -> bool:
    return word in VERB_FORMS and not is_noun_word(word) and not word.endswith(("ing", "ed"))


def _starts_relation(words: list[str], at: int) -> bool:
    """Whether "next to", "left of" and the like stand there, after adverbs."""
    while at < len(words) - 1 and _is_adverb(words[at]) and words[at] != "right":
        at += 1
    return words[at + 1 : at + 2] in (["to"], ["of"], ["from"], ["side"])


def _list_of_adjectives(words: list[str], at: int) -> bool:
    """Whether ", white" or "and white" and the rest of a noun phrase follow."""
    while at + 2 < len(words) and words[at + 1] in ("and", "or", ","):
        at += 2 if words[at + 2] not in ("and", "or") else 3
        after = words[at + 1] if at + 1 < len(words) else ""
        if at >= len(words) or not (words[at] in w.ADJECTIVES or words[at].endswith(("ed", "ish"))):
            return False
        if (_inner(after) and words[at] not in w.NOUN_TOO) or is_noun_word(after):
            return True
    return False


def _is_noun_now(words: list[str], at: int) -> bool:
    """Whether the adjective before stands for a thing: "in black", "on the front"."""
    adjective, before = words[at - 1], words[at - 2 : at - 1]
    return (adjective in _COLOURS and before == ["in"]) or (adjective in w.FRAMES and before == ["the"])


def _follows_verb(words: list[str], at: int) -> bool:
    after = words[at + 1] if at + 1 < len(words) else ""
    if _starts_relation(words, at + 1):
        return True
    return not after or after in w.PREPOSITIONS | w.DETERMINERS or _is_adverb(after) or not after[0].isalnum()


def _noun_follows(words: list[str], at: int) -> bool:
    after = words[at + 1] if at + 1 < len(words) else ""
    if _starts_relation(words, at + 1):
        return False
    described = after.endswith(("ing", "ed")) and at + 2 < len(words) and is_noun_word(words[at + 2])
    return (
        is_noun_word(after)
        or after in w.ADJECTIVES
        or described  # "an orange cutting knife"
        or (_inner(after) and not _is_verb_only(after) and after not in VERB_FORMS)
    )
