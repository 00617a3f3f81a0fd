"""Plans as layouts that say where their boxes come from: ``meta["plan"]``.

It travels with the layout, into JSON Lines and into the record of a picture.
"""

from collections.abc import Sequence
from typing import Any

from trueline.chat.answered import NOBODY
from trueline.layout import Layout
from trueline.planner import Planned, Planner, make_planner

KEY = "plan"  #: of a layout's ``meta``


def plan(
    prompt: str,
    planner: str | Planner = "rules",
    *,
    width: int | None = None,
    height: int | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Layout:
    """A layout with boxes for ``prompt``: ``trueline.plan("two cats to the left of a chair")``.

    ``layout.meta["plan"]`` holds ``planner`` (which one made it; where another was asked, also ``asked``), ``names``
    (the bare noun of each region) and ``notes`` (what was not understood, in sentences; look at them).

    Args:
        planner: "rules", "llm:MODEL" or "replay:FILE", or a planner of your own.
        width, height: pixels of the picture, also those of the layout; None: square, and the model's own size.
        seed: None for the usual layout, a number for another variation of it.
        settings: of the named planner, such as ``base_url``.

    Raises:
        ValueError: no such planner, size or setting, or nothing that can be planned, in one sentence.
    """
    if not isinstance(planner, str) and settings:
        raise ValueError(f"{next(iter(settings))}: belongs to a planner by name; this one has its settings")
    base = Layout(prompt, width=width, height=height)
    made = make_planner(planner, **settings) if isinstance(planner, str) else planner
    return filled(base, made.plan(prompt, width=width, height=height, seed=seed), made.name)


def plan_missing(layouts: Sequence[Layout], planner: Planner, start: int = 0) -> list[Layout]:
    """The layouts, with planned boxes where they have none. ``start``: place of the first of them, for errors.

    Raises:
        ValueError: a prompt that cannot be planned.
    """
    planned = list(layouts)
    for place, layout in enumerate(layouts):
        if layout.regions:
            continue
        try:
            made = planner.plan(layout.prompt, width=layout.width, height=layout.height)
        except ValueError as error:
            problem = (
                f"prompt {start + place + 1} cannot be planned ({error}); give its boxes, or leave it out"
            )
            raise ValueError(f"planner: {problem}") from None
        planned[place] = filled(layout, made, planner.name)
    return planned


def filled(layout: Layout, planned: Planned, asked: str = "") -> Layout:
    """``layout`` with the plan's regions, and what ``plan`` says of them in its ``meta``. ``asked``: the name of
    the planner, where another may have planned in its place."""
    made = planned.planner or asked
    about: dict[str, Any] = {"planner": made} | ({"asked": asked} if asked and made != asked else {})
    about |= {"names": list(planned.names), "notes": list(planned.notes)}
    meta = layout.meta | planned.layout.meta | {KEY: about}
    return layout.model_copy(update={"regions": planned.layout.regions, "meta": meta})


def without_plan(layout: Layout, asked: str, why: str) -> Layout:
    """``layout`` without boxes, and why: nobody could plan it."""
    about = {"planner": asked, "error": why}
    return layout.model_copy(update={"regions": (), "meta": layout.meta | {KEY: about}})


def planned_by(layout: Layout) -> str:
    """Which planner made its boxes, "nobody" where that failed; "" where they were not planned."""
    about = layout.meta.get(KEY)
    if not isinstance(about, dict):
        return ""
    return NOBODY if "error" in about else str(about.get("planner", ""))


def notes_of(layout: Layout) -> list[str]:
    """What its planner had to say about a layout; nothing where its boxes were not planned."""
    about = layout.meta.get(KEY)
    return list(about.get("notes", ())) if isinstance(about, dict) else []
