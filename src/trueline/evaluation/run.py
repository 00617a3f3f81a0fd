"""One run in one folder: draws what is missing, looks at what is new, and can be stopped at any moment.

    run.json                    the manifest: settings and names of all pictures; another configuration is refused
    pictures/METHOD/NAME.png      each whole or not there at all, its record in the file's text
    seen/METHOD/JUDGE/BATCH.npz   what a judge saw in the pictures of a batch

A batch is the unit of work: drawn, and looked at, as a whole. What is there is not made again. Pictures made
elsewhere (``Elsewhere``) are methods that are only looked at.
"""

import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from trueline.engine import Shard
from trueline.errors import Frozen, redacted
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.drawing_list import Wanted, batches, choose, wanted
from trueline.evaluation.elsewhere import Elsewhere
from trueline.evaluation.judgements import Judgement, SetDistance
from trueline.evaluation.loras import RowLora, worn
from trueline.files import Folder, json_digest
from trueline.layout import Layout
from trueline.pictures import BrokenPicture, open_picture
from trueline.sampling.options import Sampling, Within
from trueline.sampling.pipeline import Pipeline

SCHEMA = 2
#: The grounding schedule of methods that use the boxes without the grounding layers.
UNGROUNDED = (0.0, 0.0, 1.0)
REFERENCE = "reference"  #: the benchmark's own pictures, as a method: what a perfect picture scores
#: The same after the model's autoencoder: the best that a latent model can reach.
ROUND_TRIP = "reference-vae"


class Judge(Protocol):
    """Looks at pictures. ``name`` is unique in a run and safe as a folder's name; ``protocol`` says in one line who
    looks and by which rules; ``distances`` are the figures of whole sets that its features are for, and ``precision``
    the name of the average precision of what it detects ("" where it detects nothing)."""

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def distances(self) -> Sequence[SetDistance]: ...
    @property
    def precision(self) -> str: ...

    def look(self, examples: Sequence[Example], images: Sequence[Image.Image]) -> list[Judgement]:
        """What was seen in each picture, as named arrays."""
        ...


@dataclass(frozen=True)
class Row:
    """How a method of the table draws: with its boxes through the grounding layers or not, guided by ``methods``, by
    a U-Net with the sum of ``loras``."""

    name: str
    grounded: bool = False
    boxes: bool = False  #: whether its methods want the regions
    methods: tuple[Any, ...] = ()
    needy: bool = False  #: whether one of them can do nothing without
    loras: tuple[RowLora, ...] = ()

    def layout(self, picture: Wanted) -> Layout:
        layout = picture.example.layout
        return layout if self.grounded or self.boxes else layout.model_copy(update={"regions": ()})

    @property
    def changed(self) -> dict[str, Any]:
        """Options of ``Sampling`` that the row has of its own."""
        return {} if self.grounded else {"grounding_schedule": UNGROUNDED}

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "grounded": self.grounded,
            "methods": [{type(m).__name__: m.model_dump(mode="json")} for m in self.methods],
        }
        return about | self.about_loras()

    def about_loras(self) -> dict[str, Any]:
        return {"loras": [lora.to_json() for lora in self.loras]} if self.loras else {}


PLAIN, GLIGEN = Row("plain"), Row("gligen", grounded=True)


