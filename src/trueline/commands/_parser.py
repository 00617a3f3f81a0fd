"""The parser of every command, and flags that are made of settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel

    S = TypeVar("S", bound=BaseModel)

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  #: on a command line -> of torch


class Parser(argparse.ArgumentParser):
    """Misuse is a ValueError of one sentence, without the usage that argparse prints before it."""

    running: ClassVar[Parser | None] = None  #: the one that read the command line last

    def __init__(self, *arguments: Any, **options: Any):
        usual: dict[str, Any] = {
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
        }
        super().__init__(*arguments, **(usual | options))

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        Parser.running = self
        return super().parse_known_args(*arguments, **more)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def with_flags(sentence: str, others: Mapping[str, str], groups: Collection[str]) -> str:
    """A library's sentence on an argument, ``batch_size: must be ...``, as one on a flag of the command that runs.

    ``others``: argument -> flag, where the names differ. ``groups``: names of which the command takes settings, as
    ``--NAME.setting``.
    """
    name, mark, _rest = sentence.partition(": ")
    options = Parser.running._option_string_actions if Parser.running else {}
    flag = others.get(name, flag_of(name))
    if not mark or not (flag in options or name in others):
        group, dot, _setting = name.partition(".")
        return f"--{sentence}" if mark and dot and group in groups else sentence
    return flag + sentence.removeprefix(name)


def flag_of(name: str) -> str:
    """``--guidance-scale`` of ``guidance_scale``."""
    return f"--{name.replace('_', '-')}"


def add_flags(group: argparse._ActionsContainer, flags: Mapping[str, str], **options: Any) -> None:
    """``"--size WxH": its help``, for each; one without a word for its value is a switch. ``options``: of
    ``add_argument``, for all that have a value. What is not given is None."""
    for form, text in flags.items():
        flag, _, metavar = form.partition(" ")
        kind: dict[str, Any] = {"action": "store_true", "default": None}
        if metavar:
            kind = {"metavar": metavar, **options}
        group.add_argument(flag, help=text, **kind)


#: Flags of models that hardly fit the memory.
SPARING = {
    "--offload": "keep only the net that runs on the device: much less memory, more time, the same pictures",
    "--vae-tiling": "decode large pictures in overlapping tiles: less memory, slightly other pixels",
}


def add_settings(
    group: argparse._ActionsContainer,
    settings: type[BaseModel],
    names: Iterable[str] | None = None,
) -> None:
    """A flag for each field, with its description and default; not given, it is None. ``names``: of some fields
    only."""
    for name in settings.model_fields if names is None else names:
        field = settings.model_fields[name]
        default = field.default
        if default is False:
            group.add_argument(flag_of(name), action="store_true", default=None, help=field.description)
            continue
        kind: Any = _kind(field.annotation) if default is None else type(default)
        metavar = {int: "COUNT", float: "NUMBER"}.get(kind, "NAME")
        if field.examples:
            kind, metavar = fractions(field.examples[0]), "A,B,C"[: 2 * field.examples[0].count(",") + 1]
        shown = "the model's own" if default is None else default
        text = f"{field.description} (default {shown})"
        group.add_argument(flag_of(name), type=kind, metavar=metavar, help=text)


def _kind(annotation: Any) -> type:
    """What text a setting is read as that is None where it is not given: a number, or itself."""
    return float if any(getattr(part, "__origin__", part) is float for part in get_args(annotation)) else str


def settings_of(
    options: argparse.Namespace, settings: type[S], defaults: Mapping[str, Any] | None = None
) -> S:
    """The settings of a command line; ``defaults``: the command's own."""
    given = {name: getattr(options, name, None) for name in settings.model_fields}
    return settings(
        **{**(defaults or {}), **{name: value for name, value in given.items() if value is not None}}
    )


def fractions(form: str) -> Callable[[str], list[float]]:
    """Reads as many fractions as ``form`` has, with commas between them."""
    count = len(form.split(","))

    def read(text: str) -> list[float]:
        try:
            found = [float(part) for part in text.split(",")]
        except ValueError:
            found = []
        if len(found) != count:
            raise argparse.ArgumentTypeError(f"write {count} fractions as {form} (got {text!r})")
        return found

    return read
