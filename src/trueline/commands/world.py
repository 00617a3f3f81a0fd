"""``trueline world``: make and measure the embedded world."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueline.commands._parser import Parser, add_flags, settings_of

ACTIONS = {
    "build": "make the world's files from nothing, stage by stage; a stage that is done is not done again",
    "report": "measure the trained world and write the numbers down",
}
USAGE = f"""usage: trueline world ACTION ...

actions:
  build   {ACTIONS["build"]}
  report  {ACTIONS["report"]}

`trueline world ACTION --help` tells more."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    action, *rest = arguments
    if action not in ACTIONS:
        raise ValueError(f"world: there is no action {action!r}; there are {', '.join(ACTIONS)}")
    (_build if action == "build" else _report)(rest)
    return 0


def build_parser() -> argparse.ArgumentParser:
    import torch

    from trueline.world.build import STAGES

    top = Parser(prog="trueline world build", description=f"{ACTIONS['build'].capitalize()}.")
    top.add_argument("--stage", action="append", choices=list(STAGES), help="only this stage (repeatable)")
    top.add_argument(
        "--folder", type=Path, default=Path("runs/world"), help="where stages work (default: %(default)s)"
    )
    top.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_flags(
        top,
        {
            "--smoke": "a few steps of every stage, to see that all of it runs",
            "--compile": "train the U-Net through torch.compile",
            "--again": "run a stage although it is done (from its checkpoint)",
            "--restore": "begin with the nets that ship: stages not begun count as done; train them further with "
            "--again",
            "--favour COLOUR=FACTOR": "draw scenes with this colour so much more often",
        },
    )
    numbers = {
        "--threads COUNT": "CPU threads",
        "--steps COUNT": "training steps, instead of the stage's own",
    }
    add_flags(top, numbers, type=int)
    add_flags(top, {"--lr RATE": "highest learning rate, instead of the stage's own"}, type=float)
    return top


def _build(arguments: Sequence[str]) -> None:
    import torch

    from trueline.commands._model import find_device
    from trueline.world.build import build_world
    from trueline.world.workspace import Workspace

    options = build_parser().parse_args(arguments)
    device = find_device(options.device)
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads: must be at least 1 (got {options.threads})")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    work = Workspace(
        options.folder,
        device,
        bool(options.smoke),
        bool(options.compile),
        options.steps,
        options.lr,
        _favour(options.favour) if options.favour else None,
    )
    build_world(work, options.stage or (), bool(options.again), bool(options.restore))


def _favour(text: str) -> tuple[str, float]:
    colour, _, factor = text.partition("=")
    try:
        return colour, float(factor)
    except ValueError:
        raise ValueError(f"--favour: give a factor above 0, as white=4 (got {text!r})") from None


def report_parser() -> argparse.ArgumentParser:
    from trueline.evaluation.world_report import PARTS, SPLIT, SPLITS

    top = Parser(prog="trueline world report", description=f"{ACTIONS['report'].capitalize()}.")
    top.add_argument("--model", default="world")
    top.add_argument(
        "--split", choices=SPLITS, default=SPLIT, help="scenes; tune on the one, report the other"
    )
    top.add_argument("--n", type=int, default=512, help="pictures for each figure (default: %(default)s)")
    top.add_argument("--steps", type=int, default=50)
    top.add_argument("--guidance-scale", type=float, help="default: the model's own")
    top.add_argument(
        "--guidance-interval", type=float, nargs=2, metavar=("START", "STOP"), help="default: the model's own"
    )
    top.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 where the processor has it"
    )
    top.add_argument("--out", type=Path, default=Path("results/world.json"))
    top.add_argument("--sheet", type=Path, help="also draw contact sheets of 64 prompts next to this path")
    top.add_argument("--only", nargs="*", choices=PARTS)
    return top


def _report(arguments: Sequence[str]) -> None:
    import torch

    from trueline.errors import redacted_arguments
    from trueline.evaluation.world_report import PARTS, Examiner, default_dtype, report
    from trueline.files import Folder, disk_full_said
    from trueline.models import checkpoint
    from trueline.sampling.options import Sampling
    from trueline.sampling.pipeline import Pipeline
    from trueline.sampling.records import commit

    options = report_parser().parse_args(arguments)
    checkpoint.check(options.model)
    if options.n < 1:
        raise ValueError(f"--n: must be at least 1 (got {options.n})")
    if options.out.is_dir():
        raise ValueError(f"--out: {options.out} is a folder; give a file, such as world.json")
    sampling = settings_of(options, Sampling)
    targets = [Folder(path.parent) for path in (options.out, options.sheet) if path is not None]
    dtype = options.dtype or default_dtype()
    pipe = Pipeline.from_pretrained(options.model, dtype=getattr(torch, dtype))
    examiner = Examiner(pipe, sampling, options.split)

    def show(figure: Any) -> None:
        print(
            f"{figure.name}: {figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}] n={figure.n}", flush=True
        )

    figures = report(options.model, examiner, options.n, options.only or PARTS, show)
    made = {
        "command": " ".join(["trueline world report", *redacted_arguments(arguments)]),
        "commit": commit(),
    }
    content = (json.dumps(made | figures, indent=1) + "\n").encode()
    targets[0].write(options.out.name, lambda file: file.write(content))
    if options.sheet:
        with disk_full_said(options.sheet):
            examiner.draw_sheets(64, options.sheet)
