"""GOAL: a layout model that is trained to bind words to boxes, by what it would draw and by where it looks.

Source: "GOAL: Grounded Joint Layout Alignment" (no public code). In one call of the U-Net at z_t:

    L = L_LDM + alpha L_DSA + beta L_MAA                                            (15)
    L_DSA = D_local + D_global,   L_MAA = L_in + L_out                              (10), (14)

The terms are in ``losses.denoising``, ``losses.dsalign`` and ``losses.maalign``. Sampling is that of the
model before: no net is added.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trueline.models.attention import Maps
from trueline.models.backbone import Backbone
from trueline.training.losses.denoising import decoded, ground, noised
from trueline.training.losses.dsalign import Distances, DSAlign
from trueline.training.losses.maalign import Attention, MAAlign, why_not
from trueline.training.objective import Batch, Losses, Nets

PerPicture = Float[Tensor, " batch"]
Rows = Bool[Tensor, " batch"]


@dataclass(frozen=True)
class GoalObjective:
    """(15), a mean over the pictures of the batch: one of them without a term (no box, say) has 0 of it.

    The U-Net must be able to obey: D_global counts where it was shown the caption, D_local where it was shown the
    boxes, L_MAA where it was shown both. A plain U-Net, which cannot be shown boxes, has D_local in each picture. A
    phrase that the caption lacks, or holds in part (``maalign.counted``), has no attention map of its own: L_MAA
    leaves that region out, says so once, and counts it.

    Settings:
        dsa, maa: alpha and beta (the paper: 1e-2 and 1e-3). 0 = the term is not computed; with both 0 it is the loss
            of GLIGEN, the control on the same data.
        bins: the terms are also logged for so many equal spans of the timesteps; 0 = not.

    Nets: ``nets["clip"]``, a ``FrozenCLIP``, unless ``dsa`` is 0. VAE and CLIP do not learn. With
    ``backbone.checkpointing`` the blocks of the U-Net and of the VAE's decoder, and CLIP's layers, run twice, for
    less memory.

    Logged: "noise" (L_LDM), "dsa_local", "dsa_global", "maa_in", "maa_out" (unweighted means over the pictures that
    have them), "unboxed" (share of pictures without a box), "unphrased" (share of the regions that L_MAA leaves out),
    and "noise/0", "dsa/250", ...: a term from that timestep to the next such number.
    """

    dsa: float = 1e-2
    maa: float = 1e-3
    dsalign: DSAlign = field(default_factory=DSAlign)
    maalign: MAAlign = field(default_factory=MAAlign)
    bins: int = 4
    _said: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __call__(self, batch: Batch, nets: Nets) -> Losses:
        backbone = nets.backbone
        level = backbone.noise_level(batch.t)
        latents, noise, t = (part.to(backbone.device) for part in (batch.latents, batch.noise, batch.t))
        z = noised(latents, noise, level)
        wanted = backbone.target(latents, noise, batch.t)
        text, grounding = backbone.encode(batch.captions), ground(backbone, batch)
        with self._opened(backbone, z) as maps:
            prediction = backbone.predict(z, t, text, grounding)
        noise_loss = (prediction - wanted).square().flatten(1).mean(1)
        distances, attention = self.alignment(batch, nets, backbone.x0(prediction, z, batch.t), maps)
        total = noise_loss.mean()
        every = torch.ones_like(t, dtype=torch.bool)
        rows: dict[str, tuple[PerPicture, Rows]] = {"noise": (noise_loss, every)}
        spans = dict(rows)
        if distances is not None:
            both = distances.local + distances.globe
            total = total + self.dsa * (self.dsalign.weight(backbone.snr(batch.t)) * both).mean()
            rows["dsa_local"] = distances.local, distances.has_local
            rows["dsa_global"] = distances.globe, distances.has_globe
            spans["dsa"] = both, distances.has_local | distances.has_globe
        if attention is not None:
            both = attention.inside + attention.outside
            total = total + self.maa * both.mean()
            if self.maalign.inside:
                rows["maa_in"] = attention.inside, attention.has
            if self.maalign.outside:
                rows["maa_out"] = attention.outside, attention.has
            spans["maa"] = both, attention.has
        return {
            "total": total,
            **_means(rows),
            **self._counts(batch, attention),
            **_means(_binned(spans, t, self.bins, backbone)),
        }

    def alignment(
        self, batch: Batch, nets: Nets, clean: Float[Tensor, "batch c h w"], maps: Maps
    ) -> tuple[Distances | None, Attention | None]:
        """The terms of L_DSA and of L_MAA of each picture, of its one-step latents and its attention maps; None for
        what does not count."""
        backbone, count = nets.backbone, len(batch.layouts)
        captioned, boxed = (
            torch.ones(count, dtype=torch.bool) if kept is None else kept
            for kept in (batch.captioned, batch.boxed)
        )
        if not backbone.grounded:
            boxed = torch.ones_like(boxed)
        captioned, boxed = captioned.to(clean.device), boxed.to(clean.device)
        distances, attention = None, None
        if self.dsa:
            clip: Any = nets["clip"]
            early = torch.ones_like(captioned)
            if self.dsalign.t_max is not None:
                early = batch.t.to(clean.device) < self.dsalign.t_max
            decode = partial(decoded, backbone)
            distances = self.dsalign(
                clip,
                decode,
                clean,
                batch.layouts,
                captioned & early,
                boxed & early,
                backbone.checkpointing,
                batch.latents.to(clean),
            )
        if self.maa:
            grid = (clean.shape[-2], clean.shape[-1])
            attention = self.maalign(maps, grid, batch.layouts, backbone, captioned & boxed)
        return distances, attention

    @contextmanager
    def _opened(self, backbone: Backbone, z: Float[Tensor, "batch c h w"]) -> Iterator[Maps]:
        """The U-Net with the layers of L_MAA open; its blocks run again for the gradient where that is wanted."""
        with backbone.recomputed():
            if not self.maa:
                yield {}
                return
            wanted = set(self.maalign.sites(backbone, (z.shape[-2], z.shape[-1])))
            with backbone.tapped(wanted.__contains__) as maps:
                yield maps

    def _counts(self, batch: Batch, attention: Attention | None) -> Losses:
        unboxed = sum(not layout.regions for layout in batch.layouts) / len(batch.layouts)
        counts = {"unboxed": torch.tensor(unboxed)}
        if attention is None:
            return counts
        if attention.missing and not self._said:
            self._said.append(why_not(attention.missing[0]))
            warnings.warn(
                f"MAAlign: {self._said[0]}; such regions are left out of it, and their share is logged as unphrased",
                stacklevel=2,
            )
        if attention.regions:
            counts["unphrased"] = torch.tensor(len(attention.missing) / attention.regions)
        return counts


def _means(rows: dict[str, tuple[PerPicture, Rows]]) -> Losses:
    """Over the rows that have a value; a name that none has is left out."""
    return {name: values.detach()[has].mean() for name, (values, has) in rows.items() if has.any()}


def _binned(
    rows: dict[str, tuple[PerPicture, Rows]], t: Int[Tensor, " batch"], bins: int, backbone: Backbone
) -> dict[str, tuple[PerPicture, Rows]]:
    steps = backbone.timesteps
    bounds = [steps * place // bins for place in range(bins)] + [steps] if bins else []
    return {
        f"{name}/{low}": (values, has & (t >= low) & (t < high))
        for name, (values, has) in rows.items()
        for low, high in pairwise(bounds)
    }
