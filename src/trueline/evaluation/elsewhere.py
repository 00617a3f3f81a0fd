"""Pictures made elsewhere, to be judged besides our own.

A picture is found by a pattern, if one is given; else by the manifest of a folder that ``export_compbench`` wrote; by
the example's id, ``ID-COPY.png`` as a run of ours names them (COPY from 0), ``ID.png`` for a first picture; or as the
benchmark's own scorer has them (``picture_folders``). PNG, JPEG and WebP. What is missing is said, and the row is of
the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from trueline.evaluation.benchmarks.benchmark import Benchmark
from trueline.evaluation.benchmarks.t2i_compbench.folder import MANIFEST, SAMPLES, read_compbench
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.picture_folders import (
    SUFFIXES,
    PicturePattern,
    missing_said,
    pattern_of,
    pictures_by_example,
)
from trueline.files import file_digest


class Elsewhere:
    """The pictures of one method in a folder. ``notes``: what of it is missing, and what is of other prompts.

    Raises:
        ValueError: there is no such folder, none of the pictures is in it, one is there twice, or the folder says
            that it is of other prompts.
    """

    def __init__(
        self,
        method: str,
        folder: Path,
        wanted: Sequence[Wanted],
        benchmark: Benchmark,
        pattern: PicturePattern | None = None,
    ):
        self.method, self.folder = method, folder
        if not folder.is_dir():
            raise ValueError(f"images: {folder} is no folder; give the folder that holds the pictures")
        self._paths, strays = self._find(benchmark, pattern, wanted)
        missing = [picture.name for picture in wanted if not self.has(picture)]
        if len(missing) == len(wanted):
            own = pattern or pattern_of(benchmark)
            forms = ", ".join([*([] if pattern else ["ID.png", "ID-COPY.png"]), *([own.text] if own else [])])
            other = f"; {strays[0].name} is of a prompt that the benchmark does not have" if strays else ""
            raise ValueError(
                f"images: {folder} lacks all {len(wanted)} pictures, first {missing[0]}, under the names {forms}"
                f"{other}; give a folder of this benchmark, or images_pattern"
            )
        for picture in wanted:
            if len(found := self._candidates(picture)) > 1:
                raise ValueError(
                    f"images: {found[0]} and {found[1].name} are both picture {picture.name}; remove one"
                )
        self.notes = missing_said(method, folder, missing, len(wanted), strays)
        self._digests: dict[Path, str] = {}

    def _find(
        self, benchmark: Benchmark, pattern: PicturePattern | None, wanted: Sequence[Wanted]
    ) -> tuple[dict[str, list[Path]], list[Path]]:
        if pattern is None:
            if (self.folder / MANIFEST).exists():
                return _exported(self.folder), []
            found = pictures_in(self.folder)
            if any(name in found for picture in wanted for name in _names(picture)):
                return found, []
            pattern = pattern_of(benchmark)
        return pictures_by_example(self.folder, pattern, benchmark.examples) if pattern else ({}, [])

    def has(self, picture: Wanted) -> bool:
        return bool(self._candidates(picture))

    @classmethod
    def parse(
        cls,
        text: str,
        wanted: Sequence[Wanted],
        benchmark: Benchmark,
        pattern: PicturePattern | None = None,
    ) -> Elsewhere:
        """``DIR``, whose name is the method's, or ``NAME=DIR``."""
        name, equals, folder = text.partition("=")
        path = Path(folder if equals else text)
        method = name if equals else path.resolve().name
        if not method or not all(c.isalnum() or c in "-_." for c in method) or method.startswith("."):
            raise ValueError(
                f"images: {method!r} cannot name a method; give NAME=DIR with letters and digits"
            )
        return cls(method, path, wanted, benchmark, pattern)

    def _candidates(self, picture: Wanted) -> list[Path]:
        return [path for name in _names(picture) for path in self._paths.get(name, ())]

    def path(self, picture: Wanted) -> Path:
        """Where it is, or would be."""
        return next(iter(self._candidates(picture)), self.folder / f"{picture.name}.png")

    def digest(self, picture: Wanted) -> str:
        """SHA-256 of the file, so that what was seen in another picture is not taken for this one's."""
        path = self.path(picture)
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]


def _names(picture: Wanted) -> list[str]:
    return [picture.name] + ([picture.example.id] if picture.copy == 0 else [])


def pictures_in(folder: Path) -> dict[str, list[Path]]:
    """The pictures of a folder by their names without the ending.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"images: {folder} is no folder; give the folder that holds the pictures")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():  # a pipe would be waited for
            found[path.stem].append(path)
    return found


def _exported(folder: Path) -> dict[str, list[Path]]:
    """By id and copy: several pictures of one example are its copies, in their order."""
    found: dict[str, list[Path]] = {}
    copies: dict[str, int] = defaultdict(int)
    for one in read_compbench(folder):
        found[f"{one.id}-{copies[one.id]}"] = [folder / SAMPLES / one.file]
        copies[one.id] += 1
    return found
