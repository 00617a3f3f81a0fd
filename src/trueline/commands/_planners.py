"""Planners on a command line: ``--planner llm:MODEL --llm.base_url URL``."""

import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trueline.commands._methods import Given, refuse_idle, split_settings
from trueline.methods import METHODS

if TYPE_CHECKING:
    from trueline.chat.answered import Answered
    from trueline.layout import Layout
    from trueline.planner import Planner

PLANNERS = ("rules", "llm", "replay")  #: those of ``trueline.planner``, repeated so that help imports nothing
NONE = "none"  #: no boxes but the user's
SECRETS = {"api_key": "OPENAI_API_KEY"}  #: setting -> environment variable
PLANS = "plans"  #: what planners answer with
MAX_SHOWN, MAX_SENTENCE = 60, 300  #: characters of a prompt in a message, and of what is said about it


def split_all(arguments: Sequence[str]) -> tuple[list[str], Given, Given]:
    """The arguments without ``--NAME.key value``, the settings of methods, and those of planners."""
    rest, given = split_settings(arguments, (*METHODS, *PLANNERS), ("method", "planner"))
    return rest, _of(METHODS, given), _of(PLANNERS, given)


def _of(names: Collection[str], given: Given) -> Given:
    return {name: settings for name, settings in given.items() if name in names}


def make_chosen(specs: Sequence[str], given: Given) -> "list[Planner]":
    """The planners of these names, with their settings."""
    check_planners(specs, given)
    return [_make(spec, given.get(spec.partition(":")[0], {})) for spec in specs]


def _make(spec: str, settings: dict[str, Any]) -> "Planner":
    from trueline.planner import make_planner

    kind = spec.partition(":")[0]
    refuse_secrets(kind, settings)
    try:
        return make_planner(spec, **settings)
    except ValueError as error:
        if str(error).partition(":")[0] in settings:  # the sentence begins with the setting
            raise ValueError(f"--{kind}.{error}") from None
        raise


def refuse_secrets(kind: str, settings: Iterable[str]) -> None:
    if secret := [name for name in settings if name in SECRETS]:
        raise ValueError(
            f"--{kind}.{secret[0]}: set {SECRETS[secret[0]]} instead; a command line stands in records and in the "
            "list of processes"
        )


def check_planners(specs: Sequence[str], given: Given) -> None:
    """Refuse settings of a planner that none of ``specs`` names."""
    refuse_idle(given, [spec.partition(":")[0] for spec in specs], "--planner")


@dataclass
class Planning:
    """Boxes for layouts that have none. ``needy``: the name of a method that can do nothing without boxes, or "".

    ``answered``: who planned how many, when ``look_at`` has seen the plans.
    """

    spec: str
    planner: "Planner"
    needy: str = ""
    answered: "Answered | None" = None

    @property
    def repeatable(self) -> bool:
        """Whether it plans the same again, wherever it is asked."""
        return self.spec.partition(":")[0] != "llm"

    def plan(self, layouts: "Sequence[Layout]", start: int) -> "list[Layout]":
        """``start``: place of the first in the list that the user gave."""
        from trueline.planner.layouts import plan_missing

        return plan_missing(layouts, self.planner, start)

    def look_at(self, layouts: "Sequence[Layout]", planned: "Sequence[Layout]") -> None:
        """Say on stderr what was planned.

        Raises:
            ValueError: a method needs boxes, and there is none.
        """
        from trueline.chat.answered import Answered
        from trueline.planner.layouts import notes_of, planned_by

        bare = [place for place, layout in enumerate(layouts) if not layout.regions]
        for place in bare:
            for note in notes_of(planned[place]):
                say(layouts[place].prompt, place, note)
        if self.needy and not any(layout.regions for layout in planned):
            raise ValueError(
                f"--planner: {self.planner.name} finds nothing that a box could hold; give boxes, or leave "
                f"{self.needy} out"
            )
        self.answered = Answered.of(self.planner.name, (planned_by(planned[place]) for place in bare))
        boxes = sum(len(planned[place].regions) for place in bare)
        said = (
            f"{boxes} boxes planned by {self.answered.label}"
            if bare
            else "the boxes are given; nothing is planned"
        )
        print(f"trueline: {said}", file=sys.stderr)


def read_planning(
    layouts: "Sequence[Layout]", methods: Sequence[Any], spec: str | None, given: Given
) -> Planning | None:
    """Who plans the boxes; None: nobody.

    Args:
        spec: the planner; None: the rules, where a method needs boxes and no layout has any; "none": no planner.
    """
    check_planners([spec or ""], given)
    bare = [layout for layout in layouts if not layout.regions]
    needy = [method for method in methods if method.needs_regions and getattr(method, "strength", 1) != 0]
    if spec == NONE or (spec is None and (not needy or len(bare) < len(layouts))):
        return None
    spec = spec or PLANNERS[0]
    (planner,) = make_chosen([spec], given)
    return Planning(spec, planner, type(needy[0]).__name__ if needy else "")


def not_as_asked(answered: "Mapping[str, Answered | None]") -> int:
    """The exit code: 1, and a sentence on stderr, where too many of the answers are a stand-in's. ``answered``: by
    what was answered, in the plural."""
    wrong = [(what, each) for what, each in answered.items() if each is not None and not each.as_asked]
    for what, each in wrong:
        print(f"trueline: {each.complaint(what)}", file=sys.stderr)
    return 1 if wrong else 0


def say(prompt: str, place: int, sentence: str) -> None:
    """A remark about one of the prompts, in one line on stderr. ``place``: from 0."""
    from trueline.errors import redacted

    text = " ".join(re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]", " ", prompt).split())
    shown = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
    said = " ".join(redacted(sentence).split())
    said = said if len(said) <= MAX_SENTENCE else f"{said[: MAX_SENTENCE - 3]}..."
    line = f'trueline: prompt {place + 1} ("{shown}"): {said}'
    print(line.encode("utf-8", "replace").decode(), file=sys.stderr)
