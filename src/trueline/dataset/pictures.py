"""Where the pictures of a build come from: a model draws them, or they are there already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from trueline.dataset import Wish
from trueline.evaluation.elsewhere import pictures_in
from trueline.files import Bundle, file_digest
from trueline.pictures import BrokenPicture, open_picture

if TYPE_CHECKING:
    from trueline.dataset.settings import DatasetSettings
    from trueline.sampling.pipeline import Pipeline


class PictureSource(Protocol):
    """The picture of each wish at each turn (from 0). ``files``: what was drawn in this unit of work."""

    def draw(self, turn: int, batch: Sequence[Wish], files: Bundle) -> None:
        """Draw the batch's pictures, where they are not there from the beginning."""

    def name(self, turn: int, wish: Wish) -> str:
        """Path of the picture: relative to the build's folder, or absolute."""

    def given(self, wish: Wish) -> str:
        """SHA-256 of a file that is there from the beginning; "" without one."""

    def digest(self, turn: int, wish: Wish, files: Bundle) -> str:
        """SHA-256 of the picture's file; "" without one."""

    def open(self, turn: int, wish: Wish, files: Bundle) -> Image.Image:
        """
        Raises:
            BrokenPicture: it is missing, or cannot be read.
        """


class DrawnPictures:
    """By a model, into ``pictures`` of the build's folder. Noise comes from (seed + turn, place among all prompts),
    so that a picture depends on nobody else's; the last bits do depend on the batch's size."""

    def __init__(self, settings: DatasetSettings, wishes: Sequence[Wish], load: Callable[[], Pipeline]):
        self.settings = settings
        self.places = {wish.id: place for place, wish in enumerate(wishes)}
        self._load = load
        self._pipe: Pipeline | None = None
        self._failed: dict[str, str] = {}

    def draw(self, turn: int, batch: Sequence[Wish], files: Bundle) -> None:
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
        for picture in drawn:
            name = self.name(turn, batch[picture.index])
            if picture.failed:
                self._failed[name] = picture.failed
            else:
                files.write_png(name, picture.image, picture.record)

    def name(self, turn: int, wish: Wish) -> str:
        return f"pictures/{wish.id}-{turn}.png"

    def given(self, wish: Wish) -> str:
        return ""

    def digest(self, turn: int, wish: Wish, files: Bundle) -> str:
        content = files.files.get(self.name(turn, wish))
        return "" if content is None else hashlib.sha256(content).hexdigest()

    def open(self, turn: int, wish: Wish, files: Bundle) -> Image.Image:
        name = self.name(turn, wish)
        if name in self._failed:
            raise BrokenPicture(f"{name} could not be made: {self._failed[name]}")
        return open_picture(files.files[name])


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

    def draw(self, turn: int, batch: Sequence[Wish], files: Bundle) -> None:
        """They are there, or not."""

    def name(self, turn: int, wish: Wish) -> str:
        return str(self._files[wish.id].resolve())

    def given(self, wish: Wish) -> str:
        return _sha256(self._files[wish.id]) if wish.id in self._files else ""

    def digest(self, turn: int, wish: Wish, files: Bundle) -> str:
        return self.given(wish)

    def open(self, turn: int, wish: Wish, files: Bundle) -> Image.Image:
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
