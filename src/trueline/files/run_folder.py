"""RunFolder: a folder of results that goes on after a kill, refuses another configuration, and can be shared.

    run.json                    the manifest: command, settings and their hash, the units' names, who began it
    state.json                  how far it got, for people; the journal is what counts
    progress/claims/            what is in whose hands (claims.py)
    progress/done/*.jsonl       what is done, with sizes and checksums (journal.py)

The unit of work is a ``Job``: a function makes its ``Outcome``, the bytes of files, and the folder keeps them. A unit
is done when its files are what the journal says.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

from trueline.files.claims import Busy, Claim, Claims, myself
from trueline.files.digests import json_digest
from trueline.files.folder import Folder, clean_leftovers, sync_folder
from trueline.files.journal import Journal

SCHEMA = 3
MANIFEST, STATE, PROGRESS = "run.json", "state.json", "progress"
BEGIN = "begin"  #: the claim under which a run is begun


@dataclass(frozen=True)
class Job:
    """A unit of work: ``id``, of letters that a file's name may have and slashes, and what is to be made.

    ``makes``: names of what comes out, where that is not one thing: people are told these.
    """

    id: str
    spec: Any = None
    makes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a job made.

    ``files``: name in the folder -> bytes, written in this order. ``failed``: what of it could not be made -> a
    sentence; the job is done all the same, and the run says so. ``about``: further facts for the journal.
    """

    files: Mapping[str, bytes]
    failed: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


class OtherRun(ValueError):
    """The folder holds a run with other settings."""


