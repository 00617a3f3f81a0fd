"""``trueline generate``: pictures from a prompt and boxes, or from a file of layouts, with a record of each.

Writes into --out, for each picture: NAME.png (its record is in the PNG's text too) and NAME.json (all that is
needed to make it again, and the hash of its pixels); for the run: run.json, state.json, progress and contact.png. The
same command goes on where one was stopped; several of them share the work.
"""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueline.commands._engine import add_engine, read_engine
from trueline.commands._methods import chosen
from trueline.commands._parser import DTYPES, SPARING, Parser, add_flags, add_settings, flag_of, settings_of
from trueline.commands._planners import PLANNERS, read_planning, split_all
from trueline.methods import METHODS
from trueline.sampling.options import Sampling

if TYPE_CHECKING:
    from trueline.layout import Layout, Region

EPILOG = """examples:
  trueline generate "a red apple to the left of a blue car" \\
      --box "a red apple@.05,.35,.40,.70" --box "a blue car@.55,.35,.95,.70"
  trueline generate --layout scenes.jsonl --model gligen --dtype bf16 --device cuda
  trueline generate "a red apple and a blue car" --realign
  trueline generate --regenerate out/0000-0.json"""

DEFAULTS = {"model": "world", "n": 1, "seed": 0, "dtype": "fp32", "batch_size": 16}
#: Flags that only --realign reads.
REALIGNING = ("realign_rounds", "realign_check", "tagger", "detector", "segmenter", "reasoner")
#: Argument of the library -> flag, where the names differ.
FLAGS = {
    **{"methods": "--method", "seeds": "--seed", "negative_prompt": "--negative"},
    **{"rounds": "--realign-rounds", "check": "--realign-check", "record": "--regenerate"},
}
GROUPS = (*METHODS, *PLANNERS)  #: names with settings of their own, --NAME.setting
#: What --regenerate does not take from the record.
UNRECORDED = ("regenerate", "out", "overlay", "quiet", "shard", "engine", "workers")
MAX_PICTURES_EACH = 1000  #: of one layout


def parser() -> argparse.ArgumentParser:
    """All flags. Defaults are None here and come from DEFAULTS, so that --regenerate sees what was given."""
    top = Parser(
        prog="trueline generate",
        description="Pictures from a prompt and boxes, or from a file of layouts.",
        epilog=EPILOG,
    )
    _what(top.add_argument_group("what to show"))
    _which_model(top.add_argument_group("with which model"))
    _how(top.add_argument_group("how to sample"))
    _realign(top.add_argument_group("how to draw again what is wrong (RealignDiff)"))
    group = top.add_argument_group("what to write")
    group.add_argument("--out", default="out", metavar="FOLDER", help="default: out")
    group.add_argument("--overlay", action="store_true", help="also NAME-overlay.png with boxes and phrases")
    shown = "also where each phrase looked: NAME-maps.png and NAME-maps.npz; one more pass in each step"
    group.add_argument("--maps", action="store_true", default=None, help=shown)
    group.add_argument("--quiet", action="store_true", help="no progress")
    add_flags(
        group, {"--overwrite": "remove the pictures of another run that FOLDER holds, which is refused else"}
    )
    add_engine(top.add_argument_group("who draws"), "draw this part only")
    return top


def _what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the picture shows")
    group.add_argument(
        "--box",
        action="append",
        metavar="PHRASE@X0,Y0,X1,Y1",
        help="one thing and its corners in 0..1 from the left and the top; repeat for more",
    )
    add_flags(
        group,
        {
            "--layout FILE": "instead of PROMPT: JSON Lines, one layout per line",
            "--planner NAME": "boxes for prompts that have none: rules, llm:MODEL, replay:FILE, or none (default: "
            "rules, where a method needs boxes and there are none); --llm.NAME VALUE sets it; see trueline plan",
            "--negative TEXT": "what the picture should not show",
            "--regenerate RECORD.json": "make a recorded picture again and compare",
        },
    )
    sides = {"--width PIXELS": "of the picture (default: the model's own)", "--height PIXELS": "the same"}
    add_flags(group, sides, type=int)


