"""``trueline world report``: is the world good enough to experiment on? Every figure with its interval.

Held-out scenes (split "held-out", never trained on), judged by the oracle. The figures go into a JSON file beside
the command, the commit and the seeds that made them; ``trueline results`` makes ``docs/results.md`` of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from trueline.layout import Layout, Region
from trueline.models.devices import fast_bfloat16
from trueline.perception import Detection
from trueline.pictures import contact_sheet
from trueline.sampling.pipeline import Pipeline
from trueline.world.captions import Caption, CaptionGroup, caption
from trueline.world.judge import accuracy, check, match
from trueline.world.oracle import detect
from trueline.world.scenes import Scene, Thing, make_scene, render

SPLIT = "held-out"
PARTS = ("vae", "clip", "oracle", "single", "pairs", "boxes", "captions")
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
    """The mean over all values of all groups (one group a scene) and its interval."""
    sums = np.array([(sum(g), len(g)) for g in groups if len(g)], dtype=float)
    draws = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    total = sums[draws].sum(1)
    low, high = np.quantile(total[:, 0] / total[:, 1], [0.025, 0.975])
    return Figure(
        name, float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high), int(sums[:, 1].sum())
    )


def layout_of(scene: Scene, prompt: str, boxes: bool) -> Layout:
    """The scene as a user would ask for it."""
    regions = [Region(t.phrase, t.box) for t in scene.things] if boxes else []
    return Layout(prompt, regions=regions, id=scene.id)


def full_prompt(things: Iterable[Thing]) -> str:
    """Every thing named in full: "a red apple and a blue striped car"."""
    return " and ".join(t.phrase for t in things)


def two_thing_scenes(count: int, split: str = SPLIT) -> list[Scene]:
    """Held-out scenes of two things with different names."""
    scenes = (make_scene(split, i, 2) for i in range(10 * count))
    return [s for s in scenes if s.things[0].name != s.things[1].name][:count]


@dataclass
class Examiner:
    """Draws pictures and lets the oracle look at them."""

    pipeline: Pipeline
    steps: int
    guidance_scale: float
    guidance_interval: Sequence[float] | None = None  #: None = the model's own
    split: str = SPLIT
    batch: int = 32

    def draw(self, layouts: list[Layout], title: str) -> list[Image.Image]:
        """One picture a layout, seeded by its place in the list."""
        pictures: list[Image.Image | None] = [None] * len(layouts)
        stream = self.pipeline.stream(
            layouts, seeds=list(range(len(layouts))), steps=self.steps, guidance_scale=self.guidance_scale,
            guidance_interval=self.guidance_interval, batch_size=self.batch, progress=False,
        )  # fmt: skip
        for picture in tqdm(stream, total=len(layouts), desc=title, disable=not sys.stderr.isatty()):
            pictures[picture.index] = picture.image
        return [p for p in pictures if p is not None]

    def see(self, layouts: list[Layout], title: str) -> list[list[Detection]]:
        return [detect(np.asarray(p)) for p in self.draw(layouts, title)]

    def single(self, count: int) -> list[Figure]:
        """One object, text only."""
        scenes = [make_scene(self.split, i, 1) for i in range(count)]
        seen = self.see([layout_of(s, s.things[0].phrase, False) for s in scenes], "one object")
        verdicts = [check(d, said_in_full(s)) for d, s in zip(seen, scenes, strict=True)]
        return [
            figure("single_object", [[v.object] for v in verdicts]),
            figure("single_object_and_colour", [[v.colour] for v in verdicts]),
            figure("single_texture", [[v.texture] for v in verdicts]),
            figure("single_count", [[v.count] for v in verdicts]),
        ]

    def pairs(self, count: int) -> list[Figure]:
        """Two different objects, text only; both must be right."""
        scenes = two_thing_scenes(count, self.split)
        seen = self.see([layout_of(s, full_prompt(s.things), False) for s in scenes], "two objects")
        verdicts = [check(d, said_in_full(s)) for d, s in zip(seen, scenes, strict=True)]
        return [
            figure("two_objects", [[v.object == 1] for v in verdicts]),
            figure("two_objects_and_colours", [[v.colour == 1] for v in verdicts]),
            figure("two_textures", [[v.texture == 1] for v in verdicts]),
        ]

    def boxes(self, count: int, given: bool) -> list[Figure]:
        """Held-out scenes of one to four things, with their captions; each box is judged at IoU >= 0.5."""
        scenes = [make_scene(self.split, i) for i in range(count)]
        layouts = [layout_of(s, caption(s).text, given) for s in scenes]
        seen = self.see(layouts, "grounded" if given else "captions")
        matches = [match(d, s.things) for d, s in zip(seen, scenes, strict=True)]
        name = "grounded" if given else "ungrounded"
        return [
            figure(f"{name}_object_and_colour", [[m.name and m.colour for m in ms] for ms in matches]),
            figure(f"{name}_object", [[m.name for m in ms] for ms in matches]),
            figure(f"{name}_texture", [[m.texture for m in ms] for ms in matches]),
            figure(f"{name}_box", [[m.found for m in ms] for ms in matches]),
            figure(f"{name}_iou", [[m.iou for m in ms] for ms in matches]),
        ]


def said_in_full(scene: Scene) -> Caption:
    """A caption object that says everything about every thing, whatever the words."""
    groups = tuple(
        CaptionGroup(t.name, t.colour, t.texture, (i,), (0, 0)) for i, t in enumerate(scene.things)
    )
    return Caption(full_prompt(scene.things), groups)


def judge_vae(pipeline: Pipeline, count: int) -> list[Figure]:
    from trueline.world.vae import psnr

    scenes = [make_scene(SPLIT, i) for i in range(count)]
    return [
        figure(
            "vae_psnr", [[v] for v in psnr(pipeline.backbone.vae.float(), scenes, pipeline.backbone.device)]
        )
    ]


def judge_clip(count: int) -> list[Figure]:
    """Retrieval of the caption of a picture, and of the phrase of a region, among ``count``."""
    from transformers import CLIPModel, CLIPTokenizer

    from trueline.world.clip import crop_box, retrieval

    folder = Path(str(files("trueline"))) / "world" / "weights" / "clip"
    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    scenes = [make_scene(SPLIT, i) for i in range(count)]
    pictures, said = np.stack([render(s) for s in scenes]), [caption(s).text for s in scenes]
    crops = np.stack([crop_box(p, s.things[0].box) for p, s in zip(pictures, scenes, strict=True)])
    phrases = [s.things[0].phrase for s in scenes]
    whole = retrieval(clip, tokenizer, pictures, said, said)
    region = retrieval(clip, tokenizer, crops, phrases, phrases)
    return [
        figure(f"clip_caption_among_{count}", [[float(v)] for v in whole]),
        figure(f"clip_phrase_among_{count}", [[float(v)] for v in region]),
    ]


def judge_oracle(count: int) -> list[Figure]:
    """The judge's own accuracy on renders."""
    rows = [accuracy([make_scene("oracle", i)]) for i in range(count)]
    found = [r for r in rows if r["miss"] < 1]
    named = [figure(f"oracle_{k}", [[r[k]] for r in found]) for k in ("name", "colour", "texture")]
    return [*named, *(figure(f"oracle_{k}", [[r[k]] for r in rows]) for k in ("miss", "false"))]