class EvaluationSettings(Frozen):
    """All that decides the pixels of a run; a folder belongs to one of these.

    ``plan``: hash of the boxes that were planned, where the benchmark has none.
    """

    benchmark: str
    model: str
    n: int | None
    seeds: tuple[int, ...]
    sampling: Sampling
    dtype: str
    batch_size: Annotated[int, Within(1, whole=True)]
    plan: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The options of ``sampling`` besides the others, without secrets."""
        return redacted(self.model_dump(mode="json", exclude={"sampling"})) | self.sampling.to_record()


class EvaluationRun:
    """The pictures that ``settings`` ask for, in ``out``.

    Raises:
        ValueError: the folder belongs to a run with other settings, or cannot be written.
    """

    def __init__(
        self,
        out: Path,
        benchmark: Benchmark,
        settings: EvaluationSettings,
        shard: Shard | None = None,
        elsewhere: Sequence[Elsewhere] = (),
    ):
        self.out, self.benchmark, self.settings, self.shard = out, benchmark, settings, shard or Shard()
        self.elsewhere = {each.method: each for each in elsewhere}
        self.failed: dict[str, str] = {}  #: METHOD/NAME of pictures that could not be made, and why
        places = choose(benchmark.examples, settings.n)
        self.pictures = wanted(benchmark.examples, places, settings.seeds)
        self.batches = batches(self.pictures, settings.batch_size)
        self.folder = Folder(out)
        self._claim()

    def _claim(self) -> None:
        # What the layouts say, too: splits of one benchmark may call their examples by the same names.
        layouts = {p.example.id: p.example.layout.model_dump(mode="json") for p in self.pictures}
        manifest = {
            "schema": SCHEMA,
            "settings": self.settings.to_json(),
            "layouts": json_digest(layouts),
            "pictures": [picture.name for picture in self.pictures],
        }
        path = self.out / "run.json"
        if not path.exists():
            self.folder.write_json("run.json", manifest)
            return
        if differing := _differences(path, manifest):
            raise ValueError(
                f"out: {self.out} holds a run with another {differing[0]}; give the same, or another folder"
            )

    @property
    def mine(self) -> list[int]:
        """The batches of this shard."""
        return [number for number in range(len(self.batches)) if self.shard.takes(number)]

    # Drawing

    def path(self, method: str, picture: Wanted) -> Path:
        if method in self.elsewhere:
            return self.elsewhere[method].path(picture)
        return self.out / "pictures" / method / f"{picture.name}.png"

    def exists_for(self, method: str, picture: Wanted) -> bool:
        """Whether the method has such a picture: of the benchmark's own, not every prompt has one, and some could not
        be made."""
        if f"{method}/{picture.name}" in self.failed:
            return False
        return method not in (REFERENCE, ROUND_TRIP) or self.benchmark.has_reference(picture.example)

    def missing(self, method: str) -> list[int]:
        """The shard's batches with a picture that is not there."""

        def lacks(picture: Wanted) -> bool:
            return self.exists_for(method, picture) and not self.path(method, picture).exists()

        return [number for number in self.mine if any(map(lacks, self.batches[number]))]

    def claim(self, row: Row) -> None:
        """Take the method's folder for these settings of it.

        Raises:
            ValueError: it holds pictures of the method with others.
        """
        folder, mine = Folder(self.out / "pictures" / row.name), row.to_json()
        path = folder.path / "method.json"
        if not path.exists():
            folder.write_json("method.json", mine)
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if theirs != mine:
            what = "other settings"
            if isinstance(theirs, dict) and theirs.get("loras") != mine.get("loras"):
                what = "another file or strength of its LoRA"
            raise ValueError(
                f"out: {folder.path} holds pictures of {row.name} with {what}; give the same, or "
                "another folder"
            )

    def draw(self, row: Row | str, pipe: Pipeline, progress: bool = True) -> int:
        """Draw the batches that are not whole; returns the number of pictures made.

        Raises:
            ValueError: ``loras.worn``'s.
        """
        method = row if isinstance(row, str) else row.name
        todo = self.missing(method)
        if not todo:
            return 0
        total, made = sum(len(self.batches[number]) for number in todo), 0
        folder = Folder(self.out / "pictures" / method)
        loras = () if isinstance(row, str) else row.loras
        with worn(pipe, loras), _bar(total, f"{method}: drawing", progress) as bar:
            for number in todo:
                batch = self.batches[number]
                for picture, image, record in self._make(row, pipe, batch):
                    folder.write_png(f"{picture.name}.png", image, record)
                    made += 1
                    bar.update()
        return made

    def _make(
        self, row: Row | str, pipe: Pipeline, batch: Sequence[Wanted]
    ) -> Iterator[tuple[Wanted, Image.Image, dict[str, Any]]]:
        if isinstance(row, str):  # ROUND_TRIP
            batch = [picture for picture in batch if self.exists_for(row, picture)]
            images = [self.benchmark.reference(picture.example) for picture in batch]
            for picture, image in zip(batch, _round_trip(pipe, images), strict=True):
                yield picture, image, {"method": row, "example": picture.example.id}
            return
        made = pipe.stream(
            [row.layout(picture) for picture in batch],
            seeds=[(p.seed, p.place) for p in batch],
            methods=row.methods,
            sampling=self.settings.sampling,
            **row.changed,
            batch_size=len(batch),
            progress=False,
            checked=True,  # a batch without boxes belongs to a benchmark that has some (commands/_rows.py)
        )
        about = {"method": row.name} | row.about_loras()
        for drawn in made:
            if drawn.failed:
                self.failed[f"{row.name}/{batch[drawn.index].name}"] = drawn.failed
            else:
                yield batch[drawn.index], drawn.image, drawn.record | about

    # Measuring what was drawn

    def look(self, method: str, judge: Judge, progress: bool = True) -> list[Judgement]:
        """What the judge sees in the shard's pictures, in their order; {} for one that the method does not have. Only
        batches not seen yet are looked at.

        Raises:
            ValueError: a picture is missing or broken, or the judge gives a number that is not finite.
        """
        seen: list[Judgement] = []
        total = sum(len(self.batches[number]) for number in self.mine)
        with _bar(total, f"{method}: {judge.name} looking", progress) as bar:
            for number in self.mine:
                seen += self._look(method, judge, number)
                bar.update(len(self.batches[number]))
        return seen

    def _look(self, method: str, judge: Judge, number: int) -> list[Judgement]:
        batch = self.batches[number]
        there = [picture for picture in batch if self.exists_for(method, picture)]
        if not there:
            return [{} for _ in batch]
        target = self.out / "seen" / method / judge.name / f"{number:05d}.npz"
        about: dict[str, Any] = {"protocol": judge.protocol, "names": [picture.name for picture in there]}
        if method in self.elsewhere:  # pictures that others may change
            about["sha256"] = [self.elsewhere[method].digest(picture) for picture in there]
        seen = _load(target, about)
        if seen is None:
            images = [self._open(method, picture) for picture in there]
            seen = judge.look([picture.example for picture in there], images)
            _refuse_nan(method, judge, there, seen)
            arrays: dict[str, Any] = {
                f"{row}/{key}": array for row, each in enumerate(seen) for key, array in each.items()
            }
            arrays["about"] = np.array(json.dumps(about))
            Folder(target.parent).write(target.name, lambda file: np.savez(file, **arrays))
        of = {picture.name: each for picture, each in zip(there, seen, strict=True)}
        return [of.get(picture.name, {}) for picture in batch]

    def _open(self, method: str, picture: Wanted) -> Image.Image:
        if method == REFERENCE:
            image = self.benchmark.reference(picture.example)
            if image is None:
                raise ValueError(f"{self.benchmark.name}: {picture.example.id} has no reference picture")
            return image
        path = self.path(method, picture)
        try:
            return open_picture(path)
        except BrokenPicture as error:
            if not path.exists():
                cure = "run the same command again to draw it"
            elif method in self.elsewhere:
                cure = "make it again"
            else:
                cure = "delete it and run the same command again"
            raise ValueError(f"{error.problem}; {cure}") from None


