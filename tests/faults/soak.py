"""The same work over and over, and what the process holds after it: memory, files, threads.

memory_of_pictures(backbone, calls=200); handles_of_runs(folder, runs=50)
"""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median

from trueline.files import Job, Outcome, RunFolder
from trueline.layout import Layout, Region
from trueline.methods import make
from trueline.models.backbone import Backbone
from trueline.sampling.pipeline import Pipeline

WARM = 8  #: calls before anything is measured


def resident() -> float:
    """Megabytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles() -> int:
    """Open files and threads."""
    return len(os.listdir("/proc/self/fd")) + threading.active_count()


def growth(work: Callable[[int], object], times: int, held: Callable[[], float]) -> float:
    """How much more is held in the last quarter of ``times`` calls of ``work`` than in the first, by medians, after
    ``WARM`` calls that do not count."""
    found = []
    for number in range(WARM + times):
        work(number)
        if number >= WARM:
            gc.collect()
            found.append(held())
    quarter = times // 4
    return median(found[-quarter:]) - median(found[:quarter])


def memory_of_pictures(backbone: Backbone, calls: int) -> float:
    """Megabytes that a call adds up to over ``calls`` calls of one pipeline: grounded boxes and a method that guides,
    another prompt each time."""
    pipe = Pipeline(backbone)
    things = ("a red apple", "a blue car", "the green chair", "cat")

    def draw(number: int) -> None:
        thing = things[number % 4]
        side = 0.5 + number % 40 / 100
        layout = Layout(f"{thing} and {number} clock", [Region(thing, (0.1, 0.1, side, side))], seed=number)
        pipe(layout, methods=[make("attention-refocusing", {})], steps=1, progress=False)

    return growth(draw, calls, resident)


def handles_of_runs(folder: Path, runs: int) -> float:
    """Open files and threads that ``runs`` runs of two units each add."""

    def run(number: int) -> None:
        jobs = [Job(f"units/{each}") for each in range(2)]
        made = RunFolder(folder / str(number), "test", {"number": number}, [job.id for job in jobs])
        with made.alone():
            for job in jobs:
                with made.unit(job) as claim:
                    assert claim is not None
                    made.keep(claim, job, Outcome({f"{job.id}.bin": b"result"}))
        made.close("complete", jobs)

    return growth(run, runs, handles)
