"""``trueline votes``: score the votes of a user study that ``trueline evaluate`` made the page of."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trueline.commands._parser import Parser
from trueline.commands._rows import write_rows


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="trueline votes", description="Score the votes that raters saved from a study's page.")
    top.add_argument("files", nargs="+", type=Path, metavar="FILE", help="votes, one file a rater")
    top.add_argument("--key", type=Path, required=True, metavar="KEY.json", help="which picture is whose")
    top.add_argument("--out", default="out/votes", metavar="FOLDER", help="default out/votes")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    from trueline.errors import redacted_arguments
    from trueline.evaluation.votes import score_votes
    from trueline.files import Folder
    from trueline.sampling.records import commit

    command = " ".join(["trueline votes", *redacted_arguments(arguments, shown=["--key"])])
    rows, notes = score_votes(options.files, options.key, command=command, commit=commit())
    for note in notes:
        print(f"trueline: warning: {note}", file=sys.stderr)
    print(write_rows(Folder(options.out), rows))
    return 0
