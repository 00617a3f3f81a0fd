"""What a language model wrote, as JSON values. Text is data here: it is parsed, never run.

Models wrap their JSON in prose, code fences and thoughts, and write Python's literals for JSON's. All that is undone;
what is then no JSON stays unreadable. Every step is bounded: an answer of ``MAX_ANSWER`` characters that is made to
be slow is refused as fast as any other.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_ANSWER = 1_000_000  #: characters of an answer; more is refused unread
MAX_TRIES = 20  #: places of an answer where a value may begin

_OPENING = re.compile(r"[\[{]")
#: A string in either quotes, a comment, a comma before a closing bracket, a literal of Python. A string that does not
#: end is taken whole too: to look for its end from every quote in it would cost the square of its length.
_SLIP = re.compile(
    r"""("(?:[^"\\\n]|\\.)*"?)|'((?:[^'\\\n]|\\.)*)'?|(//[^\n]*)|(,(?=\s*[}\]]))|\b(True|False|None)\b"""
)
_LITERALS = {"True": "true", "False": "false", "None": "null"}


def json_values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in ``text``, likeliest first: all of it, code fences, then within prose; each as
    it stands, or mended (single quotes, comments, a comma too many, Python's literals)."""
    text = text.rpartition("</think>")[2].strip().removeprefix("\ufeff")
    fenced = [piece.partition("\n")[2] or piece for piece in text.split("```")[1 : 2 * MAX_TRIES : 2]]
    for piece in (text, *fenced):
        yield from _whole(piece)
    yield from _within(text)
    yield from _whole(_mended(text))


def _whole(text: str) -> Iterator[Any]:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested too deeply
        return
    if isinstance(value, dict | list):
        yield value


def _within(text: str) -> Iterator[Any]:
    place = 0
    for _ in range(MAX_TRIES):
        if (opening := _OPENING.search(text, place)) is None:
            return
        try:
            value, place = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            place = opening.end()
        else:
            yield value


def _mended(text: str) -> str:
    """From the first opening to the last closing bracket, with the usual slips put right."""
    first, last = _OPENING.search(text), max(text.rfind("}"), text.rfind("]"))
    if first is None or last < first.start():
        return ""
    return _SLIP.sub(_right, text[first.start() : last + 1])


def _right(slip: re.Match[str]) -> str:
    double, single, _comment, _comma, literal = slip.groups()
    if double is not None:
        return double
    if single is not None:
        return json.dumps(single.replace("\\'", "'"), ensure_ascii=False)
    return _LITERALS.get(literal, "")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
