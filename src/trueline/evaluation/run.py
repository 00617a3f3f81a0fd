"""One run in one folder: draws what is missing, looks at what is new, and can be stopped at any moment.

    run.json                    the manifest: settings and names of all pictures; another configuration is refused
    pictures/METHOD/NAME.png    each whole or not there at all, its record in the file's text
    seen/METHOD/BATCH.npz       what the judge saw in the pictures of a batch

A batch is the unit of work: drawn, and looked at, as a whole. What is there is not made again.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from trueline.benchmarks import Benchmark, Example
from trueline.evaluation.plan import Shard, Wanted, batches, choose, wanted
from trueline.folder import Folder
from trueline.layout import Layout
from trueline.pipeline import Pipeline

SCHEMA = 1
REFERENCE = "reference"  #: the benchmark's own pictures, as a method: what a perfect picture scores
ROUND_TRIP = (
    "reference-vae"  #: the same after the model's autoencoder: the best that a latent model can reach
)
METHODS = ("plain", "gligen")

Seen = dict[str, np.ndarray]


class Judge(Protocol):
    """Looks at pictures. ``protocol`` says in one line who looks and by which rules."""

    protocol: str

    def look(self, examples: Sequence[Example], images: Sequence[Image.Image]) -> list[Seen]:
        """What was seen in each picture, as named arrays."""
        ...


@dataclass(frozen=True)
class Settings:
    """All that decides the pixels of a run; a folder belongs to one of these."""

    benchmark: str
    model: str
    n: int | None
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    scheduler: str
    dtype: str
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "seeds": list(self.seeds)}


class Run:
    """The pictures that ``settings`` ask for, in ``out``.

    Raises:
        ValueError: the folder belongs to a run with other settings, or cannot be written.
    """

    def __init__(self, out: Path, benchmark: Benchmark, settings: Settings, shard: Shard | None = None):
        self.out, self.benchmark, self.settings, self.shard = out, benchmark, settings, shard or Shard()
        places = choose(benchmark.examples, settings.n)
        self.pictures = wanted(benchmark.examples, places, settings.seeds)
        self.batches = batches(self.pictures, settings.batch_size)
        self.folder = Folder(out)
        self._claim()

    def _claim(self) -> None:
        names = [picture.name for picture in self.pictures]
        manifest = {"schema": SCHEMA, "settings": self.settings.to_json(), "pictures": names}
        path = self.out / "run.json"
        if not path.exists():
            self.folder.write_json("run.json", manifest)
            return
        if differing := _differences(path, manifest):
            raise ValueError(
                f"--out: {self.out} holds a run with another {differing[0]}; give the same, or another folder"
            )

    @property
    def mine(self) -> list[int]:
        """The batches of this shard."""
        return [number for number in range(len(self.batches)) if self.shard.takes(number)]

    # Drawing

    def path(self, method: str, picture: Wanted) -> Path:
        return self.out / "pictures" / method / f"{picture.name}.png"

    def missing(self, method: str) -> list[int]:
        """The shard's batches with a picture that is not there."""
        return [
            number for number in self.mine
            if not all(self.path(method, picture).exists() for picture in self.batches[number])
        ]  # fmt: skip

    def draw(self, method: str, pipe: Pipeline, progress: bool = True) -> int:
        """Draw the batches that are not whole; returns the number of pictures made."""
        todo = self.missing(method)
        total, made = sum(len(self.batches[number]) for number in todo), 0
        folder = Folder(self.out / "pictures" / method)
        with _bar(total, f"{method}: drawing", progress) as bar:
            for number in todo:
                batch = self.batches[number]
                for picture, image, record in self._make(method, pipe, batch):
                    folder.write_png(f"{picture.name}.png", image, record)
                    made += 1
                    bar.update()
        return made

    def _make(
        self, method: str, pipe: Pipeline, batch: Sequence[Wanted]
    ) -> Iterator[tuple[Wanted, Image.Image, dict[str, Any]]]:
        if method == ROUND_TRIP:
            images = [self.benchmark.reference(picture.example) for picture in batch]
            for picture, image in zip(batch, _round_trip(pipe, images), strict=True):
                yield picture, image, {"method": method, "example": picture.example.id}
            return
        s = self.settings
        made = pipe.stream(
            [_layout(method, picture) for picture in batch], seeds=[(p.seed, p.place) for p in batch],
            steps=s.steps, guidance_scale=s.guidance_scale, scheduler=s.scheduler, batch_size=len(batch),
            progress=False,
        )  # fmt: skip
        for drawn in made:
            yield batch[drawn.index], drawn.image, drawn.record | {"method": method}

    # Looking

    def look(self, method: str, judge: Judge, progress: bool = True) -> list[Seen]:
        """What the judge sees in the shard's pictures, in their order; only batches not seen yet are looked at."""
        seen: list[Seen] = []
        with _bar(sum(len(self.batches[n]) for n in self.mine), f"{method}: looking", progress) as bar:
            for number in self.mine:
                seen += self._look(method, judge, number)
                bar.update(len(self.batches[number]))
        return seen

    def _look(self, method: str, judge: Judge, number: int) -> list[Seen]:
        batch, target = self.batches[number], self.out / "seen" / method / f"{number:05d}.npz"
        names = [picture.name for picture in batch]
        if (stored := _load(target, judge.protocol, names)) is not None:
            return stored
        images = [self._open(method, picture) for picture in batch]
        seen = judge.look([picture.example for picture in batch], images)
        arrays: dict[str, Any] = {
            f"{row}/{key}": array for row, each in enumerate(seen) for key, array in each.items()
        }
        arrays["about"] = np.array(json.dumps({"protocol": judge.protocol, "names": names}))
        Folder(target.parent).write(target.name, lambda file: np.savez(file, **arrays))
        return seen

    def _open(self, method: str, picture: Wanted) -> Image.Image:
        if method == REFERENCE:
            image = self.benchmark.reference(picture.example)
            if image is None:
                raise ValueError(f"{self.benchmark.name}: {picture.example.id} has no reference picture")
            return image
        path = self.path(method, picture)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            raise ValueError(f"{path} is missing; run the same command again to draw it") from None
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{path} is no whole picture ({error}); delete it and run the same command again"
            ) from None


