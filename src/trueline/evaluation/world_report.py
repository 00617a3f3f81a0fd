"""``trueline world report``: is the world good enough to experiment on? Every figure with its interval.

Held-out scenes (split "held-out", never trained on), judged by the oracle. The figures go into a JSON file with the
command, the commit and the seeds that made them; ``trueline results`` makes ``docs/results.md`` of it.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from trueline.errors import redacted
from trueline.evaluation.metrics.statistics import Terms, ratio
from trueline.layout import Layout, Region
from trueline.models.devices import fast_bfloat16
from trueline.perception import Detection
from trueline.pictures import contact_sheet
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import PictureError, Pipeline
from trueline.world.captions import Caption, CaptionGroup, caption
from trueline.world.clip import load_clip, scene_retrieval
from trueline.world.judge import accuracy, check, match
from trueline.world.oracle import detect
from trueline.world.scenes import Scene, Thing, make_scene
from trueline.world.vae import psnr

SPLIT, TUNE = SPLITS = ("held-out", "tune")
PARTS = ("oracle", "clip", "single", "pairs", "boxes", "captions", "vae")
GOALS = {
    "vae_psnr": (">=", 33.0),
    "clip_caption_among_256": (">=", 0.8),
    "clip_phrase_among_256": (">=", 0.9),
    "oracle_name": (">=", 0.99),
    "oracle_colour": (">=", 0.99),
    "oracle_texture": (">=", 0.99),
    "single_object_and_colour": (">=", 0.9),
    "two_objects_and_colours": ("0.3..", 0.8),
    "grounded_object_and_colour": (">=", 0.85),
    "grounded_texture": (">=", 0.75),
}


@dataclass(frozen=True)
class Figure:
    """A mean with its 95% interval: bootstrap over scenes (2,000 draws), so that boxes of one scene stay together."""

    name: str
    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        relation, bound = GOALS.get(self.name, ("", 0.0))
        if not relation:
            return ""
        held = self.mean >= bound if relation == ">=" else 0.3 <= self.mean <= bound
        return f"{relation}{' ' if relation == '>=' else ''}{bound:g}: {'holds' if held else '**does not hold**'}"


def figure(name: str, groups: Sequence[Sequence[float]]) -> Figure:
    """The mean over all values of all groups (one group for each scene) and its interval."""
    values = [(value, f"{place:06d}") for place, group in enumerate(groups) for value in group]
    terms = Terms.of([v for v, _ in values], [1.0] * len(values), [scene for _, scene in values])
    found = ratio(terms)
    if found.value is None:
        raise ValueError(f"{name}: there is nothing to take a mean of; measure more scenes")
    low, high = (found.value if edge is None else edge for edge in (found.low, found.high))
    return Figure(name, found.value, low, high, found.n)


def layout_of(scene: Scene, prompt: str, boxes: bool) -> Layout:
    """The scene as a user would ask for it."""
    regions = [Region(t.phrase, t.box) for t in scene.things] if boxes else []
    return Layout(prompt, regions=regions, id=scene.id)


def full_prompt(things: Iterable[Thing]) -> str:
    """Every thing named in full: "a red apple and a blue striped car"."""
    return " and ".join(t.phrase for t in things)


def full_caption(scene: Scene) -> Caption:
    """A caption object that says everything about every thing, whatever the words."""
    groups = tuple(
        CaptionGroup(t.name, t.colour, t.texture, (i,), (0, 0)) for i, t in enumerate(scene.things)
    )
    return Caption(full_prompt(scene.things), groups)


def two_thing_scenes(count: int, split: str = SPLIT) -> list[Scene]:
    """Held-out scenes of two things with different names."""
    scenes = (make_scene(split, i, 2) for i in range(10 * count))
    return [s for s in scenes if s.things[0].name != s.things[1].name][:count]


@dataclass
class Examiner:
    """Draws pictures and lets the oracle say what is in them."""

    pipeline: Pipeline
    sampling: Sampling
    split: str = SPLIT
    batch: int = 32

    def draw(self, layouts: list[Layout], title: str) -> list[Image.Image]:
        """One picture for each layout, seeded by its place in the list."""
        pictures: list[Image.Image | None] = [None] * len(layouts)
        stream = self.pipeline.stream(
            layouts,
            seeds=list(range(len(layouts))),
            sampling=self.sampling,
            batch_size=self.batch,
            progress=False,
        )
        for picture in tqdm(stream, total=len(layouts), desc=title, disable=not sys.stderr.isatty()):
            if picture.failed:
                raise PictureError({picture.index: picture.failed})
            pictures[picture.index] = picture.image
        return [p for p in pictures if p is not None]

    def detections(self, layouts: list[Layout], title: str) -> list[list[Detection]]:
        return [detect(np.asarray(p)) for p in self.draw(layouts, title)]

    def single(self, count: int) -> list[Figure]:
        """One object, text only."""
        scenes = [make_scene(self.split, i, 1) for i in range(count)]
        found = self.detections([layout_of(s, s.things[0].phrase, False) for s in scenes], "one object")
        verdicts = [check(d, full_caption(s)) for d, s in zip(found, scenes, strict=True)]
        return [
            figure("single_object", [[v.object] for v in verdicts]),
            figure("single_object_and_colour", [[v.colour] for v in verdicts]),
            figure("single_texture", [[v.texture] for v in verdicts]),
            figure("single_count", [[v.count] for v in verdicts]),
        ]

    def pairs(self, count: int) -> list[Figure]:
        """Two different objects, text only; both must be right."""
        scenes = two_thing_scenes(count, self.split)
        found = self.detections([layout_of(s, full_prompt(s.things), False) for s in scenes], "two objects")
        verdicts = [check(d, full_caption(s)) for d, s in zip(found, scenes, strict=True)]
        return [
            figure("two_objects", [[v.object == 1] for v in verdicts]),
            figure("two_objects_and_colours", [[v.colour == 1] for v in verdicts]),
            figure("two_textures", [[v.texture == 1] for v in verdicts]),
        ]

    def boxes(self, count: int, given: bool) -> list[Figure]:
        """Held-out scenes of one to four things, with their captions; each box is judged at IoU >= 0.5."""
        name = "grounded" if given else "ungrounded"
        scenes = [make_scene(self.split, i) for i in range(count)]
        found = self.detections([layout_of(s, caption(s).text, given) for s in scenes], name)
        matches = [match(d, s.things) for d, s in zip(found, scenes, strict=True)]
        return [
            figure(f"{name}_object_and_colour", [[m.name and m.colour for m in ms] for ms in matches]),
            figure(f"{name}_object", [[m.name for m in ms] for ms in matches]),
            figure(f"{name}_texture", [[m.texture for m in ms] for ms in matches]),
            figure(f"{name}_box", [[m.matched for m in ms] for ms in matches]),
            figure(f"{name}_iou", [[m.iou for m in ms] for ms in matches]),
        ]

    def draw_sheets(self, count: int, path: Path) -> None:
        """Contact sheets of ``count`` random prompts: from words only (``path`` + "_plain"), and with boxes."""
        scenes = [make_scene("sheet", i) for i in range(count)]
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, given in (("plain", False), ("grounded", True)):
            layouts = [layout_of(s, caption(s).text, given) for s in scenes]
            drawn = contact_sheet(self.draw(layouts, f"sheet, {name}"), layouts, columns=8)
            drawn.convert("RGB").save(path.with_name(f"{path.stem}_{name}.png"), optimize=True)


def measure_vae(pipeline: Pipeline, count: int) -> list[Figure]:
    scenes = [make_scene(SPLIT, i) for i in range(count)]
    values = psnr(pipeline.backbone.nets()["vae"].float(), scenes, pipeline.backbone.device)
    return [figure("vae_psnr", [[v] for v in values])]


def measure_clip(count: int) -> list[Figure]:
    """Retrieval of the caption of a picture, and of the phrase of a region, among ``count``."""
    whole, region = scene_retrieval(*load_clip(), [make_scene(SPLIT, i) for i in range(count)])
    return [
        figure(f"clip_caption_among_{count}", [[float(v)] for v in whole]),
        figure(f"clip_phrase_among_{count}", [[float(v)] for v in region]),
    ]


def measure_oracle(count: int) -> list[Figure]:
    """The judge's own accuracy on renders."""
    rows = [accuracy([make_scene("oracle", i)]) for i in range(count)]
    found = [r for r in rows if r["miss"] < 1]
    named = [figure(f"oracle_{k}", [[r[k]] for r in found]) for k in ("name", "colour", "texture")]
    return [*named, *(figure(f"oracle_{k}", [[r[k]] for r in rows]) for k in ("miss", "false"))]