def _round_trip(pipe: Pipeline, images: Sequence[Image.Image | None]) -> list[Image.Image]:
    import torch

    backbone = pipe.backbone
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images if image])
    with torch.no_grad():
        decoded = backbone.reconstruct(pixels.to(backbone.device, backbone.dtype) / 127.5 - 1)
    decoded = decoded.float().clamp(-1, 1)
    arrays = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def _differences(path: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of what the manifest on disk says otherwise."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        before, now = Sampling().to_record() | old["settings"], manifest["settings"]
        found = [name for name in now if before.get(name) != now[name]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no manifest of an evaluation; choose another folder") from None
    if not found and old.get("pictures") != manifest["pictures"]:
        return ["list of pictures"]
    if not found and old.get("layouts", manifest["layouts"]) != manifest["layouts"]:  # schema 1 has none
        return ["set of prompts or boxes (other options of the benchmark, or other files of it)"]
    return found


def _load(path: Path, about: dict[str, Any]) -> list[Judgement] | None:
    """What was stored about just these pictures under this protocol; None if there is nothing of the kind."""
    try:
        with np.load(path) as file:
            if json.loads(str(file["about"])) != about:
                return None
            seen: list[Judgement] = [{} for _ in about["names"]]
            for key in file.files:
                row, slash, name = key.partition("/")
                if slash:
                    seen[int(row)][name] = file[key]
            return seen
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _refuse_nan(method: str, judge: Judge, pictures: Sequence[Wanted], seen: Sequence[Judgement]) -> None:
    bad = [
        (picture.name, key)
        for picture, each in zip(pictures, seen, strict=True)
        for key, array in each.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if bad:
        raise ValueError(
            f"{judge.name}: {len({name for name, _ in bad})} pictures of {method} give numbers that are not finite, "
            f"first {bad[0][0]} ({bad[0][1]}); load the model with another dtype, or leave it out"
        )


def _bar(total: int, what: str, progress: bool) -> tqdm:
    """Pictures per second and the time that is left; on a terminal only."""
    shown = progress and sys.stderr.isatty()
    return tqdm(total=total, desc=what, unit="picture", disable=not shown)
