"""Planners: a prompt in, a layout out. One file and one line in ``PLANNERS`` each. Nothing here imports torch.

``make_planner("rules")`` is a planner; ``make_planner("rules").plan("two cats to the left of a chair")`` is what it
planned: the layout, the bare noun of each region, and in plain sentences what it did not understand.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from trueline.layout import Layout


@dataclass(frozen=True)
class Planned:
    """What a planner made of a prompt.

    ``names``: the bare, singular noun of each of ``layout.regions``, in their order ("apple" of "a red apple"): what
    scorers of plans compare. ``notes``: one sentence for all that was not understood, repaired, left out or fallen
    back from. ``planner``: which one made it ("rules", "llm:MODEL", "replay:FILE").
    """

    layout: Layout
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    planner: str = ""


class Planner(Protocol):
    """``name`` is what stands in records and tables."""

    @property
    def name(self) -> str: ...

    def plan(
        self, prompt: str, *, width: int | None = None, height: int | None = None, seed: int | None = None
    ) -> Planned:
        """A layout for ``prompt``; the same arguments give the same layout. ``width`` and ``height``: pixels of the
        picture, for the proportions of things (None: square). ``seed``: None for the usual layout, a number for
        another variation of it (where the planner has any).

        Raises:
            ValueError: the prompt is none (empty, too long), in one sentence.
        """
        ...


#: name -> "module:class" in this package
PLANNERS = {"rules": "rules:RulesPlanner", "llm": "llm:LLMPlanner", "replay": "replay:ReplayPlanner"}


def make_planner(spec: str, **settings: Any) -> Planner:
    """The planner of that name; what follows a colon is its file or model: ``rules``, ``llm:MODEL``,
    ``replay:FILE``.

    Raises:
        ValueError: there is none of that name, or it lacks something.
    """
    name, _, what = spec.partition(":")
    if name not in PLANNERS:
        raise ValueError(f"planner: there is no {name!r}; there are {', '.join(PLANNERS)}")
    module, _, attribute = PLANNERS[name].partition(":")
    kind: Any = getattr(import_module(f"{__name__}.{module}"), attribute)
    return kind.of(what, **settings)
