"""The parser of every command."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Misuse is a ValueError of one sentence, without the usage that argparse prints before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def fractions(flag: str, text: str | None, form: str) -> list[float] | None:
    """As many fractions as ``form`` has.

    Raises:
        ValueError: other than that.
    """
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != len(form.split(",")):
        raise ValueError(f"{flag}: write {len(form.split(','))} fractions as {form} (got {text!r})")
    return found
