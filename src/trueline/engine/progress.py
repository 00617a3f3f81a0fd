"""How far a run is: a bar on a terminal, else a line every 30 seconds. It counts what all workers did."""

import sys
import threading
import time
from collections.abc import Sequence
from typing import Self

from tqdm.auto import tqdm

from trueline.files import Job, RunFolder

EVERY = 30.0  #: seconds between two lines where there is no terminal
OFTEN = 1.0  #: seconds between two looks at what is done


class Progress:
    """Of ``jobs``, of which some may be done already, while the block lasts. ``silent``: says nothing.

    The lines also come while one long job runs. A single job has no bar: what does it may have its own.
    """

    def __init__(self, name: str, jobs: Sequence[Job], run: RunFolder, silent: bool = False):
        self.name, self.jobs = name, jobs
        self.total = sum(map(_size, jobs))
        self.before = self.done = self._done(run)
        self.started, self.looked = time.monotonic(), 0.0
        terminal = sys.stderr.isatty()
        shown = terminal and not silent and len(jobs) > 1
        self.bar = tqdm(total=self.total, initial=self.done, desc=name) if shown else None
        self._ended = threading.Event()
        self._lines = not terminal and not silent and self.done < self.total

    def __enter__(self) -> Self:
        if self._lines:
            threading.Thread(target=self._say, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)
            self.bar.close()

    def show(self, run: RunFolder) -> None:
        """Look at what is done, but not too often: of 30,000 jobs it takes a few milliseconds."""
        now = time.monotonic()
        if now - self.looked < OFTEN:
            return
        self.looked, self.done = now, self._done(run)
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)

    def sentence(self) -> str:
        """ "drawing: 12 of 60 done, 3.1 s each, about 2 min left"."""
        text = f"{self.name}: {self.done} of {self.total} done"
        if new := self.done - self.before:
            each = (time.monotonic() - self.started) / new
            text += f", {each:.3g} s each, about {_span(each * (self.total - self.done))} left"
        return text

    def _say(self) -> None:
        while not self._ended.wait(EVERY):
            print(f"trueline: {self.sentence()}", file=sys.stderr, flush=True)

    def _done(self, run: RunFolder) -> int:
        return sum(_size(job) for job in self.jobs if run.done(job))


def _size(job: Job) -> int:
    return len(job.makes) or 1


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
