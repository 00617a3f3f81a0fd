"""``trueline evaluate``: draw what a benchmark asks for, look at it, and write the table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from trueline.evaluation.plan import Wanted
    from trueline.evaluation.report import Shot
    from trueline.evaluation.run import Run, Seen
    from trueline.folder import Folder

BENCHMARKS = {
    "world": "held-out scenes of the embedded world, judged by its oracle and its CLIP",
    "nsr-1k-layout": "plans (boxes, no pictures) for NSR-1K's prompts; needs --data and --planner",
}
METHODS = ("plain", "gligen")
EPILOG = """methods:
  plain   the words only
  gligen  words and boxes, through the model's grounding layers

A run that was stopped goes on when the same command is given again.

examples:
  trueline evaluate world --methods plain gligen --n 256 --out out/world
  trueline evaluate nsr-1k-layout --data DIR --planner replay:gpt4.json replay:gpt4.spatial.json"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage that argparse prints before it."""
        raise ValueError(f"{message.removeprefix('argument ')}; see trueline evaluate --help")


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="trueline evaluate", description="Draw what a benchmark asks for, look at it, and write the table.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    top.add_argument("benchmark", metavar="BENCHMARK", choices=BENCHMARKS, help=" | ".join(BENCHMARKS))
    what = top.add_argument_group("what to draw")
    what.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    what.add_argument("--n", type=int, metavar="COUNT", help="prompts (default: all)")
    what.add_argument(
        "--images-per-prompt", type=int, metavar="COUNT", help="default: as many as seeds, or 1"
    )
    what.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED", help="default: 0, 1, ... one per picture"
    )
    what.add_argument("--data", metavar="DIR", help="the benchmarks' files (or TRUELINE_DATA)")
    what.add_argument("--planner", nargs="+", metavar="replay:FILE", help="published layouts to score")
    what.add_argument(
        "--mode", choices=("official", "fixed"), default="official", help="rules (default official)"
    )
    how = top.add_argument_group("how")
    how.add_argument("--model", default="world", help="the package's model, a folder, or a Hub id")
    how.add_argument("--steps", type=int, default=50, help="default 50")
    how.add_argument("--guidance-scale", type=float, default=4.0, metavar="W", help="default 4")
    how.add_argument("--scheduler", default="ddim", metavar="NAME")
    how.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="bf16", help="default bf16")
    how.add_argument("--device", help="default: cuda where there is one")
    how.add_argument("--batch-size", type=int, default=16, metavar="COUNT", help="default 16")
    how.add_argument("--shard", default="1/1", metavar="I/N", help="draw and look at this part only")
    top.add_argument("--out", default="out/evaluation", metavar="FOLDER", help="default out/evaluation")
    top.add_argument("--quiet", action="store_true", help="no progress bar")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    command = " ".join(["trueline evaluate", *arguments])
    if options.benchmark == "nsr-1k-layout":
        return _plans(options, command)
    return _pictures(options, command)


def read_seeds(options: argparse.Namespace) -> tuple[int, ...]:
    """One seed per picture of a prompt."""
    given, copies = options.seeds, options.images_per_prompt
    if copies is not None and copies < 1:
        raise ValueError(f"--images-per-prompt: must be at least 1 (got {copies})")
    if given is None:
        return tuple(range(copies or 1))
    if copies not in (None, len(given)):
        raise ValueError(f"--seeds: give one per picture of a prompt ({copies}), got {len(given)}")
    if len(set(given)) < len(given) or min(given) < 0:
        raise ValueError("--seeds: must be different and not negative")
    return tuple(given)


def _pictures(options: argparse.Namespace, command: str) -> int:
    if options.planner:
        raise ValueError("--planner: belongs to nsr-1k-layout; this benchmark brings its own boxes")
    seeds = read_seeds(options)
    from trueline.benchmarks.world import World
    from trueline.evaluation.plan import Shard
    from trueline.evaluation.run import Run, Settings

    settings = Settings(
        options.benchmark, options.model, options.n, seeds, options.steps, options.guidance_scale,
        options.scheduler, options.dtype, options.batch_size,
    )  # fmt: skip
    run = Run(Path(options.out), World(), settings, Shard.parse(options.shard))
    seen = _seen(run, options)
    if run.shard.count > 1:
        print(f"shard {run.shard} is done in {run.out}; give the command without --shard when all are")
        return 0
    return _report(run, seen, command)


