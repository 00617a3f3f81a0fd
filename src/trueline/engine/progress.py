"""How far a run is: a bar on a terminal, else a line every 30 seconds. It counts what all workers did."""

import sys
import time
from collections.abc import Sequence

from tqdm.auto import tqdm

from trueline.files import Job, RunFolder

EVERY = 30.0  #: seconds between two lines where there is no terminal


class Progress:
    """Of ``jobs``, of which some may be done already. ``silent``: says nothing."""

    def __init__(self, name: str, jobs: Sequence[Job], run: RunFolder, silent: bool = False):
        self.name, self.jobs = name, jobs
        self.before = self.done = len(jobs) - len(run.todo(jobs))
        self.started = self.said = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=len(jobs), initial=self.done, desc=name) if terminal and not silent else None
        self.lines = not terminal and not silent

    def show(self, run: RunFolder) -> None:
        self.done = len(self.jobs) - sum(not run.done(job) for job in self.jobs)
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)
        elif self.lines and time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            print(f"trueline: {self.sentence()}", file=sys.stderr, flush=True)

    def sentence(self) -> str:
        """ "drawing: 12 of 60 done, 3.1 s each, about 2 min left"."""
        text = f"{self.name}: {self.done} of {len(self.jobs)} done"
        if new := self.done - self.before:
            each = (time.monotonic() - self.started) / new
            text += f", {each:.3g} s each, about {_span(each * (len(self.jobs) - self.done))} left"
        return text

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
