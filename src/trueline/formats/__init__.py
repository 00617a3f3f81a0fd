"""Layouts in the formats of others, to read and to write: one file and one entry in ``FORMATS`` each.

``read("layouts.json", "gligen")`` gives layouts, ``write(layouts, "out.txt", "lmd")`` writes them. A format is
named, never guessed: the same four numbers are corners in one file and a corner and a size in the next. What the
target cannot hold is counted by its reason and reported. Where each format was read stands in the table.
Nothing here imports torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trueline.formats._conversion import Tally
    from trueline.layout import Layout

#: What a layout may have besides regions with phrase and box, in the words in which its loss is reported.
EXTRAS = {
    "prompt": "prompts",
    "negative_prompt": "negative prompts",
    "size": "sizes of pictures",
    "seed": "seeds",
    "id": "ids",
    "mask": "masks",
    "negative": "negatives of regions",
    "label": "labels of regions",
}


@dataclass(frozen=True)
class Format:
    """One format. Its module here has its name, with _ for -: ``FORM`` (what a file looks like, for messages),
    ``read(path, options)`` and ``write(layouts, path, options)``.

    ``contents``: file, boxes. ``source``: where it was read. ``holds``: which of ``EXTRAS``. ``canvas``: pixels
    (width, height) that its boxes count where neither the file nor the caller says. ``sized``: the file always says.
    ``takes``: which of "names" (a list of classes), "captions", "pictures" and "crowd" reading or writing takes.
    """

    contents: str
    source: str
    holds: tuple[str, ...]
    canvas: tuple[int, int] | None = None
    sized: bool = False
    takes: tuple[str, ...] = ()

    @property
    def lacks(self) -> list[str]:
        """What it cannot hold."""
        return [words for name, words in EXTRAS.items() if name not in self.holds]


FORMATS: dict[str, Format] = {
    "trueline": Format(
        "JSON Lines, one layout per line; xyxy in 0..1",
        "trueline.layout", tuple(EXTRAS)),
    "coco": Format(
        "folder with instances_X.json and captions_X.json; xywh in pixels of each picture",
        "https://cocodataset.org/#format-data",
        ("prompt", "size", "id", "mask"), (512, 512), sized=True, takes=("names", "captions", "pictures", "crowd")),
    "gligen": Format(
        "JSON list of the entries of gligen_inference.py (phrases, locations); xyxy in 0..1",
        "gligen/GLIGEN@f9dccb9c6cf4 gligen_inference.py", ("prompt", "id")),
    "lmd": Format(
        "text blocks of Caption, Objects, Background prompt, Negative prompt; xywh in pixels of 512x512",
        "TonyLianLong/LLM-groundedDiffusion@cef2a9020460 prompt.py, utils/parse.py",
        ("prompt", "negative_prompt"), (512, 512)),
    "lmd-cache": Format(
        "LMD's cache of answers, JSON {caption: [answer, ...]}; boxes as lmd",
        "TonyLianLong/LLM-groundedDiffusion@cef2a9020460 cache/, generate.py",
        ("prompt", "negative_prompt"), (512, 512)),
    "boxdiff": Format(
        "JSON list of BoxDiff's flags (prompt, gligen_phrases, bbox, seeds); xyxy in pixels of 512x512",
        "showlab/BoxDiff@045ba02a1d8c README.md", ("prompt", "seed"), (512, 512)),
    "instancediffusion": Format(
        "one JSON object per picture (caption, width, height, annos); xywh in pixels",
        "frank-xwang/InstanceDiffusion@722900ef03e3 demos/, inference.py",
        ("prompt", "size", "id", "mask"), (512, 512), sized=True),
    "layoutgpt-css": Format(
        "blocks of Prompt, Layout and CSS rules (left, top, width, height); pixels of 64x64",
        "weixi-feng/LayoutGPT@fc3195496255 run_layoutgpt_2d.py, parse_llm_output.py", ("prompt",), (64, 64)),
    "layoutgpt-json": Format(
        "JSON list of LayoutGPT's llm_output (query_id, iter, prompt, object_list); xyxy in 0..1",
        "weixi-feng/LayoutGPT@fc3195496255 llm_output/", ("prompt", "id")),
    "yolo": Format(
        "folder of labels/NAME.txt (class cx cy w h in 0..1) and data.yaml or classes.txt",
        "https://docs.ultralytics.com/datasets/detect/", ("id",), takes=("names", "pictures")),
    "labelme": Format(
        "one JSON object per picture (shapes: rectangle, polygon, mask, ...); points in pixels",
        "wkentaro/labelme@51e50e43067e labelme/_label_file.py", tuple(EXTRAS), (512, 512), sized=True,
        takes=("pictures",)),
    "yxyx-1000": Format(
        "Ideogram 4's JSON caption of each picture (elements with bbox and desc); yxyx in 0..1000",
        "https://docs.ideogram.ai/prompting/json-prompting", ("prompt", "id")),
    "yxyx-1000-flux": Format(
        "FLUX.3's prompts, one per line: caption with <id>s, then a table of boxes; yxyx in 0..1000",
        "diffusers 0.42.1 modular_pipelines/flux3/prompt_upsampler.py", ("prompt",)),
}  # fmt: skip


def read(
    path: str | Path,
    format: str,
    *,
    size: tuple[int, int] | None = None,
    names: str | Path | None = None,
    captions: str | Path | None = None,
    pictures: str | Path | None = None,
    crowd: bool | None = None,
    tally: Tally | None = None,
) -> list[Layout]:
    """The layouts of a file or folder in that format. Where the picture of one is found its path is
    ``meta["picture"]["image"]``, which ``write`` makes "image" of a line of trueline's.

    Args:
        format: a name of ``FORMATS``.
        size: pixels (width, height) that boxes count, where the format has no place to say it (``canvas``).
        names: file of class names (yolo): one per line, YAML with ``names``, or COCO's categories.
        captions: captions_X.json (coco), where it is not beside instances_X.json.
        pictures: folder of the pictures (coco, yolo, labelme), where they are not beside the file.
        crowd: keep regions that are marked as crowds (coco); some tools mark every mask as one. None: False.
        tally: counts what was left out or changed; None: that is one warning.

    Raises:
        ValueError: one sentence that names file, row, field and cure; also for an option of no use.
    """
    kind = format_of(format)
    if size is not None and (kind.canvas is None or kind.sized):
        raise ValueError(f"size: boxes of {format} do not depend on it; leave it out")
    _refuse_idle(format, names=names, captions=captions, pictures=pictures, crowd=crowd)
    from trueline.formats._conversion import Options, Tally

    if not Path(path).exists():
        raise ValueError(f"{path}: is not there; give the file or folder to read")
    if pictures is not None and not Path(pictures).is_dir():
        raise ValueError(f"pictures: {pictures} is no folder; give the one that holds the pictures")
    counted = Tally() if tally is None else tally
    module = _module(format)
    options = Options(format, module.FORM, size or kind.canvas, _path(names), _path(captions), counted)
    options.pictures, options.crowd = _path(pictures), bool(crowd)
    try:
        layouts = [layout for layout in module.read(Path(path), options) if layout is not None]
    except OSError as error:
        raise ValueError(f"{error.filename or path}: cannot read it ({error.strerror})") from None
    except OverflowError:  # a whole number beyond any float, where a parser of ours met it
        raise ValueError(f"{path}: holds a number that is too large; correct it") from None
    if tally is None and counted.lost:
        warnings.warn(f"{path}: {counted}", stacklevel=2)
    return layouts


def write(
    layouts: Iterable[Layout],
    path: str | Path,
    format: str,
    *,
    size: tuple[int, int] | None = None,
    names: str | Path | None = None,
    replace: bool = False,
    strict: bool = False,
    tally: Tally | None = None,
) -> None:
    """Write layouts as a file or folder of that format. Each file appears whole or not at all.

    Args:
        format: a name of ``FORMATS``.
        size: pixels (width, height) that boxes count; None: each layout's own, or the format's ``canvas``.
        names: file of the only class names to use (yolo, coco); None: every phrase is a class.
        replace: write over what is there.
        strict: refuse to lose anything, counted in ``tally`` so far or while writing.
        tally: counts what the format cannot hold; None: that is one warning.

    Raises:
        ValueError: in one sentence: no layout, text that the format cannot hold, a loss with ``strict``, a file that
            is there already or cannot be written.
    """
    kind = format_of(format)
    if size is not None and kind.canvas is None and format != "trueline":
        raise ValueError(f"size: {format} has no place for it; leave it out")
    _refuse_idle(format, names=names)
    from trueline.formats._conversion import Options, Tally

    counted, known = Tally() if tally is None else tally, list(layouts)
    if not known:
        why = f" (of what was read, {counted})" if counted.lost else ""
        raise ValueError(f"{path}: there is no layout to write{why}; give at least one")
    _count_lacking(known, format, kind, counted)
    module = _module(format)
    options = Options(format, module.FORM, size, _path(names), None, counted, replace, strict)
    module.write(known, Path(path), options)
    if tally is None and counted.lost:
        warnings.warn(f"{path}: {format} cannot hold: {counted}", stacklevel=2)


def format_of(name: str) -> Format:
    """The format of that name.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"format: there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _module(format: str) -> ModuleType:
    return import_module(f"{__name__}.{format.replace('-', '_')}")