def sheet(examiner: Examiner, count: int, path: Path) -> None:
    """Random held-out prompts: the true scene, text only, and with boxes, three pictures side by side."""
    scenes = [make_scene("sheet", i) for i in range(count)]
    prompts = [caption(s).text for s in scenes]
    plain = examiner.draw(
        [layout_of(s, p, False) for s, p in zip(scenes, prompts, strict=True)], "sheet, text"
    )
    layouts = [layout_of(s, p, True) for s, p in zip(scenes, prompts, strict=True)]
    boxed = examiner.draw(layouts, "sheet, boxes")
    path.parent.mkdir(parents=True, exist_ok=True)
    for pictures, given, name in (
        (plain, [Layout(p) for p in prompts], "plain"),
        (boxed, layouts, "grounded"),
    ):
        drawn = contact_sheet(pictures, given, columns=8)
        drawn.convert("RGB").save(path.with_name(f"{path.stem}_{name}.png"), optimize=True)


def commit() -> str:
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("trueline world report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="world")
    parser.add_argument(
        "--split", choices=(SPLIT, "tune"), default=SPLIT, help="scenes; tune on the one, report the other"
    )
    parser.add_argument("--n", type=int, default=512, help="pictures a figure (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument(
        "--guidance-interval", type=float, nargs=2, metavar=("START", "STOP"), help="default: the model's own"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 where the processor has it"
    )
    parser.add_argument("--out", type=Path, default=Path("results/world.json"))
    parser.add_argument("--sheet", type=Path, help="also draw contact sheets of 64 prompts beside this path")
    parser.add_argument(
        "--only", nargs="*", choices=("vae", "clip", "oracle", "single", "pairs", "boxes", "captions")
    )
    arguments = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(arguments)
    began = time.monotonic()
    dtype = options.dtype or ("bfloat16" if fast_bfloat16(torch.device("cpu")) else "float32")
    pipeline = Pipeline.from_pretrained(options.model, dtype=getattr(torch, dtype))
    examiner = Examiner(
        pipeline, options.steps, options.guidance_scale, options.guidance_interval, options.split
    )
    parts = {
        "oracle": lambda: judge_oracle(options.n),
        "clip": lambda: judge_clip(min(256, options.n)),
        "single": lambda: examiner.single(options.n),
        "pairs": lambda: examiner.pairs(options.n),
        "boxes": lambda: examiner.boxes(options.n, True),
        "captions": lambda: examiner.boxes(options.n, False),
        "vae": lambda: judge_vae(Pipeline.from_pretrained(options.model), options.n),
    }
    figures = []
    for name, part in parts.items():
        if not options.only or name in options.only:
            figures += part()
            print(
                "\n".join(f"{f.name}: {f.mean:.3f} [{f.low:.3f}, {f.high:.3f}] n={f.n}" for f in figures),
                flush=True,
            )
    interval = options.guidance_interval or pipeline.backbone.guidance_interval
    result = {
        "command": " ".join(["trueline world report", *arguments]), "commit": commit(), "model": options.model,
        "split": options.split, "steps": options.steps, "guidance_scale": options.guidance_scale,
        "guidance_interval": list(interval), "dtype": dtype,
        "seconds": round(time.monotonic() - began, 1),
        "figures": [asdict(f) | {"verdict": f.verdict} for f in figures],
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.sheet:
        sheet(examiner, 64, options.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
