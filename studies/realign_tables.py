"""RealignDiff's Tables 1, 2 and 3 on the embedded world: base, coarse (reward), fine (second look), both.

    python studies/realign_tables.py --dry-run
    python studies/realign_tables.py --results results/realign.json

Table 1: the base, methods that train nothing, RealignDiff. Table 2: the two stages, with the paper's one second
picture by its settings and by those that suit the world; with those also checked, where only what is not as the
prompt says is drawn again and the better picture kept, and up to 3 rounds of that. These choose, too; two rows do
nothing else: the best of 2 and of 4 plain pictures by that check. Table 3: the coarse stage by other rewards, for as
many steps each. No row is given the true boxes but DenseDiffusion, which needs them. Captioner and matcher are the
world's own, unless others are given.

Steps: train (LoRAs), draw, fine (the second look, from the same noise), judge, tables.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import (
    LORA_FILE,
    STEP_SECONDS,
    WORLD,
    Job,
    Row,
    Study,
    Training,
    base_parser,
    entry,
    run,
    seconds_of,
)
from _tables import CLIP, DIVERSITY, FID, ORACLE, WHOLE, Column, Pictures, Table, table_rows, write

from trueline.errors import redacted_arguments

if TYPE_CHECKING:
    from PIL.Image import Image

    from trueline.evaluation.drawing_list import Wanted
    from trueline.realign import VisionModels
    from trueline.sampling.pipeline import Pipeline

    Drawn = tuple[Image, dict[str, Any]]

BY_MATCHER = "the ITM reward learns from the same net: for it it is in-sample"
#: Prompts of others that the world's words cover; they have no true pictures. --data.
OTHERS = {"CC-500": "cc-500"}
FREE = ("dense-diffusion", "structured", "attend-and-excite@refinements=5")
#: Reward -> whose model it takes, and what it sets over configs/realign_world.yaml, with the model's folder for {}.
REWARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "clip": ("", ()),
    "itm": (
        "itm",
        ("objective.rewards.clip=0", "objective.rewards.blip-itm=1", "objective.models.blip-itm={}"),
    ),
    "likelihood": (
        "captioner",
        (
            "objective.rewards.clip=0",
            "objective.rewards.prompt_likelihood=1",
            "objective.models.captioner={}",
        ),
    ),
    "caption": (
        "captioner",
        ("objective.rewards.clip=0", "objective.rewards.caption=1", "objective.models.captioner={}"),
    ),
}
BASE, FINE = "base", "fine"
BOTH = "coarse + fine"
ROUNDS = 3
TUNED_FINE, BOTH_TUNED = f"{FINE}, tuned", f"{BOTH}, tuned"
CHECKED, BOTH_CHECKED = f"{FINE}, checked", f"{BOTH}, checked"
REFINED, BOTH_REFINED = f"{FINE}, {ROUNDS} rounds", f"{BOTH}, {ROUNDS} rounds"
#: As many pictures as one checked round, or as all rounds, may draw.
BEST_OF_2, BEST = "best of 2", f"best of {ROUNDS + 1}"
#: The modulation's settings in the world, weaker and in all steps: chosen on the split "tune"
#: (docs/results_realigndiff.md).
TUNED = {"power": 0.0, "strength": 0.3, "duration": 1.0}


@dataclass(frozen=True)
class Way:
    """How a row draws each picture: rounds of the second look, with a check or not, by a modulation with settings; or
    ``best`` of so many noises."""

    rounds: int = 0
    check: bool = False
    best: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """Pictures that are drawn for one, at most."""
        return self.best or 1 + self.rounds


#: By the first part of a row's folder.
WAYS = {
    "fine": Way(rounds=1),
    "tuned": Way(rounds=1, settings=TUNED),
    "checked": Way(rounds=1, check=True, settings=TUNED),
    "rounds": Way(rounds=ROUNDS, check=True, settings=TUNED),
    "best2": Way(best=2),
    "best": Way(best=ROUNDS + 1),
}
ITC = "world-itc"
EMBEDDERS = ("clip", "negclip")  #: judges that tell a cosine as clip_score
STEP_OF_32 = 22.0  #: CPU seconds of a step of 32 pictures, each drawn with gradient
LOOK_SECONDS = 0.1  #: of a look at a picture
OTHER_NOISE = 1000  #: between the seeds of the pictures of which one is kept


def parser() -> argparse.ArgumentParser:
    top = base_parser("realign_tables.py", __doc__ or "", seeds=1, images=2)
    ours = top.add_argument_group("RealignDiff")
    ours.add_argument(
        "--captioner",
        metavar="DIR",
        default=WORLD,
        help="of the caption reward and of prompt likelihood (default: the world's)",
    )
    ours.add_argument(
        "--itm",
        metavar="DIR",
        default=WORLD,
        help="BLIP of the ITM reward and of the column itm (default: the world's)",
    )
    ours.add_argument(
        "--held-out",
        metavar="KIND=DIR",
        default=ITC,
        help="judge of the column held_out_clip, such as clip=DIR (default: the cosine of the world's matcher)",
    )
    ours.add_argument(
        "--coarse",
        choices=tuple(REWARDS),
        default="caption",
        help="the coarse stage's reward (default: %(default)s)",
    )
    ours.add_argument("--lora", type=int, default=16, metavar="RANK", help="default %(default)s")
    ours.add_argument(
        "--eyes",
        nargs=3,
        default=["world-seer"] * 3,
        metavar=("TAGGER", "DETECTOR", "SEGMENTER"),
        help="that look in step fine, as `trueline generate --realign` takes them (default: the world's seer)",
    )
    ours.add_argument(
        "--data", metavar="DIR", help="the benchmarks' files: also CC-500's sentences that the world can draw"
    )
    return top


def columns_of(options: argparse.Namespace) -> tuple[Column, ...]:
    """Columns are named after what they measure, whoever measures it."""
    judge, _, _ = options.held_out.partition("=")
    held_out = Column(
        "held_out_clip",
        "clip_score[*" if judge in EMBEDDERS else judge,
        about=f"cosine, {options.held_out}; {BY_MATCHER if judge == ITC else 'a CLIP that no reward was made of'}",
    )
    itm = Column("itm", itm_judge(options).partition("=")[0], about=f"probability of a match; {BY_MATCHER}")
    return (FID, CLIP, held_out, itm, *ORACLE, WHOLE, DIVERSITY)


def itm_judge(options: argparse.Namespace) -> str:
    return "world-itm" if options.itm == WORLD else f"blip-itm={options.itm}"


def rows_of(options: argparse.Namespace) -> list[Row]:
    cache = f"data.cache={Path(options.out) / 'cache'}"
    rows = [Row(BASE, "plain"), *(Row(name, name) for name in FREE)]
    for name, (taken, settings) in REWARDS.items():
        model = getattr(options, taken) if taken else ""
        own = (f"lora={options.lora}", cache, *(setting.replace("{}", str(model)) for setting in settings))
        training = Training(
            name, "realign", "realign_world.yaml", own, lora=True, steps=50, seconds=STEP_OF_32
        )
        rows.append(Row(f"coarse, {name} reward", "{lora}", training))
    trained = next(row.training for row in rows if row.name == f"coarse, {options.coarse} reward")
    for way, alone, both in (
        ("fine", FINE, BOTH),
        ("tuned", TUNED_FINE, BOTH_TUNED),
        ("checked", CHECKED, BOTH_CHECKED),
        ("rounds", REFINED, BOTH_REFINED),
    ):
        rows.append(Row(alone, "plain", folder=f"{way}/base"))
        rows.append(Row(both, "{lora}", trained, folder=f"{way}/coarse-{{seed}}"))
    rows.append(Row(BEST_OF_2, "plain", folder="best2/base"))
    rows.append(Row(BEST, "plain", folder="best/base"))
    return rows


def tables_of(options: argparse.Namespace) -> list[Table]:
    columns = columns_of(options)
    rewards = [f"coarse, {name} reward" for name in REWARDS]
    best = f"coarse, {options.coarse} reward"
    stages = (BASE, best, FINE, BOTH, TUNED_FINE, BOTH_TUNED)
    chosen = (BASE, CHECKED, BOTH_CHECKED, BEST_OF_2, REFINED, BOTH_REFINED, BEST)
    return [
        Table("RealignDiff, Table 1: methods", (BASE, *FREE, BOTH, BOTH_TUNED), columns),
        Table("RealignDiff, Table 2: stages", stages, columns),
        Table("RealignDiff, Table 2: stages, with a choice", chosen, columns),
        Table("RealignDiff, both against each", (BOTH, best, FINE), columns),
        Table("RealignDiff, both tuned against each", (BOTH_TUNED, best, TUNED_FINE), columns),
        Table("RealignDiff, both checked against each", (BOTH_CHECKED, best, CHECKED, BEST_OF_2), columns),
        Table("RealignDiff, checked against choosing", (CHECKED, BEST_OF_2), columns),
        Table("RealignDiff, refined against choosing", (REFINED, BEST), columns),
        Table("RealignDiff, both refined against each", (BOTH_REFINED, best, REFINED, BEST), columns),
        Table("RealignDiff, Table 3: rewards", (BASE, *rewards), columns),
    ]


def other_tables(tables: Sequence[Table]) -> list[Table]:
    """Table 1 on prompts of others: by the oracle and CLIP, for there are no true pictures."""
    first, found = tables[0], []
    for name, category in OTHERS.items():
        columns = tuple(
            replace(column, categories=(category,))
            for column in first.columns
            if column.kind != "frechet" and column.name != "relation"
        )
        found.append(Table(f"{first.title}, {name}", first.rows, columns))
    return found


# The fine stage


def fine(study: Study) -> list[Job]:
    """Every picture of base and coarse stage, looked at and drawn again; and the best of several."""
    return [_fine(study, row, seed) for row, seed in study.runs() if row.folder]


def _fine(study: Study, row: Row, seed: int | None) -> Job:
    options, folder = study.options, study.pictures(row, seed)
    left = max(0, study.asked() - len(list(folder.glob("*.png"))))
    seconds = left * WAYS[way_of(row)].most * (options.steps * STEP_SECONDS + LOOK_SECONDS)

    def call() -> None:
        from trueline.commands._model import warnings_as_lines
        from trueline.engine import Shard
        from trueline.evaluation.benchmarks.world import World
        from trueline.evaluation.drawing_list import batches, choose, wanted
        from trueline.files import Folder

        world, shard, home = World(study.data), Shard.parse(options.shard), Folder(folder)
        _claim(home, study, row, seed)
        chosen = wanted(
            world.examples, choose(world.examples, options.n), tuple(range(options.images_per_prompt))
        )
        todo = [
            batch
            for number, batch in enumerate(batches(chosen, options.batch_size or 16))
            if shard.takes(number) and not all((folder / f"{one.name}.png").exists() for one in batch)
        ]
        if not todo:
            return
        with warnings_as_lines(), _painter(study, row, seed) as paint:
            for number, batch in enumerate(todo):
                for one, (image, record) in zip(batch, paint(batch), strict=True):
                    home.write_png(f"{one.name}.png", image, record)
                print(f"{row.name}: {number + 1} of {len(todo)} batches", file=sys.stderr, flush=True)

    return Job(f"draw {row.name}{'' if seed is None else f', seed {seed}'}", call=call, minutes=seconds / 60)


def way_of(row: Row) -> str:
    return Path(row.folder or "").parts[0]


def _claim(home: Any, study: Study, row: Row, seed: int | None) -> None:
    """
    Raises:
        ValueError: the folder holds pictures that were drawn otherwise.
    """
    import hashlib
    import json

    about: dict[str, Any] = {
        name: getattr(study.options, name)
        for name in ("steps", "guidance_scale", "n", "images_per_prompt", "batch_size", "dtype", "eyes")
    } | {"way": way_of(row)}
    if settings := dict(WAYS[way_of(row)].settings):
        about["settings"] = settings
    if row.training and seed is not None:
        file = study.trained(row.training, seed) / "final" / LORA_FILE
        about["lora"] = hashlib.sha256(file.read_bytes()).hexdigest()
    path = home.path / "fine.json"
    if not path.exists():
        home.write_json(path.name, about)
    elif json.loads(path.read_text(encoding="utf-8")) != about:
        raise ValueError(
            f"--out: {home.path} holds pictures with other settings; give the same, or another folder"
        )


@contextmanager
def _painter(study: Study, row: Row, seed: int | None) -> Iterator[Callable[[Sequence[Wanted]], list[Drawn]]]:
    """(pictures of one batch) -> their second pictures, each with its record."""
    import torch

    from trueline.commands._model import fast_dtype, find_device, load_pipeline
    from trueline.realign import VisionModels

    options = study.options
    torch.set_num_threads(options.threads)
    dtype = options.dtype or fast_dtype(options.device)
    models = VisionModels.load(*options.eyes, device=str(find_device(options.device)))
    pipe = load_pipeline(
        {"model": WORLD, "revision": None, "lora": None, "dtype": dtype, "device": options.device}
    )
    if row.training and seed is not None:
        pipe.backbone.load_lora(study.trained(row.training, seed) / "final" / LORA_FILE)
    how = {"steps": options.steps, "guidance_scale": options.guidance_scale}
    way = WAYS[way_of(row)]
    yield lambda batch: (best if way.best else redrawn)(pipe, models, batch, way, how)


def redrawn(
    pipe: Pipeline, models: VisionModels, batch: Sequence[Wanted], way: Way, how: dict[str, Any]
) -> list[Drawn]:
    """RealignDiff's fine stage for a batch: draw, look, reason by rules, and draw again from the same noise."""
    from trueline.methods import make
    from trueline.realign import Realign

    made = Realign(
        pipe,
        models,
        method=make("realign", dict(way.settings)),
        rounds=way.rounds,
        check=way.check,
        maps=False,
    ).stream(**_asked(batch, how))
    return [(done.image, done.record) for done in made]


