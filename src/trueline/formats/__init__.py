"""Layouts in the formats of others, to read and to write: one file and one line in ``FORMATS`` each.

``read("layouts.json", "gligen")`` gives layouts, ``write(layouts, "out.txt", "lmd")`` writes them. A format is
named, never guessed: the same four numbers are corners in one file and a corner and a size in the next. What the
target cannot hold is counted by its reason and said. Formats are facts; where each was read stands in the table.
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

#: What a layout may have beside regions with phrase and box, in the words in which its loss is said.
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
_ALL = tuple(EXTRAS)


@dataclass(frozen=True)
class Format:
    """One format. ``home``: module here with ``read(path, options)`` and ``write(layouts, path, options)``.

    ``does``: file, boxes. ``holds``: which of ``EXTRAS``. ``source``: where it was read. ``canvas``: pixels (width,
    height) that its boxes count where the file does not say and nobody else does. ``takes``: which of "names" (a list
    of classes) and "captions" reading or writing takes.
    """

    home: str
    does: str
    holds: tuple[str, ...]
    source: str
    canvas: tuple[int, int] | None = None
    takes: tuple[str, ...] = ()

    @property
    def lacks(self) -> list[str]:
        """What it cannot hold."""
        return [said for name, said in EXTRAS.items() if name not in self.holds]


_PEERS = ("prompt", "id")
_SQUARE = (512, 512)

FORMATS: dict[str, Format] = {
    "trueline": Format(
        "json_lines", "JSON Lines of trueline generate --layout; xyxy in 0..1", _ALL, "trueline.layout",
    ),
    "coco": Format(
        "coco", "folder with instances_X.json and captions_X.json; xywh in pixels of each picture",
        ("prompt", "size", "id", "mask"), "https://cocodataset.org/#format-data", _SQUARE, ("names", "captions"),
    ),
    "gligen": Format(
        "gligen", "JSON list of the entries of gligen_inference.py (phrases, locations); xyxy in 0..1", _PEERS,
        "gligen/GLIGEN@f9dccb9c6cf4 gligen_inference.py",
    ),
    "lmd": Format(
        "lmd", "text blocks of Caption, Objects, Background prompt, Negative prompt; xywh in pixels of 512x512",
        ("prompt", "negative_prompt"), "TonyLianLong/LLM-groundedDiffusion@cef2a9020460 prompt.py, utils/parse.py",
        _SQUARE,
    ),
    "lmd-cache": Format(
        "lmd_cache", "LMD's cache of answers, JSON {caption: [answer, ...]}; boxes as lmd",
        ("prompt", "negative_prompt"), "TonyLianLong/LLM-groundedDiffusion@cef2a9020460 cache/, generate.py",
        _SQUARE,
    ),
    "boxdiff": Format(
        "boxdiff", "JSON list of BoxDiff's flags (prompt, gligen_phrases, bbox, seeds); xyxy in pixels of 512x512",
        ("prompt", "seed"), "showlab/BoxDiff@045ba02a1d8c README.md", _SQUARE,
    ),
    "instancediffusion": Format(
        "instancediffusion", "JSON object a picture (caption, width, height, annos); xywh in pixels",
        ("prompt", "size", "id", "mask"), "frank-xwang/InstanceDiffusion@722900ef03e3 demos/, inference.py", _SQUARE,
    ),
    "layoutgpt-css": Format(
        "layoutgpt_css", "blocks of Prompt, Layout and CSS rules (left, top, width, height); pixels of 64x64",
        ("prompt",), "weixi-feng/LayoutGPT@fc3195496255 run_layoutgpt_2d.py, parse_llm_output.py", (64, 64),
    ),
    "layoutgpt-json": Format(
        "layoutgpt_json", "JSON list of LayoutGPT's llm_output (query_id, iter, prompt, object_list); xyxy in 0..1",
        _PEERS, "weixi-feng/LayoutGPT@fc3195496255 llm_output/",
    ),
    "yolo": Format(
        "yolo", "folder of labels/NAME.txt (class cx cy w h in 0..1) and data.yaml or classes.txt", ("id",),
        "https://docs.ultralytics.com/datasets/detect/", None, ("names",),
    ),
    "labelme": Format(
        "labelme", "JSON object a picture (shapes: rectangle, polygon, mask, ...); points in pixels", _ALL,
        "wkentaro/labelme@51e50e43067e labelme/_label_file.py", _SQUARE,
    ),
    "yxyx-1000": Format(
        "yxyx_1000", "Ideogram 4's JSON caption a picture (elements with bbox and desc); yxyx in 0..1000", _PEERS,
        "https://docs.ideogram.ai/prompting/json-prompting",
    ),
    "yxyx-1000-flux": Format(
        "yxyx_1000_flux", "FLUX.3's prompts, a line each: caption with <id>s, then a table of boxes; yxyx in 0..1000",
        ("prompt",), "diffusers 0.42.1 modular_pipelines/flux3/prompt_upsampler.py",
    ),
}  # fmt: skip

#: Formats whose file says the sizes, or has no use for one, when it is read.
_SIZED_BY_FILE = ("coco", "instancediffusion", "labelme")


def read(
    path: str | Path,
    format: str,
    *,
    size: tuple[int, int] | None = None,
    names: str | Path | None = None,
    captions: str | Path | None = None,
    tally: Tally | None = None,
) -> list[Layout]:
    """The layouts of a file or folder in that format.

    Args:
        format: a name of ``FORMATS``.
        size: pixels (width, height) that boxes count, where the format has no place to say it (``canvas``).
        names: file of class names (yolo): a name a line, YAML with ``names``, or COCO's categories.
        captions: captions_X.json (coco), where it is not beside instances_X.json.
        tally: counts what was left out or changed; None: that is one warning.

    Raises:
        ValueError: one sentence that names file, row, field and cure; also for an option of no use.
    """
    kind = format_of(format, "--from")
    if size is not None and (kind.canvas is None or format in _SIZED_BY_FILE):
        raise ValueError(f"--from-size: boxes of {format} do not depend on it; leave it out")
    _refuse_idle(format, names=names, captions=captions)
    from trueline.formats._conversion import Options, Tally

    if not Path(path).exists():
        raise ValueError(f"{path}: is not there; give the file or folder to read")
    counted = Tally() if tally is None else tally
    options = Options(format, size or kind.canvas, _path(names), _path(captions), counted)
    try:
        layouts = _module(kind).read(Path(path), options)
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
    kind = format_of(format, "--to")
    if size is not None and kind.canvas is None and format != "trueline":
        raise ValueError(f"--size: {format} has no place for it; leave it out")
    _refuse_idle(format, names=names)
    from trueline.formats._conversion import Options, Tally

    counted, known = Tally() if tally is None else tally, list(layouts)
    if not known:
        raise ValueError(f"{path}: there is no layout to write; give at least one")
    _count_lacking(known, format, kind, counted)
    options = Options(format, size, _path(names), None, counted, replace, strict)
    _module(kind).write(known, Path(path), options)
    if tally is None and counted.lost:
        warnings.warn(f"{path}: {format} cannot hold: {counted}", stacklevel=2)


def format_of(name: str, flag: str = "format") -> Format:
    """The format of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"{flag}: there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _module(kind: Format) -> ModuleType:
    return import_module(f"{__name__}.{kind.home}")


