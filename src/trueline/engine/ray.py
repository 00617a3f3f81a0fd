"""Workers that Ray places: each is an actor with a process of its own, the same as on one machine.

Ray only finds room for them. What is done is the run folder's to say, so every machine of the cluster needs that
folder under the same path, and Trueline installed. (Ray Data's own checkpoints lost all pictures of a run that was
killed, in 2 of 2 tries with Ray 2.60.)
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trueline.engine.workers import Engine, Process

CONNECT = 10.0  #: seconds until an address that does not answer is given up
START = 120.0  #: seconds until a cluster must have found room for one worker
ANSWER = 30.0  #: seconds until an actor must say how its process is
#: Of this process's environment, what the workers get, besides what their machines have.
PASSED = ("TRUELINE_", "OMP_", "HF_HUB_OFFLINE", "PYTHONPATH")


#: What asks whether Ray is at an address.
_ASK = """
import sys
from ray._raylet import GcsClient
print(flush=True)
GcsClient(address=sys.argv[1])
"""


class Actor:
    """A process on the machine where Ray put it; methods as ``workers.Worker``."""

    def __init__(self, number: int, engine: Engine, log: str, place: str, environment: dict[str, str]):
        try:
            os.chdir(place)
        except OSError as error:
            raise ValueError(
                f"{place} is not there on {socket.gethostname()} ({error.strerror}); a cluster needs the folder "
                "of the run, and the one that the command is given in, on a disk that all share"
            ) from None
        os.environ.update(environment)
        self.process = Process(number, engine, Path(log))

    def begun(self) -> bool:
        return True

    def ended(self) -> int | None:
        return self.process.ended()

    def stop(self, kill: bool) -> None:
        self.process.stop(kill)


class Placed:
    """An actor, as the driver sees it."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.begun = actor.begun.remote()

    def ended(self) -> int | None:
        import ray
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError

        try:
            if not ray.wait([self.begun], timeout=0)[0]:  # it waits for room
                return None
            return ray.get(self.actor.ended.remote(), timeout=ANSWER)
        except GetTimeoutError:
            return None
        except ActorDiedError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None
            return -signal.SIGKILL
        except RayActorError:
            return -signal.SIGKILL

    def stop(self, kill: bool) -> None:
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            if ray.wait([self.begun], timeout=0)[0]:
                ray.get(self.actor.stop.remote(kill), timeout=ANSWER)
            if kill:
                ray.kill(self.actor)


@contextmanager
def started(engine: Engine, logs: Sequence[Path]) -> "Iterator[list[Placed]]":
    """
    Raises:
        ValueError: Ray is not installed, its address does not answer, or it has no room for a single worker.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("engine: ray is not installed; pip install 'trueline[ray]'") from None
    _connect(engine)
    try:
        gpus = engine.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
        make = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Actor)
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        actors = [
            Placed(make.remote(number, engine, str(log.resolve()), os.getcwd(), environment))
            for number, log in enumerate(logs, start=1)
        ]
        placed, waiting = ray.wait([each.begun for each in actors], num_returns=len(actors), timeout=START)
        room = {name: n for name, n in ray.cluster_resources().items() if name in ("CPU", "GPU")}
        if not placed:
            raise ValueError(
                f"workers: Ray found no room for one of {len(actors)} in {START:.0f} s (each needs 1 CPU and "
                f"{gpus:g} GPUs; the cluster has {room}); ask for fewer GPUs, or add machines"
            )
        if waiting:
            print(
                f"trueline: {len(placed)} of {len(actors)} workers run; Ray has no room for the others yet ({room})",
                file=sys.stderr,
            )
        yield actors
    finally:
        ray.shutdown()


def _connect(engine: Engine) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if engine.ray_address is None:
            cores = max(engine.workers, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            _knock(engine.ray_address)
            ray.init(address=engine.ray_address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith("ray_address"):
            raise
        raise ValueError(f"ray_address: Ray does not answer ({' '.join(str(error).split())[:200]})") from None
    finally:
        signal.signal(signal.SIGTERM, on_terminate)  # Ray takes it for itself


def _knock(address: str) -> None:
    """Whether anybody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # such as "auto"
        return
    if not port.isdecimal():
        raise ValueError(f"ray_address: write it as HOST:PORT, or auto (got {address!r})")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
        problem = "" if address.startswith("ray://") or _is_ray(address) else f"no Ray in {CONNECT:.0f} s"
    except (OSError, OverflowError) as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"ray_address: nobody answers at {address} ({problem}); start Ray there, or leave it out to start it on "
            "this machine"
        )


def _is_ray(address: str) -> bool:
    """Asked by a process of its own, which can be ended: Ray itself would ask for minutes."""
    asking = [sys.executable, "-c", _ASK, address]
    with subprocess.Popen(asking, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            process.stdout.readline()  # type: ignore[union-attr]  # the library is loaded; the time begins
            return process.wait(CONNECT) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