def default_dtype() -> str:
    """bfloat16 where the processor computes in it."""
    return "bfloat16" if fast_bfloat16(torch.device("cpu")) else "float32"


def report(
    model: str,
    examiner: Examiner,
    count: int,
    only: Collection[str] = PARTS,
    show: Callable[[Figure], None] = lambda _: None,
) -> dict[str, Any]:
    """All figures over ``count`` scenes, with the settings of the ``examiner``, whose pipeline is that of ``model``.

    Args:
        only: the parts to measure, of ``PARTS``.
        show: is called with each figure as soon as it is there.
    """
    began = time.monotonic()
    parts: dict[str, Callable[[], list[Figure]]] = {
        "oracle": lambda: measure_oracle(count),
        "clip": lambda: measure_clip(min(256, count)),
        "single": lambda: examiner.single(count),
        "pairs": lambda: examiner.pairs(count),
        "boxes": lambda: examiner.boxes(count, True),
        "captions": lambda: examiner.boxes(count, False),
        "vae": lambda: measure_vae(Pipeline.from_pretrained(model), count),
    }
    figures = []
    for name in [part for part in PARTS if part in only]:
        for made in parts[name]():
            show(made)
            figures.append(made)
    backbone = examiner.pipeline.backbone
    sampling = examiner.sampling.completed(backbone).to_record()
    return {
        "model": redacted(model),
        "split": examiner.split,
        **{name: sampling[name] for name in ("steps", "guidance_scale", "guidance_interval")},
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "seconds": round(time.monotonic() - began, 1),
        "figures": [asdict(f) | {"verdict": f.verdict} for f in figures],
    }