def _layout(method: str, picture: Wanted) -> Layout:
    """ "plain": words only. "gligen": words and boxes."""
    layout = picture.example.layout
    return layout.model_copy(update={"regions": ()}) if method == "plain" else layout


def _round_trip(pipe: Pipeline, images: Sequence[Image.Image | None]) -> list[Image.Image]:
    import torch

    backbone, vae = pipe.backbone, pipe.backbone.vae
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images if image])
    with torch.no_grad():
        latents = vae.encode((pixels.to(backbone.device, vae.dtype) / 127.5) - 1).latent_dist.mean
        decoded = vae.decode(latents).sample.float().clamp(-1, 1)
    arrays = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def _differences(path: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of what the manifest on disk says otherwise."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        before, now = old["settings"], manifest["settings"]
        found = [name for name in now if before.get(name) != now[name]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no manifest of an evaluation; choose another folder for --out") from None
    return found or ([] if old["pictures"] == manifest["pictures"] else ["list of pictures"])


def _load(path: Path, protocol: str, names: list[str]) -> list[Seen] | None:
    """What was stored for these pictures under this protocol; None if there is nothing of the kind."""
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            if about != {"protocol": protocol, "names": names}:
                return None
            seen: list[Seen] = [{} for _ in names]
            for key in file.files:
                row, slash, name = key.partition("/")
                if slash:
                    seen[int(row)][name] = file[key]
            return seen
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _bar(total: int, what: str, progress: bool) -> tqdm:
    """Pictures per second and the time that is left; on a terminal only."""
    shown = progress and sys.stderr.isatty()
    return tqdm(total=total, desc=what, unit="picture", disable=not shown)
