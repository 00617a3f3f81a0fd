"""Pictures encoded once, kept on disk, read back row by row.

Kept are the posterior's means, scaled, in float16 (Stable Diffusion's training draws from the posterior; its standard
deviation is far below the noise of all but the first timesteps). A cache lies in a folder named by the fingerprint of
all that it depends on: the VAE's weights and factor, the size, the examples. It is written in parts; a run that is
stopped while it encodes goes on with the next part. Pictures that could not be read are tried again by each run.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trueline.files import Folder
from trueline.models.backbone import Backbone
from trueline.pictures import BrokenPicture
from trueline.training.data.examples import Examples, Refused, bytes_of, digest

logger = logging.getLogger(__name__)
PART = 512  #: examples of one file
BATCH = 16  #: pictures that are encoded at once
FORMAT = "means, scaled, float16, 1"


class Latents:
    """The encoded pictures that are whole. ``examples[i]`` is the example whose latents ``latents[i]`` are."""

    def __init__(self, parts: list[Path]):
        self.examples: list[int] = []
        self.broken: list[tuple[int, str]] = []  #: (example, why)
        self._rows: list[tuple[int, int]] = []  # (part, row)
        self._parts = []
        for number, path in enumerate(parts):
            part = safe_open(path, framework="pt")
            found = part.get_tensor("examples").tolist()
            self.examples += found
            self._rows += [(number, row) for row in range(len(found))]
            self.broken += [(example, why) for example, why in json.loads(part.metadata()["broken"])]
            self._parts.append(part.get_slice("latents"))

    @property
    def order(self) -> str:
        """How many are whole, and which: it decides which example stands at a place of the stream."""
        return f"{len(self)} pictures, {digest(json.dumps(self.examples))}"

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> Float[Tensor, "c h w"]:
        part, row = self._rows[place]
        return self._parts[part][row].float()


class Unseen:
    """In place of the latents of ``count`` examples whose pictures nobody reads: zeros of their shape."""

    def __init__(self, count: int, shape: tuple[int, int, int]):
        self.examples, self.broken, self.shape = list(range(count)), list[tuple[int, str]](), shape

    @property
    def order(self) -> str:
        return f"{len(self)} examples, unseen"

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> Float[Tensor, "c h w"]:
        return torch.zeros(self.shape)


def fingerprint(backbone: Backbone, examples: Examples, size: tuple[int, int]) -> str:
    """Of the VAE, the size and the examples."""
    vae: Any = backbone.nets()["vae"]
    state = vae.state_dict()
    weights = [bytes_of(state[name]) for name in sorted(state)]
    factor = str(vae.config.scaling_factor)
    return digest(FORMAT, str(size), factor, examples.fingerprint, digest(*weights))


def encoded(
    backbone: Backbone,
    examples: Examples,
    folder: Path,
    size: tuple[int, int],
    max_broken: float = 0.0,
    process: int = 0,
    processes: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> tuple[Latents, str]:
    """All examples encoded, from ``folder`` where they are there already; and their fingerprint.

    Broken pictures are counted and named in ``examples.left_out``. Several processes share the parts; ``wait``
    returns when all have come to it. What takes longer than five seconds is logged.

    Raises:
        ValueError: more than ``max_broken`` of the pictures cannot be read, or none can.
    """
    mark, begun = fingerprint(backbone, examples, size), time.monotonic()
    home = Folder(folder / mark)
    starts = range(0, len(examples), PART)
    paths = [home.path / f"{start:08d}.safetensors" for start in starts]
    for number, (start, path) in enumerate(zip(starts, paths, strict=True)):
        if number % processes == process:
            before = _read(path)
            missing = range(start, min(start + PART, len(examples))) if before is None else before.broken
            now = _encode(backbone, examples, missing)
            if before is None or now.latents:
                whole = {} if before is None else before.latents
                content = _content(backbone, _LatentPart(whole | now.latents, now.broken))
                home.write(path.name, partial(_fill, content))
        if process == 0 and time.monotonic() - begun > 5:
            logger.info(f"encoded {min(start + PART, len(examples))} of {len(examples)} pictures")
    wait()
    latents = Latents(paths)
    _check(latents, examples, max_broken)
    return latents, mark


@dataclass(frozen=True)
class _LatentPart:
    """Latents by example, and why others have none."""

    latents: dict[int, Float[Tensor, "c h w"]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)


def _read(path: Path) -> _LatentPart | None:
    """What a file holds; its latents are read only if some are missing. None where there is none.

    Files are written whole or not at all; one that a full disk or a hand has spoilt is made again.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as part:
            if not {"latents", "examples"} <= set(part.keys()):
                return None
            broken = dict(json.loads(part.metadata()["broken"]))
            if not broken:
                return _LatentPart()
            found = zip(part.get_tensor("examples").tolist(), part.get_tensor("latents"), strict=True)
            return _LatentPart(dict(found), broken)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def _fill(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _check(latents: Latents, examples: Examples, max_broken: float) -> None:
    for example, why in latents.broken:
        examples.left_out.add("broken pictures", f"example {example}", why)
    share = len(latents.broken) / len(examples)
    if share > max_broken or not len(latents):
        first = latents.broken[0][1]
        raise Refused(
            f"data.max_broken: {len(latents.broken)} of {len(examples)} pictures cannot be used, more than the "
            f"{max_broken:g} of them that may be broken; the first: {first}; repair them, or raise it",
            examples.left_out,
        )


def _encode(backbone: Backbone, examples: Examples, wanted: Iterable[int]) -> _LatentPart:
    found = _LatentPart()
    for numbers, pictures in _batches(examples, wanted, found.broken):
        for number, latent in zip(numbers, encode_pictures(backbone, np.stack(pictures)), strict=True):
            if latent.isfinite().all():
                found.latents[number] = latent.half().cpu()
            else:
                found.broken[number] = "the VAE gave latents that are not finite"
    return found


def _content(backbone: Backbone, part: _LatentPart) -> bytes:
    """The file of a part, its examples in their order."""
    numbers = sorted(part.latents)
    channels, height, width = backbone.latent_size()
    none = torch.zeros(0, channels, height, width).half()
    rows = torch.stack([part.latents[number] for number in numbers]) if numbers else none
    content = {"latents": rows, "examples": torch.tensor(numbers, dtype=torch.int64)}
    return save(content, metadata={"broken": json.dumps(sorted(part.broken.items()))})


def _batches(
    examples: Examples, wanted: Iterable[int], broken: dict[int, str]
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    numbers: list[int] = []
    pictures: list[np.ndarray] = []
    for number in wanted:
        try:
            pictures.append(examples.picture(number))
            numbers.append(number)
        except BrokenPicture as error:
            broken[number] = str(error)
        if len(numbers) == BATCH:
            yield numbers, pictures
            numbers, pictures = [], []
    if numbers:
        yield numbers, pictures


@torch.no_grad()
def encode_pictures(backbone: Backbone, pictures: np.ndarray) -> Float[Tensor, "batch c h w"]:
    """Scaled means of the VAE's posterior, of uint8 RGB pictures (batch, height, width, 3)."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(backbone.device)
    return backbone.encode_images(pixels / 127.5 - 1)
