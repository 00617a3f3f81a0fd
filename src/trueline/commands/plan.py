"""``trueline plan``: from prompts to layouts, as JSON Lines, and a drawing of their boxes. Loads no torch.

Layouts go to stdout or --out, everything that is said about them to stderr. A prompt that cannot be planned does not
cost the others: it is said, and the exit code is 1 (2 when none could be). It is also 1 when more than 5% of the
layouts are by a stand-in: the rules, where a language model made no plan.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trueline.commands._methods import split_settings
from trueline.commands._parser import Parser, add_flags
from trueline.commands._planners import PLANNERS, PLANS, make_chosen, not_as_asked, say

if TYPE_CHECKING:
    from trueline.files import Folder
    from trueline.layout import Layout
    from trueline.planner import Planner

EPILOG = """planners:
  rules         grammar and geometry: no model, the same boxes every time; rules:coco for things of COCO's
                80 categories only
  llm:MODEL     a language model behind an OpenAI-style address (--llm.base_url URL, or OPENAI_BASE_URL), or
                transformers=FOLDER; --llm.style css, --llm.k, --llm.timeout, --llm.cache set it
  replay:FILE   layouts of a file, by their prompts

examples:
  trueline plan "three cats and a red chair" --draw boxes.png
  trueline plan --file prompts.txt --out layouts.jsonl && trueline generate --layout layouts.jsonl"""

GROUPS = PLANNERS  #: names with settings of their own, --NAME.setting
STDIN = "-"
SIDE = 512  #: pixels of a drawing whose layout says no size
PAPER = (246, 246, 244)
MAX_ON_SHEET = 64  #: plans; a sheet of more is too large to be looked at


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline plan",
        description="Layouts (boxes with phrases) for prompts, as JSON Lines.",
        epilog=EPILOG,
    )
    top.add_argument("prompt", nargs="*", metavar="PROMPT", help="what the picture shows")
    top.add_argument("--planner", default="rules", metavar="NAME", help="default rules; see below")
    files = {
        "--file FILE": "more prompts, one per line; - is the standard input",
        "--draw PATH": "the boxes as a picture: FILE.png for all, or a folder with one of each",
        "--out FILE": "default: the standard output",
    }
    numbers = {
        "--seed SEED": "another variation of the layouts (default: the usual one)",
        "--width PIXELS": "of the picture (default: square)",
        "--height PIXELS": "the same",
    }
    add_flags(top, files)
    add_flags(top, numbers, type=int)
    return top


def main(arguments: Sequence[str]) -> int:
    arguments, given = split_settings(arguments, PLANNERS, ("planner",))
    options = parser().parse_args(arguments)
    prompts = read_prompts(options)
    _check(options)
    (planner,) = make_chosen([options.planner], given)
    layouts, lines = [], []
    for layout in _planned(planner, prompts, options):
        layouts.append(layout)
        lines.append(json.dumps(layout.to_record(), ensure_ascii=False) + "\n")
        if options.out is None:
            print(lines[-1], end="", flush=True)
    if not layouts:
        return 2
    if options.out is not None:
        from trueline.files import write_text

        write_text(options.out, "".join(lines))
    if options.draw is not None:
        _draw(layouts, Path(options.draw))
    from trueline.chat.answered import Answered
    from trueline.planner.layouts import planned_by

    answered = Answered.of(planner.name, map(planned_by, layouts))
    _conclude(layouts, len(prompts), options, answered.told)
    return not_as_asked({PLANS: answered}) or (0 if len(layouts) == len(prompts) else 1)


def read_prompts(options: argparse.Namespace) -> list[str]:
    """Those of the command line, then those of the file."""
    prompts = list(options.prompt)
    if options.file is not None:
        prompts += _lines(options.file)
    if not prompts:
        where = f"{options.file} holds no prompt" if options.file else "give a prompt or --file FILE"
        raise ValueError(f'PROMPT: {where}, as in trueline plan "two cats and a chair"')
    return prompts


def _lines(file: str) -> list[str]:
    """Bytes that are no UTF-8 become surrogates, which a layout refuses: that prompt alone is lost."""
    from trueline.layout import lines_of

    try:
        return [line.strip() for _, line in lines_of(0 if file == STDIN else file) if line.strip()]
    except OSError as error:
        raise ValueError(f"--file: cannot read {file} ({error.strerror})") from None


def _check(options: argparse.Namespace) -> None:
    """What can be refused before any time (or money) is spent on planning."""
    from trueline.files import Folder
    from trueline.layout import MAX_SEED, Layout

    Layout("a", width=options.width, height=options.height)
    if options.seed is not None and not 0 <= options.seed <= MAX_SEED:
        raise ValueError(f"--seed: must be from 0 to {MAX_SEED} (got {options.seed})")
    if options.out is not None and Path(options.out).is_dir():
        raise ValueError(f"--out: {options.out} is a folder; give a file, such as layouts.jsonl")
    drawn = None if options.draw is None else Path(options.draw)
    if drawn is not None and not _is_folder(drawn) and drawn.suffix.lower() != ".png":
        raise ValueError(f"--draw: give FILE.png, or a folder (got {options.draw!r})")
    if options.out is not None:
        Folder(Path(options.out).parent)
    if drawn is not None:
        _folder_of(drawn)


def _planned(planner: "Planner", prompts: Sequence[str], options: argparse.Namespace) -> "Iterator[Layout]":
    """A layout for each prompt that can be planned; the others, and all notes, are said."""
    from trueline.planner.layouts import notes_of, plan

    for place, prompt in enumerate(prompts):
        try:
            layout = plan(prompt, planner, width=options.width, height=options.height, seed=options.seed)
        except (ValueError, OSError) as error:
            say(prompt, place, f"not planned: {error}")
            continue
        for note in notes_of(layout):
            say(prompt, place, note)
        yield layout.model_copy(update={"id": f"{place:04d}"}) if len(prompts) > 1 else layout


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _folder_of(path: Path) -> "Folder":
    from trueline.files import Folder

    try:
        return Folder(path if _is_folder(path) else path.parent)
    except ValueError as error:
        raise ValueError(f"--draw{str(error).removeprefix('out')}") from None


def _draw(layouts: "Sequence[Layout]", path: Path) -> None:
    """The boxes on paper: a picture of each in a folder, or all in one file."""
    from PIL import Image

    from trueline.pictures import contact_sheet, overlay

    papers = [Image.new("RGB", (layout.width or SIDE, layout.height or SIDE), PAPER) for layout in layouts]
    folder = _folder_of(path)
    if _is_folder(path):
        for paper, layout in zip(papers, layouts, strict=True):
            folder.write_png(f"{layout.id or 'plan'}.png", overlay(paper, layout))
        return
    shown = layouts[:MAX_ON_SHEET]
    sheet = overlay(papers[0], shown[0]) if len(shown) == 1 else contact_sheet(papers[:MAX_ON_SHEET], shown)
    folder.write_png(path.name, sheet)
    if len(shown) < len(layouts):
        print(f"trueline: --draw: the first {len(shown)} of {len(layouts)} are in {path}", file=sys.stderr)


def _conclude(layouts: "Sequence[Layout]", asked: int, options: argparse.Namespace, told: str) -> None:
    """What became of many prompts, or went to files. ``told``: how many of the plans are a stand-in's."""
    if asked == 1 and options.out is None:
        return
    boxes = sum(len(layout.regions) for layout in layouts)
    where = f" in {options.out}" if options.out is not None else ""
    noun = "layout" if asked == 1 else "layouts"
    count = f"{len(layouts)} of {asked} {noun}" if len(layouts) < asked else f"{asked} {noun}"
    others = f"; {told}" if told else ""
    print(f"trueline: {count}, {boxes} boxes{where}{others}", file=sys.stderr)
