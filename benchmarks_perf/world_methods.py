"""Seconds per picture of each row of a world table, in those of plain sampling.

    python benchmarks_perf/world_methods.py plain gligen boxdiff gligen+boxdiff --out results/world-methods-speed.json

Rows are written as for ``trueline evaluate --methods``. Each batch of a row is drawn between two of plain sampling,
in one process on one thread and timed in CPU time: other processes on the machine count little.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _measured import entry, origin, row, said

from trueline.commands._methods import split_settings
from trueline.commands._model import warnings_as_lines
from trueline.commands._parser import Parser, add_settings, settings_of
from trueline.commands._rows import read_rows
from trueline.evaluation.benchmarks import load
from trueline.evaluation.drawing_list import choose, wanted
from trueline.evaluation.run import Row
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import Pipeline

DEFAULTS = {"guidance_scale": 4.0}


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="world_methods.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("methods", nargs="+", metavar="NAME", help="as for trueline evaluate --methods")
    top.add_argument("--pictures", type=int, default=8, help="of a batch (default 8)")
    top.add_argument("--repeats", type=int, default=2, help="batches of each row (default 2)")
    add_settings(top, Sampling, ("steps", "guidance_scale", "guidance_interval"))
    top.add_argument("--out", type=Path, help="rows for `trueline results`")
    return top


def main(arguments: Sequence[str]) -> int:
    rest, given = split_settings(arguments)
    options = parser().parse_args(rest)
    torch.set_num_threads(1)
    table = read_rows(options.methods, given)
    pipe, examples = Pipeline.from_pretrained("world"), load("world").examples
    pictures = wanted(examples, choose(examples, options.pictures), (0,))

    sampling = settings_of(options, Sampling, DEFAULTS)

    def seconds(drawn: Row) -> float:
        began = time.process_time()
        pipe(
            [drawn.layout(picture) for picture in pictures],
            seeds=[p.place for p in pictures],
            methods=drawn.methods,
            sampling=sampling,
            **drawn.changed,
            batch_size=len(pictures),
            progress=False,
        )
        return (time.process_time() - began) / len(pictures)

    plain = Row("plain")
    ratios: dict[str, list[float]] = {drawn.name: [] for drawn in table}
    with warnings_as_lines():
        before = seconds(plain)
        for _ in range(options.repeats):
            for drawn in table:
                own, after = seconds(drawn), seconds(plain)
                ratios[drawn.name].append(2 * own / (before + after))
                before = after
    made, about = (
        origin("world_methods.py", arguments),
        "CPU seconds per picture in those of plain sampling just before and after",
    )
    rows = [
        row(made, "world, time", "world", name, "seconds_ratio", found, about, counts="batches")
        for name, found in ratios.items()
    ]
    return said(rows, options.out)


if __name__ == "__main__":
    entry(main)
