"""From what the world's judge saw to rows of the papers' tables: columns, paired intervals, JSON and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from _common import Job, Row, Study
from _intervals import Draws, difference, estimate, of_ratios, of_sets

from trueline.evaluation.benchmarks.world import CATEGORIES, World
from trueline.evaluation.judgements import FEATURES, RATIO, Judgement
from trueline.evaluation.metrics.frechet import Moments, frechet_distance
from trueline.evaluation.metrics.statistics import Terms
from trueline.evaluation.run import REFERENCE
from trueline.evaluation.tables import markdown
from trueline.files import write_text
from trueline.sampling.records import commit

JUDGE = "world"
READS = "Intervals are 95%, bootstrap clustered by prompt; n counts pictures."
READS_SEEDS = (
    "Intervals are 95%, bootstrap over prompts, and over training seeds where there are several (pigeonhole); n "
    "counts pictures of a training seed."
)
READS_ONE = (
    f"{READS} Trained rows have one training seed: the spread between trainings is not in the interval."
)
IN_SAMPLE = "HCMA's net, GOAL's DSAlign and the CLIP reward learn from this CLIP: for them it is in-sample"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        metric: of the judge: a ratio's name, or its beginning with a last "*"; the features of a Frechet distance;
            "" for diversity.
        kind: "share": sums over pictures. "frechet": distance to the true pictures' features. "diversity": mean
            pairwise 1 - cos of features of one prompt's pictures.
        categories: of the prompts; () = all of the world's own.
    """

    name: str
    metric: str
    kind: Literal["share", "frechet", "diversity"] = "share"
    categories: tuple[str, ...] = ()
    about: str = ""

    @property
    def protocol(self) -> str:
        """What was measured, in one line."""
        where = f" on category {', '.join(self.categories)}" if self.categories else ""
        what = {
            "share": f"{self.metric} of the judge",
            "frechet": f"Frechet distance of the world's CLIP features ({self.metric}) to the true pictures'",
            "diversity": "mean pairwise 1 - cos of the world's CLIP features of the pictures of one prompt",
        }[self.kind]
        return f"{what}{where}{'; ' + self.about if self.about else ''}"


FID = Column("fid", "picture", "frechet", about=IN_SAMPLE)
REGION_FID = Column("region_fid", "regions", "frechet", about=IN_SAMPLE)
CLIP = Column("clip_score", "clip_score", about=f"cosine, world's CLIP; {IN_SAMPLE}")
REGION_CLIP = Column("region_clip_score", "region_clip_score", about=f"cosine, world's CLIP; {IN_SAMPLE}")
DIVERSITY = Column("diversity", "", "diversity")
ORACLE = (
    Column("object", "object_accuracy"),
    Column("colour", "color_accuracy"),
    Column("texture", "texture_accuracy"),
    Column("relation", "relation_accuracy"),
    Column("count", "count_accuracy"),
)
SHAPE, OFF = (
    Column("shape score", "shape_score"),
    Column("colour error", "color_error"),
)  #: of what is in place
IOU, BOX, WHOLE = (
    Column("mean_iou", "mean_iou"),
    Column("box_accuracy", "box_accuracy"),
    Column("prompt", "prompt_accuracy"),
)


@dataclass(frozen=True)
class Table:
    """``rows``: names; differences are to the first."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclass
class Pictures:
    """What was seen in a folder of ``trueline evaluate``, by method and picture.

    Raises:
        ValueError: no such folder, or pictures that no judge has looked at.
    """

    folder: Path
    split: str = "held-out"
    data: str | None = None
    _seen: dict[str, dict[str, Judgement]] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _of: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            manifest = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"{self.folder}: nothing was drawn here yet; run the steps before") from None
        self.seeds = [int(seed) for seed in manifest["settings"]["seeds"]]
        self._names = manifest["ids"]
        self._of = {example.id: example for example in World(self.data, self.split).examples}

    def names(self, categories: Sequence[str] = ()) -> list[str]:
        """Of the pictures in these categories, or in all of the world's own; ID-COPY."""
        wanted = categories or tuple(CATEGORIES)
        return [name for name in self._names if self._of[_prompt(name)].category in wanted]

    def seen(self, method: str) -> dict[str, Judgement]:
        """What all judges saw in the method's pictures; those of the world's judge go before."""
        if method not in self._seen:
            found: dict[str, Judgement] = {}
            home = self.folder / "seen" / method
            judges = sorted(home.iterdir(), key=lambda path: path.name == JUDGE) if home.is_dir() else []
            for path in (path for judge in judges for path in sorted(judge.glob("*.npz"))):
                for name, seen in _read(path).items():
                    found[name] = found.get(name, {}) | seen
            if missing := [name for name in self._names if name not in found and method != REFERENCE]:
                raise ValueError(
                    f"{home}: nobody looked at {len(missing)} of {len(self._names)} pictures; run step judge"
                )
            self._seen[method] = found
        return self._seen[method]


def _read(path: Path) -> dict[str, Judgement]:
    with np.load(path) as file:
        names = json.loads(str(file["about"]))["names"]
        found: dict[str, Judgement] = {name: {} for name in names}
        for key in file.files:
            row, slash, what = key.partition("/")
            if slash and not what.startswith(("found/", "true/")):
                found[names[int(row)]][what] = file[key]
    return found


def _prompt(name: str) -> str:
    return name.rpartition("-")[0]


