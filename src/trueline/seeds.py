"""Random numbers that depend on a seed and a place alone, not on who asks, when, or in which order.

torch's CPU generator reads the low 32 bits of its seed: 2^32 would give the numbers of 0. ``started`` and
``seed_torch`` do not. Hashes of a place (``generator_of``, ``seeded``, pictures of index 1 and more) use 32 of their
bits: of n places two have the same numbers with a probability of about n^2 / 2^33, which is 1 in 10 for 30,000.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Seed = int | tuple[int, int]  #: of a picture: a seed, or (seed, index of the picture under that seed)

WIDE = 2**32  #: seeds from here on have more bits than torch's CPU generator reads
RULE = 2  #: how ``started`` makes numbers of wide seeds; in rule 1, of old records, it was ``seed % WIDE``
_WORDS = 624  #: of 32 bits in the Mersenne twister's state, each in 8 bytes of torch's
_FIRST_WORD = 24  #: byte of torch's state; before it are the seed and the twister's place


def hashed(*where: object) -> int:
    """A number of 64 bits for a place, such as (seed, index)."""
    digest = hashlib.sha256("/".join(map(str, where)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def fresh_seed() -> int:
    """A seed nobody chose, small enough to type."""
    return secrets.randbelow(WIDE)


def started(seed: int) -> torch.Generator:
    """A CPU generator for any seed of 0 to 2^64 - 1, each with numbers of its own.

    Below 2^32 it is ``torch.Generator().manual_seed(seed)``, as diffusers' users write it.
    """
    generator = torch.Generator().manual_seed(seed)
    return generator if seed < WIDE else generator.set_state(_wide(seed, generator.get_state()))


def seed_torch(seed: int) -> None:
    """``torch.manual_seed``, for any seed of 0 to 2^64 - 1; the CPU's numbers are those of ``started``."""
    torch.manual_seed(seed)
    if seed >= WIDE:
        torch.set_rng_state(_wide(seed, torch.get_rng_state()))


def _wide(seed: int, state: Tensor) -> Tensor:
    """A fresh generator's state with all words of the twister made of all bits of the seed."""
    digest = hashlib.shake_256(f"torch/{seed}".encode()).digest(4 * _WORDS)
    words = torch.frombuffer(bytearray(digest), dtype=torch.uint32).to(torch.int64)
    state = state.clone()
    state[_FIRST_WORD : _FIRST_WORD + 8 * _WORDS] = words.view(torch.uint8)
    return state


def noise_generators(seeds: Sequence[Seed]) -> list[torch.Generator]:
    """One CPU generator for each picture: its numbers depend on (seed, index) only, not on batch or device.

    Index 0 is ``started(seed)``; others hash seed and index.
    """
    return [started(_mixed(*seed) if isinstance(seed, tuple) else seed) for seed in seeds]


def _mixed(seed: int, index: int) -> int:
    return seed if index == 0 else hashed(seed, index) % WIDE


def rule_1(seed: int, index: int) -> tuple[int, int]:
    """The seed and index that give the noise today that (seed, index) gave under rule 1."""
    return (seed % WIDE, 0) if index == 0 else (seed, index)


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
