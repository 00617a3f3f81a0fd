"""Several processes at one run: each is given the very command line that this process was given.

A worker knows by an environment variable that it is one; the run's folder says what is left to do. So there is no
protocol between the processes, and a worker that dies takes nothing with it but the unit that it had in hand.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from trueline.engine.workers import Engine, Process, Worker

#: Seconds that a worker has to end when there is nothing left to do, or when it was asked to stop.
GRACE = 10.0
TAIL = 4096  #: bytes of a worker's log in which its last sentence is looked for


class WorkerFailed(RuntimeError):
    """No worker is left, and there is work left."""


@contextmanager
def processes(engine: Engine, logs: Sequence[Path]) -> Iterator[Sequence[Worker]]:
    yield [Process(number, engine, log) for number, log in enumerate(logs, start=1)]


@contextmanager
def placed_by_ray(engine: Engine, logs: Sequence[Path]) -> Iterator[Sequence[Worker]]:
    from trueline.engine.ray import started  # needs the extra

    with started(engine, logs) as workers:
        yield workers


#: Name of an engine -> what starts its workers.
ENGINES = {"processes": processes, "ray": placed_by_ray}


class Crew:
    """The workers of a run while the block lasts; at its end none is left.

    ``folder``: for their logs, worker-1.log and so on.

    Raises:
        WorkerFailed: one cannot be started.
    """

    def __init__(self, engine: Engine, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"worker-{number}.log" for number in range(1, engine.workers + 1)]
        self.begun = [log.stat().st_size if log.exists() else 0 for log in self.logs]
        self._said: set[int] = set()
        self._starting = ENGINES[engine.kind](engine, self.logs)

    def __enter__(self) -> Self:
        self.workers = self._starting.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:  # there is nothing left to do: they see it and end
                self._wait(GRACE)
            for kill in (False, True):
                for worker in self.workers:
                    if worker.ended() is None:
                        with suppress(OSError):
                            worker.stop(kill)
                self._wait(GRACE)
        finally:
            self._starting.__exit__(None, None, None)

    def check(self) -> None:
        """Say which workers ended although there is work left."""
        codes = [worker.ended() for worker in self.workers]
        for place, code in enumerate(codes):
            if code is not None and place not in self._said:
                self._said.add(place)
                print(f"trueline: {self._sentence(place, code)}", file=sys.stderr, flush=True)
        if None not in codes:
            raise WorkerFailed(
                f"no worker is left: {self._sentence(len(codes) - 1, codes[-1] or 0)}; what is done stays, and the "
                "same command goes on"
            )

    def _sentence(self, place: int, code: int) -> str:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = f" ({line})" if (line := self._last_line(place)) else ""
        return f"worker {place + 1} of {len(self.workers)} {how}{last}, see {self.logs[place]}"

    def _last_line(self, place: int) -> str:
        try:
            with self.logs[place].open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self.begun[place], size - TAIL))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return " ".join(lines[-1].removeprefix("trueline: ").split())[:300] if lines else ""

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(worker.ended() is None for worker in self.workers):
            time.sleep(0.05)