def _seen(run: "Run", options: argparse.Namespace) -> "dict[str, list[Seen]]":
    from trueline.commands._model import load, warnings_as_lines
    from trueline.evaluation.run import REFERENCE, ROUND_TRIP
    from trueline.evaluation.world_judge import WorldJudge

    drawn = [*dict.fromkeys(options.methods), ROUND_TRIP]
    with warnings_as_lines():
        if any(run.missing(method) for method in drawn):
            loading: dict[str, Any] = {"model": options.model, "revision": None, "lora": None}
            pipe = load(loading | {"dtype": options.dtype, "device": options.device})
            for method in drawn:
                run.draw(method, pipe, not options.quiet)
        judge = WorldJudge(run.benchmark)  # type: ignore[arg-type]
        return {m: run.look(m, judge, not options.quiet) for m in (*drawn[:-1], REFERENCE, ROUND_TRIP)}


def _report(run: "Run", seen: "dict[str, list[Seen]]", command: str) -> int:
    from trueline.evaluation.figures import Context, rows
    from trueline.evaluation.report import write_report
    from trueline.evaluation.world_judge import WorldJudge

    settings = run.settings
    context = Context(
        settings.benchmark, settings.model, settings.seeds, WorldJudge.protocol, command, _commit()
    )
    pictures = [picture for batch in run.batches for picture in batch]
    table = rows(pictures, seen, context)
    text = _write(run.folder, table)
    shots = _shots(run, pictures, seen)
    write_report(run.out / "report.html", f"Trueline: {settings.benchmark}", table, shots)
    print(text)
    print(
        f"{len(run.pictures)} pictures a method in {run.out}; all of it to look at: {run.out / 'report.html'}"
    )
    return _judged(table)


def _write(folder: "Folder", table: list[dict[str, Any]]) -> str:
    """results.json and results.md; returns the latter."""
    from trueline.evaluation.tables import markdown

    text = markdown(table)
    folder.write_json("results.json", table)
    folder.write("results.md", lambda file: file.write(text.encode()))
    return text


def _shots(run: "Run", pictures: "Sequence[Wanted]", seen: "dict[str, list[Seen]]") -> "list[Shot]":
    """The pictures of the methods that draw, with what the judge saw in them."""
    from trueline.evaluation.figures import ratio_names
    from trueline.evaluation.report import Shot
    from trueline.evaluation.run import REFERENCE, ROUND_TRIP
    from trueline.perception import Detection

    shots = []
    for method in seen:
        if method in (REFERENCE, ROUND_TRIP):
            continue
        for picture, each in zip(pictures, seen[method], strict=True):
            asked = {name: each[name] for name in ratio_names(each) if each[name][1] > 0}
            things = zip(each["words"], each["boxes"], each["scores"], strict=True)
            detections = [
                Detection(str(name), _corners(box), float(score), str(colour), str(texture))
                for (name, colour, texture), box, score in things
            ]
            example = picture.example
            shots.append(
                Shot(
                    example.id, example.category, example.prompt, method, picture.seed, run.path(method, picture),
                    example.layout, {name: float(top / bottom) for name, (top, bottom) in asked.items()}, detections,
                )
            )  # fmt: skip
    return shots


def _corners(box: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1


def _judged(table: list[dict[str, Any]]) -> int:
    """1 and a warning when the judge itself is not sure enough on the benchmark's own pictures."""
    least = {("reference", 0.99), ("reference-vae", 0.97)}
    short = [
        f"{row['metric']} {row['value']:.3f} on {method} (asked: {bound})"
        for method, bound in sorted(least)
        for row in table
        if row["method"] == method and not row["category"] and row["value"] < bound
        and row["metric"] in ("object_accuracy", "color_accuracy", "texture_accuracy")
    ]  # fmt: skip
    if short:
        print(f"trueline: warning: the judge errs: {'; '.join(short)}", file=sys.stderr)
    return 1 if short else 0


def _commit() -> str:
    import subprocess

    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _plans(options: argparse.Namespace, command: str) -> int:
    from trueline.evaluation.plans import score_plans
    from trueline.folder import Folder

    if not options.planner:
        raise ValueError(
            "--planner: give published layouts to score, as replay:FILE (counting, spatial, or both)"
        )
    files = []
    for planner in options.planner:
        kind, colon, file = planner.partition(":")
        if kind != "replay" or not (colon and file):
            raise ValueError(f"--planner: write it as replay:FILE (got {planner!r})")
        files.append(Path(file))
    table = score_plans(files, options.data, options.mode, command, _commit())
    print(_write(Folder(options.out), table))
    return 0
