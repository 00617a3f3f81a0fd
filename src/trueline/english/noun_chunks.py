"""B-VQA's questions: the noun chunks of a prompt, each asked of the picture on its own (T2I-CompBench).

The official scorer takes spaCy's chunks (``en_core_web_sm``), leaves some out, asks the first eight with a "?"
behind and multiplies the answers. spaCy's model is no ordinary package; where it is not installed the parser
"rules" does instead, and a result must say which of the two it was: ``b-vqa[spacy]``, ``b-vqa[rules]``.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from trueline.english.lists import read_lists
from trueline.english.spacy_model import has_spacy, load_spacy

MAX_CHUNKS = 8  #: chunks that are asked
#: Chunks that T2I-CompBench leaves out, as written here ("the top" stays in).
LEFT_OUT = frozenset({"top", "the side", "the left", "the right"})

Parser = Literal["spacy", "rules"]


def chunks(prompt: str, parser: Parser = "rules") -> list[str]:
    """The first ``MAX_CHUNKS`` noun chunks of ``prompt`` as they are written in it.

    Raises:
        ValueError: "spacy" without spaCy or its model.
    """
    found = (span.text for span in _spacy()(prompt).noun_chunks) if parser == "spacy" else noun_runs(prompt)
    return [chunk for chunk in found if chunk not in LEFT_OUT][:MAX_CHUNKS]


def questions(prompt: str, parser: Parser = "rules") -> list[str]:
    """One yes-or-no question for each chunk: "a red apple?"."""
    return [f"{chunk}?" for chunk in chunks(prompt, parser)]


def b_vqa(probabilities: Sequence[float]) -> float:
    """The score of a picture from P(yes) of each chunk: their product; a chunk that is not there counts 1."""
    return math.prod(probabilities)


def best_parser() -> Parser:
    """ "spacy" where it and its model are installed, else "rules"."""
    return "spacy" if has_spacy() else "rules"


def without_adjectives(prompt: str, parser: Parser = "rules") -> str:
    """The prompt without its adjectives, which is what T2I-CompBench's CLIP score reads of complex prompts.

    The official scorer drops every word that spaCy tags as an adjective; the rules drop those of a closed list.
    """
    if parser == "spacy":
        return " ".join(token.text for token in _spacy()(prompt) if token.pos_ != "ADJ")
    return " ".join(word for word in prompt.split() if word.strip(".,;:!?").lower() not in _ADJECTIVES)


def _spacy() -> Any:
    return load_spacy("parser", "rules")


_LISTS = read_lists("noun_chunks")
_DETERMINERS = _LISTS["DETERMINERS"]
_PRONOUNS = _LISTS["PRONOUNS"]
_OUTSIDE = _LISTS["OUTSIDE"]
_VERBS = _LISTS["VERBS"]
_MAYBE_VERBS = _LISTS["MAYBE_VERBS"]
_NOT_VERBS = _LISTS["NOT_VERBS"]
_BEFORE_VERBS = _LISTS["BEFORE_VERBS"]
_SUBJECTS = _LISTS["SUBJECTS"]
_ADJECTIVES = _LISTS["ADJECTIVES"]
_NOT_ADVERBS = _LISTS["NOT_ADVERBS"]
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:['\u2019-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")


class _WordSpan(NamedTuple):
    word: str  #: lower case
    start: int
    end: int


def noun_runs(text: str) -> list[str]:
    """Runs of determiner, numbers, adjectives and nouns, as written in ``text``, by closed word lists.

    Meant for the short sentences of benchmarks ("the soft pillow was next to the rough brick"); it knows no
    grammar beyond them.
    """
    tokens = [_WordSpan(m[0].lower(), *m.span()) for m in _TOKEN.finditer(text)]
    words = ["", *(token.word for token in tokens), ""]
    runs: list[list[_WordSpan]] = [[]]
    for token, before, after in zip(tokens, words, words[2:], strict=False):
        run = runs[-1]
        if _joins(token.word, run, after):
            run.append(token)
        elif token.word in _PRONOUNS:
            runs += [[token], []]
        elif token.word in _DETERMINERS:
            runs.append([token])
        elif _is_outside(token.word) or _is_verb(token.word, run, before, after):
            runs.append([])
        else:
            run.append(token)
    return [text[run[0].start : run[-1].end] for run in runs if _named(run)]


def _joins(word: str, run: list[_WordSpan], after: str) -> bool:
    """Whether "and", a comma or an adverb stands between adjectives of one noun ("black and white cat")."""
    if not run or not all(_describes(t.word) for t in run):
        return False
    if _is_adverb(word):  # "the freshly brewed coffee"
        return run[0].word in _DETERMINERS and _is_inner(after)
    if word == ",":
        return run[0].word in _DETERMINERS and len(run) > 1 and _is_inner(after)
    return word == "and" and run[-1].word in _ADJECTIVES and after in _ADJECTIVES


def _is_verb(word: str, run: list[_WordSpan], before: str, after: str) -> bool:
    """Whether ``word`` ends ``run`` as a verb, between the words ``before`` and ``after``."""
    described = any(t.word not in _DETERMINERS for t in run)
    named = any(not _describes(t.word) for t in run)
    if word in _VERBS:
        return described or not run
    acts = word in _MAYBE_VERBS or (word.endswith(("ed", "ing")) and word not in _NOT_VERBS)
    if not acts and word.endswith("s") and after in _DETERMINERS:  # "the spatula stirs the soup"
        return named
    if acts and (before in _SUBJECTS or (word in _MAYBE_VERBS and before in _BEFORE_VERBS)):
        return True
    if word in _MAYBE_VERBS and after in ("", "and", ",", "."):  # "a trophy stand and a cup"
        return False
    return acts and not _is_inner(after) and (named or not run)


def _is_outside(word: str) -> bool:
    return not word[0].isalnum() or word in _OUTSIDE or _is_adverb(word)


def _is_adverb(word: str) -> bool:
    return word.endswith("ly") and word not in _NOT_ADVERBS


def _is_inner(word: str) -> bool:
    """Whether ``word`` can stand inside a chunk, behind its first word."""
    closed = _DETERMINERS | _PRONOUNS | _VERBS
    return bool(word) and word not in closed and not _is_outside(word)


def _describes(word: str) -> bool:
    shaped = word.endswith(("ed", "ing")) and word not in _NOT_VERBS
    return word in _DETERMINERS or word in _ADJECTIVES or word in ("and", ",") or shaped


def _named(run: list[_WordSpan]) -> bool:
    """Whether the run holds a noun: anything but adjectives, or an adjective behind a determiner ("the orange")."""
    if not run:
        return False
    rest = [t.word for t in run if t.word not in _DETERMINERS]
    return bool(rest) and (len(rest) < len(run) or any(word not in _ADJECTIVES for word in rest))