def draws_of(
    pictures: Pictures, methods: Sequence[str], seeds: Sequence[int], column: Column
) -> Draws | None:
    """The column of one row: a method for each training seed. None where nobody measured it."""
    seen = [pictures.seen(method) for method in methods]
    if column.kind == "diversity":
        terms = [_diversity(one, pictures.names(column.categories)) for one in seen]
        return None if None in terms else of_ratios([term for term in terms if term], seeds)
    key = _key(seen[0], (RATIO if column.kind == "share" else FEATURES) + column.metric)
    names = [name for name in pictures.names(column.categories) if all(key in one[name] for one in seen)]
    if column.kind == "frechet":
        true = pictures.seen(REFERENCE)
        names = [name for name in names if key in true.get(name, {})]
        if sum(len(true[name][key]) for name in names) < 3:
            return None
        figures = [_frechet([one[n][key] for n in names], [true[n][key] for n in names]) for one in seen]
        return of_sets(figures, seeds, [_prompt(name) for name in names])
    if not names:
        return None
    prompts = [_prompt(name) for name in names]
    parts = []
    for one in seen:
        pairs = np.array([one[name][key] for name in names])
        parts.append(Terms.of(pairs[:, 0].tolist(), pairs[:, 1].tolist(), prompts))
    return None if parts[0].value is None else of_ratios(parts, seeds)


def _key(seen: Mapping[str, Judgement], wanted: str) -> str:
    """What the judge calls it, where only the beginning is known: "clip_score[*"."""
    if not wanted.endswith("*"):
        return wanted
    keys = dict.fromkeys(key for each in seen.values() for key in each if key.startswith(wanted[:-1]))
    return next(iter(keys), wanted)


def _frechet(made: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> Any:
    def figure(places: Sequence[int]) -> float:
        own, real = (np.concatenate([rows[place] for place in places]) for rows in (made, true))
        return frechet_distance(Moments.of(own), Moments.of(real))

    return figure


def _diversity(seen: Mapping[str, Judgement], names: Sequence[str]) -> Terms | None:
    """Sums over pairs of each prompt: ``training.early_stop.diversity`` where each prompt has as many pictures."""
    of: dict[str, list[np.ndarray]] = {}
    for name in names:
        of.setdefault(_prompt(name), []).append(seen[name][f"{FEATURES}picture"][0])
    apart, pairs = [], []
    for rows in of.values():
        units = np.stack(rows).astype(float)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        count = len(rows) * (len(rows) - 1)
        apart.append(count - float((units @ units.T).sum() - (units * units).sum()))
        pairs.append(float(count))
    return Terms.of(apart, pairs, list(of)) if sum(pairs) else None


def table_rows(study: Study, pictures: Pictures, table: Table, command: str) -> list[dict[str, Any]]:
    """The rows of one table, in the form of ``trueline.evaluation.tables``; also ``training_seeds`` and ``per_seed``,
    the value of each. [] where --rows leaves less than two rows, or not the first."""
    of = {row.name: row for row in study.rows}
    names = [name for name in table.rows if name in of]
    if len(names) < 2 or names[0] != table.rows[0]:
        return []
    first = of[names[0]]
    reads = READS_SEEDS if study.options.seeds > 1 else READS
    if study.options.seeds == 1 and any(of[name].training for name in names):
        reads = READS_ONE
    found = []
    for column in table.columns:
        ours = {row: _of_row(study, pictures, row, column) for row in (of[name] for name in names)}
        bounds = (0.0, math.inf) if column.kind == "frechet" else (-math.inf, math.inf)
        for row, draws in ours.items():
            if draws is None:
                continue
            own, base = estimate(draws, bounds), ours[first]
            made: dict[str, Any] = {
                "benchmark": table.title,
                "model": "world",
                "method": row.name,
                "metric": column.name,
                "category": "",
                "value": own.value,
                "low": own.low,
                "high": own.high,
                "n": own.n,
                "images_per_prompt": len(pictures.seeds),
                "seeds": pictures.seeds,
                "protocol": column.protocol,
                "command": command,
                "commit": commit(),
                "reads": reads,
                "training_seeds": list(draws.seeds),
                "per_seed": [float(value) for value in draws.values],
            }
            if row is not first and base is not None:
                change = difference(draws, base)
                made |= {
                    "against": first.name,
                    "difference": change.value,
                    "difference_low": change.low,
                    "difference_high": change.high,
                }
            found.append(made)
    return found


_CACHE: dict[tuple[Path, str, str, Column], Draws | None] = {}  #: the same columns stand in several tables


def _of_row(study: Study, pictures: Pictures, row: Row, column: Column) -> Draws | None:
    seeds = study.seeds(row)
    methods = [study.seen_as(row, seed) for seed in seeds or (None,)]
    key = (pictures.folder, row.name, str(seeds), column)
    if key not in _CACHE:
        _CACHE[key] = draws_of(pictures, methods, seeds, column)
    return _CACHE[key]


def write(study: Study, made: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> None:
    """The rows to ``--results``, and as tables to OUT/tables.md. ``notes``: what was left out."""
    if study.left_out:
        notes = [*notes, f"rows (--rows): {', '.join(study.left_out)}"]
    target = study.options.results or study.out / "rows.json"
    write_text(target, json.dumps(list(made), indent=1) + "\n")
    text = "\n".join([markdown(made), *(f"- left out: {note}" for note in notes), ""])
    write_text(study.out / "tables.md", text)
    print(text)
    print(f"{len(made)} rows: {target}, {study.out / 'tables.md'}")


def tabulated(study: Study, tables: Sequence[Table], command: str, notes: Sequence[str] = ()) -> list[Job]:
    """The step that writes the tables."""

    def call() -> None:
        pictures = Pictures(study.world, data=study.data)
        write(study, [row for table in tables for row in table_rows(study, pictures, table, command)], notes)

    return [Job("tables", call=call, minutes=2 * len(study.runs()) * 0.1)]
