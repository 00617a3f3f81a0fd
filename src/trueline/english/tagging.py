"""English for the rules planner: tokens and their classes.

Parts of speech come from textblob's tagger, which ships its data, or from spaCy where that is wanted;
``word_classes`` corrects them.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from trueline.english import words as w
from trueline.english.plurals import is_noun_word
from trueline.english.spacy_model import has_spacy, load_spacy
from trueline.english.word_classes import class_of, is_latin

Tagger = Literal["textblob", "spacy"]
_TOKEN = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")
_ENDS = re.compile(r"\s*(?:[,.;!?)]|and\b|or\b|$)", re.IGNORECASE)
_CLITIC = re.compile(r"(?<=\w)['\u2019]s$", re.IGNORECASE)


class Token(NamedTuple):
    text: str
    word: str  #: lower case
    start: int
    end: int
    #: D determiner, C count, J adjective, N noun, V verb, P preposition, R adverb, O pronoun, S "which", "&", ",",
    #: "." (end of a sentence), "?" (not read)
    kind: str


def best_tagger() -> Tagger:
    """ "spacy" where it and its model are installed, else "textblob"."""
    return "spacy" if has_spacy() else "textblob"


def _tags(words: Sequence[str], tagger: Tagger) -> list[str]:
    """Penn Treebank tags, one a word."""
    if tagger == "spacy":
        nlp = load_spacy("tagger", "textblob", ("parser", "ner", "lemmatizer"))
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
        if clitic and match[0][:-2].lower() not in ("it", "there") and not _misspelt(text, match):
            spans += [(start, start + clitic.start()), (start + clitic.start(), end)]
        else:
            spans.append((start, end))
    lower = [text[a:b].lower().replace("\u2019", "'") for a, b in spans]
    lower = [
        word.replace("'", "") if word.endswith("'s") and len(word) > 2 and is_noun_word(word[:-2]) else word
        for word in lower
    ]
    tags = _tags([word if is_latin(word) else "," for word in lower], tagger) if lower else []
    kinds: list[str] = []
    for at in range(len(lower)):
        kinds.append(class_of(lower, tags, kinds, at))
    return [
        Token(text[a:b], word, a, b, kind) for (a, b), word, kind in zip(spans, lower, kinds, strict=True)
    ]


def _misspelt(text: str, word: re.Match[str]) -> bool:
    """Whether a thing's "'s" is a plural: nothing follows that it could own. "fried banana's, and"."""
    bare = word[0][:-2].lower()
    if bare in w.PEOPLE or bare in w.ANIMALS or bare not in w.THINGS:
        return False
    return _ENDS.match(text, word.end()) is not None
