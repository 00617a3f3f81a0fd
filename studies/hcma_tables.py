"""HCMA's Tables 1 and 2 on the embedded world, the control that the paper lacks, and the sweeps of its settings.

    python studies/hcma_tables.py --dry-run
    python studies/hcma_tables.py --joint train --hcma beta=.25 --results results/hcma.json

Table 1: plain, GLIGEN, the training-free methods, GLIGEN fine-tuned without alignment, HCMA. Table 2: HCMA with the
caption only (C2IA), the boxes only (O2RA), both, with fixed and adaptive weights. "guidance": the world's own U-Net;
"joint": one that was trained behind the alignment net. The sweeps are on the split "tune"; they choose nothing: give
what they show to be good as --hcma.

Steps: train, draw, judge, tables; and sweep, sweep-tables where --only names them.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from _common import (
    HOME,
    STEP_SECONDS,
    Job,
    Row,
    Study,
    Training,
    base_parser,
    cost,
    entry,
    run,
)
from _sweep import sweep_of, sweep_steps
from _tables import (
    BOX,
    CLIP,
    FID,
    IOU,
    ORACLE,
    REGION_CLIP,
    REGION_FID,
    WHOLE,
    Table,
    tabulated,
)

from trueline.errors import redacted_arguments
from trueline.methods import make

COLUMNS = (FID, CLIP, REGION_FID, REGION_CLIP, *ORACLE, WHOLE, IOU, BOX)
#: Strengths as chosen on the split "tune" (docs/results_methods.md).
FREE = (
    "attention-refocusing@strength=.3",
    "boxdiff@strength=.3,refinements=5",
    "layout-guidance@strength=3",
    "dense-diffusion",
    "multidiffusion",
    "paint-with-words",
    "realign",
    "regional-masks",
)
UNGROUNDED = ("attend-and-excite@refinements=5", *FREE[1:3])  #: the paper's rows without GLIGEN
ONLY = {"global only": {"local_weight": "0"}, "local only": {"global_weight": "0"}, "both": {}}
WEIGHTINGS = {"gradient": "adaptive by gradient norms", "complexity": "adaptive by number of boxes"}
#: Swept one at a time, the others as --hcma has them.
SWEEP: tuple[dict[str, str], ...] = (
    *({"beta": beta} for beta in (".1", ".25", ".5", "1")),
    *(
        {"start": start, "stop": stop}
        for start, stop in (("0", ".25"), ("0", ".5"), ("0", ".8"), (".25", "1"), (".5", "1"))
    ),
    *(
        {"global_weight": globe, "local_weight": local}
        for globe, local in (("1", "0"), ("3", "1"), ("1", "1"), ("1", "3"), ("0", "1"))
    ),
    {"rule": "constant", "eta": "1"},
)
NET = HOME / "src" / "trueline" / "world" / "weights" / "hcma"  #: the alignment net that ships
ALIGN = Training("align", "hcma", "hcma_world.yaml", stage="align", steps=4000, seconds=1.5)
CONTROL = Training("control", "hcma", "hcma_world.yaml", stage="control", steps=2000, seconds=4.5)


def parser() -> argparse.ArgumentParser:
    top = base_parser("hcma_tables.py", __doc__ or "", seeds=1, images=2)
    ours = top.add_argument_group("HCMA")
    ours.add_argument(
        "--alignment",
        default=str(NET),
        metavar="DIR|train",
        help="the alignment net (default: the world's own)",
    )
    ours.add_argument(
        "--joint", metavar="DIR|train", help="the jointly trained checkpoint; train: three, one for each part"
    )
    ours.add_argument(
        "--hcma", default="", metavar="SETTINGS", help="of all its rows, such as beta=.25,stop=.5"
    )
    ours.add_argument(
        "--sweep-n", type=int, default=48, metavar="COUNT", help="prompts of the sweeps (default 48)"
    )
    return top


def settings_of(text: str) -> dict[str, str]:
    """
    Raises:
        ValueError: not key=value,key=value, or not what the method takes.
    """
    pairs = [pair.partition("=") for pair in filter(None, text.split(","))]
    if wrong := [key for key, mark, value in pairs if not (key and mark and value)]:
        raise ValueError(f"--hcma: write settings as beta=.25,stop=.5 (got {wrong[0]!r} in {text!r})")
    settings = {key: value for key, _, value in pairs}
    if "weights" in settings:
        raise ValueError("--hcma: give the net as --alignment, not as a setting")
    if settings:  # now, not after hours of training
        make("hcma", dict(settings))
    return settings


def draws(settings: dict[str, str]) -> str:
    """gligen+hcma@beta=.25: a row of evaluate."""
    joined = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"gligen+hcma@{joined}" if joined else "gligen+hcma"


def joint(part: str, alignment: str, settings: dict[str, str], steps: int) -> Training:
    """The paper's stage 2 behind the guidance of that part, for pictures of so many steps."""
    own = {"alignment": alignment, "sampling_steps": str(steps)}
    own |= {f"guidance.{key}": value for key, value in settings.items()}
    return Training(
        f"joint-{part.partition(' ')[0]}",
        "hcma",
        "hcma_world.yaml",
        tuple(f"objective.{key}={value}" for key, value in own.items()),
        stage="joint",
        steps=2000,
        seconds=5.0,
    )


