"""Checkpoints of a run: one file each, written whole or not at all, the newest last to be trusted."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trueline.files import Folder
from trueline.training.settings import check_same

NAME = re.compile(r"step-(\d{8})\.pt")


class Checkpoints:
    """The folder of a run's checkpoints, of which the last ``keep`` stay.

    ``identity``: what a run must keep when it goes on; it is in every checkpoint.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], keep: int):
        self.folder, self.identity, self.keep = Folder(path), dict(identity), keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state, then remove those that are too many: the last good one is never lost."""
        content = state | {"step": step, "identity": json.dumps(self.identity)}
        path = self.folder.write(f"step-{step:08d}.pt", lambda file: torch.save(content, file))
        for old in self._paths()[: -self.keep]:
            if old != path:
                old.unlink(missing_ok=True)
        for half in self.folder.path.glob(".step-*.tmp"):  # of a run that was killed while it wrote
            half.unlink(missing_ok=True)
        return path

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint that can be read; None when there is none.

        Raises:
            ValueError: it was made with other settings or data, or none of those there can be read.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                identity = json.loads(state.pop("identity"))
            except Exception as error:  # torch raises many kinds for a file that is not whole
                warnings.warn(
                    f"{path} cannot be read ({type(error).__name__}); taking the one before", stacklevel=2
                )
                continue
            check_same(identity, json.loads(json.dumps(self.identity)), self.folder.path.parent)
            return state
        if paths:
            raise ValueError(
                f"{self.folder.path}: none of the checkpoints can be read; choose another folder"
            )
        return None

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.path.iterdir() if NAME.fullmatch(path.name))
