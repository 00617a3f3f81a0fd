"""Rows of an evaluation on a command line: ``plain gligen boxdiff gligen+boxdiff@strength=.5+structured``."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueline.commands._methods import Given, read_value
from trueline.methods import METHODS, make

if TYPE_CHECKING:
    from trueline.evaluation.plan import Wanted
    from trueline.evaluation.run import Recipe

BASIC = ("plain", "gligen")
_SETTING = re.compile(r"([a-z_]+)=(.+)", re.DOTALL)


def default_recipes(pictures: "Sequence[Wanted]", elsewhere: bool) -> "list[Recipe]":
    """Words only, and words and boxes where there are boxes; nothing when there are pictures made elsewhere."""
    from trueline.evaluation.run import GLIGEN, PLAIN

    if elsewhere:
        return []
    return [PLAIN, GLIGEN] if _boxed(pictures) else [PLAIN]


def read_recipes(texts: Sequence[str], given: Given) -> "list[Recipe]":
    """What each row draws with. ``given``: settings for all rows, which a row's own go before.

    Raises:
        ValueError: no such method or setting, a method twice in a row, settings of a method in no row.
    """
    recipes = {text: _recipe(text, given) for text in texts}
    used = {name for text in texts for name, _settings in _parts(text)}
    if idle := [name for name in given if name not in used]:
        key = next(iter(given[idle[0]]))
        raise ValueError(f"--{idle[0]}.{key}: belongs to the method {idle[0]}, which --methods does not name")
    return list(recipes.values())


def _recipe(text: str, given: Given) -> "Recipe":
    from trueline.evaluation.run import GLIGEN, PLAIN, Recipe

    parts = _parts(text)
    grounded = parts[0] == ("gligen", {})
    others = parts[1:] if grounded else parts
    if text in BASIC:
        return GLIGEN if grounded else PLAIN
    if set("/\\") & set(text):  # a row is a folder of that name
        raise ValueError(f"--methods: give settings that hold a path as --NAME.setting (got {text!r})")
    names = [name for name, _settings in others]
    if any(name in BASIC for name in names):
        raise ValueError(f"--methods: plain stands alone, and gligen first, without settings (got {text!r})")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--methods: {text} has {twice[0]} twice")
    if wrong := [name for name in names if name not in METHODS]:
        known = ", ".join([*BASIC, *METHODS])
        raise ValueError(f"--methods: there is no {wrong[0]!r} (in {text!r}); there are {known}")
    methods = tuple(make(name, given.get(name, {}) | settings) for name, settings in others)
    return Recipe(text, grounded, True, methods, any(METHODS[name].needs == "boxes" for name in names))


def _parts(text: str) -> list[tuple[str, dict[str, Any]]]:
    """("boxdiff", {"strength": .5}) of "boxdiff@strength=.5", for each part of a sum."""
    return [_part(part) for part in re.split(r"\+(?=[a-z])", text)]


def _part(text: str) -> tuple[str, dict[str, Any]]:
    name, mark, rest = text.partition("@")
    settings: dict[str, Any] = {}
    for pair in re.split(r",(?=[a-z_]+=)", rest) if mark else []:
        match = _SETTING.fullmatch(pair)
        if match is None:
            raise ValueError(f"--methods: write settings as NAME@setting=value,setting=value (got {text!r})")
        settings[match[1]] = read_value(match[2])
    return name, settings


def check_boxes(recipes: "Sequence[Recipe]", pictures: "Sequence[Wanted]", benchmark: str) -> None:
    """Refuse methods that need boxes on prompts that have none.

    Raises:
        ValueError: as said.
    """
    needy = [recipe.name for recipe in recipes if recipe.grounded or recipe.needy]
    if needy and not _boxed(pictures):
        raise ValueError(f"--methods: {needy[0]} needs boxes, and {benchmark} has none; leave it out")


def _boxed(pictures: "Sequence[Wanted]") -> bool:
    return any(picture.example.layout.regions for picture in pictures)
