"""Data sets of pictures with boxes, made from prompts: GOAL2K's construction as a command (``trueline dataset``).

prompts -> pictures -> boxes by a detector -> a filter of agreement -> a person's review -> layouts with images.
Source: "GOAL" (section 4.1): 1,000 captions of templates and 1,000 natural ones, pictures by a model, boxes by
GroundingDINO, checked by hand. Its words, templates and thresholds are not public; those here are our own.
"""

from dataclasses import asdict, dataclass
from typing import Any

NATURAL = "natural"  #: category of captions that no template made


@dataclass(frozen=True)
class Want:
    """What a prompt says of things of one kind.

    ``phrase``: of each one's region ("a red striped apple"); ``label``: its bare noun; ``count``: None for a plural
    without a number, which is two or more. ``colour`` and ``texture`` are None where the prompt is silent.
    """

    phrase: str
    label: str
    count: int | None = 1
    colour: str | None = None
    texture: str | None = None


@dataclass(frozen=True)
class Wish:
    """One picture to make. ``relation``: of the first want to the second (left, right, above, below), or None."""

    id: str
    category: str
    prompt: str
    wants: tuple[Want, ...]
    relation: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
