"""Where the phrases of a layout's regions stand in its prompt, in tokens. All token arithmetic lives here.

Found by the tokenizer's offsets, so that a word of several BPE tokens, punctuation and capitals do not matter
(Layout-Guidance and diffusers' BoxDiff count words or need words of one token).
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from trueline.english.plurals import plurals
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.encoded import Spans, content

Form = Literal["whole", "noun", "word", "none"]

_ARTICLE = re.compile(r"(?:an?|the|one)\s+", re.IGNORECASE)
#: Before a noun they say nothing about what it looks like.
_COUNTING = {
    "a", "an", "the", "this", "that", "these", "those", "its", "his", "her", "their", "my", "our", "your",
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "some", "several", "many",
    "few", "more", "other", "another", "each", "every", "all", "both",
}  # fmt: skip
#: What follows one of these in a phrase is not what the phrase is about: "a clock on the left".
_LINKS = {
    "and", "or", "of", "on", "in", "at", "to", "from", "with", "without", "by", "for", "near", "next", "beside",
    "behind", "under", "below", "above", "over", "between", "into", "onto", "is", "are", "was", "were", "that",
    "which", "who", "has", "have", "as", "like",
}  # fmt: skip


@dataclass(frozen=True)
class Located:
    """The tokens of one region's phrase: their places in ``Encoded.states``.

    ``tokens`` is empty where the prompt does not hold the phrase or is cut before it; ``problem`` says so, "" if all
    is well. A phrase that is cut in its middle has its first tokens, and a problem.

    ``form``: what of it the prompt holds. "whole": all of it, except its article and number; "noun": its last word,
    with nothing said of it that the phrase does not say ("a chair" for "a white chair"); "word": its last word in
    other company, which may be another thing ("a blue car" for "a red car") or none ("the left" for "a clock on the
    left"); "none".
    """

    phrase: str
    tokens: tuple[int, ...]
    problem: str = ""
    head: tuple[int, ...] = ()  #: those of its last word
    form: Form = "none"


def locate(backbone: Backbone, layout: Layout) -> list[Located]:
    """Every region's phrase in the layout's prompt, in the order of the regions.

    Regions of one phrase take its occurrences in turn; where there are fewer, the last one serves the others ("two
    cats", with two regions "cat"). A phrase is looked for as it is written, then without its article, then in the
    plural, then by its last word; each time whatever the case.
    """
    seen: Counter[str] = Counter()
    found = []
    for region in layout.regions:
        key = region.phrase.lower()
        found.append(locate_phrase(backbone, layout.prompt, region.phrase, seen[key]))
        seen[key] += 1
    return found


def locate_phrase(backbone: Backbone, prompt: str, phrase: str, occurrence: int = 0) -> Located:
    """The ``occurrence``-th place (from 0) of the phrase in the prompt, or its last where there are fewer."""
    spans, whole_phrase = _spans(prompt, phrase)
    if not spans:
        return Located(phrase, (), f"the prompt does not hold the phrase {phrase!r}")
    start, end = spans[min(occurrence, len(spans) - 1)]
    form: Form = "whole" if whole_phrase else "noun" if _alone(prompt[:start], phrase) else "word"
    whole = _between(backbone.token_spans(prompt, cut=False), start, end)
    shown = backbone.token_spans(prompt)
    kept = _between(shown, start, end)
    last_word = start + max(prompt[start:end].rfind(space) for space in " \t\n") + 1
    head = _between(shown, last_word, end)
    if len(kept) < len(whole):
        limit = backbone.text_length
        cut = "cut off" if not kept else "cut in its middle"
        return Located(
            phrase, kept, f"the phrase {phrase!r} is {cut} at the prompt's {limit} tokens", head or kept, form
        )
    return Located(phrase, kept, "", head, form)


def own_tokens(backbone: Backbone, prompt: str) -> range:
    """The prompt's own tokens as it is encoded, without special ones and after cutting."""
    return content(backbone.token_spans(prompt))


def _spans(prompt: str, phrase: str) -> tuple[list[tuple[int, int]], bool]:
    """Places of the first form of the phrase that the prompt holds, as whole words; and whether that is the whole
    phrase, not its last word."""
    for form, whole in _forms(phrase).items():
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, form.split())) + r"(?!\w)"
        if spans := [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]:
            return spans, whole
    return [], False


def _forms(phrase: str) -> dict[str, bool]:
    """How the phrase may be written, and whether that is all of it."""
    bare = _bare(phrase)
    head = bare.split()[-1] if bare.split() else bare
    forms = dict.fromkeys((head, *plurals(head)), False) | dict.fromkeys((phrase, bare, *plurals(bare)), True)
    ordered = (phrase, bare, *plurals(bare), head, *plurals(head))
    return {form: forms[form] for form in ordered if form.strip()}


def _bare(phrase: str) -> str:
    return _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase


def _alone(before: str, phrase: str) -> bool:
    """Whether the phrase's last word, which stands after ``before``, has no company but the phrase's own words."""
    own = _bare(phrase).lower().split()[:-1]
    if _LINKS.intersection(own):
        return False
    company = re.search(r"(\S+)\s+$", before)
    if company is None:
        return not before.endswith("-")  # "toy-car"; else it begins the prompt, a quotation, a bracket
    word = company[1].lower()
    return word in _COUNTING or word in _LINKS or word in own or not word[-1].isalnum()


def _between(spans: Spans, start: int, end: int) -> tuple[int, ...]:
    return tuple(i for i, (a, b) in enumerate(spans) if a < b and a < end and b > start)
