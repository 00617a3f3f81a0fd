"""The phases of a run, one after another: by this process, or by a crew that it looks after.

Every process that works on a run does the same: it takes units that nobody else has in hand, until there are none
left. So a worker, a lone process and one of many that a cluster started differ in nothing.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trueline.engine.crew import Crew
from trueline.engine.progress import Progress
from trueline.engine.workers import Engine, in_worker, watch_parent
from trueline.files import Job, Outcome, RunFolder

Do = Callable[[Job], Outcome]
POLL = 0.5  #: seconds between two questions whether others are done with the rest


@dataclass(frozen=True)
class Phase:
    """Jobs that may be done in any order. The next phase begins when all of them are done.

    ``prepare`` loads what does them, and is called only in a process that has something to do.
    """

    name: str
    jobs: Sequence[Job]
    prepare: Callable[[], Do]


def carry_out(run: RunFolder, phases: Iterable[Phase], engine: Engine, silent: bool = False) -> bool:
    """Do all jobs of all phases; whether the rest, such as tables, is for this process (a worker leaves it to who
    started it).

    Args:
        phases: a later one is asked for when those before it are done: its jobs may depend on what they made.
        silent: show no progress.

    Raises:
        WorkerFailed: none of the workers is left, and there is work left.
        Whatever a job's function raises; the job is free again.
    """
    if in_worker():
        watch_parent()
    if in_worker() or engine.local:
        for phase in phases:
            with Progress(phase.name, phase.jobs, run, silent or in_worker()) as progress:
                _work(run, phase, progress)
        return not in_worker()
    with Crew(engine, run.path / "progress") as crew:
        for phase in phases:
            with Progress(phase.name, phase.jobs, run, silent) as progress:
                while run.todo(phase.jobs):
                    crew.check()
                    progress.show(run)
                    time.sleep(POLL)
                progress.show(run)
    return True


def _work(run: RunFolder, phase: Phase, progress: Progress) -> None:
    """Do what nobody else has in hand; wait for what others have, and take it over where they are gone."""
    waiting = run.todo(phase.jobs)
    do = phase.prepare() if waiting else None
    while waiting and do is not None:
        idle = True
        for job in waiting:
            with run.unit(job) as claim:
                if claim is None:
                    continue
                start = time.perf_counter()
                outcome = do(job)
                run.keep(claim, job, outcome, time.perf_counter() - start)
                idle = False
            progress.show(run)
        waiting = run.todo(waiting)
        progress.show(run)
        if waiting and idle:
            time.sleep(POLL)
