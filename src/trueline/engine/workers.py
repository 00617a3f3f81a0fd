"""A worker: a process that was given the very command line that another was given, and shares its run."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Protocol

KINDS = ("processes", "ray")  #: of engines
WORKER = "TRUELINE_WORKER"  #: environment variable: "2/4" in the second of four workers
LOOK = 1.0  #: seconds between two looks of a worker at whether its parent lives


@dataclass(frozen=True)
class Engine:
    """Who works: ``workers`` processes, of this machine or placed by Ray.

    Args:
        arguments: the command line of the run, without the program's name.
        ray_address: of a cluster; None: Ray is started on this machine.
        gpus_per_worker: for Ray; None: one where the cluster has any.

    Raises:
        ValueError: there is no such engine, or no worker.
    """

    arguments: Sequence[str] = ()
    kind: str = "processes"
    workers: int = 1
    ray_address: str | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"engine: there is no {self.kind!r}; there are {', '.join(KINDS)}")
        if not 1 <= self.workers <= 10_000:
            raise ValueError(
                f"workers: must be from 1 to 10000 (got {self.workers}); 1 is this process alone"
            )
        for name in ("ray_address", "gpus_per_worker"):
            if getattr(self, name) is not None and self.kind != "ray":
                raise ValueError(f"{name}: belongs to the engine ray; choose it, or leave this out")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 64:
            raise ValueError(f"gpus_per_worker: must be from 0 to 64 (got {self.gpus_per_worker:g})")

    @property
    def local(self) -> bool:
        """Whether this process does the work."""
        return self.kind == "processes" and self.workers == 1


class Worker(Protocol):
    """One process, as who started it sees it."""

    def ended(self) -> int | None:
        """Its exit code (negative: the signal that ended it); None while it runs."""
        ...

    def stop(self, kill: bool) -> None: ...


class Process:
    """A worker on this machine."""

    def __init__(self, number: int, engine: Engine, log: Path):
        own = worker_environment(number, engine.workers)
        if (gpus := _visible_gpus()) and engine.workers > 1:
            own["CUDA_VISIBLE_DEVICES"] = gpus[(number - 1) % len(gpus)]
        own.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // engine.workers)))
        with open(log, "ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trueline.cli", *engine.arguments],
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def ended(self) -> int | None:
        return self._process.poll()

    def stop(self, kill: bool) -> None:
        (self._process.kill if kill else self._process.terminate)()


def worker_environment(number: int, workers: int) -> dict[str, str]:
    """The environment of this process, and that it is worker ``number``."""
    return {**os.environ, WORKER: f"{number}/{workers}"}


def in_worker() -> bool:
    """Whether another process started this one as a worker, and does the rest."""
    return WORKER in os.environ


def watch_parent() -> None:
    """End when who started this worker is gone: nobody would know of it."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os.kill(os.getpid(), SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
