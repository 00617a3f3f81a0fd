"""GOAL's Tables 1, 3, 5, 6 and 7 on the embedded world, every training with three seeds.

    python studies/goal_tables.py --dry-run
    python studies/goal_tables.py --results results/goal.json

Table 1: plain, GLIGEN, the control, GOAL. Table 3: GOAL and the methods that train nothing, with their seconds per
picture. Table 5: the losses, each alone; "L_LDM" is the control: the same data, noise and timesteps without them.
Table 6: regions or whole pictures. Table 7: where MAAlign looks. Columns, by the oracle, on the prompts of the
world's benchmark that are about it, up to 100 each: colour, object (for shape), texture, spatial, count, complex.

Steps: data (GOAL2K-world: 2,000 items by `trueline dataset build`), train (LoRAs), draw, judge, time, tables; and
sweep, sweep-tables where --only names them: weights of the two losses, one training seed, on the split "tune". It
chooses nothing: give what it shows to be good as --dsa and --maa.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import LORA_FILE, STEP_SECONDS, Job, Row, Study, Training, base_parser, cost, entry, run
from _sweep import sweep_of, sweep_steps
from _tables import (
    CLIP,
    FID,
    IOU,
    OFF,
    ORACLE,
    REGION_CLIP,
    REGION_FID,
    SHAPE,
    WHOLE,
    Column,
    Pictures,
    Table,
    table_rows,
    write,
)

from trueline.errors import redacted_arguments

ABOUT = (
    Column("colour", "color_accuracy", categories=("color",)),
    Column("object (shape)", "object_accuracy", categories=("object",)),
    Column("texture", "texture_accuracy", categories=("texture",)),
    Column("spatial", "relation_accuracy", categories=("spatial",)),
    Column("count", "count_accuracy", categories=("counting",)),
    Column("complex", "prompt_accuracy", categories=("complex",)),
)
#: The same on all prompts: more pictures for each.
ALL = tuple(Column(f"{column.name}, all prompts", column.metric) for column in ORACLE[:3])
COLUMNS = (*ABOUT, *ALL, WHOLE, SHAPE, OFF, IOU, FID, REGION_FID, CLIP, REGION_CLIP)
SWEPT = (*ORACLE, WHOLE, SHAPE, OFF, IOU, FID, REGION_FID, CLIP, REGION_CLIP)
#: Training -> its row, and what it sets over configs/goal_world.yaml.
TRAININGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ldm": ("L_LDM (control)", ("objective.dsa=0", "objective.maa=0")),
    "maa": ("L_LDM + L_MAA", ("objective.dsa=0",)),
    "dsa": ("L_LDM + L_DSA", ("objective.maa=0",)),
    "full": ("GOAL", ()),
    "local": ("D_local only", ("objective.dsa_global=false",)),
    "global": ("D_global only", ("objective.dsa_local=false",)),
    "mid4": ("middle, 4 x 4", ("objective.place=mid", "objective.cells=4")),
    "up4": ("decoder, 4 x 4", ("objective.cells=4",)),
    "up8": ("decoder, 8 x 8", ("objective.cells=8",)),
    "paper": ("GOAL, the paper's weights", ("objective.dsa=1e-2", "objective.maa=1e-3")),
}
#: Strengths as chosen on the split "tune" (docs/results_methods.md). The paper's Table 3 has some without GLIGEN.
FREE = (
    "structured",
    "boxdiff@strength=.3,refinements=5",
    "attend-and-excite@refinements=5",
    "attention-refocusing@strength=.3",
    "gligen+boxdiff@strength=.3,refinements=5",
    "gligen+attention-refocusing@strength=.3",
    "gligen+layout-guidance@strength=3",
)
#: Weights of L_DSA and L_MAA that are swept; the first pair is the paper's.
WEIGHTS = (("1e-2", "1e-3"), ("1e-1", "1e-2"), ("1", "1e-1"), ("1", "0"), ("0", "1e-1"))
ITEMS = 2000  #: of GOAL2K
MERGED = "GOAL, merged"  #: its LoRA added to the weights: what sampling costs with the trained model
SECONDS = "seconds_ratio"
#: CPU seconds of a step of eight pictures, measured: with DSAlign, which decodes and looks, and without.
STEP_OF_8, STEP_BLIND = 2.2, 0.75


def parser() -> argparse.ArgumentParser:
    top = base_parser("goal_tables.py", __doc__ or "", seeds=3, images=1)
    ours = top.add_argument_group("GOAL")
    ours.add_argument(
        "--data", metavar="SOURCE", help="to train on, such as world; default: OUT/data, made by step data"
    )
    ours.add_argument(
        "--items", type=int, default=ITEMS, metavar="COUNT", help="of step data (default %(default)s)"
    )
    ours.add_argument(
        "--tries", type=int, default=8, metavar="COUNT", help="seeds for an item (default %(default)s)"
    )
    ours.add_argument(
        "--labels",
        choices=("phrase", "name"),
        default="phrase",
        help='what the boxes are called, in training and in all rows: "a red apple", or "an apple", so that the '
        "colour is for the caption alone to say (default %(default)s)",
    )
    ours.add_argument("--dsa", metavar="WEIGHT", help="of L_DSA where it counts (default: the paper's .01)")
    ours.add_argument("--maa", metavar="WEIGHT", help="of L_MAA where it counts (default: the paper's .001)")
    ours.add_argument(
        "--sweep-n", type=int, default=120, metavar="COUNT", help="prompts of the sweep (default %(default)s)"
    )
    ours.add_argument("--lora", type=int, default=16, metavar="RANK", help="default %(default)s")
    ours.add_argument(
        "--repeats", type=int, default=3, metavar="COUNT", help="timings of a row (default %(default)s)"
    )
    return top


def training_of(options: argparse.Namespace, name: str, settings: Sequence[str]) -> Training:
    """A LoRA on the study's data. Losses that ``settings`` do not switch off have the weights of the options."""
    data = options.data or str(Path(options.out) / "data" / "set" / "data.jsonl")
    given = {"objective.dsa": options.dsa, "objective.maa": options.maa}
    weights = (f"{key}={value}" for key, value in given.items() if value is not None)
    own = (*weights, *settings)  # the later one counts
    labels = (f"data.labels={options.labels}",) if options.labels != "phrase" else ()
    chosen = (*labels, f"lora={options.lora}", f"data.cache={Path(options.out) / 'cache'}", *own)
    return Training(
        name,
        "goal",
        "goal_world.yaml",
        chosen,
        data=data,
        lora=True,
        steps=1750,
        seconds=STEP_BLIND if "objective.dsa=0" in own else STEP_OF_8,
    )


