"""Rows of results on disk, the commit that made them, and what they are compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueline.files import Folder


def write_rows(folder: "Folder", table: list[dict[str, Any]]) -> str:
    """results.json and results.md; returns the latter."""
    from trueline.evaluation.tables import markdown

    text = markdown(table)
    folder.write_json("results.json", table)
    folder.write("results.md", lambda file: file.write(text.encode()))
    return text


def commit() -> str:
    import subprocess

    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def compared_with(name: str | None, rows: Sequence[str]) -> str | None:
    """The row that --against names, None for the first.

    Raises:
        ValueError: no row has that name.
    """
    if name in (None, *rows):
        return name
    raise ValueError(f"--against: there is no row {name}; give one of {', '.join(rows)}")
