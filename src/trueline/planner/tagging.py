"""English for the rules planner: tokens, their classes, plurals.

Parts of speech come from textblob's tagger, which ships its data, or from spaCy where that is wanted. Both are
told by word lists and by agreement ("two dogs stand", "a dog stands", but "a dog stand") where they are known
to err: textblob reads "bear" of "a purple bear" as a verb.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from trueline.planner import words as w

Tagger = Literal["textblob", "spacy"]
REACH = 8  # how far the neighbours of a word are looked for, over adverbs
_TOKEN = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")
_ENDS = re.compile(r"\s*(?:[,.;!?)]|and\b|or\b|$)", re.IGNORECASE)
_CLITIC = re.compile(r"(?<=\w)['\u2019]s$", re.IGNORECASE)
_IRREGULAR = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse",
    "geese": "goose", "feet": "foot", "teeth": "tooth", "knives": "knife", "leaves": "leaf",
    "shelves": "shelf", "wolves": "wolf", "loaves": "loaf", "calves": "calf", "halves": "half",
    "thieves": "thief", "hooves": "hoof", "scarves": "scarf", "wives": "wife", "elves": "elf",
    "lives": "life", "oxen": "ox", "cacti": "cactus", "dice": "die", "octopi": "octopus", "busses": "bus",
    "lice": "louse", "gentlemen": "gentleman", "lenses": "lens", "canvases": "canvas", "gases": "gas",
}  # fmt: skip
_IE = frozenset(
    [
        "tie",
        "pie",
        "cookie",
        "movie",
        "zombie",
        "selfie",
        "hoodie",
        "smoothie",
        "brownie",
        "genie",
        "cutie",
        "birdie",
        "collie",
        "magpie",
        "veggie",
    ]
)
_NO_PLURAL = frozenset(
    [
        "tennis",
        "lens",
        "canvas",
        "bus",
        "gas",
        "christmas",
        "iris",
        "chess",
        "news",
        "rhinoceros",
        "thermos",
        "chaos",
        "cosmos",
        "paris",
        "james",
        "texas",
        "mars",
        "atlas",
        "pancreas",
    ]
)


class Token(NamedTuple):
    text: str
    word: str  #: lower case
    start: int
    end: int
    #: D determiner, C count, J adjective, N noun, V verb, P preposition, R adverb, O pronoun, S "which", "&", ",",
    #: "." (end of a sentence), "?" (not read)
    kind: str


@lru_cache(maxsize=4096)
def singular(noun: str) -> str:
    """The singular of an English noun in lower case; a singular comes back as it is."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun in w.PLURAL_FORMS or noun in w.UNCHANGED or noun in _NO_PLURAL or len(noun) < 3:
        return noun
    for ending in ("men",):
        if noun.endswith(ending) and len(noun) > 5:  # firemen, snowmen
            return f"{noun[:-3]}man"
    if noun.endswith("s") and noun not in _NOUNS and noun[:-1] in _NOUNS:  # "taxis", "broccolis", "buss"
        return noun[:-1]
    if not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies") and noun[:-1] not in _IE and len(noun) > 4:
        return f"{noun[:-3]}y"
    strips_es = noun.endswith(("sses", "xes", "zzes", "ches", "shes")) or (
        noun.endswith("uses") and not noun.endswith(("ouses", "fuses", "cruses"))
    )
    if noun.endswith("oes") and noun not in ("shoes", "toes", "canoes", "hoes", "oboes", "horseshoes"):
        strips_es = True
    if noun == "axes":
        return "axe"
    return noun[:-2] if strips_es else noun[:-1]


def is_plural(noun: str) -> bool:
    """Whether the word is a plural by its form. "sheep" and "scissors" are not: their number stands before them."""
    return singular(noun) != noun


