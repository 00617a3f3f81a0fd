"""Which units of work are done: lines of JSON, in a file of its own for each process that writes.

A line names the unit and, of each of its files, size, time and SHA-256. It is written after the files, so a process
that is killed at any moment leaves files without a line (they are made again), never a line without files. A line
that was cut off is none. Before the files, a line says what is about to be written, so that nothing is left behind
that no line names.
"""

import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from secrets import token_hex
from typing import Any

from trueline.files.digests import file_digest
from trueline.files.folder import disk_full_said, sync_folder


class Journal:
    """The lines in ``folder``, of files below ``root``."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.repeated = 0  #: lines of units that another process had done, too
        self._begun: dict[str, None] = {}
        self._own: Path | None = None
        self._read: dict[str, int] = {}
        self._verified: dict[str, dict[str, Any]] = {}
        self.refresh()

    def add(self, unit: str, digests: Mapping[str, str], about: Mapping[str, Any]) -> None:
        """``digests``: file -> SHA-256 of what was written. ``about``: further keys of the line."""
        files = {}
        for name, digest in digests.items():
            stat = (self.root / name).stat()
            files[name] = [stat.st_size, stat.st_mtime_ns, digest]
        self._append({"unit": unit, "files": files, **about}, sure=True)
        self.refresh()

    def announce(self, unit: str, names: Iterable[str]) -> None:
        """These files of the unit will be written now."""
        self._append({"unit": unit, "begun": list(names)}, sure=False)

    def _append(self, line: Mapping[str, Any], sure: bool) -> None:
        fresh = self._own is None
        if self._own is None:
            self._own = self.folder / f"{socket.gethostname()[:60]}-{token_hex(8)}.jsonl"
        with disk_full_said(self._own), open(self._own, "ab") as file:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            file.flush()
            if sure:
                os.fsync(file.fileno())
        if fresh:
            sync_folder(self.folder)

    def refresh(self) -> None:
        """Read what was added since."""
        for entry in os.scandir(self.folder):
            at = self._read.get(entry.name, 0)
            if not entry.name.endswith(".jsonl") or entry.stat().st_size <= at:
                continue
            with open(entry.path, "rb") as file:
                file.seek(at)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._read[entry.name] = at + len(whole)
            for text in whole.splitlines():
                self._note(text)

    def _note(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            names = line["begun"] if "begun" in line else line["files"]
            if any(PurePath(name).is_absolute() or ".." in PurePath(name).parts for name in names):
                return  # not of this folder
            if "begun" in line:
                self._begun.update(dict.fromkeys(line["begun"]))
                return
            before = self.lines.setdefault(line["unit"], [])
        except (ValueError, KeyError, TypeError):
            return
        self.repeated += bool(before)
        before.append(line)

    def done(self, unit: str) -> dict[str, Any] | None:
        """The line of a unit whose files are all there, whole; None where there is none."""
        if unit not in self._verified:
            for line in self.lines.get(unit, ()):
                if all(self._whole(name, *stamp) for name, stamp in line["files"].items()):
                    self._verified[unit] = line
                    break
        return self._verified.get(unit)

    def _whole(self, name: str, size: int, time: int, digest: str) -> bool:
        """By size and time; by its bytes where the time is another, as after a copy."""
        path = self.root / name
        try:
            stat = path.stat()
            return stat.st_size == size and (stat.st_mtime_ns == time or file_digest(path) == digest)
        except OSError:
            return False

    def files(self) -> Iterable[str]:
        """Every file that a line names, written or begun."""
        written = {name: None for lines in self.lines.values() for line in lines for name in line["files"]}
        return written | self._begun
