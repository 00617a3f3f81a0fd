"""Methods on a command line: ``--method boxdiff --boxdiff.scale 30``."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from trueline.methods import METHODS, make

_SETTING = re.compile(r"--([a-z][a-z-]*)\.([a-z_]+)(?:=(.*))?", re.DOTALL)
_BARE_POINT = re.compile(r"(?<!\d)\.(?=\d)")
Given = dict[str, dict[str, Any]]


def split_settings(
    arguments: Sequence[str], names: Collection[str] = tuple(METHODS), kinds: Sequence[str] = ("method",)
) -> tuple[list[str], Given]:
    """The arguments without ``--NAME.key value``, and those settings by name. ``kinds``: what ``names`` are."""
    rest: list[str] = []
    given: Given = {}
    waiting = iter(arguments)
    for argument in waiting:
        match = _SETTING.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        name, key, value = match.groups()
        if name not in names:
            nor = "".join(f" and no such {kind}" for kind in kinds[1:])
            known = ", ".join(names)
            raise ValueError(f"{argument}: there is no {kinds[0]} {name!r}{nor}; there are {known}")
        value = next(waiting, None) if value is None else value
        if value is None:
            raise ValueError(f"--{name}.{key}: give it a value")
        if key in given.setdefault(name, {}):
            raise ValueError(f"--{name}.{key}: is there twice")
        given[name][key] = read_value(value)
    return rest, given


def read_value(text: str) -> Any:
    """Numbers, lists and truth values as JSON writes them, and .5; anything else is text."""
    for form in (text, _BARE_POINT.sub("0.", text)):
        try:
            return json.loads(form)
        except ValueError:
            continue
    return text


def chosen(names: Sequence[str], given: Given) -> list[Any]:
    """The methods of these names, with their settings."""
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise ValueError(f"--method: {twice[0]} is there twice")
    refuse_idle(given, names, "--method")
    return [make(name, given.get(name, {})) for name in names]


def refuse_idle(given: Given, names: Collection[str], flag: str) -> None:
    """Refuse settings ``--NAME.key`` of a name that ``flag`` does not give."""
    if idle := [name for name in given if name not in names]:
        key = next(iter(given[idle[0]]))
        raise ValueError(f"--{idle[0]}.{key}: belongs to {flag} {idle[0]}, which is not given")
