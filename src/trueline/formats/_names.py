"""Classes: the names that a file of annotations knows, in place of phrases."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from trueline.files import read_json, read_text
from trueline.formats._conversion import Tally
from trueline.formats._input import describe
from trueline.layout import Layout

FORM = "a file of class names: one per line, YAML with names, or JSON with COCO's categories"
CURE = f"give {FORM}"
BEYOND = "words of phrases beyond their class names"
NO_CLASS = "regions whose phrase ends in none of the class names, left out"
_ARTICLE = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)


def read_names(path: Path) -> list[str]:
    """The class names of a file, in the order of their numbers from 0.

    Raises:
        ValueError: it holds none, or a name is no text.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        names = _of_yaml(path)
    elif path.suffix.lower() == ".json":
        names = _of_coco(path)
    else:
        names = [line.strip() for line in read_text(path, CURE).split("\n")]
        while names and not names[-1]:
            names.pop()
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path}, class {number}: must be text (got {name!r:.40}); put it in quotes")
    if not names:
        raise ValueError(f"{path}: holds no class name; it must be {FORM}")
    return names


def _of_yaml(path: Path) -> list[Any]:
    import yaml

    try:
        content = yaml.safe_load(read_text(path, CURE))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise ValueError(f"{path}, names: must have the numbers 0 to {len(names) - 1}")
    if isinstance(names, dict):
        return [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise ValueError(f"{path}: must have a list of names; found {describe(content)}")
    return names


def _of_coco(path: Path) -> list[Any]:
    content = read_json(path, CURE)
    rows = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must have a list of categories; found {describe(content)}")
    return [row.get("name") for row in rows]


def classes_of(
    layouts: Sequence[Layout], names: Path | None, tally: Tally
) -> tuple[list[str], list[list[int | None]]]:
    """All class names, and the class of each region of each layout (None: it has none, which is counted).

    Without a file, every phrase is a class, in the order in which they come. With one, the class of a phrase is the
    longest name that it ends in, as whole words ("apple" for "a red apple").
    """
    if names is None:
        phrases = [[region.phrase for region in layout.regions] for layout in layouts]
        known = {name: number for number, name in enumerate(dict.fromkeys(chain.from_iterable(phrases)))}
        return list(known), [[known[phrase] for phrase in some] for some in phrases]
    known_names = read_names(names)
    ranked = sorted(range(len(known_names)), key=lambda number: (-len(known_names[number]), number))
    return known_names, [
        [
            _class_of(region.phrase, known_names, ranked, f"layout {number}, regions[{place}]", tally)
            for place, region in enumerate(layout.regions)
        ]
        for number, layout in enumerate(layouts, start=1)
    ]


def _class_of(
    phrase: str, names: Sequence[str], ranked: Sequence[int], where: str, tally: Tally
) -> int | None:
    if phrase in names:
        return names.index(phrase)
    said = _plain(phrase)
    for number in ranked:
        if re.search(rf"(?:^|\W){re.escape(_plain(names[number]))}$", said):
            tally.lose(BEYOND, f"{where}, {phrase!r:.60}")
            return number
    tally.lose(NO_CLASS, f"{where}, {phrase!r:.60}")
    return None


def _plain(text: str) -> str:
    return _ARTICLE.sub("", " ".join(text.split())).casefold()