class RunFolder(Folder):
    """The run that ``settings`` ask for, in ``path``, begun or gone on with.

    Args:
        command: whose run it is, such as "generate".
        settings: all that decides the results, ready for JSON; secrets are no settings.
        ids: of all units, in order.
        overwrite: what another run left there is removed first.
        takeover: as ``Claims``.

    Raises:
        OtherRun: the folder holds a run of another command, with other settings or other units.
        ValueError: it cannot be written.
        Busy: it is to be overwritten while others work on it.
    """

    def __init__(
        self,
        path: str | Path,
        command: str,
        settings: Mapping[str, Any],
        ids: Iterable[str],
        *,
        overwrite: bool = False,
        takeover: float | None = None,
    ):
        super().__init__(path)
        self.started = time.monotonic()
        self.wasted = 0  #: units that were done here although another had taken them over
        self.claims = Claims(self.path / PROGRESS / "claims", takeover)
        from trueline.errors import redacted

        asked = redacted(json.loads(json.dumps(dict(settings))))  # as it will be read again
        self.manifest = {
            "schema": SCHEMA,
            "command": command,
            "settings": asked,
            "hash": json_digest(asked),
            "ids": list(ids),
        }
        with self.claims.held(BEGIN, wait=True):
            if overwrite:
                self._remove()
            self._begin()
        self.journal = Journal(self.path / PROGRESS / "done", self.path)
        clean_leftovers(self.path)

    def _begin(self) -> None:
        from trueline import __version__

        path = self.path / MANIFEST
        if not path.exists():
            begun = {"trueline": __version__, "time": time.strftime("%F %T%z")} | myself()
            self.write_json(MANIFEST, self.manifest | {"begun": begun})
        elif (problem := _difference(path, self.manifest)) and self._empty():
            path.unlink()
            self._begin()
        elif problem:
            raise OtherRun(f"out: {self.path} {problem}; give the same, or another folder")

    def _empty(self) -> bool:
        """Whether the run before made nothing yet, as after a mistake in its first unit, and nobody is at it."""
        done = self.path / PROGRESS / "done"
        others = [name for name in self.claims.live() if name != BEGIN]
        return done.exists() and not others and not Journal(done, self.path).files()

    def _remove(self) -> None:
        """Remove what the run before made: its files, and no others."""
        if others := [name for name in self.claims.live() if name != BEGIN]:
            raise Busy(f"out: {self.path} is in use by {self.claims.holder(others[0])}; stop it first")
        folders = {self.path}
        for name in Journal(self.path / PROGRESS / "done", self.path).files():
            (self.path / name).unlink(missing_ok=True)
            folders.add((self.path / name).parent)
        for folder in folders - {self.path}:
            with suppress(OSError):  # others' files are in it
                folder.rmdir()
        for name in (MANIFEST, STATE):  # the manifest goes first: without it there is no run
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / PROGRESS / "done")

    def forget(self) -> bool:
        """Where nothing was made, leave nothing, so that the folder is free for another run; whether that was so."""
        with self.claims.held(BEGIN, wait=True):
            if empty := self._empty():
                (self.path / MANIFEST).unlink(missing_ok=True)
        if empty:
            for name in ("done", "claims"):
                shutil.rmtree(self.path / PROGRESS / name, ignore_errors=True)
            with suppress(OSError):  # workers have left their logs
                (self.path / PROGRESS).rmdir()
        return empty

    # Units

    def done(self, job: Job) -> bool:
        """Whether its files are there, whole."""
        return self.journal.done(job.id) is not None

    def todo(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are not done, by what is known now."""
        self.journal.refresh()
        return [job for job in jobs if not self.done(job)]

    def failed(self, jobs: Sequence[Job]) -> dict[str, str]:
        """What the jobs that are done could not make, each with a sentence."""
        return {name: why for job in jobs for name, why in self.about(job).get("failed", {}).items()}

    def about(self, job: Job) -> dict[str, Any]:
        """The journal's line of a job that is done; {} of another."""
        return self.journal.done(job.id) or {}

    @contextmanager
    def unit(self, job: Job) -> Iterator[Claim | None]:
        """The claim on a job; None where it is done, or in the hands of another."""
        claim = None if self.done(job) else self.claims.take(job.id)
        if claim is None:
            yield None
            return
        try:
            self.journal.refresh()  # between the first question and the claim another may have done it
            yield None if self.done(job) else claim
        finally:
            self.claims.release(claim)

    def keep(self, claim: Claim, job: Job, outcome: Outcome, seconds: float = 0.0) -> bool:
        """Write a job's files and note it as done; False where another has taken it over meanwhile."""
        if not self.claims.mine(claim):
            self.wasted += 1
            return False
        self.journal.announce(job.id, outcome.files)
        for name, content in outcome.files.items():
            self.place(name, methodcaller("write", content))
        for folder in {(self.path / name).parent for name in outcome.files}:
            sync_folder(folder)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in outcome.files.items()}
        failed = {"failed": dict(outcome.failed)} if outcome.failed else {}
        self.journal.add(job.id, digests, failed | dict(outcome.about) | {"seconds": round(seconds, 3)})
        return True

    # The whole

    def missing(self, jobs: Sequence[Job]) -> list[str]:
        """Names of what the jobs have not made yet."""
        return [name for job in self.todo(jobs) for name in job.makes or (job.id,)]

    @contextmanager
    def alone(self, name: str = "run", wait: bool = False) -> Iterator[None]:
        """Nobody else is in a block of this name while ours runs.

        Raises:
            Busy: another is, and lives; with ``wait``, it is waited for instead.
        """
        with self.claims.held(name, wait=wait, what=f"out: {self.path}"):
            yield

    def close(self, status: str, jobs: Sequence[Job], more: Mapping[str, Any] | None = None) -> None:
        """Write state.json: "complete", "stopped" or "failed", and what of ``jobs`` is done and missing."""
        clean_leftovers(self.path)
        missing = self.missing(jobs)
        state = {
            "status": status,
            "done": sum(len(job.makes) or 1 for job in jobs) - len(missing),
            "missing": missing,
            "failed": self.failed(jobs),
            "done_twice": self.journal.repeated + self.wasted,
            "seconds": round(time.monotonic() - self.started, 1),
        }
        self.write_json(STATE, state | dict(more or {}))


def _difference(path: Path, asked: Mapping[str, Any]) -> str:
    """What the manifest on disk says otherwise, as the rest of a sentence on its folder; "" for nothing."""
    from trueline.errors import short  # needs pydantic, which no help text waits for

    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if old["schema"] != SCHEMA:
            return f"holds a run of another version of Trueline (schema {short(old['schema'])}, now {SCHEMA})"
        if old["command"] != asked["command"]:
            return f"holds a run of trueline {old['command']}, not of {asked['command']}"
        before, now = old["settings"], asked["settings"]
        names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
        if names == ["layouts"]:  # a digest tells nobody anything
            return "holds a run of other prompts or boxes"
        if names:
            was, want = short(before.get(names[0])), short(now.get(names[0]))
            return f"holds a run with another {names[0]} ({was}, now {want})"
        return "" if old["ids"] == asked["ids"] else "holds a run of other units"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"holds a {MANIFEST} that is no manifest of a run"
