"""What every benchmark says: what to draw, what its published rule makes of detections, and what that needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trueline.boxes import Corners
from trueline.evaluation.metrics.observations import Mode, Observations
from trueline.layout import Layout
from trueline.perception import Detection, Segmenter

if TYPE_CHECKING:
    from PIL.Image import Image

VARIABLE = "TRUELINE_DATA"
Needs = Mapping[str, tuple[str, ...]]
Size = tuple[int, int]  #: width and height in pixels
Placed = tuple[str | None, Corners]  #: name (None: unreadable) and xyxy box in 0..1 of a planned thing
Asked = tuple[str, tuple[str, ...]]  #: a question about a picture, and how a right answer may begin


@dataclass(frozen=True)
class Example:
    """One picture to draw.

    ``id``: unique in the benchmark, the same in every run, safe as a file name. ``layout``: prompt, and regions
    where the benchmark has boxes. ``category``: its group in tables ("color", "spatial"; "" where there is one
    group only). ``truth``: what the benchmark's own rule needs, JSON-ready.
    """

    id: str
    layout: Layout
    category: str = ""
    truth: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def prompt(self) -> str:
        return self.layout.prompt


class Benchmark:
    """Base of all benchmarks. A subclass reads the user's files in ``__init__`` and sets ``source``, ``examples``
    and ``left_out``; it overrides the static methods that its published rule is about.

    ``name``: as in the table. ``needs``: metric that its papers report -> the kinds of models that it takes, one of
    each. ``unmeasured``: category that no judge here can score -> why; ``beyond``: the same of metrics. ``colours``:
    how the colour of a detected thing is read where the detector does not say it. ``threshold``: the rule's own
    confidence, 0 where it takes the detector's. ``asks``: answerers get ``questions`` in place of B-VQA's.
    ``overlaps``: embedders measure how hard the layouts are (``overlaybench.overlay_score``). ``layout_categories``:
    those of which ``score_layout`` can judge boxes without a picture (() for all). ``pictures``: how its own scorer's
    folders name pictures (``picture_folders``); "" for no scorer of its own.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = {"clip_score": ("embedder",)}
    unmeasured: ClassVar[Mapping[str, str]] = {}
    beyond: ClassVar[Mapping[str, str]] = {}
    colours: ClassVar[Literal["", "clip", "hue"]] = ""
    threshold: ClassVar[float] = 0.0
    asks: ClassVar[bool] = False
    overlaps: ClassVar[bool] = False
    layout_categories: ClassVar[tuple[str, ...]] = ()
    pictures: ClassVar[str] = ""

    source: str  #: where the files come from, their version and licence, one line
    examples: Sequence[Example] = ()  #: in the official order
    left_out: Mapping[str, int] = {}  #: what no layout can hold: reason -> number

    def reference(self, example: Example) -> Image | None:
        """The real picture of an example (for FID), or None where the benchmark has none."""
        return None

    def has_reference(self, example: Example) -> bool:
        return self.reference(example) is not None

    @staticmethod
    def labels(example: Example) -> list[str]:
        """What to look for in the picture; nothing where the rule does not apply."""
        return []

    @staticmethod
    def asks_colours(example: Example) -> bool:
        """Whether the rule asks for the colours of an example's things."""
        return False

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        """What the rule says of the detections in a picture of ``size``. ``threshold``: detections count above it."""
        return {}

    @classmethod
    def score_picture(
        cls,
        example: Example,
        detections: Sequence[Detection],
        image: Image,
        segmenter: Segmenter | None,
        mode: Mode,
        threshold: float,
    ) -> Observations:
        """``score``, for a rule that looks at pixels too; nothing where it needs masks and has no ``segmenter``."""
        return cls.score(example, detections, image.size, mode, threshold)

    @staticmethod
    def questions(example: Example) -> Sequence[Asked]:
        """What an answerer is asked of a picture, where the benchmark ``asks``."""
        return ()

    @staticmethod
    def score_answers(example: Example, answers: Sequence[float]) -> Observations:
        """What the rule makes of the probabilities, 0..1, of a right answer to each of the ``questions``."""
        return {}

    @staticmethod
    def group(example: Example, mode: Mode) -> str:
        """Figures over all pictures are the mean over these groups; of all pictures alike where there is one."""
        return ""

    @staticmethod
    def asks_nouns(example: Example) -> bool:
        """Whether ``combine`` wants the CLIP score of the prompt without its adjectives (``clip_score_nouns``)."""
        return False

    @staticmethod
    def combine(example: Example, measured: Mapping[str, Sequence[float]]) -> Observations:
        """What follows from the metrics of several judges. ``measured``: metric without judge -> its values."""
        return {}

    @staticmethod
    def score_layout(example: Example, things: Sequence[Placed], mode: Mode) -> Observations:
        """What the rule says of planned boxes, without a picture; nothing where the prompt states nothing to it."""
        return {}


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
