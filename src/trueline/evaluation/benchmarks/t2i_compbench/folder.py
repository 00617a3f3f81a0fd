"""Pictures in the folder convention of T2I-CompBench's scorers: ``samples/{prompt}_{000000}.png``.

The official scorers (Karine-Huang/T2I-CompBench@1b7094991a57, ``BLIPvqa_eval/BLIP_vqa.py``) take as the prompt
what stands before the first ``_`` of the file name, and sort by the number. A prompt that a file name cannot hold
is therefore changed in it, and ``manifest.json`` beside ``samples`` is the truth.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from trueline.evaluation.benchmarks._collect import row_of
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.files import Folder, read_json_object
from trueline.pictures import open_picture

MANIFEST, SAMPLES, SCHEMA = "manifest.json", "samples", 1
MAX_BYTES = 200  #: of the prompt in a file name, UTF-8; file systems hold 255 bytes
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|_\s]+')
_CURE = "take a folder that export_compbench wrote"


@dataclass(frozen=True)
class Exported:
    """One picture of such a folder. ``number``: its place, from 0, in the file's name too. ``file``: its name in
    ``samples``."""

    prompt: str
    id: str
    number: int
    file: str


def plain_words(prompt: str) -> str:
    """The prompt without ``_``, ``/`` and what else file systems refuse, cut to 200 bytes; "prompt" for nothing."""
    words = _UNSAFE.sub(" ", prompt).strip(" .")
    return words.encode("utf-8")[:MAX_BYTES].decode("utf-8", errors="ignore").rstrip(" .") or "prompt"


def file_name(prompt: str, number: int) -> str:
    """The name of picture ``number``. Prompts whose plain words are equal still differ in their number."""
    return f"{plain_words(prompt)}_{number:06d}.png"


def export_compbench(
    folder: str | Path, pictures: Iterable[tuple[Example, Image.Image | str | Path]]
) -> list[Exported]:
    """Write pictures, given as images or files, in this order; several of one example, or of one prompt, are several
    pictures. The manifest is written last: a folder with it is whole.

    Raises:
        ValueError: the folder has pictures already; a picture cannot be read.
    """
    path = Path(folder)
    if (path / MANIFEST).exists() or any((path / SAMPLES).glob("*")):
        raise ValueError(f"{path}: has pictures already; choose another folder")
    out, samples = Folder(path), Folder(path / SAMPLES)
    written = []
    for number, (example, picture) in enumerate(pictures):
        name = file_name(example.prompt, number)
        samples.write_png(name, picture if isinstance(picture, Image.Image) else open_picture(picture))
        written.append(Exported(example.prompt, example.id, number, name))
    out.write_json(MANIFEST, {"schema": SCHEMA, "pictures": [asdict(one) for one in written]})
    return written


def read_compbench(folder: str | Path) -> list[Exported]:
    """What ``export_compbench`` wrote, from the manifest.

    Raises:
        ValueError: no manifest or a broken one; ``samples`` holds other pictures than it says.
    """
    path = Path(folder) / MANIFEST
    manifest = read_json_object(path, _CURE)
    with row_of(path, "the manifest", _CURE):
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA} (got {manifest['schema']!r})")
        listed = [Exported(**row) for row in manifest["pictures"]]
        for place, one in enumerate(listed):
            if one.number != place or one.file != file_name(one.prompt, one.number):
                raise ValueError(f"picture {place} has another number or file name than its prompt makes")
    there = {file.name for file in (Path(folder) / SAMPLES).glob("*.png")}
    if odd := sorted(there ^ {one.file for one in listed}):
        problem = "is not in the manifest" if odd[0] in there else "is missing"
        raise ValueError(
            f"{Path(folder) / SAMPLES / odd[0]}: {problem} ({len(odd)} such files); export again"
        )
    return listed
