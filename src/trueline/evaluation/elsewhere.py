"""Pictures made elsewhere, to be judged besides our own.

A picture is found by the example's id: ``ID-COPY.png`` as a run of ours names them (COPY from 0), ``ID.png`` for a
first picture; or by the manifest of a folder that ``export_compbench`` wrote. PNG, JPEG and WebP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from trueline.evaluation.benchmarks.t2i_compbench.folder import MANIFEST, SAMPLES, read_compbench
from trueline.evaluation.drawing_list import Wanted
from trueline.files import file_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Elsewhere:
    """The pictures of one method in a folder, every one that is wanted.

    Raises:
        ValueError: the folder or a picture is missing, or one picture is there twice.
    """

    def __init__(self, method: str, folder: Path, wanted: Sequence[Wanted]):
        self.method, self.folder = method, folder
        self._paths = _exported(folder) if (folder / MANIFEST).exists() else pictures_in(folder)
        missing = [picture for picture in wanted if not self._candidates(picture)]
        if missing:
            raise ValueError(
                f"images: {folder} lacks {len(missing)} of {len(wanted)} pictures, first {missing[0].name}.png; "
                "make them, or give n and seeds as they were made"
            )
        for picture in wanted:
            if len(found := self._candidates(picture)) > 1:
                raise ValueError(
                    f"images: {found[0]} and {found[1].name} are both picture {picture.name}; remove one"
                )
        self._digests: dict[Path, str] = {}

    @classmethod
    def parse(cls, text: str, wanted: Sequence[Wanted]) -> Elsewhere:
        """``DIR``, whose name is the method's, or ``NAME=DIR``."""
        name, equals, folder = text.partition("=")
        path = Path(folder if equals else text)
        method = name if equals else path.resolve().name
        if not method or not all(c.isalnum() or c in "-_." for c in method) or method.startswith("."):
            raise ValueError(
                f"images: {method!r} cannot name a method; give NAME=DIR with letters and digits"
            )
        return cls(method, path, wanted)

    def _candidates(self, picture: Wanted) -> list[Path]:
        names = [picture.name] + ([picture.example.id] if picture.copy == 0 else [])
        return [path for name in names for path in self._paths.get(name, ())]

    def path(self, picture: Wanted) -> Path:
        return self._candidates(picture)[0]

    def digest(self, picture: Wanted) -> str:
        """SHA-256 of the file, so that what was seen in another picture is not taken for this one's."""
        path = self.path(picture)
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]


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
