"""``trueline results``: one page of all the result files in a folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage that argparse prints before it."""
        raise ValueError(f"{message.removeprefix('argument ')}; see trueline results --help")


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="trueline results",
        description="Write a Markdown page of every results file in a folder: numbers, intervals, commands, commits.",
    )
    top.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="default results")
    top.add_argument("--out", type=Path, default=Path("docs/results.md"), help="default docs/results.md")
    return top


def main(arguments: Sequence[str]) -> int:
    from trueline.evaluation.tables import write_results_page

    options = parser().parse_args(arguments)
    write_results_page(options.folder, options.out)
    print(options.out)
    return 0
