"""Kills, frozen processes and mutated input, as functions of how much of it. The suite does a little, `make faults`
all."""

import os

FULL = os.environ.get("TRUELINE_FAULTS") == "full"


def often(short: int, full: int) -> int:
    """How often: in `make test`, and in `make faults`."""
    return full if FULL else short
