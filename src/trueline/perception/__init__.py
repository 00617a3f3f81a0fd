"""Models that read pictures, behind small protocols; the real ones are the other modules here.

Nothing here imports torch: rules and tests need only ``Detection``. A model is named on the command line as
``kind=checkpoint`` ("owlv2=google/owlv2-base-patch16-ensemble", "oracle") and loaded by ``load``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

from trueline.boxes import Corners


@dataclass(frozen=True)
class Detection:
    """One thing seen in a picture.

    ``label`` is one of the labels that were asked for; ``box`` is xyxy in 0..1 of the picture, origin at its top
    left; ``score`` is the detector's own confidence in 0..1. ``colour`` and ``texture`` are None where nothing
    has read them. ``mask`` is float32 (height, width) in 0..1 over the whole picture, or None.
    """

    label: str
    box: Corners
    score: float = 1.0
    colour: str | None = None
    texture: str | None = None
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@runtime_checkable
class Detector(Protocol):
    """Finds things. ``name`` says which model, and enters the metric's name: ``spatial[owlv2]``."""

    name: str

    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """The things of each picture, surest first; ``labels[i]`` are the names to look for in picture i."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Pictures and texts as unit vectors of one space: (n, d) float32."""

    name: str

    def images(self, images: Sequence[Image]) -> Tensor: ...

    def texts(self, texts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """Pictures as feature vectors (n, d) float32, for distances between sets of pictures.

    ``name`` names network and resize protocol ("inception-tf", "clean", "world"): distances of different names
    must not be compared.
    """

    name: str

    def features(self, images: Sequence[Image]) -> Tensor: ...


@runtime_checkable
class Matcher(Protocol):
    """How well each picture fits its text: (n,) float32, larger is better; the range is the model's own."""

    name: str

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class Answerer(Protocol):
    """Visual question answering."""

    name: str

    def yes(self, images: Sequence[Image], questions: Sequence[str]) -> Tensor:
        """Probability of "yes" against "no", (n,) float32 in 0..1."""
        ...

    def says(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> Tensor:
        """Probability that the answer to question i begins as one of ``answers[i]`` does, against all else that the
        model could say, (n,) float32 in 0..1."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Says what each picture shows, in one sentence, without sampling."""

    name: str

    def caption(self, images: Sequence[Image]) -> list[str]: ...


@runtime_checkable
class Tagger(Protocol):
    """Names the kinds of things in each picture, each once, surest first: "cat", not "a black cat".

    ``prompts[i]`` is what picture i was drawn from; a tagger may look for what it names, or ignore it.
    """

    name: str

    def tag(self, images: Sequence[Image], prompts: Sequence[str]) -> list[list[str]]: ...


@runtime_checkable
class Segmenter(Protocol):
    """Which pixels the thing in a box covers.

    ``boxes[i]`` are xyxy in 0..1 of picture i. One mask for each, float32 (height, width) of the picture in 0..1, all
    zero where nothing was found.
    """

    name: str

    def segment(
        self, images: Sequence[Image], boxes: Sequence[Sequence[Corners]]
    ) -> list[list[np.ndarray]]: ...


#: What makes a model of each kind, as "module:callable" in this package; called with (checkpoint, device, dtype).
KINDS = {
    "owlv2": "owlv2:Owlv2",
    "owlv2-per-label": "owlv2:per_label",
    "grounding-dino": "grounding_dino:GroundingDino",
    "clip": "clip:Clip",
    "negclip": "negclip:NegClip",
    "pickscore": "clip:PickScore",
    "blip-vqa": "blip_vqa:BlipVqa",
    "blip-itm": "blip2:Blip",
    "blip-itc": "blip2:blip_itc",
    "blip2-itm": "blip2:Blip2",
    "blip2-itc": "blip2:blip2_itc",
    "inception-tf": "inception:Inception",
    "clean": "inception:clean",
    "blip-captioner": "captioner:blip",
    "blip2-captioner": "captioner:blip2",
    "florence2": "florence2:Florence2",
    "sam": "sam:Sam",
    "sam2": "sam:Sam2",
    "noun-phrases": "tags:noun_phrases",
    "oracle": "trueline.world.perception:Oracle",
    "world-clip": "trueline.world.perception:world_clip",
    "world-captioner": "trueline.world.perception:world_captioner",
    "world-itm": "trueline.world.perception:world_itm",
    "world-itc": "trueline.world.perception:world_itc",
    "world-seer": "trueline.world.perception:world_seer",
}
#: These need no checkpoint: they come with the package, or say that `trueline world build` makes them.
EMBEDDED = ("noun-phrases", "oracle", "world-clip", "world-captioner", "world-itm", "world-itc", "world-seer")


def check(name: str) -> None:
    """What can be told of ``load``'s name without weights and network.

    Raises:
        ValueError: an unknown kind, no checkpoint where one is needed, or one that is not there.
    """
    from trueline.models.shipped import check_place

    kind, checkpoint = _parts(name)
    if kind == "noun-phrases" and checkpoint:
        check(checkpoint)
    elif kind in KINDS and checkpoint:
        check_place(checkpoint, kind)


def _parts(name: str) -> tuple[str, str]:
    """Kind and checkpoint, which may be empty.

    Raises:
        ValueError: an unknown kind, or no checkpoint where one is needed.
    """
    from importlib import import_module

    kind, _, checkpoint = (part.strip() for part in name.partition("="))
    if kind not in KINDS:
        if kind and import_module(f"{__name__}.plugins").TARGET.fullmatch(checkpoint):
            return kind, checkpoint
        known = ", ".join(KINDS)
        raise ValueError(
            f"unknown kind of model {kind!r}; use one of {known}, or NAME=package.module:function for your own"
        )
    if not checkpoint and kind not in EMBEDDED:
        raise ValueError(f"{kind} needs a checkpoint; give it as {kind}=FOLDER or {kind}=OWNER/NAME")
    return kind, checkpoint


def load(name: str, device: str = "cpu", dtype: str = "float32", **files: Any) -> Any:
    """The model of ``kind=checkpoint``: a folder, a Hub id, or for Inception a file of weights.

    ``any-name=package.module:function`` makes a ``Matcher``, ``Tagger``, ``Captioner`` or ``Segmenter`` of a user's
    own function (``perception.plugins``). After ``noun-phrases=`` may stand the name of a detector, "owlv2=FOLDER".
    ``files``: ``revision`` and ``local_files_only``, for models on the Hub.

    Raises:
        ValueError: an unknown kind, no checkpoint where one is needed, or one that cannot be used.
    """
    from importlib import import_module

    kind, checkpoint = _parts(name)
    if kind not in KINDS:
        return import_module(f"{__name__}.plugins").Plugin(kind, checkpoint)
    module, attribute = KINDS[kind].split(":")
    make = getattr(import_module(module if "." in module else f"{__name__}.{module}"), attribute)
    given = (checkpoint,) if checkpoint else ()
    return make(*given, device=device, dtype=dtype, **files)
