"""Where the pictures of a build come from: a model draws them, or they are there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from trueline.dataset import Wish
from trueline.evaluation.elsewhere import pictures_in
from trueline.files import Folder, file_digest
from trueline.pictures import BrokenPicture, open_picture

if TYPE_CHECKING:
    from trueline.dataset.settings import DatasetSettings
    from trueline.sampling.pipeline import Pipeline


class PictureSource(Protocol):
    """The picture of each wish at each turn (from 0)."""

    def ready(self, turn: int, batch: Sequence[Wish]) -> None:
        """See to it that the batch's pictures are there, as far as they can be."""

    def name(self, turn: int, wish: Wish) -> str:
        """Path of the picture: relative to the build's folder, or absolute."""

    def digest(self, turn: int, wish: Wish) -> str:
        """Of the file, so that what was seen in another picture is not taken for this one's; "" without one."""

    def open(self, turn: int, wish: Wish) -> Image.Image:
        """
        Raises:
            BrokenPicture: it is missing, or cannot be read.
        """


class DrawnPictures:
    """By a model, into ``pictures`` of the build's folder. Noise comes from (seed + turn, place among all prompts),
    so that a picture depends on nobody else's; the last bits do depend on the batch's size."""

    def __init__(
        self, out: Path, settings: DatasetSettings, wishes: Sequence[Wish], load: Callable[[], Pipeline]
    ):
        self.folder, self.settings = Folder(out / "pictures"), settings
        self.places = {wish.id: place for place, wish in enumerate(wishes)}
        self._load = load
        self._pipe: Pipeline | None = None

    def ready(self, turn: int, batch: Sequence[Wish]) -> None:
        if all((self.folder.path / self._file(turn, wish)).exists() for wish in batch):
            return
        s = self.settings
        if self._pipe is None:
            self._pipe = self._load()
        drawn = self._pipe.stream(
            [wish.prompt for wish in batch],
            seeds=[(s.seed + turn, self.places[wish.id]) for wish in batch],
            sampling=s.sampling,
            batch_size=len(batch),
            progress=False,
        )
        for picture in drawn:  # one that could not be made is not there, and counted by who opens it
            if not picture.failed:
                self.folder.write_png(self._file(turn, batch[picture.index]), picture.image, picture.record)

    def name(self, turn: int, wish: Wish) -> str:
        return f"pictures/{self._file(turn, wish)}"

    def digest(self, turn: int, wish: Wish) -> str:
        return _sha256(self.folder.path / self._file(turn, wish))

    def open(self, turn: int, wish: Wish) -> Image.Image:
        return open_picture(self.folder.path / self._file(turn, wish))

    def _file(self, turn: int, wish: Wish) -> str:
        return f"{wish.id}-{turn}.png"


class GivenPictures:
    """Files named by the ids of the prompts, ID.png, .jpg or .webp, in a folder.

    Raises:
        ValueError: there is no such folder, or one id is there twice.
    """

    def __init__(self, folder: Path):
        found = pictures_in(folder)
        if twice := next((paths for paths in found.values() if len(paths) > 1), None):
            names = f"{twice[0]} and {twice[1].name}"
            raise ValueError(f"images: {names} are both picture {twice[0].stem}; remove one")
        self.folder, self._files = folder, {name: paths[0] for name, paths in found.items()}

    def ready(self, turn: int, batch: Sequence[Wish]) -> None:
        """They are there, or not."""

    def name(self, turn: int, wish: Wish) -> str:
        return str(self._files[wish.id].resolve())

    def digest(self, turn: int, wish: Wish) -> str:
        return _sha256(self._files[wish.id]) if wish.id in self._files else ""

    def open(self, turn: int, wish: Wish) -> Image.Image:
        if wish.id not in self._files:
            raise BrokenPicture(f"{self.folder} has no picture {wish.id}.png, .jpg or .webp")
        return open_picture(self._files[wish.id])


def _sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return ""


def anywhere(name: str, *words: str) -> str:
    """The same name from anywhere on this machine, for a path that is there; ``words`` are never paths."""
    return str(Path(name).resolve()) if name not in words and Path(name).exists() else name
