"""Random numbers that depend on a seed and a place alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_of(seed: int, *where: object) -> torch.Generator:
    """A CPU generator of its own for each seed and place."""
    return torch.Generator().manual_seed(_number(seed, *where))


@contextmanager
def seeded(seed: int, *where: object) -> Iterator[None]:
    """Nets that draw from torch's global generators (dropout) draw from this place; the state before returns."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_number(seed, *where))
        yield


def _number(*where: object) -> int:
    digest = hashlib.sha256("/".join(map(str, where)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
