"""``trueline world``: make and measure the embedded world. An action is the module of its name there."""

from collections.abc import Sequence
from importlib import import_module

ACTIONS = {
    "build": "make the world's files from nothing, stage by stage; a stage that is done is not done again",
    "report": "measure the trained world and write the numbers down",
}
_HOMES = {"build": "trueline.world.build", "report": "trueline.evaluation.world_report"}
USAGE = f"""usage: trueline world ACTION ...

actions:
  build   {ACTIONS["build"]}
  report  {ACTIONS["report"]}

`trueline world ACTION --help` tells more."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    action, *rest = arguments
    if action not in ACTIONS:
        raise ValueError(f"world: there is no action {action!r}; there are {', '.join(ACTIONS)}")
    return import_module(_HOMES[action]).main(rest) or 0
