"""A folder of results, in which every file appears whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "trueline"  #: keyword of the PNG text chunk that holds the record


class Folder:
    """Makes ``path`` and proves that it can be written, before any time is spent on what shall go there.

    Raises:
        ValueError: it cannot be written, with the reason.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ValueError(
                f"--out: cannot write to {self.path} ({reason}); choose another folder"
            ) from None

    def write_json(self, name: str, content: Any) -> Path:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        return self.write(name, lambda file: file.write(text.encode("utf-8")))

    def write_png(self, name: str, image: Image.Image, record: dict[str, Any] | None = None) -> Path:
        """Save ``image``; ``record`` goes into the file's text: the picture alone says how it was made."""
        text = PngInfo()
        if record is not None:
            text.add_text(KEY, json.dumps(record))  # ASCII: the chunk is Latin-1
        return self.write(name, lambda file: image.save(file, format="PNG", pnginfo=text))

    def write(self, name: str, fill: Callable[[BinaryIO], Any]) -> Path:
        """Fill a temporary file beside the target, force it to disk, then rename it: the rename is atomic."""
        target, temporary = self.path / name, self.path / f".{name}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target


def pixel_hash(image: Image.Image) -> str:
    """sha256 of size and RGB bytes: of what is seen, not of how a file packs it."""
    picture = image.convert("RGB")
    return hashlib.sha256(f"{picture.width}x{picture.height}:".encode() + picture.tobytes()).hexdigest()
