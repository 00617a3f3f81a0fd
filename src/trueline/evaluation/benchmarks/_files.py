"""Where the files of a benchmark are, which are the user's, and where to get them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "TRUELINE_DATA"


@dataclass(frozen=True)
class Source:
    """Where the files of a benchmark come from."""

    repository: str
    commit: str
    licence: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit} ({self.licence})"

    @property
    def cure(self) -> str:
        """The end of a sentence about a file that is missing or broken."""
        return f"take the file of {self}; data, or {VARIABLE}, names the folder that holds it"


def data_folder(given: str | Path | None = None, source: Source | None = None) -> Path:
    """``given``, or the folder that the environment variable names.

    Raises:
        ValueError: neither is there, or it is not a folder.
    """
    named = given or os.environ.get(VARIABLE)
    files = f"the files of {source}" if source else "the benchmarks' files"
    if not named:
        raise ValueError(f"data: say where {files} are; give their folder, or set {VARIABLE}")
    folder = Path(named)
    if not folder.is_dir():
        raise ValueError(f"data: {folder} is not a folder; it must hold {files} ({VARIABLE} can name it too)")
    return folder