def rows_of(options: argparse.Namespace, alignment: str) -> list[Row]:
    given = settings_of(options.hcma)

    def trained(part: str, settings: dict[str, str]) -> Training:
        return joint(part, alignment, settings, options.steps)

    rows = [Row("plain", "plain"), *(Row(name, name) for name in UNGROUNDED), Row("gligen", "gligen")]
    rows += [Row(f"gligen+{name}", f"gligen+{name}") for name in FREE]
    rows.append(Row("gligen, control", "gligen", CONTROL))
    for part, own in ONLY.items():
        rows.append(Row(f"guidance, {part}", draws(given | own)))
    for weighting, name in WEIGHTINGS.items():
        rows.append(Row(f"guidance, both, {name}", draws(given | {"weighting": weighting})))
    if options.joint == "train":
        for part, own in ONLY.items():
            rows.append(Row(f"joint, {part}", draws(given | own), trained(part, given | own)))
        for weighting, name in WEIGHTINGS.items():  # drawn by the U-Net that was trained with fixed weights
            rows.append(
                Row(f"joint, both, {name}", draws(given | {"weighting": weighting}), trained("both", given))
            )
        rows.append(Row("joint, not guided", "gligen", trained("both", given)))
    elif options.joint:
        for part, own in ONLY.items():
            rows.append(
                Row(f"joint, {part}", draws(given | own), folder=f"draw/joint/pictures/{draws(given | own)}")
            )
        rows.append(Row("joint, not guided", "gligen", folder="draw/joint/pictures/gligen"))
    return rows


def tables_of(rows: Sequence[Row]) -> list[Table]:
    names = [row.name for row in rows]
    ours = [name for name in names if name.startswith(("guidance", "joint"))]
    best = [name for name in ours if name.endswith("both")]
    first = [name for name in names if name not in ours and name != "gligen"] + best
    return [
        Table("HCMA, Table 1: methods", ("gligen", *first), COLUMNS),
        Table("HCMA, Table 2: parts", ("gligen", *ours), COLUMNS),
        Table("HCMA against the control", ("gligen, control", "gligen", *ours), COLUMNS),
    ]


# Drawing by a U-Net that was given


def draw_joint(study: Study) -> list[Job]:
    """The rows of ``--joint DIR``: their pictures lie where those of a training would."""
    some = [row for row in study.rows if row.folder]
    if not some:
        return []
    options = argparse.Namespace(**vars(study.options) | {"rows": None})  # which are chosen already
    of_net = Study(study.name, options, [Row(row.name, row.draws) for row in some], study.settings)
    runs = of_net.runs()
    arguments = [
        *of_net.evaluate(study.out / "draw" / "joint", runs),
        "--model",
        options.joint,
        "--judges",
        "none",
    ]
    arguments += ["--shard", options.shard] if options.shard != "1/1" else []
    seconds = study.asked() * options.steps * STEP_SECONDS * sum(cost(row.draws) for row in some)
    return [Job("draw joint", arguments, minutes=seconds / 60 / int(options.shard.partition("/")[2]))]


# Sweeps


def sweep_rows(options: argparse.Namespace) -> list[Row]:
    given = settings_of(options.hcma)
    points = dict.fromkeys(draws(given | point) for point in SWEEP)
    weightings = (draws(given | {"weighting": weighting}) for weighting in WEIGHTINGS)
    return [Row(text, text) for text in ("gligen", *dict.fromkeys([*points, *weightings]))]


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "studies/hcma_tables.py", *redacted_arguments(arguments)])
    alignment = options.alignment
    if alignment == "train":
        alignment = str(Path(options.out) / "train" / ALIGN.name / "0" / "final")
    rows = rows_of(options, alignment)
    settings = {} if alignment == str(NET) else {"hcma": ("--hcma.weights", alignment)}
    study = Study("hcma", options, rows, settings)
    notes = [] if options.joint else ["joint, for no --joint was given"]

    steps = {
        "train": lambda: study.train([ALIGN] if options.alignment == "train" else []),
        "draw": lambda: [*study.draw(), *draw_joint(study)],
        "judge": study.judge,
        "tables": lambda: tabulated(study, tables_of(rows), command, notes),
    }
    swept = sweep_of(study, "hcma-sweep", sweep_rows(options), options.sweep_n)
    return run(options, steps | sweep_steps(swept, "HCMA, settings on the split tune", COLUMNS, command))


if __name__ == "__main__":
    entry(main)
