"""The loop that trains every net of the world: resumable, logged, the same on a CPU and on a GPU."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train. ``warmup`` steps up to ``lr``, then flat, then down over ``decay`` of all."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.25
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    save_every: int = 200
    log_every: int = 20
    probe_every: int = 100

    def rate(self, step: int) -> float:
        """Learning rate of step ``step`` (0-based)."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        tail = max(1.0, self.steps * self.decay)
        down = min(1.0, (self.steps - step) / tail)
        return self.lr * up * (0.5 - 0.5 * math.cos(math.pi * down))


class Average:
    """Exponential moving average of the parameters of a net, kept in float32, with a warm-up of its decay."""

    def __init__(self, net: nn.Module, decay: float):
        self.decay, self.count = decay, 0
        self.values = {n: p.detach().float().clone() for n, p in net.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        own = dict(net.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [own[n].float() for n in self.values], 1 - decay)

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        for name, parameter in net.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])

    def state(self) -> dict:
        return {"count": self.count, "values": self.values}

    def load(self, state: dict) -> None:
        self.count = state["count"]
        for name, value in state["values"].items():
            self.values[name].copy_(value)


@dataclass
class Fit:
    """One training run in ``folder``; iterate over it for the log lines.

    ``loss(step, generator)`` returns named scalars; ``total`` is what is minimised. Everything random in it comes
    from the generator, which is seeded by the step: a run that was stopped goes on as if it had not been.
    """

    folder: Path
    net: nn.Module
    plan: Plan
    loss: Callable[[int, torch.Generator], Losses]
    seed: int = 0
    probe: Callable[[], Losses] | None = None  #: more to log, every ``plan.probe_every`` steps
    average: Average | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, lr=self.plan.lr, weight_decay=self.plan.weight_decay, betas=(0.9, 0.99)
        )
        if self.plan.ema:
            self.average = Average(self.net, self.plan.ema)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def __iter__(self) -> Iterator[dict]:
        step, begun = self._resume(), time.monotonic()
        sums: dict[str, float] = {}
        first = step
        while step < self.plan.steps:
            for name, value in self._step(step).items():
                sums[name] = sums.get(name, 0.0) + value
            step += 1
            if step % self.plan.log_every == 0 or step == self.plan.steps:
                count = (step - 1) % self.plan.log_every + 1
                line = {"step": step, **{k: round(v / count, 5) for k, v in sums.items()}}
                line["s_per_step"] = round((time.monotonic() - begun) / (step - first), 3)
                if self.probe and (step % self.plan.probe_every == 0 or step == self.plan.steps):
                    line |= {k: round(float(v), 3) for k, v in self.probe().items()}
                self._log(line)
                sums = {}
                yield line
            if step % self.plan.save_every == 0 or step == self.plan.steps:
                self._save(step)

    def _step(self, step: int) -> dict[str, float]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate(step)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        losses = self.loss(step, generator)
        self.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.plan.clip)
        values = {k: float(v.detach()) for k, v in losses.items()}
        values["skipped"] = 0.0 if torch.isfinite(norm) else 1.0
        if not values["skipped"]:
            self.optimiser.step()
            if self.average:
                self.average.update(self.net)
        return values

    def _resume(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average:
            self.average.load(state["average"])
        return state["step"]

    def _save(self, step: int) -> None:
        """Write beside, then rename: a stop in the middle leaves the last good checkpoint."""
        state = {
            "step": step,
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state() if self.average else None,
        }
        beside = self.checkpoint.with_suffix(".tmp")
        torch.save(state, beside)
        os.replace(beside, self.checkpoint)

    def _log(self, line: dict) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