def _refuse_idle(format: str, **given: object) -> None:
    for option, value in given.items():
        if value is not None and option not in FORMATS[format].takes:
            takers = ", ".join(name for name, kind in FORMATS.items() if option in kind.takes)
            raise ValueError(f"{option}: {format} takes none, only {takers}; leave it out")


def _count_lacking(layouts: Sequence[Layout], format: str, kind: Format, tally: Tally) -> None:
    """What the layouts have and the format has no place for."""
    from trueline.formats._conversion import PICTURE
    from trueline.formats._output import picture_of

    for number, layout in enumerate(layouts, start=1):
        where = f"layout {number}" + (f" ({layout.id})" if layout.id else "")
        sized = bool(layout.width or layout.height or "width" in picture_of(layout))
        has = {"prompt": True, "size": sized, "seed": layout.seed is not None, "id": layout.id is not None}
        has["negative_prompt"] = bool(layout.negative_prompt)
        for name, present in has.items():
            if present and name not in kind.holds:
                tally.lose(EXTRAS[name], where)
        for place, region in enumerate(layout.regions):
            for name in ("mask", "negative", "label"):
                if getattr(region, name) is not None and name not in kind.holds:
                    tally.lose(EXTRAS[name], f"{where}, regions[{place}]")
        own = (PICTURE, format.removesuffix("-cache"))
        if format != "trueline" and (strange := [key for key in layout.meta if key not in own]):
            tally.lose("meta", f"{where}, meta.{strange[0]}")