def _which_model(group: argparse._ArgumentGroup) -> None:
    add_flags(
        group,
        {
            "--model NAME": _default("model", "the model of the package, a diffusers folder, or a Hub id"),
            "--revision NAME": "commit, tag or branch of a Hub id",
            "--lora FILE|NAME": "a U-Net LoRA: safetensors, or with --model world a name",
            "--device NAME": "cpu, cuda, cuda:1, mps; default: cuda where there is one",
        },
    )
    group.add_argument("--dtype", choices=DTYPES, help=_default("dtype", "number format of the nets"))
    add_flags(group, SPARING)


def _how(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="see trueline methods; --NAME.scale 20 sets it; repeatable",
    )
    counts = {
        "--n COUNT": _default("n", "pictures of each layout"),
        "--seed SEED": _default("seed", "of the first of them, then seed+1, ..."),
        "--batch-size COUNT": _default("batch_size", "pictures at a time"),
    }
    add_flags(group, counts, type=int)
    add_settings(group, Sampling)


def _realign(group: argparse._ArgumentGroup) -> None:
    add_flags(
        group,
        {
            "--realign": "look at each picture and draw it again from the same noise, each phrase led to what was "
            "seen; --realign.NAME VALUE sets the method realign",
            "--realign-check": "with one round, too, draw again only what is not as the prompt says, and keep the "
            "better picture",
            "--tagger KIND[=CHECKPOINT]": "what names the things in a picture (default: world-seer for the model "
            "world, else noun-phrases)",
            "--detector KIND=CHECKPOINT": "what finds their boxes (default: world-seer for the model world)",
            "--segmenter KIND=CHECKPOINT": "what draws their masks, or none for the detector's own (default: "
            "world-seer for the model world)",
            "--reasoner NAME": "what each thing should be: rules or llm:MODEL (default rules); --llm.NAME VALUE "
            "sets it",
        },
    )
    rounds = (
        "draw again at most so often, every second time from other noise; look each time, stop when all is there, "
        "keep the best (default 1: once)"
    )
    add_flags(group, {"--realign-rounds COUNT": rounds}, type=int)


def _default(name: str, what: str) -> str:
    return f"{what} (default {DEFAULTS[name]})"


def main(arguments: Sequence[str]) -> int:
    rest, given, of_planners = split_all(arguments)
    options = parser().parse_args(rest)
    if options.regenerate is not None:
        _refuse_beside_record(options)
        from trueline.commands._regenerate import regenerate

        return regenerate(options)
    engine, shard = read_engine(options, "generate", arguments)
    layouts, settings = read_layouts(options), read_settings(options)
    sampling = settings_of(options, Sampling)
    if options.realign is None and (
        idle := [name for name in REALIGNING if getattr(options, name) is not None]
    ):
        raise ValueError(f"{flag_of(idle[0])}: belongs to --realign, which is not given")
    if options.realign and options.maps:
        raise ValueError("--maps: is of pictures that are drawn once; leave out --maps, or --realign")
    redrawing = None
    if options.realign:
        from trueline.commands._realign import read_realign

        redrawing = read_realign(options, settings, given, of_planners)
        settings["realign"] = redrawing.settings
    methods = chosen(options.method or [], given)
    planning = read_planning(layouts, methods, options.planner, of_planners)
    from trueline.commands._model import check_loading
    from trueline.commands._pictures import PictureRun, named
    from trueline.files import Folder
    from trueline.sampling.records import recorded_methods

    named(layouts, settings["n"], settings["seed"])
    Folder(options.out)
    looked = redrawing.models.items() if redrawing else ()
    check_loading(settings["model"], settings["device"], settings["lora"], looked)

    settings["methods"] = recorded_methods(methods)
    settings["planner"] = planning and {"name": planning.spec, "settings": of_planners}
    return PictureRun(
        options.out,
        layouts,
        sampling,
        settings,
        methods,
        engine,
        shard,
        planning,
        redrawing,
        overlay=options.overlay,
        quiet=options.quiet,
        overwrite=bool(options.overwrite),
    )()


