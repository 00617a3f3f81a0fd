"""Rows of an evaluation, on disk and on a command line: ``plain boxdiff gligen+lora:goal+boxdiff@strength=.5``."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.commands._methods import Given, read_value, refuse_idle
from trueline.methods import METHODS, make

if TYPE_CHECKING:
    from trueline.evaluation.drawing_list import Wanted
    from trueline.evaluation.loras import RowLora
    from trueline.evaluation.run import Row
    from trueline.files import Folder

BASIC = ("plain", "gligen")
LORA = "lora:"  #: before the name of a LoRA, in a row
_LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SETTING = re.compile(r"([a-z_]+)=(.+)", re.DOTALL)


def default_rows(pictures: "Sequence[Wanted]", elsewhere: bool) -> "list[Row]":
    """Words only, and words and boxes where there are boxes; nothing when there are pictures made elsewhere."""
    from trueline.evaluation.run import GLIGEN, PLAIN

    if elsewhere:
        return []
    return [PLAIN, GLIGEN] if _boxed(pictures) else [PLAIN]


def read_loras(texts: Sequence[str]) -> dict[str, Path]:
    """The files of ``NAME=FILE``, by name."""
    found: dict[str, Path] = {}
    for text in texts:
        name, mark, file = text.partition("=")
        if not (mark and file and _LORA_NAME.fullmatch(name)):
            raise ValueError(f"--loras: write NAME=FILE, the name in letters, digits, - and _ (got {text!r})")
        if name in found:
            raise ValueError(f"--loras: {name} is there twice")
        found[name] = Path(file)
    return found


def read_rows(
    texts: Sequence[str], given: Given, loras: Mapping[str, Path] | None = None, model: str = "world"
) -> "list[Row]":
    """What each row draws with. ``given``: settings for all rows, which a row's own go before. ``loras``: files by
    the names that rows call them by, besides those that come with ``model``.
    """
    loras = loras or {}
    rows = {text: _row(text, given, loras, model) for text in texts}
    used = {name for text in texts for name, _settings in _parts(text)}
    refuse_idle(given, used, "--methods")
    if idle := [name for name in loras if LORA + name not in used]:
        raise ValueError(f"--loras: {idle[0]} is in no row; name it in --methods, as {LORA}{idle[0]}")
    return list(rows.values())


def _row(text: str, given: Given, loras: Mapping[str, Path], model: str) -> "Row":
    from trueline.evaluation.run import GLIGEN, PLAIN, Row

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
    worn = [(name, settings) for name, settings in others if name.startswith(LORA)]
    guiding = [(name, settings) for name, settings in others if not name.startswith(LORA)]
    if wrong := [name for name, _ in guiding if name not in METHODS]:
        known = ", ".join([*BASIC, *METHODS, f"{LORA}NAME"])
        raise ValueError(f"--methods: there is no {wrong[0]!r} (in {text!r}); there are {known}")
    methods = tuple(make(name, given.get(name, {}) | settings) for name, settings in guiding)
    needy = any(METHODS[name].needs == "boxes" for name, _ in guiding)
    files = tuple(_lora(name, settings, loras, model) for name, settings in worn)
    return Row(text, grounded, bool(methods), methods, needy, files)


def _lora(part: str, settings: dict[str, Any], loras: Mapping[str, Path], model: str) -> "RowLora":
    from trueline.evaluation.loras import RowLora
    from trueline.models.lora import find, shipped

    name = part.removeprefix(LORA)
    if not _LORA_NAME.fullmatch(name):
        raise ValueError(f"--methods: write a LoRA as {LORA}NAME (got {part!r})")
    weight = settings.get("weight", 1.0)
    number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    if settings.keys() - {"weight"} or not number:
        raise ValueError(f"--methods: a LoRA has one setting, weight, a number, as {part}@weight=.5")
    path = loras.get(name) or shipped(name, model)
    try:
        return RowLora.of(name, path or find(f"{name}", model), float(weight))
    except ValueError as error:
        cure = "" if name in loras else f"; a row's LoRA is defined as --loras {name}=FILE"
        raise ValueError(f"--loras: {re.sub('^(--)?loras: ', '', str(error))}{cure}") from None


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


def write_rows(folder: "Folder", table: list[dict[str, Any]]) -> str:
    """results.json and results.md; returns the latter."""
    from trueline.evaluation.tables import markdown

    text = markdown(table)
    folder.write_json("results.json", table)
    folder.write("results.md", lambda file: file.write(text.encode()))
    return text


def compared_with(name: str | None, rows: Sequence[str]) -> str | None:
    """The row that --against names, None for the first."""
    if name in (None, *rows):
        return name
    raise ValueError(f"--against: there is no row {name}; give one of {', '.join(rows)}")


def check_boxes(rows: "Sequence[Row]", pictures: "Sequence[Wanted]", benchmark: str) -> None:
    """Refuse methods that need boxes on prompts that have none."""
    needy = [row.name for row in rows if row.grounded or row.needy]
    if needy and not _boxed(pictures):
        raise ValueError(f"--methods: {needy[0]} needs boxes, and {benchmark} has none; leave it out")


def _boxed(pictures: "Sequence[Wanted]") -> bool:
    return any(picture.example.layout.regions for picture in pictures)
