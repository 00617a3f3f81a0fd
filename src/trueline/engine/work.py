"""What every worker does: take units that nobody else has in hand, until there are none left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trueline.engine.progress import Progress
from trueline.files import Job, Outcome, RunFolder

Do = Callable[[Job], Outcome]
POLL = 0.5  #: seconds between two questions whether others are done with the rest


@dataclass(frozen=True)
class Phase:
    """Jobs that may be done in any order. ``prepare`` loads what does them, and is called only where there is
    something to do. The next phase begins when all jobs are done."""

    name: str
    jobs: Sequence[Job]
    prepare: Callable[[], Do]


def work(run: RunFolder, phase: Phase, progress: Progress) -> None:
    """Do every job of the phase that is not done and that nobody else has in hand; wait for what others have, and
    take it over where they are gone.

    Raises:
        Whatever the job's function raises; the job is free again.
    """
    waiting = run.todo(phase.jobs)
    do = phase.prepare() if waiting else None
    while waiting and do is not None:
        idle = True
        for job in waiting:
            with run.unit(job) as claim:
                if claim is None:
                    continue
                start = time.perf_counter()
                run.keep(claim, job, do(job), time.perf_counter() - start)
                idle = False
            progress.show(run)
        waiting = run.todo(waiting)
        progress.show(run)
        if waiting and idle:
            time.sleep(POLL)
