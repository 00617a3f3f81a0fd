"""``trueline merge``: join the folders of shards that were made on several machines."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trueline.commands._parser import Parser


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="trueline merge", description="Join the folders of shards of one run.")
    top.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="folders of trueline generate --shard, or evaluate",
    )
    top.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the whole; may hold parts already"
    )
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    from trueline.evaluation.merge import merge

    merged = merge(options.folders, options.out)
    if merged.broken:
        print(
            f"trueline: {len(merged.broken)} units are not whole where they were made and are made again, first "
            f"{merged.broken[0]}",
            file=sys.stderr,
        )
    print(
        f"{merged.files} files into {options.out}; now give the command with it as --out and without --shard"
    )
    return 0
