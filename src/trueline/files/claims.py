"""Claims: who works on what, where several processes, or machines, share a folder.

A claim on NAME is a file NAME.GENERATION that only one process can make (O_EXCL), with who made it inside. Its
time is the holder's last sign of life: a thread touches it. A claim of a process that is gone, or that gave no
sign of life for ``takeover`` seconds, is taken over by making the next generation: two cannot do that at once, and a
holder that was only frozen finds that it has lost. The folder's own clock counts, not the machine's.
"""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from trueline.files.folder import disk_full_said

TAKEOVER = (
    "TRUELINE_TAKEOVER"  #: environment variable: seconds without a sign of life, then a claim is taken over
)
USUAL_TAKEOVER = 60.0
POLL = 0.5  #: seconds between two tries at what another holds


class Busy(ValueError):
    """What was asked for is in the hands of another process, which lives."""


@dataclass(frozen=True)
class Claim:
    """``name`` in generation ``generation`` is ours as long as the file says ``token`` and no later one is there."""

    name: str
    generation: int
    token: str
    path: Path


class Claims:
    """The claims in ``folder``.

    Args:
        takeover: seconds without a sign of life after which a claim is taken over; None: 60, or what the environment
            variable TRUELINE_TAKEOVER says.

    Raises:
        ValueError: the folder cannot be written, or the variable is no number above 0.
    """

    def __init__(self, folder: Path, takeover: float | None = None):
        self.folder, self.takeover = folder, takeover or usual_takeover()
        self._held: dict[str, Claim] = {}
        self._observed: dict[tuple[Path, int], float] = {}
        self._guard = threading.Lock()
        self._idle = threading.Event()  #: nothing is held, so that the thread may end
        self._thread: threading.Thread | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(
                f"out: cannot write to {folder} ({error.strerror}); choose another folder"
            ) from None

    def take(self, name: str) -> Claim | None:
        """The claim, or None where another holds it."""
        newest = self._newest(name)
        if newest is not None and not self._stale(newest):
            return None
        generation = 0 if newest is None else _generation(newest) + 1
        claim = Claim(name, generation, token_hex(8), self.folder / f"{_safe(name)}.{generation}")
        with disk_full_said(claim.path):
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
                number = os.open(claim.path, flags, 0o666)
            except FileExistsError:  # another was quicker
                return None
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(myself() | {"token": claim.token, "since": time.strftime("%F %T%z")}, file)
        self._keep_alive(claim)
        return claim

    def mine(self, claim: Claim) -> bool:
        """Whether nobody has taken it over since."""
        return self._newest(claim.name) == claim.path and _read(claim.path).get("token") == claim.token

    def release(self, claim: Claim) -> None:
        """Let go of it, and of the generations before it; one that was taken over is its new holder's."""
        with self._guard:
            self._held.pop(claim.token, None)
            if not self._held:
                self._idle.set()
        if self.mine(claim):
            for generation in range(claim.generation, -1, -1):  # the newest first: the older ones are stale
                claim.path.with_name(f"{_safe(claim.name)}.{generation}").unlink(missing_ok=True)

    @contextmanager
    def held(self, name: str, wait: bool = False, what: str = "") -> Iterator[Claim]:
        """The claim while the block runs.

        Args:
            wait: until the holder is done or gone; else a live holder is an error.
            what: begins the sentence of the error, such as "out: FOLDER"; "" for the folder.

        Raises:
            Busy: another holds it, with who that is.
        """
        while (claim := self.take(name)) is None:
            if not wait:
                raise Busy(self._sentence(name, what))
            time.sleep(POLL)
        try:
            yield claim
        finally:
            self.release(claim)

    def live(self) -> list[str]:
        """The names that are in somebody's hands."""
        names = {path.name.rpartition(".")[0] for path in self.folder.iterdir()}
        newest = {name: self._newest(name) for name in names}
        return sorted(name for name, path in newest.items() if path is not None and not self._stale(path))

    def holder(self, name: str) -> str:
        """Who has it in hand: "pid 12 on host, since TIME"."""
        about = _read(newest) if (newest := self._newest(name)) else {}
        return f"process {about.get('pid', '?')} on {about.get('host', '?')}, since {about.get('since', '?')}"

    def _sentence(self, name: str, what: str) -> str:
        newest = self._newest(name)
        what = what or f"out: {self.folder}"
        if newest is None:
            return f"{what} was in use a moment ago; give the command again"
        try:
            age = self._now() - newest.stat().st_mtime
        except FileNotFoundError:
            age = 0.0
        if age < -self.takeover:
            return (
                f"{what} is in use by {self.holder(name)}, with a sign of life from the future (a clock is wrong); "
                f"if that process is gone, delete {newest}"
            )
        return (
            f"{what} is in use by {self.holder(name)} (last sign of life {max(age, 0):.0f} s ago); wait for it or "
            f"choose another folder. After {self.takeover:g} s without a sign of life it is taken over"
        )

    def _newest(self, name: str) -> Path | None:
        prefix = f"{_safe(name)}."
        try:
            found = [each for each in os.listdir(self.folder) if each.startswith(prefix)]
        except FileNotFoundError:
            return None
        numbered = [each for each in found if each[len(prefix) :].isdecimal()]
        newest = max(numbered, key=lambda each: int(each[len(prefix) :]), default=None)
        return None if newest is None else self.folder / newest

    def _stale(self, path: Path) -> bool:
        about = _read(path)
        if about.get("machine") == myself()["machine"] and not _alive(about):
            return True
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:  # it was released; the next try finds nothing
            return False
        # A time from the future grows no older by the clock: then it counts how long it did not change.
        first = self._observed.setdefault((path, touched), time.monotonic())
        return self._now() - touched / 1e9 > self.takeover or time.monotonic() - first > self.takeover

    def _now(self) -> float:
        """By the clock of the disk: on a network share it is the server's, and the same for all."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return os.fstat(file.fileno()).st_mtime

    def _keep_alive(self, claim: Claim) -> None:
        with self._guard:
            self._held[claim.token] = claim
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)
                self._thread.start()

    def _beat(self) -> None:
        while True:
            self._idle.wait(self.takeover / 6)
            with self._guard:
                self._idle.clear()
                if not self._held:
                    self._thread = None
                    return
                held = list(self._held.values())
            for claim in held:
                try:
                    os.utime(claim.path)
                except OSError:  # lost, or the disk is away for a moment: ``mine`` will tell
                    continue


def usual_takeover() -> float:
    """Seconds, of the environment or 60."""
    text = os.environ.get(TAKEOVER, "")
    try:
        seconds = float(text) if text else USUAL_TAKEOVER
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{TAKEOVER}: must be seconds above 0 (got {text!r})")
    return seconds


@cache
def _about(pid: int) -> dict[str, Any]:
    host = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"  # containers of one host count processes apart
    except OSError:
        machine = host
    return {"host": host, "machine": machine, "pid": pid, "started": _started(pid)}


def myself() -> dict[str, Any]:
    """This process: host, machine (what shares process numbers), pid and when it started."""
    return _about(os.getpid())


def _started(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; "" for a dead one; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else None
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _alive(about: dict[str, Any]) -> bool:
    started = _started(about["pid"])
    if started is not None:
        return started != "" and started == about.get("started")
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _generation(path: Path) -> int:
    return int(path.name.rpartition(".")[2])


def _read(path: Path) -> dict[str, Any]:
    """Who holds it; {} for a file that is gone or whose maker was killed before it wrote."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _safe(name: str) -> str:
    return name.replace("/", "~")
