"""One HTML file that shows a whole evaluation: numbers with their intervals, and the pictures, worst first.

The file needs nothing but a browser: style, script and pictures are in it, and its content security policy forbids
every request and every script but its own. What others wrote (prompts, phrases, names) goes through jinja2's
autoescape. Boxes are SVG over the picture, so that they can be switched off.
"""

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from trueline.boxes import Corners
from trueline.evaluation.tables import (
    NOTHING,
    PLANS,
    Line,
    Provenance,
    Result,
    Table,
    answerers,
    decimals,
    interval,
    lower_is_better,
    number,
    ranges,
    run_of,
    tables,
    verdict,
)
from trueline.files import write_text
from trueline.layout import Layout
from trueline.perception import Detection
from trueline.pictures import COLOURS, BrokenPicture, open_picture

LIMIT = 48  #: cases in a report
SIDE = 320  #: longer side of a thumbnail, pixels
QUALITY = 88  #: of a thumbnail's JPEG
MAX_LABEL = 32  #: characters of a box's label; its title has the rest


@dataclass(frozen=True)
class Shot:
    """One picture of a run, with what was asked for, what was seen and what that scored.

    ``example`` and ``seed`` say which case it is: shots of one case differ in ``method`` alone. ``scores`` are of
    this picture ({"object_accuracy": 0.5}); metrics of whole sets (FID) are not in it.
    """

    example: str
    category: str
    prompt: str
    method: str
    seed: int
    path: Path
    layout: Layout
    scores: Mapping[str, float] = field(default_factory=dict)
    detections: Sequence[Detection] = ()


@dataclass(frozen=True)
class Case:
    """One example and seed, drawn by each method."""

    shots: Mapping[str, Shot]

    @property
    def first(self) -> Shot:
        return next(iter(self.shots.values()))

    def scores(self) -> dict[str, dict[str, float]]:
        """{metric: {method: score}}; what is no finite number is left out."""
        found: dict[str, dict[str, float]] = {}
        for method, shot in self.shots.items():
            for metric, value in shot.scores.items():
                if math.isfinite(value):
                    found.setdefault(metric, {})[method] = float(value)
        return found

    def badness(self, metric: str) -> float:
        """Larger is worse, by the mean of the methods; a case without the metric is the best of all."""
        values = self.scores().get(metric)
        if not values:
            return -math.inf
        mean = sum(values.values()) / len(values)
        return mean if lower_is_better(metric) else -mean


@dataclass(frozen=True)
class Thumbnail:
    """A picture that travels within a page."""

    uri: str
    width: int
    height: int


def write_report(
    path: str | Path,
    title: str,
    rows: Sequence[Result],
    shots: Sequence[Shot],
    notes: Iterable[str] = (),
    *,
    limit: int = LIMIT,
    metric: str | None = None,
) -> None:
    """Write the report: the file is whole or, after any failure, as it was before.

    Args:
        rows: of ``results.json`` (``tables`` says what is in one).
        shots: every picture; of all cases, the ``limit`` that ``worst`` chooses are shown, and the page says so.
        notes: what was skipped, warned or measured about the judge; shown at the top.
        metric: by which cases are sorted at first; None: the first of the shots' scores.

    Raises:
        ValueError: rows that are none, two pictures of one case and method, an unknown ``metric``.
    """
    cases = make_cases(shots)
    metrics = list(dict.fromkeys(name for shot in shots for name in shot.scores))
    if metric is not None and metric not in metrics:
        raise ValueError(f"metric: no picture has {metric!r}; give one of {', '.join(metrics) or 'none'}")
    if metric is not None:
        metrics = [metric, *(name for name in metrics if name != metric)]
    shown = worst(cases, metrics, limit)
    methods = list(dict.fromkeys(shot.method for shot in shots))
    pictures, lost = thumbnails([shot for case in shown for shot in case.shots.values()], SIDE)
    page = render(
        "report.html",
        script="report.js",
        title=title,
        tables=tables(rows),
        notes=[*notes, *lost],
        cases=shown,
        total=len(cases),
        methods=methods,
        base=next(
            (row["against"] for row in rows if row.get("against") in methods), methods[0] if methods else ""
        ),
        metrics=metrics,
        places={name: _places(shots, name) for name in metrics},
        categories=dict.fromkeys(case.first.category for case in shown),
        pictures=pictures,
    )
    write_text(path, page)


def make_cases(shots: Iterable[Shot]) -> list[Case]:
    """Shots by example and seed, in order.

    Raises:
        ValueError: two pictures of one example, seed and method.
    """
    found: dict[tuple[str, int], dict[str, Shot]] = {}
    for shot in shots:
        case = found.setdefault((shot.example, shot.seed), {})
        if shot.method in case:
            name = f"{shot.example}, seed {shot.seed}, {shot.method}"
            raise ValueError(f"two pictures for {name}: {case[shot.method].path} and {shot.path}; keep one")
        case[shot.method] = shot
    return list(map(Case, found.values()))


def worst(cases: Sequence[Case], metrics: Sequence[str], limit: int) -> list[Case]:
    """At most ``limit`` cases: the worst of each metric in turn, so that no metric's failures are left out; then
    sorted worst first by the first metric."""
    if not metrics:
        return list(cases[:limit])
    orders = [sorted(range(len(cases)), key=lambda i: -cases[i].badness(metric)) for metric in metrics]
    turns = (i for same_rank in zip(*orders, strict=True) for i in same_rank)
    chosen = list(dict.fromkeys(turns))[:limit]
    return sorted((cases[i] for i in sorted(chosen)), key=lambda case: -case.badness(metrics[0]))