def best(
    pipe: Pipeline, models: VisionModels, batch: Sequence[Wanted], way: Way, how: dict[str, Any]
) -> list[Drawn]:
    """Of ``way.best`` pictures, each from its own noise, the one with the most points by the check that ends the
    rounds, and the earliest of equals; the first is that of the plain row."""
    from trueline.perception.reason import RulesReasoner
    from trueline.realign import check_picture, observe

    kept: list[tuple[tuple[int, int], Drawn]] = []
    for turn in range(way.best):
        asked = _asked(batch, how)
        asked["seeds"] = [(seed + turn * OTHER_NOISE, place) for seed, place in asked["seeds"]]
        made = pipe(**asked).whole()
        for number, (one, *drawn) in enumerate(zip(batch, made.images, made.records, strict=True)):
            prompt = one.example.layout.prompt
            observation = observe(drawn[0], prompt, models, RulesReasoner())
            points = check_picture(prompt, observation).points
            if turn == 0:
                kept.append((points, (drawn[0], drawn[1])))
            elif points > kept[number][0]:
                kept[number] = (points, (drawn[0], drawn[1]))
    return [drawn for _, drawn in kept]


def _asked(batch: Sequence[Wanted], how: dict[str, Any]) -> dict[str, Any]:
    """As ``trueline evaluate`` draws, so that the first picture is the one that the row without a second look has."""
    from trueline.evaluation.run import PLAIN, UNGROUNDED

    return {
        "prompt": [PLAIN.layout(picture) for picture in batch],
        "seeds": [(one.seed, one.place) for one in batch],
        "scheduler": "ddim",
        "batch_size": len(batch),
        "grounding_schedule": UNGROUNDED,
        "progress": False,
        "checked": True,
        **how,
    }


