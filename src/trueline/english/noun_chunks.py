"""B-VQA's questions: the noun chunks of a prompt, each asked of the picture on its own (T2I-CompBench).

The official scorer takes spaCy's chunks (``en_core_web_sm``), leaves some out, asks the first eight with a "?"
behind and multiplies the answers. spaCy's model is no ordinary package; where it is not installed the parser
"rules" does instead, and a result must say which of the two it was: ``b-vqa[spacy]``, ``b-vqa[rules]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

MOST = 8  #: chunks that are asked
#: Chunks that T2I-CompBench leaves out, as written here ("the top" stays in).
LEFT_OUT = frozenset({"top", "the side", "the left", "the right"})

Parser = Literal["spacy", "rules"]


def chunks(prompt: str, parser: Parser = "rules") -> list[str]:
    """The first ``MOST`` noun chunks of ``prompt`` as they are written in it.

    Raises:
        ValueError: "spacy" without spaCy or its model.
    """
    found = (span.text for span in _spacy()(prompt).noun_chunks) if parser == "spacy" else noun_runs(prompt)
    return [chunk for chunk in found if chunk not in LEFT_OUT][:MOST]


def questions(prompt: str, parser: Parser = "rules") -> list[str]:
    """One yes-or-no question for each chunk: "a red apple?"."""
    return [f"{chunk}?" for chunk in chunks(prompt, parser)]


def b_vqa(probabilities: Sequence[float]) -> float:
    """The score of a picture from P(yes) of each chunk: their product; a chunk that is not there counts 1."""
    return math.prod(probabilities)


def best_parser() -> Parser:
    """ "spacy" where it and its model are installed, else "rules"."""
    try:
        _spacy()
    except ValueError:
        return "rules"
    return "spacy"


def without_adjectives(prompt: str, parser: Parser = "rules") -> str:
    """The prompt without its adjectives, which is what T2I-CompBench's CLIP score reads of complex prompts.

    The official scorer drops every word that spaCy tags as an adjective; the rules drop those of a closed list.
    """
    if parser == "spacy":
        return " ".join(token.text for token in _spacy()(prompt) if token.pos_ != "ADJ")
    return " ".join(word for word in prompt.split() if word.strip(".,;:!?").lower() not in _ADJECTIVES)


@lru_cache(maxsize=1)
def _spacy() -> Any:
    try:
        import spacy

        return spacy.load("en_core_web_sm")
    except (ImportError, OSError) as error:
        raise ValueError(
            "the spaCy parser needs spacy and its model en_core_web_sm (python -m spacy download en_core_web_sm); "
            'install them or use parser "rules"'
        ) from error


# ---------------------------------------------------------------------------------------------- rules


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: A chunk begins at one of these, even inside another.
_DETERMINERS = _words(
    "a an the this that these those some any every each both another all many several few no "
    "my your his her its our their one two three four five six seven eight nine ten"
)
#: These stand alone.
_PRONOUNS = _words("i you he she it we they me him them us someone something everyone everything")
#: Never part of a chunk.
_OUTSIDE = _words(
    "and or but nor yet so while as because if when where than which who whose whom what how "
    "of in on at by with without within for from to into onto over under above below between among through "
    "across against along around behind beside besides beneath near off out outside inside past up upon down "
    "toward towards during before after until since amid amidst amongst beyond despite like about next not only even "
    "is are was were be been being am has have had having do does did can could will would shall should may might "
    "must there here then now also just too very still again together apart away almost nearly perfectly ever never "
    "always often once up alongside atop opposite"
)
#: Verbs that are hardly ever nouns; past tenses in -ed and forms in -ing need not be listed.
_VERBS = _words(
    "lay lie lies sit sits sat stood hang hangs hung hold holds held rest rests ran shone shine shines sped flew "
    "swam swims drove wrote write writes sleep sleeps slept fell grew grows blew spun strode sank woke sang "
    "sings sprang leapt slid swung broke made makes make gave gives give took takes take got gets get came comes "
    "come went goes go kept keeps keep led leads left met meets sent brought brings bring caught catches told tells "
    "wore wears wear ate eats eat drank drinks rode rides threw throws throw felt feels bent wound clung crept "
    "provides provide adds add adorn adorns illuminate illuminates attract attracts contains contain carries carry "
    "complement complements create creates surround surrounds protect protects decorate serve serves bake stir stirs "
    "perch perches jot added provided created showcased reflected enjoys waits told"
)
#: Verbs that are nouns as well: verbs where no noun follows, behind a chunk that has its noun already.
_MAYBE_VERBS = _words(
    "stand stands run runs fly flies swim drive drives cut cuts fall falls rise rises rose spin spins leap "
    "leaps slide slides swing swings break breaks read reads spread spreads set sets put puts hit hits lit cover "
    "covers display displays mix fit fits match matches fill fills look looks walk walks play plays watch watches "
    "jump jumps wait enjoy reflect reflects show shows boil cook beat pound measure feature features contrast "
    "contrasts support supports cast casts parked"
)
#: Nouns that look like forms of verbs.
_NOT_VERBS = _words(
    "ring earring king wing string spring ceiling building painting clothing bed shed seed weed sled reed thing "
    "something evening morning lightning icing pudding dressing stocking wedding railing bedding swing being bread"
)
_BEFORE_VERBS = _words("to can could will would may might must not")
_SUBJECTS = _words("i you he she it we they who which that")
#: Describe a noun; a run of these alone ("the sky was blue") is no chunk.
_ADJECTIVES = _words(
    "red orange yellow green blue purple pink brown black white gray grey gold golden silver beige tan turquoise "
    "violet maroon navy teal cyan magenta crimson "
    "round square rectangular triangular oval circular spherical cubic cylindrical conical pyramidal pentagonal "
    "hexagonal octagonal oblong teardrop diamond crescent "
    "big small large tall short long little tiny huge wide narrow thick thin deep shallow high low "
    "wooden metallic fluffy plastic rubber leather glass fabric woolen "
    "soft hard smooth rough sharp dull shiny glossy sleek fuzzy crisp crunchy crispy juicy ripe fresh sweet tart "
    "bright dark light dim warm cool cold hot icy wet dry damp old new ancient modern cozy comfortable colorful "
    "vibrant bold delicate gentle sturdy heavy jagged bumpy spiky prickly thorny rocky lumpy rusty dusty slimy "
    "sticky clean dirty empty full open striped spotted checkered textured beautiful graceful elegant majestic "
    "intricate natural calm serene lush rich"
)
#: -ly words that are not adverbs.
_NOT_ADVERBS = _words(
    "fly butterfly dragonfly firefly jelly lily belly family prickly curly lovely lively friendly cuddly bubbly "
    "stately costly woolly wooly silly ugly holy chilly hilly wrinkly crinkly early daily lonely elderly pearly"
)
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:['\u2019-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")


class _Token(NamedTuple):
    word: str  #: lower case
    start: int
    end: int


def noun_runs(text: str) -> list[str]:
    """Runs of determiner, numbers, adjectives and nouns, as written in ``text``, by closed word lists.

    Meant for the short sentences of benchmarks ("the soft pillow was next to the rough brick"); it knows no
    grammar beyond them.
    """
    tokens = [_Token(m[0].lower(), *m.span()) for m in _TOKEN.finditer(text)]
    words = ["", *(token.word for token in tokens), ""]
    runs: list[list[_Token]] = [[]]
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


def _joins(word: str, run: list[_Token], after: str) -> bool:
    """Whether "and", a comma or an adverb stands between adjectives of one noun ("black and white cat")."""
    if not run or not all(_describes(t.word) for t in run):
        return False
    if _is_adverb(word):  # "the freshly brewed coffee"
        return run[0].word in _DETERMINERS and _is_inner(after)
    if word == ",":
        return run[0].word in _DETERMINERS and len(run) > 1 and _is_inner(after)
    return word == "and" and run[-1].word in _ADJECTIVES and after in _ADJECTIVES


def _is_verb(word: str, run: list[_Token], before: str, after: str) -> bool:
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


def _named(run: list[_Token]) -> bool:
    """Whether the run holds a noun: anything but adjectives, or an adjective behind a determiner ("the orange")."""
    if not run:
        return False
    rest = [t.word for t in run if t.word not in _DETERMINERS]
    return bool(rest) and (len(rest) < len(run) or any(word not in _ADJECTIVES for word in rest))