def _refuse_idle(format: str, **given: object) -> None:
    for option, value in given.items():
        if value is not None and option not in FORMATS[format].takes:
            takers = ", ".join(name for name, kind in FORMATS.items() if option in kind.takes)
            raise ValueError(f"--{option}: {format} takes none, only {takers}; leave it out")


def _count_lacking(layouts: Sequence[Layout], format: str, kind: Format, tally: Tally) -> None:
    """What the layouts have and the format has no place for."""
    from trueline.formats._conversion import PICTURE
    from trueline.formats._output import picture_of

    for number, layout in enumerate(layouts, start=1):
        where = f"layout {number}" + (f" ({layout.id})" if layout.id else "")
        sized = bool(layout.width or layout.height or "width" in picture_of(layout))
        has = {"prompt": True, "size": sized, "seed": layout.seed is not None, "id": layout.id is not None}
        has["negative_prompt"] = bool(layout.negative_prompt)
        for name, there in has.items():
            if there and name not in kind.holds:
                tally.lose(EXTRAS[name], where)
        for place, region in enumerate(layout.regions):
            for name in ("mask", "negative", "label"):
                if getattr(region, name) is not None and name not in kind.holds:
                    tally.lose(EXTRAS[name], f"{where}, regions[{place}]")
        own = (PICTURE, format.removesuffix("-cache"))
        if format != "trueline" and (strange := [key for key in layout.meta if key not in own]):
            tally.lose("meta", f"{where}, meta.{strange[0]}")
