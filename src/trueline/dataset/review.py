"""The page on which a person keeps or drops each item, and the decisions that it saves.

A page stands alone: pictures are in it, it works from a file and loads nothing. Sets of more than ``PER_PAGE`` items
become several pages; each saves a file of its own. A decision belongs to the picture and boxes that were seen: once
the build shows others, it does not count.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

from trueline.dataset.build import SEEN
from trueline.evaluation.report import render, thumbnail
from trueline.files import Folder

FORMAT = "trueline-decisions-1"
PER_PAGE = 500
SIDE = 512  #: longer side of a picture in the page, pixels
CHOICES = ("keep", "drop")
MAX_BYTES = 10_000_000  #: of a file of decisions


def write_review(folder: Folder, build: str, items: Sequence[dict[str, Any]], title: str) -> list[Path]:
    """``review.html``, or ``review-1.html`` and so on; pages that an earlier call wrote are replaced.

    Raises:
        ValueError: a picture that cannot be read.
    """
    for old in folder.path.glob("review*.html"):
        old.unlink()
    starts = range(0, len(items), PER_PAGE)
    pages = []
    for number, start in enumerate(starts, start=1):
        some = items[start : start + PER_PAGE]
        data = {
            "format": FORMAT,
            "build": build,
            "page": number,
            "items": [_shown(folder.path, item) for item in some],
        }
        name = f"review-{number}.html" if len(starts) > 1 else "review.html"
        part = f"{title}, page {number} of {len(starts)}" if len(starts) > 1 else title
        text = render("review.html", script="review.js", title=part, data=data)
        pages.append(folder.write(name, methodcaller("write", text.encode())))
    return pages


def _shown(folder: Path, item: dict[str, Any]) -> dict[str, Any]:
    picture = thumbnail(folder / item["image"], SIDE)
    return {
        "id": item["id"],
        "seen": item["meta"].get(SEEN),
        "category": item["meta"]["category"],
        "prompt": item["prompt"],
        "src": picture.uri,
        "width": picture.width,
        "height": picture.height,
        "clip": item["meta"]["clip"],
        "boxes": [[region["phrase"], *region["box"]] for region in item["regions"]],
    }


@dataclass(frozen=True)
class Decisions:
    """``choices``: id -> "keep" or "drop". ``stale``: ids whose decision is about another picture or other boxes, and
    does not count. ``unbound``: ids whose decision counts though its file does not say what was seen."""

    choices: dict[str, str] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    unbound: list[str] = field(default_factory=list)

    def remarks(self) -> list[str]:
        """A sentence about each kind that there is."""
        said = []
        if self.stale:
            said.append(
                f"decisions: {len(self.stale)} are about pictures or boxes that have changed since and do not "
                f"count, first {self.stale[0]}; review those again"
            )
        if self.unbound:
            said.append(
                f"decisions: {len(self.unbound)} do not say which picture was seen, as older pages saved them, and "
                f"count by their id, first {self.unbound[0]}"
            )
        return said


def read_decisions(files: Iterable[Path], build: str, items: Iterable[Mapping[str, Any]]) -> Decisions:
    """The decisions of all files together, on these items.

    Raises:
        ValueError: a file that is broken, of another build, or decides otherwise than an earlier one.
    """
    seen, found = {item["id"]: item["meta"].get(SEEN) for item in items}, Decisions()
    for path in files:
        content = _read(path, build)
        hashes = content.get("seen", {})
        for name, choice in content["decisions"].items():
            if name not in seen or choice not in CHOICES:
                raise ValueError(
                    f"decisions: {path} decides {choice!r} on {name!r}, which the build does not know"
                )
            bound = hashes.get(name)
            if bound is not None and bound != seen[name]:
                found.stale.append(name)
                continue
            if found.choices.setdefault(name, choice) != choice:
                raise ValueError(
                    f"decisions: {path} decides otherwise on {name} than a file before it; give one"
                )
            if bound is None:
                found.unbound.append(name)
    found.stale[:] = dict.fromkeys(name for name in found.stale if name not in found.choices)
    return found


def _read(path: Path, build: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"decisions: {path} is larger than {MAX_BYTES / 1e6:.0f} MB, so it holds no decisions"
            )
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"decisions: {path} cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"decisions: {path} is not JSON; save it anew from the page") from None
    groups = [content.get("decisions"), content.get("seen", {})] if isinstance(content, dict) else [None]
    if not all(isinstance(group, dict) for group in groups) or content.get("format") != FORMAT:
        raise ValueError(f"decisions: {path} holds no decisions of this version ({FORMAT})")
    if content.get("build") != build:
        raise ValueError(f"decisions: {path} is of another build; give those of the pages beside it")
    return content
