"""What a prompt became: the states that the denoiser reads, and which characters each token stands for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: The characters (start, end) of the prompt that each token stands for; start, end and padding have (0, 0).
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch of encoded prompts.

    Attributes:
        states: what attention reads, one row per prompt.
        pooled: one vector per prompt, for denoisers that read one besides; None for the others.
        spans: ``spans[row][encoder][token]``, as long as the states.
    """

    states: Float[Tensor, "rows tokens width"]
    pooled: Float[Tensor, "rows width"] | None
    spans: tuple[tuple[Spans, ...], ...]

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | Sequence[int] | Bool[Tensor, " rows"]) -> "Encoded":
        """The chosen rows: a slice, a list of their numbers, or a mask."""
        numbers = torch.arange(len(self))[rows].tolist()
        pooled = None if self.pooled is None else self.pooled[numbers]
        return Encoded(self.states[numbers], pooled, tuple(self.spans[row] for row in numbers))

    def with_states(self, states: Float[Tensor, "rows tokens width"]) -> "Encoded":
        """The same prompts with other states, in the dtype and on the device of the former."""
        return replace(self, states=states.to(self.states))

    def to(self, device: torch.device | str) -> "Encoded":
        pooled = None if self.pooled is None else self.pooled.to(device)
        return replace(self, states=self.states.to(device), pooled=pooled)

    @staticmethod
    def cat(parts: Sequence["Encoded"]) -> "Encoded":
        """All rows, in order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Encoded(
            torch.cat([part.states for part in parts]),
            torch.cat(pooled) if pooled else None,
            tuple(row for part in parts for row in part.spans),
        )


def content(spans: Spans) -> range:
    """The prompt's own tokens, without start, end and padding; empty for an empty prompt."""
    own = [token for token, (start, end) in enumerate(spans) if start < end]
    return range(own[0], own[-1] + 1) if own else range(0)
