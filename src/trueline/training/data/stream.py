"""The endless stream of examples: which comes at which place, and all that is drawn for it, from (seed, place) alone.

So a run that was stopped goes on with the same draws; two batches of two, accumulated or in two processes, are one
batch of four; nothing of it depends on a loader's state.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trueline.layout import Layout
from trueline.seeds import generator_of
from trueline.training.data.examples import Examples
from trueline.training.data.latents import Latents, Unseen
from trueline.training.objective import Batch


@dataclass
class Shuffled:
    """Each epoch in an order of its own. A place is a number from 0 on, in every epoch and process."""

    examples: Examples
    latents: Latents | Unseen
    seed: int
    drop_captions: float = 0.0
    drop_boxes: float = 0.0
    times: tuple[int, int] = (0, 1000)  #: timesteps: from the first to below the second
    _order: tuple[int, list[int]] = field(default=(-1, []), init=False, repr=False)

    def at(self, place: int) -> int:
        """Which of the latents stands at a place."""
        epoch, within = divmod(place, len(self.latents))
        if self._order[0] != epoch:
            generator = generator_of(self.seed, "order", epoch)
            self._order = (epoch, torch.randperm(len(self.latents), generator=generator).tolist())
        return self._order[1][within]

    def batch(self, step: int, places: range) -> Batch:
        rows = [self._row(place) for place in places]
        latents, layouts, noise, t, captioned, boxed = zip(*rows, strict=True)
        return Batch(
            torch.stack(latents),
            layouts,
            torch.stack(noise),
            torch.stack(t),
            torch.stack(captioned),
            torch.stack(boxed),
            step,
            generator_of(self.seed, "batch", step, places.start),
            tuple(self.latents.examples[self.at(place)] for place in places),
        )

    def _row(self, place: int) -> tuple[Tensor, Layout, Tensor, Tensor, Tensor, Tensor]:
        which, generator = self.at(place), generator_of(self.seed, "example", place)
        latent = self.latents[which]
        layout = self.examples.layout(self.latents.examples[which], generator)
        kept = torch.rand(2, generator=generator) >= torch.tensor([self.drop_captions, self.drop_boxes])
        t = torch.randint(*self.times, (), generator=generator)
        return latent, layout, torch.randn(latent.shape, generator=generator), t, kept[0], kept[1]