def _refuse_beside_record(options: argparse.Namespace) -> None:
    given = [name for name, value in vars(options).items() if value is not None and name not in UNRECORDED]
    if given:
        flag = "PROMPT" if given[0] == "prompt" else flag_of(given[0])
        raise ValueError(f"--regenerate: the record says everything; leave {flag} out")


def read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the run: what was given, checked as far as that needs no model, and the defaults."""
    names = ("revision", "lora", "device", "offload", "vae_tiling", "maps", *DEFAULTS)
    settings = {name: getattr(options, name) for name in names}
    settings |= {name: value for name, value in DEFAULTS.items() if settings[name] is None}
    _check_range("--n", settings["n"], 1, MAX_PICTURES_EACH)
    _check_range("--batch-size", settings["batch_size"], 1, MAX_PICTURES_EACH)
    _check_range("--seed", settings["seed"], 0, 2**63 - 1)
    return settings


def _check_range(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{flag}: must be from {low} to {high} (got {value})")


def read_layouts(options: argparse.Namespace) -> "list[Layout]":
    """The layouts of the command line: one, of PROMPT and --box, or those of the file."""
    if (options.prompt is None) == (options.layout is None):
        raise ValueError(
            'PROMPT: give either a prompt or --layout FILE, as in trueline generate "a red apple"'
        )
    return [_one_layout(options)] if options.layout is None else _layout_file(options)


def _one_layout(options: argparse.Namespace) -> "Layout":
    from trueline.layout import Layout

    regions = [_region(text, number) for number, text in enumerate(options.box or [], start=1)]
    fields = {"prompt": options.prompt, "regions": regions, "negative_prompt": options.negative or ""}
    return Layout(**fields, width=options.width, height=options.height)


def _region(text: str, number: int) -> "Region":
    """The region of ``PHRASE@X0,Y0,X1,Y1``; the last @ counts, as a phrase may hold one."""
    from trueline.layout import Region

    phrase, at, corners = text.rpartition("@")
    numbers = [part.strip() for part in corners.split(",")]
    number_like = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
    if not at or len(numbers) != 4 or not all(number_like.fullmatch(part) for part in numbers):
        raise ValueError(f"--box {number}: write it as PHRASE@X0,Y0,X1,Y1 (got {text!r})")
    fields: dict[str, Any] = {"phrase": phrase, "box": [float(part) for part in numbers]}
    try:
        return Region(**fields)
    except ValueError as error:
        raise ValueError(f"--box {number} ({text!r}): {error}") from None


def _layout_file(options: argparse.Namespace) -> "list[Layout]":
    """The file's layouts; --width, --height and --negative hold for lines that say nothing of their own."""
    from trueline import layout as layouts_module

    if options.box:
        raise ValueError("--box: belongs to a PROMPT; in a layout file the boxes are its regions")
    try:
        layouts = layouts_module.read_layouts(options.layout)
    except OSError as error:
        raise ValueError(f"--layout: cannot read {options.layout} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"--layout: {error}") from None
    if not layouts:
        raise ValueError(f"--layout: {options.layout} holds no layout; write one JSON object a line")
    sizes = {"width": options.width, "height": options.height, "negative_prompt": options.negative}
    given = {name: value for name, value in sizes.items() if value is not None}
    completed = []
    for layout in layouts:
        missing = {name: value for name, value in given.items() if not getattr(layout, name)}
        completed.append(type(layout).from_record(layout.to_record() | missing))
    return completed
