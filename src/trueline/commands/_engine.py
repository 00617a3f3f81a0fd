"""Flags of the commands whose work can be spread: who does it, and how much of it."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from trueline.commands._parser import add_flags

if TYPE_CHECKING:
    from trueline.engine import Engine, Shard


def add_engine(group: argparse._ArgumentGroup, shard: str = "") -> None:
    """``shard``: what --shard does, for its help; "": the command has none."""
    group.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="who starts the workers: this machine, or Ray (default processes)",
    )
    workers = "processes that share the work, one for each GPU (default 1: this process alone)"
    add_flags(group, {"--workers COUNT": workers}, type=int, default=1)
    add_flags(group, {"--ray-address HOST:PORT": "of a Ray cluster, or auto (default: Ray on this machine)"})
    gpus = "for Ray (default: 1 where the cluster has any)"
    add_flags(group, {"--gpus-per-worker COUNT": gpus}, type=float)
    if not shard:
        group.set_defaults(shard="1/1")
        return
    part = f"{shard}; for machines that share no folder, trueline merge joins the parts (default 1/1)"
    add_flags(group, {"--shard I/N": part}, default="1/1")


def read_engine(
    options: argparse.Namespace, command: str, arguments: Sequence[str]
) -> "tuple[Engine, Shard]":
    """``arguments``: of the command as they were given, for the workers."""
    from trueline.engine import Engine, Shard  # not above: help waits for no library

    engine = Engine(
        (command, *arguments), options.engine, options.workers, options.ray_address, options.gpus_per_worker
    )
    return engine, Shard.parse(options.shard)


@contextmanager
def recorded_end(end: Callable[[str], Any]) -> Iterator[None]:
    """Where the block does not come to its end, ``end`` is told "stopped" or "failed"; a worker leaves that to who
    started it."""
    from trueline.engine import in_worker

    try:
        yield
    except BaseException as error:
        if not in_worker():
            with suppress(OSError, ValueError):  # a full disk: what stopped the run is what counts
                end("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
