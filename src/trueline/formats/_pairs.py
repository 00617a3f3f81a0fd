"""``[('a cat', [1, 2, 3, 4]), ...]``: Python's spelling of names and boxes, read by a small grammar of its own.

A language model wrote the text, so it is data: nothing of it is evaluated, not by ``ast.literal_eval`` either.
"""

from __future__ import annotations

import re
from typing import NoReturn

_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[\[\](),])
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?![\w.]))
      | (?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_SHORT = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}
MAX_DIGITS = 12
FORM = "[('name', [x, y, width, height]), ...]"


def pairs(text: str) -> list[tuple[str, list[float]]]:
    """The names and the four numbers of each.

    Raises:
        ValueError: the text is not of that form, with the place.
    """
    return _Reader(text).pairs()


def spelled(name: str) -> str:
    """The name as Python writes it."""
    return repr(name)


class _Reader:
    def __init__(self, text: str):
        self.text, self.place = text, 0

    def pairs(self) -> list[tuple[str, list[float]]]:
        found: list[tuple[str, list[float]]] = []
        self.expect("[")
        while not self.meets("]"):
            if found:
                self.expect(",")
                if self.meets("]"):  # a comma after the last
                    break
            found.append(self.pair())
        if self.text[self.place :].strip():
            self.fail("the end")
        return found

    def pair(self) -> tuple[str, list[float]]:
        self.expect("(")
        name = _unescaped(self.take("text", "a name in quotes")[1:-1])
        self.expect(",")
        self.expect("[")
        values = [self.number()]
        while not self.meets("]"):
            self.expect(",")
            values.append(self.number())
        if len(values) != 4:
            raise ValueError(f"{name!r:.40} has {len(values)} numbers; give four: x, y, width, height")
        self.meets(",")
        self.expect(")")
        return name, values

    def number(self) -> float:
        text = self.take("number", "a number")
        if len(text) > MAX_DIGITS:
            self.fail("a number of pixels")
        return float(text)

    def take(self, kind: str, what: str) -> str:
        match = _TOKEN.match(self.text, self.place)
        if match is None or match[kind] is None:
            self.fail(what)
        self.place = match.end()
        return match[kind]

    def meets(self, mark: str) -> bool:
        match = _TOKEN.match(self.text, self.place)
        if match is None or match["mark"] != mark:
            return False
        self.place = match.end()
        return True

    def expect(self, mark: str) -> None:
        if not self.meets(mark):
            self.fail(f"'{mark}'")

    def fail(self, wanted: str) -> NoReturn:
        rest = self.text[self.place :].strip()
        raise ValueError(
            f"{wanted} is wanted at {rest[:30]!r}; write {FORM}" if rest else f"ends too early; write {FORM}"
        )


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 1:
            if code not in _SHORT:
                raise ValueError(f"a name has the escape \\{code}; write the letter itself")
            return _SHORT[code]
        number = int(code[1:], 16)
        if number > 0x10FFFF:
            raise ValueError(f"a name has the escape \\{code}, which is no letter")
        return chr(number)

    return _ESCAPE.sub(one, text)
