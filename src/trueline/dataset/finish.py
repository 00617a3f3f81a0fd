"""Decisions applied: a folder with ``data.jsonl``, ``images`` and a data card, as ``trueline train`` reads it."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

from trueline import __version__
from trueline.dataset.build import ITEMS, SEEN, SUMMARY, read_manifest, seen_of
from trueline.dataset.card import card
from trueline.files import MANIFEST, Folder, json_lines
from trueline.pictures import BrokenPicture, open_picture

SET, DATA, IMAGES, CARD = "set.json", "data.jsonl", "images", "README.md"


def read_items(out: Path) -> list[dict[str, Any]]:
    """The items of a build that is done.

    Raises:
        ValueError: it is not there, or not done.
    """
    try:
        lines = (out / ITEMS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError):
        raise ValueError(
            f"{out} holds no build that is done; run `trueline dataset build` there to its end"
        ) from None


def finish(
    out: Path,
    target: Path,
    build: str,
    decided: Mapping[str, str],
    undecided: str | None,
    *,
    title: str,
    licence: str,
) -> dict[str, Any]:
    """Write the items that are kept into ``target``, whole or not at all; returns what ``set.json`` says.

    Args:
        build: the digest of the build. ``undecided``: what becomes of items without a decision, "keep" or "drop".

    Raises:
        ValueError: items without a decision, nothing that is kept, a picture that is gone or has changed, or a folder
            of others.
    """
    items = read_items(out)
    open_items = [item["id"] for item in items if item["id"] not in decided]
    if open_items and undecided is None:
        raise ValueError(
            f"decisions: {len(open_items)} of {len(items)} items are not decided, first {open_items[0]}; go on "
            "with the review, or say what becomes of them (undecided: keep or drop)"
        )
    kept = [item for item in items if decided.get(item["id"], undecided) == "keep"]
    if not kept:
        raise ValueError(f"{out}: nothing is left of {len(items)} items; a set needs at least one")
    _claim(target, build)
    apart = target.parent / f".{target.name}.tmp"
    shutil.rmtree(apart, ignore_errors=True)
    beside = Folder(apart)
    images = Folder(beside.path / IMAGES)
    lines = []
    for item in kept:
        source = out / item["image"]
        name = f"{item['id']}{source.suffix.lower()}"
        content = _content(source, item)
        images.write(name, methodcaller("write", content))
        lines.append(item | {"image": f"{IMAGES}/{name}"})
    about = _about(out, build, items, kept, decided, undecided) | {"title": title, "licence": licence}
    beside.write(DATA, lambda file: file.write(json_lines(lines)))
    beside.write(CARD, lambda file: file.write(card(about).encode()))
    beside.write_json(SET, about)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(beside.path, target)
    return about


def _claim(target: Path, build: str) -> None:
    """Only an empty folder, or an earlier set of the same build, is written over."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        if json.loads((target / SET).read_text(encoding="utf-8"))["build"] == build:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"to: {target} holds something else than an earlier set of this build; choose another folder"
    )


def _content(path: Path, item: Mapping[str, Any]) -> bytes:
    """The picture that was looked at."""
    try:
        open_picture(path)
    except BrokenPicture as error:
        raise ValueError(f"{error.problem}; run `trueline dataset build` again") from None
    content = path.read_bytes()
    seen = item["meta"].get(SEEN)  # builds of before do not say
    if seen is not None and seen != seen_of(hashlib.sha256(content).hexdigest(), item["regions"]):
        raise ValueError(f"{path} has changed since it was looked at; run `trueline dataset build` again")
    return content


def _about(
    out: Path,
    build: str,
    items: Sequence[dict[str, Any]],
    kept: Sequence[dict[str, Any]],
    decided: Mapping[str, str],
    undecided: str | None,
) -> dict[str, Any]:
    """All that the card tells; nothing of it changes from one call to the next."""
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{out / SUMMARY} cannot be read; run `trueline dataset build` again") from None
    dropped = sum(decided.get(item["id"]) == "drop" for item in items)
    rest = undecided if len(decided) < len(items) else None
    return {
        "build": build,
        "items": len(kept),
        "categories": dict(Counter(item["meta"]["category"] for item in kept)),
        "boxes": sum(len(item["regions"]) for item in kept),
        "review": {"decided": len(decided), "dropped": dropped, "undecided": rest},
        "summary": summary,
        "settings": read_manifest(out / MANIFEST)["settings"] | {"tries": summary.pop("tries")},
        "trueline": __version__,
    }
