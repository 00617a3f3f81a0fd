"""``trueline world build``: make the embedded world from nothing, with ``trueline.world.build``."""

from collections.abc import Sequence

USAGE = """usage: trueline world build [--stage NAME ...] [--smoke] [--folder F] [--device D]

Makes the embedded world from nothing, stage by stage; a stage that is done is not done again.
`trueline world build --help` tells more."""


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] != "build":
        raise ValueError(f"world: there is no {arguments[0]!r}; write trueline world build")
    from trueline.world.build import main as build

    return build(list(arguments[1:])) or 0
