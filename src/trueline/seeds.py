"""Random numbers that depend on a seed and a place alone, not on who asks, when, or in which order."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from trueline.layout import MAX_SEED

Seed = int | tuple[int, int]  #: of a picture: a seed, or (seed, index of the picture under that seed)


def hashed(*where: object) -> int:
    """A number of 64 bits for a place, such as (seed, index)."""
    digest = hashlib.sha256("/".join(map(str, where)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def fresh_seed() -> int:
    """A seed nobody chose, small enough to type."""
    return secrets.randbelow(2**32)


def noise_generators(seeds: Sequence[Seed]) -> list[torch.Generator]:
    """One CPU generator for each picture: its numbers depend on (seed, index) only, not on batch or device.

    Index 0 is ``torch.Generator().manual_seed(seed)``, as diffusers' users write it; others hash seed and index.
    """
    return [
        torch.Generator().manual_seed(_mixed(*seed) if isinstance(seed, tuple) else seed) for seed in seeds
    ]


def _mixed(seed: int, index: int) -> int:
    return seed if index == 0 else hashed(seed, index) & MAX_SEED


def generator_of(seed: int, *where: object) -> torch.Generator:
    """A CPU generator of its own for each seed and place."""
    return torch.Generator().manual_seed(hashed(seed, *where) >> 1)


@contextmanager
def seeded(seed: int, *where: object) -> Iterator[None]:
    """Nets that draw from torch's global generators (dropout) draw from this place; the state before returns."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(hashed(seed, *where) >> 1)
        yield
