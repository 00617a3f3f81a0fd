"""A folder of results in which each file appears whole or not at all."""

import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trueline.errors import redacted
from trueline.exits import no_room

try:
    import fcntl
except ImportError:  # not on Windows; there the age of a left-over decides
    fcntl = None  # type: ignore[assignment]

KEY = "trueline"  #: keyword of the PNG text chunk that holds the record
ALMOST_FULL = (
    1 << 20
)  #: bytes free, below which a library's unclear error while writing is put down to the disk
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^/]")  #: s3://bucket, also as Path shortens it
YOUNG = 5.0  #: seconds; a temporary file as young as that may not be locked yet
OLD = 3600.0  #: seconds; where files cannot be locked, a temporary file as old as that has no writer
UMASK = os.umask(0o022)
os.umask(UMASK)


class DiskFull(OSError):
    """There was no room for a file. What was there before is as it was."""

    def __init__(self, path: Path):
        cure = "free some, and give the same command again: what is done stays"
        super().__init__(f"{path}: no space left on the disk; {cure}")
        self.strerror = "no space left on the disk"  # for those who say it in words of their own


class Target:
    """Where files go, by name."""

    def write(self, name: str, fill: Callable[[BinaryIO], Any]) -> Any:
        """``fill`` writes the content; ``name`` may have slashes."""
        raise NotImplementedError

    def write_json(self, name: str, content: Any) -> Any:
        return self.write(name, lambda file: file.write(json_bytes(content)))

    def write_png(self, name: str, image: Image.Image, record: dict[str, Any] | None = None) -> Any:
        """``image``; ``record`` goes into the file's text: the picture alone says how it was made."""
        return self.write(name, lambda file: save_png(file, image, record))


class Bundle(Target):
    """Files in memory: what a unit of work made, before it is kept."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, name: str, fill: Callable[[BinaryIO], Any]) -> None:
        memory = io.BytesIO()
        fill(memory)
        self.files[name] = memory.getvalue()


class Subfolder(Target):
    """The folder ``name`` of another target."""

    def __init__(self, target: Target, name: str):
        self._target, self._name = target, name

    def write(self, name: str, fill: Callable[[BinaryIO], Any]) -> Any:
        return self._target.write(f"{self._name}/{name}", fill)


class Folder(Target):
    """Makes ``path`` and proves that it can be written, before any time is spent on its contents.

    Raises:
        ValueError: it cannot be written, with the reason.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if _ADDRESS.match(str(path)):
            raise ValueError(
                f"out: {redacted(str(path))} is an address, not a folder; an object store cannot say who works on "
                "what: mount it as a folder, or make shards in local folders, copy them, and merge them"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ValueError(f"out: cannot write to {self.path} ({reason}); choose another folder") from None

    def write(self, name: str, fill: Callable[[BinaryIO], Any]) -> Path:
        """Fill a temporary file beside the target, force it to disk, then rename it: the rename is atomic.

        Args:
            name: of the file; with slashes: in folders below, which are made.

        Raises:
            DiskFull: and the file is as it was.
        """
        target = self.place(name, fill)
        sync_folder(target.parent)
        return target

    def place(self, name: str, fill: Callable[[BinaryIO], Any]) -> Path:
        """As ``write``, but that the file has this name is not forced to disk: ``sync_folder`` does it for many."""
        target = self.path / name
        with disk_full_said(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = None
            try:
                with _temporary_beside(target) as file:
                    temporary = Path(file.name)
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(temporary, target)
            except BaseException:
                if temporary is not None:
                    temporary.unlink(missing_ok=True)
                raise
        return target


def json_bytes(content: Any) -> bytes:
    """Indented JSON in UTF-8, as ``Folder.write_json`` writes it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def save_png(file: BinaryIO, image: Image.Image, record: dict[str, Any] | None = None) -> None:
    """``image`` as PNG, with ``record`` in the file's text."""
    text = PngInfo()
    if record is not None:
        text.add_text(KEY, json.dumps(record))  # ASCII: the chunk is Latin-1
    image.save(file, format="PNG", pnginfo=text)


@contextmanager
def disk_full_said(path: Path) -> Iterator[None]:
    """What fails inside because the disk of ``path`` is full is a ``DiskFull``, whatever the library made of it."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        unclear = isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < ALMOST_FULL
        if unclear or no_room(error):
            raise DiskFull(path) from error
        raise


def _temporary_beside(target: Path) -> Any:
    """An open file with a name of its own, locked while it is open: who can lock it knows it for a left-over."""
    prefix = f".{target.name[:100]}."
    file = tempfile.NamedTemporaryFile(dir=target.parent, prefix=prefix, suffix=".tmp", delete=False)  # noqa: SIM115
    if hasattr(os, "fchmod"):  # others of a shared folder read it, as if open() had made it
        os.fchmod(file.fileno(), 0o666 & ~UMASK)
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def sync_folder(path: Path) -> None:
    """Force a folder's list of names to disk, where the system can."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        with suppress(OSError):  # some network file systems
            os.fsync(number)
    finally:
        os.close(number)


def clean_leftovers(path: Path) -> int:
    """Remove the temporary files of writers that are gone, in all folders below ``path``; returns their number."""
    removed = 0
    for place, _, names in os.walk(path):
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                removed += _remove_if_dead(Path(place) / name)
    return removed


def _remove_if_dead(path: Path) -> bool:
    try:
        age = time.time() - path.lstat().st_mtime
        if path.is_symlink() or age < YOUNG or (age < OLD and not _lockable(path)):
            return False
        path.unlink()
    except OSError:  # it was renamed, or removed by another
        return False
    return True


def _lockable(path: Path) -> bool:
    if fcntl is None:
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 so that the file is there whole or, whatever happens, as it was before."""
    target = Path(path)
    Folder(target.parent).write(target.name, lambda file: file.write(text.encode("utf-8")))


def json_lines(rows: Iterable[Any]) -> bytes:
    """JSON Lines in UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
