"""``trueline results``: one page of all the result files in a folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from trueline.commands._parser import Parser


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline results",
        description="Write a Markdown page of every results file in a folder: numbers, intervals, commands, commits.",
    )
    top.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="default results")
    top.add_argument("--out", type=Path, default=Path("docs/results.md"), help="default docs/results.md")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    from trueline.evaluation.results_page import write_results_page

    write_results_page(options.folder, options.out)
    print(options.out)
    return 0
