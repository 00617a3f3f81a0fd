"""Checksums of pictures, files and values."""

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image


def pixel_hash(image: Image.Image) -> str:
    """sha256 of size and RGB bytes: of what is seen, not of how a file packs it."""
    picture = image.convert("RGB")
    return hashlib.sha256(f"{picture.width}x{picture.height}:".encode() + picture.tobytes()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of the file's bytes, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """sha256 of a JSON-ready value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