def _forms(verb: str) -> set[str]:
    stem = verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "ie", "oe")) else verb
    doubled = verb + verb[-1] if re.search(r"[^aeiou][aeiou][bdglmnprt]$", verb) else stem
    third = (
        verb[:-1] + "ies"
        if re.search(r"[^aeiou]y$", verb)
        else verb + ("es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else "s")
    )
    past = verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else None
    found = {verb, third, f"{stem}ing", f"{doubled}ing", past or f"{stem}ed", f"{doubled}ed"}
    return found | ({f"{verb[:-2]}ying"} if verb.endswith("ie") else set())


_VERB_FORMS = frozenset(form for verb in w.VERBS for form in _forms(verb)) | w.IRREGULAR_VERBS
_THIRD = frozenset(form for verb in w.VERBS for form in _forms(verb) if form.endswith("s"))
MOTION = frozenset(form for verb in w.MOVES for form in _forms(verb)) | w.MOVED  #: forms of verbs of moving
_NOUNS = (
    w.THINGS | w.PEOPLE | w.ANIMALS | w.SURROUNDINGS | w.FURNISHINGS | w.PARTS | w.FRAMES | w.PICTURES
    | w.PORTIONS | w.CONTAINERS
    | frozenset(w.GROUPS) | frozenset(w.EXACT_GROUPS) | frozenset(w.WORN) | w.BUNCHED | w.ABSTRACT | w.PLURAL_FORMS
    | frozenset(compound.rpartition(" ")[2] for compound in w.COMPOUNDS)
)  # fmt: skip


_OUTSIDE = w.DETERMINERS | w.PRONOUNS | w.SUBORDINATORS | w.AUXILIARIES | w.PREPOSITIONS


@lru_cache(maxsize=4096)
def is_noun_word(word: str) -> bool:
    """Whether one of the lists holds the word, in the singular or the plural, as a noun."""
    return word in _NOUNS or singular(word) in _NOUNS


@lru_cache(maxsize=1)
def _spacy() -> Any:
    try:
        import spacy

        return spacy.load("en_core_web_sm", disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise ValueError(
            "tagger: spacy needs spaCy and its model (python -m spacy download en_core_web_sm); "
            'install them or use tagger "textblob"'
        ) from error


@lru_cache(maxsize=1)
def best_tagger() -> Tagger:
    """ "spacy" where it and its model are installed, else "textblob"."""
    try:
        _spacy()
    except ValueError:
        return "textblob"
    return "spacy"


def _tags(words: Sequence[str], tagger: Tagger) -> list[str]:
    """Penn Treebank tags, one a word."""
    if tagger == "spacy":
        nlp = _spacy()
        from spacy.tokens import Doc

        return [token.tag_ for token in nlp(Doc(nlp.vocab, words=list(words)))]
    from textblob.en import parser

    return [tag for _, tag in parser.find_tags(list(words))]


def tokens_of(text: str, tagger: Tagger = "textblob") -> list[Token]:
    """The tokens of a prompt with their classes. A possessive "'s" is a token of its own, a determiner."""
    spans: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        clitic = _CLITIC.search(match[0])
        if (
            clitic
            and match[0][: clitic.start()].lower() not in ("it", "there")
            and not _misspelt(text, match)
        ):
            spans += [(start, start + clitic.start()), (start + clitic.start(), end)]
        else:
            spans.append((start, end))
    lower = [text[a:b].lower().replace("\u2019", "'") for a, b in spans]
    lower = [
        word.replace("'", "") if word.endswith("'s") and len(word) > 2 and is_noun_word(word[:-2]) else word
        for word in lower
    ]
    tags = _tags([word if _latin(word) else "," for word in lower], tagger) if lower else []
    kinds: list[str] = []
    for at in range(len(lower)):
        kinds.append(_kind(lower, tags, kinds, at))
    return [
        Token(text[a:b], word, a, b, kind) for (a, b), word, kind in zip(spans, lower, kinds, strict=True)
    ]


def _misspelt(text: str, word: re.Match[str]) -> bool:
    """Whether a thing's "'s" is a plural: nothing follows that it could own. "fried banana's, and"."""
    bare = word[0][:-2].lower()
    if bare in w.PEOPLE or bare in w.ANIMALS or bare not in w.THINGS:
        return False
    return _ENDS.match(text, word.end()) is not None


def _latin(word: str) -> bool:
    if word.isascii():
        return word.isalnum() or len(word) == 1 or any(letter.isalpha() for letter in word)
    letters = unicodedata.normalize("NFKD", word)
    return (
        any("a" <= letter <= "z" for letter in letters)
        or word.isdecimal()
        or (len(word) == 1 and word.isascii())
    )


def _kind(words: list[str], tags: list[str], before: list[str], at: int) -> str:
    """The class of the word at ``at``; ``before`` holds those of the words before it."""
    word, tag = words[at], tags[at]
    last = next((kind for kind in reversed(before[-REACH:]) if kind != "R"), "")
    after = next((other for other in words[at + 1 : at + REACH] if not _is_adverb(other)), "")
    if after in ("next", "left", "right", "close", "far", "adjacent", "opposite") and _starts_relation(
        words, at + 1
    ):
        after = "of"  # "an orange next to a cup"
    if closed := _closed(word, last, after, words, at):
        return closed
    if at + 1 < len(words) and f"{word} {singular(words[at + 1])}" in w.COMPOUNDS:
        return "N"  # "dining tables"
    noun = is_noun_word(word) or tag.startswith("NN")
    participle = (word.endswith(("ing", "ed")) or tag in ("VBG", "VBN")) and word not in w.NOT_PARTICIPLES
    verb = word in _VERB_FORMS or tag.startswith("VB") or participle
    adjective = word in w.ADJECTIVES or tag.startswith("JJ") or word in w.LARGE or word in w.SMALL
    inner = _inner(after)
    if last in ("D", "C", "J"):
        if adjective and after in ("and", "or", ",") and _list_of_adjectives(words, at):
            return "J"
        if (
            participle
            and last == "D"
            and after in ("in", "off", "up", "down", "out")
            and _inner(words[at + 2] if at + 2 < len(words) else "")
        ):
            return "J"  # "a fenced in pasture"
        if participle and last == "J" and word in _VERB_FORMS and word.endswith("ing") and not inner:
            before[-1] = "N"  # "a blond wearing a hat", "a brown bulldog sitting"
            return "V"
        if last == "J" and _is_noun_now(words, at) and word in _VERB_FORMS and _follows_verb(words, at):
            before[-1] = "N"  # "a woman in black stands up", "a bus with a picture on the front stopped"
            return "V"
        if last == "C" and word in w.WEAR | w.HOLD:
            return "V"  # "two girls, one wearing a hat"
        if last == "C" and participle and word in _VERB_FORMS | w.MADE and after in w.PREPOSITIONS - {"of"}:
            return "V"  # "a family of four walking at the beach"
        if participle and not is_noun_word(word):
            return "J" if inner or (last == "J" and tag.startswith("JJ")) else "N"
        if adjective and inner and not (is_noun_word(word) and not _noun_follows(words, at)):
            return "J"
        return (
            "J"
            if adjective
            and not noun
            and word not in w.NOUN_TOO
            and last != "J"
            and not inner
            and tag.startswith("JJ")
            else "N"
        )
    begins = last in ("", ".") and after in ("and", ",")
    if begins and word in w.COLOURS | w.COLOURS_TOO and _list_of_adjectives(words, at):
        return "J"  # "Orange and brown cat"
    if last == "N":
        return _after_noun(words, at, noun, verb, participle, adjective, after)
    if participle and not (is_noun_word(word) and not word.endswith("ed")):
        starts = last in ("", "P", ".") and words[at - 1 : at] != ["to"]
        if word.endswith("ing"):
            return (
                "J"
                if starts
                and inner
                and after not in w.DETERMINERS
                and is_noun_word(after)
                and not is_plural(after)
                else "V"
            )
        return "J" if inner and after not in w.DETERMINERS else "V"
    if adjective and (inner or (word not in w.NOUN_TOO and not is_noun_word(word))):
        return "J" if inner or last != "V" else "R"
    if noun and verb:
        infinitive = (
            words[at - 1 : at] == ["to"]
            or (last == "V" and word in w.VERBS and words[at - 1] in w.AUXILIARIES)
            or (
                before[-1:] == ["O"]
                and word in _VERB_FORMS
                and words[at - 1] in ("they", "it", "he", "she", "i", "we", "you")
            )
        )
        return (
            "V"
            if infinitive or (last in ("&", "S", "O") and word in _VERB_FORMS and not is_noun_word(word))
            else (
                "V"
                if last in ("&", "S", "O", ",")
                and (word in _THIRD or word in w.IRREGULAR_VERBS)
                and (after in w.DETERMINERS or after in w.PREPOSITIONS)
                else "N"
            )
        )
    if noun or tag in ("FW", "SYM"):
        return "N"
    return "R" if tag.startswith("RB") else "V" if verb else "J" if adjective else "R"


def _closed(word: str, last: str, after: str, words: list[str], at: int) -> str:
    """The class of a word that belongs to a closed class, else ""."""
    if word in ("'s", "'"):
        return "D"
    if word in (".", "!", "?", ";", ":"):
        return "."
    if word == ",":
        return ","
    if not _latin(word) or not any(letter.isalnum() for letter in word):
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
    if (
        word in ("around", "up", "down", "off", "out", "by")
        and after.endswith("ing")
        and not is_noun_word(after)
    ):
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
    if (word == "that" and last == "N") or (
        word in w.SUBORDINATORS and not (word == "that" and _inner(after))
    ):
        return "S"
    if word in w.DETERMINERS:
        return "D" if word != "her" or _inner(after) else "O"
    if word in w.PRONOUNS or (word == "other" and not _inner(after)):
        return "O"
    if word == "can" and (last in ("D", "C", "J") or f"{words[at - 1]} can" in w.COMPOUNDS):
        return "N"  # "a trash can"
    if word in w.AUXILIARIES or word.endswith("n't"):
        return "V"
    if word in w.PREPOSITIONS:
        return "P"
    return "R" if _is_adverb(word) else ""


def _after_noun(
    words: list[str], at: int, noun: bool, verb: bool, participle: bool, adjective: bool, after: str
) -> str:
    """Whether a word right after a noun goes on with the phrase (N, J) or ends it (V)."""
    word, head = words[at], words[at - 1]
    if participle and not (is_noun_word(word) and not word.endswith("ed")):
        covered = word in w.COVERED and is_noun_word(after) and not is_plural(head)
        return "J" if covered else "V"
    if f"{head} {word}" in w.COMPOUNDS or f"{head} {singular(word)}" in w.COMPOUNDS:
        return "N"
    if verb and word in _VERB_FORMS:
        if is_plural(head) or head in w.UNCHANGED or head in ("people", "cattle"):
            agrees = word in w.VERBS or word in w.IRREGULAR_VERBS  # "two dogs stand"
        else:
            agrees = word in _THIRD or word in w.IRREGULAR_VERBS  # "a dog stands"
        together = (
            word in w.VERBS
            and "and" in words[max(0, at - REACH) : at]
            and (after in w.PREPOSITIONS or after in ("", "next"))
        )
        if agrees or together:  # "a dog and a cat stand next to"
            return "V"
        alive = head in w.ANIMALS or head in w.PEOPLE
        rests = word in w.POSTURES and alive  # "a cat rest comfortably on a chair"
        if (rests or (word in _THIRD and singular(word) in w.POSTURES)) and _follows_verb(words, at):
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
    return word in _VERB_FORMS and not is_noun_word(word) and not word.endswith(("ing", "ed"))


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
    return (adjective in w.COLOURS | w.COLOURS_TOO and before == ["in"]) or (
        adjective in w.FRAMES and before == ["the"]
    )


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
        or (_inner(after) and not _is_verb_only(after) and after not in _VERB_FORMS)
    )