# Tables


def training_rows(study: Study, table: Table, command: str) -> list[dict[str, Any]]:
    """What each reward took: as many steps, not as many seconds."""
    from trueline.sampling.records import commit

    found = []
    for row in (row for row in study.rows if row.name in table.rows and row.training):
        times = [seconds_of(study.trained(row.training, seed)) for seed in study.seeds(row) if row.training]
        known = [time for time in times if time is not None]
        if known:
            found.append(
                {
                    "benchmark": table.title,
                    "model": "world",
                    "method": row.name,
                    "metric": "training_seconds",
                    "category": "",
                    "value": sum(known) / len(known),
                    "low": min(known),
                    "high": max(known),
                    "n": len(known),
                    "images_per_prompt": 1,
                    "seeds": list(study.seeds(row)),
                    "command": command,
                    "commit": commit(),
                    "protocol": "wall seconds of the whole training: mean, least and greatest; n counts trainings",
                }
            )
    return found


def tables(study: Study, made: Sequence[Table], command: str, notes: Sequence[str]) -> list[Job]:
    def call() -> None:
        pictures, rows = Pictures(study.world, data=study.data), []
        for table in [*made, *(other_tables(made) if study.data else [])]:
            rows += table_rows(study, pictures, table, command)
            if "Table 3" in table.title:
                rows += training_rows(study, table, command)
        write(study, rows, notes)

    return [Job("tables", call=call, minutes=0.2 * len(study.runs()))]


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "studies/realign_tables.py", *redacted_arguments(arguments)])
    if any(name.partition("=")[0] == "oracle" for name in options.eyes):
        raise ValueError(
            "--eyes: the oracle judges these tables, so it must not help to draw them; give others"
        )
    notes = [] if options.data else [f"{', '.join(OTHERS)}, for no --data was given"]
    notes.append("ABC-6K, of whose sentences the world can draw none")
    judges = [options.held_out, itm_judge(options)]
    study = Study("realign", options, rows_of(options), judges=judges, data=options.data)
    for note in notes:
        print(f"left out: {note}", file=sys.stderr)
    steps = {
        "train": study.train,
        "draw": study.draw,
        "fine": lambda: fine(study),
        "judge": study.judge,
        "tables": lambda: tables(study, tables_of(options), command, notes),
    }
    return run(options, steps)


if __name__ == "__main__":
    entry(main)
