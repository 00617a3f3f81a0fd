"""One run in one folder (``files.RunFolder``): which pictures there are, in which batches, by which settings.

    pictures/METHOD/NAME.png      its record is in the file's text
    pictures/METHOD/method.json   what the method draws with; other settings of it are refused
    seen/METHOD/JUDGE/BATCH.npz   what a judge saw in the pictures of a batch

A batch is the unit of work: drawn (``drawing``), and looked at (``judging``), as a whole. What is there is not made
again. Pictures made elsewhere (``Elsewhere``) are methods that are only looked at.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from PIL import Image

from trueline.engine import Shard
from trueline.errors import Frozen, redacted
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.drawing_list import Wanted, batches, choose, wanted
from trueline.evaluation.elsewhere import Elsewhere
from trueline.evaluation.judgements import Judgement, SetDistance
from trueline.evaluation.loras import RowLora
from trueline.files import Job, Outcome, RunFolder, json_bytes, json_digest, read_json_object
from trueline.layout import Layout
from trueline.sampling.options import Sampling, Within

#: The grounding schedule of methods that use the boxes without the grounding layers.
UNGROUNDED = (0.0, 0.0, 1.0)
REFERENCE = "reference"  #: the benchmark's own pictures, as a method: what a perfect picture scores
#: The same after the model's autoencoder: the best that a latent model can reach.
ROUND_TRIP = "reference-vae"
LONGEST = 120  #: characters of a row's name in a unit's, which is the name of a file, too
WAIT = 0.2  #: seconds until another process has written what a row draws with


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

    ``planner``: who was asked for boxes where the benchmark has none, and its settings.
    """

    benchmark: str
    model: str
    n: int | None
    seeds: tuple[int, ...]
    sampling: Sampling
    dtype: str
    batch_size: Annotated[int, Within(1, whole=True)]
    planner: dict[str, Any] | None = None
    vae_tiling: bool | None = None

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
        self.out, self.settings, self.shard = out, settings, shard or Shard()
        self.elsewhere = {each.method: each for each in elsewhere}
        self.failed: dict[str, str] = {}  #: METHOD/NAME of pictures that could not be made, and why
        self.use(benchmark)
        # What the layouts say, too: splits of one benchmark may call their examples by the same names.
        layouts = {p.example.id: p.example.layout.model_dump(mode="json") for p in self.pictures}
        about = settings.to_json() | {"layouts": json_digest(layouts)}
        self.folder = RunFolder(out, "evaluate", about, [picture.name for picture in self.pictures])

    def use(self, benchmark: Benchmark) -> None:
        """Take the examples from ``benchmark``: the same as before, but for their boxes."""
        self.benchmark = benchmark
        places = choose(benchmark.examples, self.settings.n)
        self.pictures = wanted(benchmark.examples, places, self.settings.seeds)
        self.batches = batches(self.pictures, self.settings.batch_size)

    @property
    def mine(self) -> list[int]:
        """The batches of this shard."""
        return [number for number in range(len(self.batches)) if self.shard.takes(number)]

    def path(self, method: str, picture: Wanted) -> Path:
        if method in self.elsewhere:
            return self.elsewhere[method].path(picture)
        return self.out / file_of(method, picture)

    def exists_for(self, method: str, picture: Wanted) -> bool:
        """Whether the method has such a picture: of the benchmark's own, not every prompt has one, some could not be
        made, and folders of others may lack some."""
        if f"{method}/{picture.name}" in self.failed:
            return False
        if method in self.elsewhere:
            return self.elsewhere[method].has(picture)
        return method not in (REFERENCE, ROUND_TRIP) or self.benchmark.has_reference(picture.example)

    def check(self, row: Row) -> None:
        """
        Raises:
            ValueError: there are pictures of the row, drawn with other settings of it.
        """
        if not self.folder.done(_claim_of(row)):
            return
        mine, theirs = row.to_json(), read_json_object(self.out / _method_file(row), "give another folder")
        if theirs != mine:
            what = "other settings"
            if theirs.get("loras") != mine.get("loras"):
                what = "another file or strength of its LoRA"
            raise ValueError(
                f"out: {self.out / 'pictures' / row.name} holds pictures of {row.name} with {what}; give the same, "
                "or another folder"
            )

    def claim(self, row: Row) -> None:
        """Take the row's folder for these settings of it.

        Raises:
            ValueError: ``check``'s.
        """
        while self.folder.todo([job := _claim_of(row)]):
            with self.folder.unit(job) as claim:
                if claim is not None:
                    self.folder.keep(claim, job, Outcome({_method_file(row): json_bytes(row.to_json())}))
            time.sleep(0 if claim else WAIT)
        self.check(row)


def _claim_of(row: Row) -> Job:
    return Job(f"row/{part_of_unit(row.name)}")


def _method_file(row: Row) -> str:
    return f"pictures/{row.name}/method.json"


def file_of(method: str, picture: Wanted) -> str:
    """Of a picture that the run draws, below its folder."""
    return f"pictures/{method}/{picture.name}.png"


def part_of_unit(name: str) -> str:
    """``name`` in the name of a unit: a long one is cut, and told apart by its digest."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{json_digest(name)[:8]}"
