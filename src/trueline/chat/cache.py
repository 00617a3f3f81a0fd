"""Answers kept on disk, so that a question is asked once: one file per answer, which appears whole or not at all."""

import json
import os
from pathlib import Path

from trueline.chat.answers import MAX_ANSWER
from trueline.files import Folder

VARIABLE = "TRUELINE_CACHE"
SCHEMA = 1


def default_folder() -> Path:
    """What ``TRUELINE_CACHE`` names, else ``trueline/chat`` in the user's folder of caches (XDG)."""
    if named := os.environ.get(VARIABLE):
        return Path(named) / "chat"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "trueline" / "chat"


class AnswerCache:
    """Answers by key. What is broken is ignored and said in ``notes``; what cannot be written, too."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def get(self, key: str, notes: list[str]) -> str | None:
        """The answer, or None."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                record = json.loads(
                    file.read(8 * MAX_ANSWER)
                )  # an escaped character takes six bytes and more
            if record["schema"] == SCHEMA and record["key"] == key and isinstance(record["text"], str):
                return record["text"]
            reason = "it is no answer to this question"
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or type(error).__name__
        except (ValueError, KeyError, TypeError, RecursionError):
            reason = "it is broken"
        notes.append(f"the cached answer {path} is ignored ({reason}); the question is asked again")
        return None

    def put(self, key: str, text: str, notes: list[str]) -> None:
        path = self._path(key)
        record = json.dumps({"schema": SCHEMA, "key": key, "text": text}).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Folder(path.parent).write(path.name, lambda file: file.write(record))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            notes.append(f"the answer cannot be kept in {self.folder} ({reason}); it is used all the same")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
