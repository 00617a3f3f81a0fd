"""Rows of results on disk, and the commit that made them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueline.folder import Folder


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
