"""What a conversion is asked for, and what it had to leave out or change."""

from dataclasses import dataclass, field
from pathlib import Path

#: Of ``meta``: ``file``, ``width``, ``height``, ``id`` and further ``captions`` of the picture that a layout was made
#: for, as its file says; and ``image``, the path of the picture that was found.
PICTURE, IMAGE = "picture", "image"


@dataclass
class Count:
    """How often, and where first."""

    number: int
    first: str

    def __str__(self) -> str:
        return f"{self.number} (the first: {self.first})" if self.first else str(self.number)


@dataclass
class Tally:
    """Reason -> how often. ``lost``: what the layouts (or the file) had and what was written does not have.
    ``notes``: what was filled in or rounded."""

    lost: dict[str, Count] = field(default_factory=dict)
    notes: dict[str, Count] = field(default_factory=dict)

    def lose(self, what: str, where: str) -> None:
        self.lost.setdefault(what, Count(0, where)).number += 1

    def note(self, what: str, where: str = "") -> None:
        self.notes.setdefault(what, Count(0, where)).number += 1

    def __str__(self) -> str:
        return "; ".join(f"{what}: {count}" for what, count in self.lost.items())


@dataclass
class Options:
    """``format``: its name. ``form``: what its files look like, for messages. ``size``: pixels (width, height) that
    boxes count; None: each picture has its own. ``pictures``: their folder; None: where the format keeps them."""

    format: str
    form: str
    size: tuple[int, int] | None
    names: Path | None
    captions: Path | None
    tally: Tally
    replace: bool = False
    strict: bool = False
    pictures: Path | None = None
    crowd: bool = False

    @property
    def cure(self) -> str:
        """How the sentence about a file of another format ends."""
        return f"{self.format} is {self.form}; name the format that the file has"
