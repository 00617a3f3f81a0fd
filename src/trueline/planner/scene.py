"""What a prompt says that the picture shows: things, their numbers, relations and comparisons of numbers."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from trueline.english.noun_phrases import NounPhrase

Place = tuple[int | None, int | None]
ASIDE = ("beside", "left", "right")  #: relations to what is on one side
_COMPARE = re.compile(
    r"(?:the )?(?:number|amount|count) of (?P<a>[^,.;]+?) (?:is |are |being )?(?:much |slightly |exactly |also )?"
    r"(?P<op>more than|greater than|larger than|higher than|bigger than|less than|fewer than|smaller than|lower than|"
    r"the same as|same as|equal to|equals|identical to|as many as|exceeds) "
    r"(?:that of |those of |the number of |the amount of |the count of |the )?(?P<b>\w[^,.;]*)"
    r"|(?P<op2>more|fewer|less|as many|twice as many) (?P<a2>[^,.;]+?) (?:than|as) (?:there are )?(?P<b2>\w[^,.;]*)"
    r"|(?:the same|an equal|equal|same) (?:numbers?|amounts?) of (?P<a3>[^,.;]+?) (?:and|as) (?P<b3>\w[^,.;]*)"
)
_LESS = ("less", "fewer", "smaller", "lower")
_EQUAL = ("same", "equal", "identical", "as many")


@dataclass
class Mention:
    """A thing of the scene, or several of a kind. ``text``: its phrase without number and article, as written."""

    phrase: NounPhrase
    text: str
    name: str
    amount: int
    exact: bool
    scale: float = 1.0
    place: Place = (None, None)

    @property
    def numbered(self) -> bool:
        """Whether a word stands for the number ("two", "a"), which "sheep" alone has not."""
        phrase = self.phrase
        single = phrase.determiner in ("a", "an", "another", "this", "that") and phrase.vague is None
        return phrase.count is not None or single


@dataclass(frozen=True)
class Relation:
    """Mentions ``first`` stand in the relation to mentions ``second`` (places in ``PromptScene.mentions``).

    ``second`` is empty for a relation of ``ASIDE`` to what has no box: "a cat on a bed next to a wall".
    """

    kind: str
    first: tuple[int, ...]
    second: tuple[int, ...]
    words: str = ""


@dataclass
class PromptScene:
    """What a prompt says that the picture shows. ``notes``: sentences on what was not understood."""

    mentions: list[Mention] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Comparison(NamedTuple):
    """Where two noun phrases begin that a comparison is about, in characters, and how the first's number stands to
    the second's: "<", ">", "=" or "twice"."""

    first: int
    sign: str
    second: int


def comparison(text: str, at: int) -> Comparison | None:
    """The comparison of numbers that begins there ("more cats than dogs"), in lower case with single spaces."""
    match = _COMPARE.match(text, at)
    if match is None:
        return None
    which = next(key for key in ("a", "a2", "a3") if match[key] is not None)
    op = match["op"] or match["op2"] or "same"
    if op.startswith("twice"):
        sign = "twice"
    elif op.startswith(_EQUAL) or "same" in op or "equal" in op:
        sign = "="
    else:
        sign = "<" if op.startswith(_LESS) else ">"
    return Comparison(match.start(which), sign, match.start(which.replace("a", "b")))


def settle(scene: PromptScene, comparisons: list[tuple[int, str, int]]) -> None:
    """Gives mentions the numbers that comparisons ask for: those that are said stay, the others give way."""
    for one, sign, two in comparisons:
        a, b = scene.mentions[one], scene.mentions[two]
        if sign == "=" and a.amount != b.amount:
            fixed, free = (b, a) if b.numbered and not a.numbered else (a, b)
            if a.numbered and b.numbered:
                scene.notes.append(
                    f"{a.amount} {a.name} and {b.amount} {b.name} are not equally many; drawn as said"
                )
                continue
            free.amount = fixed.amount
        elif sign == "twice":
            a.amount = 2 * b.amount
        elif sign in "<>":
            _order(scene, *((a, b) if sign == ">" else (b, a)))
        a.exact = b.exact = True


def _order(scene: PromptScene, more: Mention, less: Mention) -> None:
    """Makes more of the one than of the other."""
    if more.amount > less.amount and (more.numbered or less.numbered):
        return
    if less.numbered and not more.numbered:
        more.amount = less.amount + 1
    elif more.numbered and not less.numbered and more.amount > 1:
        less.amount = more.amount - 1
    elif not more.numbered and not less.numbered:
        less.amount = min(less.amount, 2)
        more.amount = less.amount + 1
    else:
        scene.notes.append(
            f"there cannot be more {more.name} ({more.amount}) than {less.name} ({less.amount}); drawn as said"
        )
