"""Plans that are there already, read as they are: LayoutGPT's ``llm_output/*.json``, and JSON Lines of layouts.

``replay`` reads a file of LayoutGPT's, whose plans are scored as they are; ``ReplayPlanner`` finds prompts in either.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError

from trueline.boxes import MIN_AREA, Corners
from trueline.chat.answered import NOBODY
from trueline.english.naming import bare_noun
from trueline.errors import first_problem
from trueline.files import read_json_list
from trueline.layout import MAX_REGIONS, Layout, Region, read_layouts
from trueline.planner import Planned
from trueline.planner.layouts import KEY, planned_by

CURE = "take a file of weixi-feng/LayoutGPT@fc3195496255 (MIT)"


@dataclass(frozen=True)
class PublishedPlan:
    """One published plan. ``query``: id of the benchmark's row; ``iteration``: which of the plans for it, from 0.

    ``things``: (name, xyxy box in 0..1) as published: a name may be None, a box may be inverted, stick out, or be
    all zeros where the language model's answer could not be read.
    """

    query: int
    iteration: int
    prompt: str
    things: tuple[tuple[str | None, Corners], ...]

    @property
    def names(self) -> tuple[str | None, ...]:
        return tuple(name for name, _ in self.things)

    def layout(self) -> Layout:
        """What can be drawn of the plan: boxes cut to the picture, without those that have no name or (nearly) no
        area, at most as many as a layout holds. ``len(plan.things) - len(layout.regions)`` says how many are gone.
        """
        regions = []
        for name, corners in self.things:
            x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
            if name and name.strip() and x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) >= MIN_AREA:
                regions.append(Region(name, (x0, y0, x1, y1)))
        return Layout(self.prompt, regions[:MAX_REGIONS], id=f"plan-{self.query:06d}-{self.iteration}")


def replay(path: str | Path) -> list[PublishedPlan]:
    """The plans of a file, in its order: a JSON list of objects with ``query_id``, ``iter``, ``prompt`` and
    ``object_list`` [[name, [x0, y0, x1, y1]]].

    Raises:
        ValueError: naming the file and the row; also for two plans of one query and iteration.
    """
    path = Path(path)
    plans: dict[tuple[int, int], PublishedPlan] = {}
    for number, row in enumerate(read_json_list(path, CURE), start=1):
        try:
            plan = _plan(row)
            if (key := (plan.query, plan.iteration)) in plans:
                raise ValueError(f"query_id {key[0]}, iter {key[1]} is there twice; keep one of them")
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        plans[key] = plan
    return list(plans.values())


class ReplayPlanner:
    """Finds the plan of a prompt in a file: LayoutGPT's JSON list, or JSON Lines of layouts (a file that begins with
    "{"). White space around and between the words of a prompt does not matter.

    Args:
        path: the file. ``name`` is "replay:PATH", as given.
        iteration: which of the plans of a prompt, from 0: LayoutGPT's ``iter``, or the n-th layout of the prompt.

    Raises:
        ValueError: the file cannot be read, or holds no plan.
    """

    def __init__(self, path: str | Path, *, iteration: int = 0):
        if isinstance(iteration, bool) or not isinstance(iteration, int) or iteration < 0:
            raise ValueError(f"iteration: must be a whole number, 0 or more (got {iteration!r})")
        self.name, self.path, self.iteration = f"replay:{path}", Path(path), iteration
        self.plans = _layouts(self.path) if _is_jsonl(self.path) else _published(self.path)
        if not self.plans:
            raise ValueError(f"{path}: holds no plan; give LayoutGPT's JSON or a JSONL of layouts")

    @classmethod
    def of(cls, what: str, **settings: Any) -> Self:
        """``what``: the file. ``settings``: ``iteration``.

        Raises:
            ValueError: no file, an unknown setting, or a file that cannot be read.
        """
        if not what:
            raise ValueError("planner: replay needs a file, as replay:FILE")
        if unknown := sorted(settings.keys() - {"iteration"}):
            raise ValueError(f"{unknown[0]}: no such setting of replay; there is iteration")
        return cls(what, **settings)

    def plan(
        self, prompt: str, *, width: int | None = None, height: int | None = None, seed: int | None = None
    ) -> Planned:
        """The plan as it stands; ``width`` and ``height`` replace its own. ``seed``: so many iterations further,
        from the start again after the last. Of a plan that was made in another planner's place, ``Planned.planner``
        is still that stand-in.

        Raises:
            ValueError: the file has no plan of the prompt, or not that iteration.
        """
        found = self.plans.get(_plain(prompt))
        shown = ascii(prompt if len(prompt) <= 80 else f"{prompt[:77]}...")
        if found is None:
            raise ValueError(f"{self.path}: has no plan of {shown}; replay another file, or plan it anew")
        if self.iteration not in found:
            there = ", ".join(map(str, found))
            raise ValueError(f"{self.path}: has no iteration {self.iteration} of {shown}; there are {there}")
        turns = list(found)
        turn = turns[(turns.index(self.iteration) + (seed or 0)) % len(turns)]
        planned = found[turn]
        sizes = {name: side for name, side in (("width", width), ("height", height)) if side is not None}
        layout = Layout.from_record(planned.layout.to_record() | sizes) if sizes else planned.layout
        return Planned(layout, planned.names, planned.notes, planned.planner or self.name)


Plans = dict[str, dict[int, Planned]]  #: prompt -> iteration -> plan, iterations in rising order


def _published(path: Path) -> Plans:
    """Of several queries with one prompt, the plans of the first."""
    first: dict[str, int] = {}
    plans: Plans = {}
    for plan in sorted(replay(path), key=lambda plan: plan.iteration):
        prompt = _plain(plan.prompt)
        if first.setdefault(prompt, plan.query) != plan.query:
            continue
        layout = plan.layout()
        lost = len(plan.things) - len(layout.regions)
        note = f"{lost} of {len(plan.things)} published boxes cannot be drawn and are left out"
        names = tuple(region.phrase for region in layout.regions)
        plans.setdefault(prompt, {})[plan.iteration] = Planned(layout, names, (note,) if lost else ())
    return plans


def _layouts(path: Path) -> Plans:
    plans: Plans = {}
    for layout in read_layouts(path):
        turns = plans.setdefault(_plain(layout.prompt), {})
        notes = () if layout.regions else (f"{path} has no boxes for this prompt",)
        turns[len(turns)] = Planned(layout, _names(layout), notes, _stand_in(layout))
    return plans


def _names(layout: Layout) -> tuple[str, ...]:
    """Those that its planner wrote down, or the nouns of its phrases."""
    about = layout.meta.get(KEY)
    names = about.get("names") if isinstance(about, dict) else None
    given = names if isinstance(names, list) else []
    if len(given) == len(layout.regions) and all(isinstance(name, str) for name in given):
        return tuple(given)
    return tuple(bare_noun(region.phrase) for region in layout.regions)


def _stand_in(layout: Layout) -> str:
    """Who made its plan in the place of the one that was asked; "" where that one made it."""
    about, made = layout.meta.get(KEY), planned_by(layout)
    return made if made == NOBODY or (isinstance(about, dict) and "asked" in about) else ""


def _is_jsonl(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read it ({error.strerror}); give LayoutGPT's JSON or a JSONL of layouts"
        ) from None


def _plain(prompt: str) -> str:
    return " ".join(prompt.split())


_Whole = Annotated[int, Field(strict=True, ge=0)]
_Corner = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _PublishedRow(BaseModel):
    """A row of LayoutGPT's files; it may have other keys besides."""

    query_id: _Whole
    iter: _Whole
    prompt: str
    object_list: list[tuple[str | None, tuple[_Corner, _Corner, _Corner, _Corner]]]


def _plan(row: dict[str, Any]) -> PublishedPlan:
    try:
        read = _PublishedRow.model_validate(row)
    except ValidationError as error:
        raise first_problem(error, _PublishedRow) from None
    if not read.prompt.strip():
        raise ValueError("prompt: is empty; give its words")
    return PublishedPlan(read.query_id, read.iter, read.prompt, tuple(read.object_list))