def rows_of(options: argparse.Namespace) -> list[Row]:
    rows = [Row("plain", "plain"), Row("gligen", "gligen"), *(Row(name, name) for name in FREE)]
    for name, (row, settings) in TRAININGS.items():
        rows.append(Row(row, "gligen+{lora}", training_of(options, name, settings)))
    return rows


def sweep_rows(options: argparse.Namespace) -> list[Row]:
    """The control, gligen, and a training of every pair of weights."""
    row, settings = TRAININGS["ldm"]
    rows = [Row(row, "gligen+{lora}", training_of(options, "sweep-ldm", settings)), Row("gligen", "gligen")]
    for dsa, maa in WEIGHTS:
        own = training_of(
            options, f"sweep-dsa{dsa}-maa{maa}", (f"objective.dsa={dsa}", f"objective.maa={maa}")
        )
        rows.append(Row(f"L_DSA x {dsa}, L_MAA x {maa}", "gligen+{lora}", own))
    return rows


def tables_of() -> list[Table]:
    ldm, maa, dsa, full, local, globe, mid, up4, up8, paper = (row for row, _ in TRAININGS.values())
    return [
        Table("GOAL, Table 1: methods", ("gligen", "plain", ldm, full, paper), COLUMNS),
        Table("GOAL, Table 3: methods without training", ("gligen", "plain", *FREE, full), ABOUT[:4]),
        Table("GOAL, Table 5: losses", (ldm, "gligen", maa, dsa, full, paper), COLUMNS),
        Table("GOAL, Table 6: regions and pictures", (maa, local, globe, full), COLUMNS),
        Table("GOAL, Table 7: where MAAlign looks", (dsa, mid, up4, up8, full), COLUMNS),
    ]


# Data


