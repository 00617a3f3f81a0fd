"""The parser of every command."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Misuse is a ValueError of one sentence, without the usage that argparse prints before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message.removeprefix('argument ')}; see {self.prog} --help")
