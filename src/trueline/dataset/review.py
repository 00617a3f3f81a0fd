"""The page on which a person keeps or drops each item, and the decisions that it saves.

A page stands alone: pictures are in it, it works from a file and loads nothing. Sets of more than ``PER_PAGE`` items
become several pages; each saves a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from trueline.evaluation.report import render, thumbnail
from trueline.folder import Folder

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
            "format": FORMAT, "build": build, "page": number, "items": [_shown(folder.path, item) for item in some],
        }  # fmt: skip
        name = f"review-{number}.html" if len(starts) > 1 else "review.html"
        part = f"{title}, page {number} of {len(starts)}" if len(starts) > 1 else title
        text = render("review.html", script="review.js", title=part, data=data)
        pages.append(folder.write(name, partial(_fill, text)))
    return pages


def _fill(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def _shown(folder: Path, item: dict[str, Any]) -> dict[str, Any]:
    picture = thumbnail(folder / item["image"], SIDE)
    return {
        "id": item["id"], "category": item["meta"]["category"], "prompt": item["prompt"], "src": picture.uri,
        "width": picture.width, "height": picture.height, "clip": item["meta"]["clip"],
        "boxes": [[region["phrase"], *region["box"]] for region in item["regions"]],
    }  # fmt: skip


def read_decisions(files: Iterable[Path], build: str, known: Iterable[str]) -> dict[str, str]:
    """Id -> "keep" or "drop", of all files together.

    Raises:
        ValueError: a file that is broken, of another build, or decides otherwise than an earlier one.
    """
    ids, decided = set(known), dict[str, str]()
    for path in files:
        for name, choice in _read(path, build).items():
            if name not in ids or choice not in CHOICES:
                raise ValueError(
                    f"--decisions: {path} decides {choice!r} on {name!r}, which the build does not know"
                )
            if decided.setdefault(name, choice) != choice:
                raise ValueError(
                    f"--decisions: {path} decides otherwise on {name} than a file before it; give one"
                )
    return decided


def _read(path: Path, build: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"--decisions: {path} is larger than {MAX_BYTES / 1e6:.0f} MB, so it holds no decisions"
            )
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--decisions: {path} cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"--decisions: {path} is not JSON; save it anew from the page") from None
    decisions = content.get("decisions") if isinstance(content, dict) else None
    if not isinstance(decisions, dict) or content.get("format") != FORMAT:
        raise ValueError(f"--decisions: {path} holds no decisions of this version ({FORMAT})")
    if content.get("build") != build:
        raise ValueError(f"--decisions: {path} is of another build; give those of the pages beside it")
    return decisions