def _places(shots: Iterable[Shot], metric: str) -> int:
    values = (shot.scores.get(metric) for shot in shots)
    return decimals(value for value in values if value is not None and math.isfinite(value))


def thumbnails(shots: Iterable[Shot], side: int) -> tuple[dict[Path, Thumbnail], list[str]]:
    """The pictures by path, and a sentence for those that cannot be shown."""
    pictures, broken = {}, []
    for path in dict.fromkeys(shot.path for shot in shots):
        try:
            pictures[path] = thumbnail(path, side)
        except BrokenPicture as error:
            broken.append(error.problem)
    rest = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
    found = f"{len(broken)} picture{'s' * (len(broken) != 1)} cannot be shown: {'; '.join(broken[:3])}{rest}."
    return pictures, [found] if broken else []


def thumbnail(path: Path, side: int) -> Thumbnail:
    """The picture as a JPEG of at most ``side`` pixels, drawn anew: nothing that its file says goes along.

    Raises:
        BrokenPicture: it is missing, broken, too large or no PNG, JPEG or WebP.
    """
    picture = open_picture(path, name=path.name)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(uri, picture.width, picture.height)


def render(template: str, script: str, **values: Any) -> str:
    """A page of ``templates/`` with its style and script in it; only that very script is allowed to run."""
    environment = Environment(
        loader=PackageLoader("trueline.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _shown, "interval": _shown_interval, "ranges": ranges}
    environment.globals |= {
        "NOTHING": NOTHING,
        "PLANS": PLANS,
        "answerers": answerers,
        "lower_is_better": lower_is_better,
        "verdict": verdict,
        "run_number": run_number,
        "span": span,
        "layout_marks": layout_marks,
        "detection_marks": detection_marks,
        "split_lines": split_lines,
    }
    folder = files("trueline.evaluation").joinpath("templates")
    code = folder.joinpath(script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    style = Markup(folder.joinpath("style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(
        style=style, code=Markup(code), code_digest=digest, **values
    )


def _shown(value: float | None, places: int, sign: bool = False) -> str:
    return number(value, places, sign).replace("-", "\N{MINUS SIGN}") if value is not None else "\N{EN DASH}"


def _shown_interval(row: Result, places: int, prefix: str = "") -> str:
    """The interval of ``row["low"]`` and ``row["high"]``, or of those that begin with ``prefix``."""
    low, high = row.get(f"{prefix}low"), row.get(f"{prefix}high")
    return interval(low, high, places, sign=bool(prefix)).replace("-", "\N{MINUS SIGN}")


def split_lines(table: Table) -> tuple[list[Line], dict[str, list[Line]]]:
    """Lines over all categories, and the others by metric."""
    apart: dict[str, list[Line]] = {}
    for line in table.lines:
        if line.category:
            apart.setdefault(line.metric, []).append(line)
    return [line for line in table.lines if not line.category], apart


def run_number(runs: Sequence[Provenance], row: Result) -> int:
    return runs.index(run_of(row)) + 1


def span(line: Line, row: Result) -> dict[str, float] | None:
    """Where the row's interval and value lie on a scale that the line's methods share, per cent.

    Scores in 0..1 are drawn on 0..1, other numbers between the least and the largest of the line.
    """
    if None in (row["value"], row["low"], row["high"]):
        return None
    numbers = [r[key] for r in line.rows for key in ("value", "low", "high") if r[key] is not None]
    bottom, top = min(numbers), max(numbers)
    if bottom >= 0 and top <= 1:
        bottom, top = 0.0, 1.0
    else:
        margin = (top - bottom) * 0.05 or 1.0
        bottom, top = bottom - margin, top + margin
    return {key: round(100 * (row[key] - bottom) / (top - bottom), 2) for key in ("value", "low", "high")}


@dataclass(frozen=True)
class Mark:
    """A box as the SVG draws it, per cent of the picture; its label starts at the left edge or ends at the right."""

    box: Corners
    label: str
    title: str
    colour: str = ""

    @property
    def right(self) -> bool:
        """Whether the label ends at the box's right edge: one in the right half would run out of the picture."""
        return self.box[0] + self.box[2] > 100

    @property
    def x(self) -> float:
        return self.box[2] if self.right else self.box[0]


def layout_marks(shot: Shot) -> list[Mark]:
    """What the layout asks for, one colour a region."""
    colours = cycle("#{:02x}{:02x}{:02x}".format(*colour) for colour in COLOURS)
    return [
        _mark(r.box.xyxy, r.phrase, colour) for r, colour in zip(shot.layout.regions, colours, strict=False)
    ]


def detection_marks(shot: Shot) -> list[Mark]:
    """What the detector found: colour, texture, name and how sure it was."""
    return [
        _mark(d.box, " ".join(filter(None, (d.colour, d.texture, d.label))) + f" {d.score:.2f}")
        for d in shot.detections
    ]


def _mark(box: Corners, text: str, colour: str = "") -> Mark:
    x0, y0, x1, y1 = (round(100 * min(max(edge, 0.0), 1.0), 2) for edge in box)
    label = " ".join(text.split())
    short = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1].rstrip() + "…"
    return Mark((x0, y0, x1, y1), short, label, colour)