def data(options: argparse.Namespace) -> list[Job]:
    """GOAL2K-world: half of the prompts of templates, half captions. Nobody reviews it: what the oracle and CLIP
    agree on is kept."""
    if options.data:
        return []
    if options.items < 2:
        raise ValueError(f"--items: must be 2 or more (got {options.items})")
    folder = Path(options.out) / "data"
    build = [
        "dataset",
        "build",
        "--out",
        str(folder),
        "--tries",
        str(options.tries),
        "--steps",
        str(options.steps),
    ]
    build += [
        "--templates",
        str(options.items // 2),
        "--captions",
        str(options.items - options.items // 2),
        "--quiet",
    ]
    finish = ["dataset", "finish", "--out", str(folder), "--undecided", "keep", "--title", "GOAL2K-world"]
    # Half of what is left agrees at each try, or so: twice the items in all.
    seconds = (
        0 if (folder / "set" / "data.jsonl").exists() else 2 * options.items * options.steps * STEP_SECONDS
    )
    jobs = [Job("build GOAL2K-world", build, minutes=seconds / 60)]
    if not (folder / "set" / "data.jsonl").exists():
        jobs.append(Job("keep what agrees", finish))
    return jobs


# Time


def timed(study: Study) -> list[Job]:
    names = ("plain", "gligen", *FREE, TRAININGS["full"][0], MERGED)
    runs = 4 * study.options.repeats
    seconds = sum(cost(name) + cost("gligen") for name in names) * runs * study.options.steps * STEP_SECONDS

    def call() -> None:
        import torch

        from trueline.files import Folder

        torch.set_num_threads(1)  # CPU time of one thread: other processes count little
        found = in_turns(_painters(study), study.options.repeats, time.process_time)
        Folder(study.out).write_json("time.json", {"steps": study.options.steps, "ratios": found})

    return [Job("time the rows", call=call, minutes=seconds / 60)]


def in_turns(
    painters: Mapping[str, Callable[[], None]], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each painter in those of "gligen", of which one picture is drawn just before and one just after."""

    def seconds(paint: Callable[[], None]) -> float:
        began = clock()
        paint()
        return clock() - began

    for paint in painters.values():  # memory and libraries are at their ease
        paint()
    found: dict[str, list[float]] = {name: [] for name in painters}
    for _ in range(repeats):
        before = seconds(painters["gligen"])
        for name, paint in painters.items():
            own, after = seconds(paint), seconds(painters["gligen"])
            found[name].append(2 * own / (before + after))
            before = after
    return found


def _painters(study: Study) -> dict[str, Callable[[], None]]:
    """Four pictures of each row of Table 3; GOAL's with its LoRA beside the weights and added to them."""
    from trueline.commands._rows import read_rows
    from trueline.evaluation.benchmarks import load
    from trueline.evaluation.drawing_list import choose, wanted
    from trueline.evaluation.run import GLIGEN
    from trueline.evaluation.run import Row as Drawn
    from trueline.sampling.pipeline import Pipeline

    examples = load("world").examples
    pictures = wanted(examples, choose(examples, 4), (0,))
    full = next((row for row in study.rows if row.name == TRAININGS["full"][0]), None)
    if full is None or full.training is None:
        raise ValueError("--rows: step time compares with GOAL; add it, or leave out the step")
    lora = study.trained(full.training, 0) / "final" / LORA_FILE
    pipes = [Pipeline.from_pretrained("world") for _ in range(3)]
    for pipe in pipes[1:]:
        pipe.backbone.load_lora(lora)
    pipes[2].backbone.denoiser.fuse_lora()
    pipes[2].backbone.denoiser.unload_lora()

    def painter(row: Drawn, pipe: Pipeline) -> Callable[[], None]:
        def paint() -> None:
            pipe(
                [row.layout(picture) for picture in pictures],
                seeds=[(p.seed, p.place) for p in pictures],
                methods=row.methods,
                **row.changed,
                steps=study.options.steps,
                guidance_scale=study.options.guidance_scale,
                batch_size=len(pictures),
                progress=False,
            )

        return paint

    rows = read_rows(["plain", "gligen", *FREE], {})
    found = {row.name: painter(row, pipes[0]) for row in rows}
    return found | {full.name: painter(GLIGEN, pipes[1]), MERGED: painter(GLIGEN, pipes[2])}


def time_rows(study: Study, title: str, command: str) -> list[dict[str, Any]]:
    """The seconds of step time as rows of that table; none where it was not done."""
    try:
        ratios = json.loads((study.out / "time.json").read_text(encoding="utf-8"))["ratios"]
    except OSError:
        return []
    from trueline.sampling.records import commit

    made = {"command": command, "commit": commit(), "images_per_prompt": 1, "seeds": [0], "category": ""}
    return [
        {
            "benchmark": title,
            "model": "world",
            "method": name,
            "metric": SECONDS,
            "n": len(found),
            "value": statistics.median(found),
            "low": min(found),
            "high": max(found),
            **made,
            "protocol": "CPU seconds of a picture in those of gligen just before and after: median, least and "
            f"greatest; n counts timings. {MERGED}: its LoRA added to the weights",
        }
        for name, found in ratios.items()
    ]


def tables(study: Study, command: str) -> list[Job]:
    def call() -> None:
        pictures, made = Pictures(study.world), []
        for table in tables_of():
            made += table_rows(study, pictures, table, command)
            if "Table 3" in table.title:
                made += time_rows(study, table.title, command)
        write(
            study,
            made,
            [] if any(row["metric"] == SECONDS for row in made) else ["seconds: step time was not done"],
        )

    return [Job("tables", call=call, minutes=0.2 * len(study.runs()))]


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "studies/goal_tables.py", *redacted_arguments(arguments)])
    benchmark = (f"labels={options.labels}",) if options.labels != "phrase" else ()
    study = Study("goal", options, rows_of(options), benchmark=benchmark)
    steps = {
        "data": lambda: data(options),
        "train": study.train,
        "draw": study.draw,
        "judge": study.judge,
        "time": lambda: timed(study),
        "tables": lambda: tables(study, command),
    }
    swept = sweep_of(study, "goal", sweep_rows(options), options.sweep_n)
    title = "GOAL, weights of the losses on the split tune"
    return run(options, steps | sweep_steps(swept, title, SWEPT, command))


if __name__ == "__main__":
    entry(main)
