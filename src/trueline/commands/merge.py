"""``trueline merge``: join the folders of shards that were drawn on several machines."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from trueline.commands._parser import Parser


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="trueline merge", description="Join the folders of shards of one evaluation.")
    top.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="folders of trueline evaluate --shard"
    )
    top.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the whole; may hold parts already"
    )
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    from trueline.evaluation.merge import merge

    copied = merge(options.folders, options.out)
    print(
        f"{copied} files into {options.out}; now give the evaluate command with it as --out and without --shard"
    )
    return 0
