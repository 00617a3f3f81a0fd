"""Where the phrases of a layout's regions stand in its prompt, in tokens. All token arithmetic lives here.

Found by the tokenizer's offsets, so that a word of several BPE tokens, punctuation and capitals do not matter
(Layout-Guidance and diffusers' BoxDiff count words or need words of one token).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import CLIPTokenizer

from trueline.layout import Layout
from trueline.plurals import plurals

_ARTICLE = re.compile(r"(?:an?|the|one)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Located:
    """The tokens of one region's phrase: positions in the encoded prompt, which begins with its start token.

    ``tokens`` is empty where the prompt does not hold the phrase or is cut before it; ``problem`` says so, "" if all
    is well. A phrase that is cut in its middle has its first tokens, and a problem.
    """

    phrase: str
    tokens: tuple[int, ...]
    problem: str = ""
    head: tuple[int, ...] = ()  #: those of its last word


def locate(tokenizer: CLIPTokenizer, layout: Layout) -> list[Located]:
    """Every region's phrase in the layout's prompt, in the order of the regions.

    Regions of one phrase take its occurrences in turn; where there are fewer, the last one serves the others ("two
    cats", with two regions "cat"). A phrase is looked for as it is written, then without its article, then in the
    plural, then by its last word; each time whatever the case.
    """
    seen: Counter[str] = Counter()
    found = []
    for region in layout.regions:
        key = region.phrase.lower()
        found.append(locate_phrase(tokenizer, layout.prompt, region.phrase, seen[key]))
        seen[key] += 1
    return found


def locate_phrase(tokenizer: CLIPTokenizer, prompt: str, phrase: str, occurrence: int = 0) -> Located:
    """The ``occurrence``-th place (from 0) of the phrase in the prompt, or its last where there are fewer."""
    spans = _spans(prompt, phrase)
    if not spans:
        return Located(phrase, (), f"the prompt does not hold the phrase {phrase!r}")
    start, end = spans[min(occurrence, len(spans) - 1)]
    whole = _between(_offsets(tokenizer, prompt, cut=False), start, end)
    shown = _offsets(tokenizer, prompt, cut=True)
    kept = _between(shown, start, end)
    last_word = start + max(prompt[start:end].rfind(space) for space in " \t\n") + 1
    head = _between(shown, last_word, end)
    if len(kept) < len(whole):
        limit = tokenizer.model_max_length
        cut = "cut off" if not kept else "cut in its middle"
        return Located(
            phrase, kept, f"the phrase {phrase!r} is {cut} at the prompt's {limit} tokens", head or kept
        )
    return Located(phrase, kept, "", head)


def prompt_length(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """Tokens of the prompt as it is encoded, without start and end token, after cutting."""
    return len(_offsets(tokenizer, prompt, cut=True)) - 2


def _spans(prompt: str, phrase: str) -> list[tuple[int, int]]:
    """Places of the first form of the phrase that the prompt holds, as whole words."""
    for form in _forms(phrase):
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, form.split())) + r"(?!\w)"
        if spans := [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]:
            return spans
    return []


def _forms(phrase: str) -> list[str]:
    bare = _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase
    head = bare.split()[-1] if bare.split() else bare
    forms = (phrase, bare, *plurals(bare), head, *plurals(head))
    return list(dict.fromkeys(form for form in forms if form.strip()))


def _offsets(tokenizer: CLIPTokenizer, prompt: str, cut: bool) -> Sequence[tuple[int, int]]:
    """Characters of each token; start and end token have (0, 0)."""
    limit = {"truncation": True, "max_length": tokenizer.model_max_length} if cut else {"truncation": False}
    return tokenizer(prompt, return_offsets_mapping=True, verbose=False, **limit)["offset_mapping"]


def _between(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, ...]:
    return tuple(i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start)
