"""``trueline results``: one page of all the result files in a folder, or a check of what is said of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from trueline.commands._parser import Parser
from trueline.exits import NOT_AS_WANTED

DOCS = (Path("README.md"), Path("docs"))
EPILOG = """--check reads FOLDER, or one results file, and with each NAME.json its verdicts/NAME.jsonl.xz, which
trueline evaluate writes beside results.json: every value and interval is computed again from what each picture adds
to it. Then every interval that the documents quote, as in 0.14 [0.10, 0.17] or 96% [93, 98], must be of a row: of the
files that the document names as results/NAME.json, or of any where it names none; in a table of one method in each
line and one metric in each column. A line with <!-- unrecorded --> in it is left out. Exit code 1: a row is not what
its verdicts give, a document that names its files quotes what is in none of them, or the page of all results is
old."""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline results",
        description="Write a Markdown page of every results file in a folder: numbers, intervals, commands, commits.",
        epilog=EPILOG,
    )
    top.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="default results")
    top.add_argument("--out", type=Path, default=Path("docs/results.md"), help="default docs/results.md")
    top.add_argument("--check", action="store_true", help="write nothing; compare, as below")
    top.add_argument(
        "--docs",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="Markdown files and folders of them to check (default: README.md and docs, where they are)",
    )
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.check:
        return _check(options)
    if options.docs:
        raise ValueError("--docs: belongs to --check; give both, or neither")
    from trueline.evaluation.results_page import write_results_page

    write_results_page(options.folder, options.out)
    print(options.out)
    return 0


def _check(options: argparse.Namespace) -> int:
    from trueline.evaluation.results_check import check_results

    files = [options.folder] if options.folder.is_file() else sorted(options.folder.glob("*.json"))
    if not files:
        raise ValueError(f"{options.folder}: holds no results (*.json); evaluate something first")
    given = options.docs or [path for path in DOCS if path.exists()]
    documents = [file for path in given for file in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]
    check = check_results(files, documents)
    print("\n".join(check.report()))
    return NOT_AS_WANTED if check.problems else 0
