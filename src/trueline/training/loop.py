"""THE training loop: an objective and a stream of batches in, a stream of log lines out.

    fit = Fit(folder, objective, nets, trained, stream, plan)
    for line in fit:
        ...

Every draw of a step comes from (seed, place in the stream of examples), so that a run that was stopped goes on as if
it had not been. Mixed precision, scaling of fp16 losses and several processes are accelerate's.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trueline.files import Folder
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.devices import fast_bfloat16
from trueline.seeds import seeded
from trueline.training.checkpoints import Checkpoints
from trueline.training.log import Log
from trueline.training.parts import Average, Parameters
from trueline.training.settings import Plan

if TYPE_CHECKING:
    from trueline.training.validation import Looks

Losses = dict[str, Tensor]
BETAS = (0.9, 0.999)  #: AdamW's, as in GLIGEN and diffusers' examples
BAD = "not_finite.jsonl"  #: the last steps without a finite loss and gradient, where a run gave up
NOTHING = "part: nothing is left to train; choose a part of the U-Net or an objective with a net"


@dataclass(frozen=True)
class Batch:
    """What an objective sees at once. ``latents``: clean, scaled by the VAE's factor; ``t``: timesteps, 0 = cleanest.

    ``captioned``, ``boxed``: False where the U-Net shall not read the caption (the boxes), so that classifier-free
    guidance works; the layouts hold both all the same. None = all rows. ``generator``: for whatever else is random,
    on the CPU, of this batch alone. ``examples``: their numbers in the data, for reports.
    """

    latents: Float[Tensor, "batch c h w"]
    layouts: tuple[Layout, ...]
    noise: Float[Tensor, "batch c h w"]
    t: Int[Tensor, " batch"]
    captioned: Bool[Tensor, " batch"] | None = None
    boxed: Bool[Tensor, " batch"] | None = None
    step: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)
    examples: tuple[int, ...] = ()

    @property
    def captions(self) -> list[str]:
        """What the U-Net reads: the prompt, or "" where the caption is dropped."""
        kept = [True] * len(self.layouts) if self.captioned is None else self.captioned.tolist()
        return [layout.prompt if keep else "" for layout, keep in zip(self.layouts, kept, strict=True)]


@dataclass(frozen=True)
class Nets:
    """The backbone, and further nets of an objective by name (``nets["alignment"]``)."""

    backbone: Backbone
    further: Mapping[str, nn.Module] = field(default_factory=dict)

    def __getitem__(self, name: str) -> nn.Module:
        return self.further[name]


class Objective(Protocol):
    """A training term. Named scalars, all of them logged; "total" is what is minimised, a mean over the batch."""

    def __call__(self, batch: Batch, nets: Nets) -> Losses: ...


class Stream(Protocol):
    """Batches by step and places (of examples, from 0 on); the same arguments, the same batch."""

    def batch(self, step: int, places: range) -> Batch: ...


class TrainingError(ValueError):
    """Training cannot go on; one sentence with the cure."""


def rate(plan: Plan, step: int) -> float:
    """Learning rate of step ``step``, from 0 on."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    if plan.schedule == "constant":
        return plan.lr
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * (0.5 + 0.5 * math.cos(math.pi * done))


def make_accelerator(plan: Plan, device: torch.device) -> Accelerator:
    """accelerate for this precision and device.

    Raises:
        ValueError: fp16 where it cannot be trained in.
    """
    precision = plan.precision
    if precision == "auto":
        precision = "bf16" if fast_bfloat16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision: fp16 needs a GPU; use bf16 or fp32")
    # A batch whose boxes are all dropped, or a loss that is not there, leaves parameters without a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    kind: Any = "no" if precision == "fp32" else precision
    if AcceleratorState._shared_state and PartialState().num_processes == 1:
        # accelerate keeps the precision of an earlier run in this process and refuses another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=kind, cpu=device.type == "cpu", kwargs_handlers=[unused])


class _Forward(nn.Module):
    """The objective as one module, so that accelerate's wrappers (autocast, DDP) stand around all of its nets."""

    def __init__(self, objective: Objective, nets: Nets, trained: Mapping[str, nn.Parameter]):
        super().__init__()
        self.objective, self.nets = objective, nets
        owners = {"unet": nets.backbone.unet, **nets.further}
        held = {id(weight) for weight in trained.values()}
        self.learning = nn.ModuleDict(
            {name: net for name, net in owners.items() if any(id(p) in held for p in net.parameters())}
        )

    def forward(self, batch: Batch) -> Losses:
        return self.objective(batch, self.nets)


@dataclass
class Fit:
    """One training run in ``folder``, from its newest checkpoint on; iterate over it for the log lines.

    A step whose loss or gradient is not finite is skipped and counted. When ``stop`` says so, the run writes a
    checkpoint and ends early (``finished`` is False): the gradient of a step half done is thrown away, to be made
    again.

    Args:
        trained: the parameters that learn, by name. The names are those of the checkpoints.
        identity: what must be the same when the run goes on.
        observe: more to log, with each line.
        looks: what is drawn and scored on the way, with the averaged weights in place; the run may end early by it.

    Raises:
        ValueError: nothing to train, or the folder holds a run of another ``identity``.
    """

    folder: Path
    objective: Objective
    nets: Nets
    trained: Parameters
    stream: Stream
    plan: Plan
    accelerator: Accelerator
    identity: Mapping[str, Any] = field(default_factory=dict)
    observe: Callable[[], Mapping[str, float]] = dict
    looks: Looks | None = None
    tensorboard: bool = False
    stop: Callable[[], bool] = lambda: False

    step: int = field(default=0, init=False)  #: steps done
    skipped: int = field(default=0, init=False)  #: of them without an update
    seconds: float = field(default=0.0, init=False)  #: spent training, those of earlier runs included
    average: Average | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.trained:
            raise ValueError(NOTHING)
        if wrong := [n for n, p in self.trained.items() if p.dtype not in (torch.float32, torch.float64)]:
            raise ValueError(f"trained: {wrong[0]} must be float32; mixed precision is the forward pass's")
        self.home = Folder(self.folder)
        self.checkpoints = Checkpoints(self.home.path / "checkpoints", self.identity, self.plan.keep)
        self.nets.backbone.to(self.accelerator.device)
        for net in self.nets.further.values():
            net.to(self.accelerator.device)
        optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=self.plan.lr, betas=BETAS, weight_decay=self.plan.weight_decay
        )
        forward = _Forward(self.objective, self.nets, self.trained)
        self._forward, self._optimiser = self.accelerator.prepare(forward, optimiser)
        forward.learning.train()
        if self.plan.ema:
            self.average = Average(self.trained, self.plan.ema)
        self._in_a_row = 0  # skipped steps
        self._seen: list[Batch] = []  # of the step
        self._bad: deque[dict[str, Any]] = deque(maxlen=self.plan.give_up)  # about skipped steps
        self._owed = False  # the last step was not looked at, for looking failed
        self.log = Log(self.home, self.tensorboard, self.accelerator.is_main_process)
        self._resume()

    @property
    def finished(self) -> bool:
        """All steps are done, or the held-out score has not risen for long enough."""
        return self.step >= self.plan.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        return self.step < self.plan.steps and self.looks is not None and self.looks.stale

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """
        Raises:
            TrainingError: ``give_up`` steps in a row without a finite loss and gradient.
        """
        # Killed between the look at the base and the first checkpoint: the look is taken once more.
        again = self.step == 0 and self.looks is not None and self.looks.last < 0
        self.log.open(self.step, without_looks=again)
        try:
            self._begin_looks()
            if self._owed:
                yield from self._after_step()
            while not self.finished:
                begun = time.monotonic()
                whole = self._train_step()
                self.seconds += time.monotonic() - begun
                if not whole:
                    self._save()
                    return
                self.step += 1
                yield from self._after_step()
        finally:
            self.log.close()

    def _after_step(self) -> Iterator[dict[str, Any]]:
        """The look, before the checkpoint that holds what came of it; the log line; the checkpoint."""
        better = self._look_or_save()
        if self.step % self.plan.log_every == 0 or self.finished:
            yield self._line()
        if better or self.step % self.plan.save_every == 0 or self.finished:
            self._save()
        if better:
            self._keep_best()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights, where there are some, in place of the last ones, for as long as it is open."""
        with self.average.shown(self.trained) if self.average else nullcontext():
            self._forward.eval()
            try:
                yield
            finally:
                self._forward.train()

    # One step

    def _train_step(self) -> bool:
        """One update of the weights; False when it was stopped before."""
        plan, losses = self.plan, []
        self._seen = []
        buffers = {
            name: buffer.clone() for name, buffer in self._buffers()
        }  # a step without effect leaves them too
        for group in self._optimiser.param_groups:
            group["lr"] = rate(plan, self.step)
        self._optimiser.zero_grad(set_to_none=True)
        for turn in range(plan.accumulate):
            if self._any(self.stop()):
                self._put_back(buffers)
                return False
            losses.append(self._train_batch(turn))
        ceiling = plan.clip or math.inf
        norm = float(self.accelerator.clip_grad_norm_(list(self.trained.values()), ceiling))
        totals = [terms["total"] for terms in losses]
        bad = not all(map(math.isfinite, [norm, *totals]))
        if self._any(bad):
            self._put_back(buffers)
            self._skip(norm, totals)
            return True
        self._optimiser.step()
        self._in_a_row = 0
        if self.average:
            self.average.update(self.trained)
        for terms in losses:
            self.log.count(terms)
        self.log.count({"grad_norm": norm})
        return True

    def _train_batch(self, turn: int) -> dict[str, float]:
        """Forward and backward of one batch; gradients add up to those of the mean over all batches of the step."""
        plan, accelerator = self.plan, self.accelerator
        size = plan.batch
        first = (
            (self.step * plan.accumulate + turn) * accelerator.num_processes + accelerator.process_index
        ) * size
        batch = self.stream.batch(self.step, range(first, first + size))
        self._seen.append(batch)
        last = turn == plan.accumulate - 1
        alone = nullcontext() if last else accelerator.no_sync(self._forward)
        with alone, seeded(plan.seed, "global", self.step, turn, accelerator.process_index):
            losses = self._forward(batch)
            if "total" not in losses or not losses["total"].requires_grad:
                raise TrainingError('objective: no gradient leads from its "total" to what is trained')
            accelerator.backward(losses["total"] / plan.accumulate)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _skip(self, norm: float, totals: list[float]) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # an overflow in fp16: the next loss is scaled less
        self._optimiser.zero_grad(set_to_none=True)
        self.skipped += 1
        self._in_a_row += 1
        self._bad.append(self._about_bad(norm, totals))
        if self._in_a_row >= self.plan.give_up:
            what = f"gradient norm {norm:g}" if all(map(math.isfinite, totals)) else f"losses {totals}"
            raise TrainingError(
                f"give_up: {self._in_a_row} steps in a row had no finite loss and gradient (last: {what}, step "
                f"{self.step}); {self._report_bad()} names their examples; raise give_up to go on in this folder, or "
                "begin in another with a lower lr, with precision=fp32, or without those examples"
            )

    def _about_bad(self, norm: float, totals: list[float]) -> dict[str, Any]:
        """Of this process; numbers that JSON does not have are text."""
        return {
            "step": self.step,
            "process": self.accelerator.process_index,
            "losses": [value if math.isfinite(value) else str(value) for value in totals],
            "grad_norm": norm if math.isfinite(norm) else str(norm),
            "examples": [list(batch.examples) for batch in self._seen],
            "timesteps": [batch.t.tolist() for batch in self._seen],
        }

    def _report_bad(self) -> Path:
        """Write what is known of the last bad steps, of all processes, beside the log."""
        several = self.accelerator.num_processes > 1
        rows = gather_object(list(self._bad)) if several else list(self._bad)
        lines = [
            json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: (row["step"], row["process"]))
        ]
        if self.accelerator.is_main_process:
            self.home.write(BAD, lambda file: file.write("".join(lines).encode()))
        return self.home.path / BAD

    def _any(self, flag: bool) -> bool:
        """Whether it is so in any process: all must take the same turn."""
        if self.accelerator.num_processes == 1:
            return flag
        found = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(found, "sum") > 0)

    def _line(self) -> dict[str, Any]:
        """Means since the last line, over all processes."""
        several = self.accelerator.num_processes > 1
        parts = gather_object([self.log.sums]) if several else [self.log.sums]
        more = {"lr": rate(self.plan, self.step - 1), "skipped": self.skipped, **self.observe()}
        return self.log.line(self.step, parts, more | {"seconds": round(self.seconds, 2)})

    # Looking

    def _begin_looks(self) -> None:
        """The base's own scores; and the best weights, where the run was killed before they were written."""
        if self.looks is None:
            return
        if self.step == 0 and self._look():
            self._save()
            self._keep_best()
        elif self._any(self.looks.lost(self.step)):
            self._keep_best()

    def _look(self) -> bool:
        """Draw and score where it is due; whether this step is the best so far. All processes learn of it."""
        if self.looks is None or not self.looks.due(self.step):
            return False
        found: list[Any] = [{}]
        if self.accelerator.is_main_process:
            with self.averaged(), seeded(self.plan.seed, "look", self.step):
                found = [dict(self.looks.take(self.step, self.log.events) or {})]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        better, logged = self.looks.see(self.step, found[0])
        self.log.scores(self.step, logged)
        return better

    def _look_or_save(self) -> bool:
        """``_look``; where it fails, a checkpoint holds the steps since the last one, and the look is owed."""
        self._owed = False
        try:
            return self._look()
        except Exception:
            self._owed = True
            self._write_checkpoint()
            raise

    def _keep_best(self) -> None:
        if self.accelerator.is_main_process and self.looks:
            with self.averaged():
                self.looks.keep()
        self.accelerator.wait_for_everyone()

    # Stopping and going on

    def _save(self) -> None:
        self._write_checkpoint()
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self) -> None:
        """Without waiting: where looking fails, the other processes do not come."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "weights": {name: weight.detach() for name, weight in self.trained.items()},
                "buffers": dict(self._buffers()),
                "optimiser": self._optimiser.state_dict(),
                "average": self.average.state() if self.average else None,
                "scaler": scaler.state_dict() if scaler else None,
                "sums": self.log.sums,
                "skipped": [self.skipped, self._in_a_row],
                "seconds": self.seconds,
                "looks": self.looks.state() if self.looks else None,
                "owed": self._owed,
            }
            self.checkpoints.save(self.step, state)

    def _resume(self) -> None:
        state = self.checkpoints.newest()
        if state is None:
            return
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(state["weights"][name])
        self._put_back(state["buffers"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self.average:
            self.average.load(state["average"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.log.sums = state["step"], state["sums"]
        (self.skipped, self._in_a_row), self.seconds = state["skipped"], state["seconds"]
        self._owed = state.get("owed", False)
        if self.looks and state.get("looks"):  # a run may begin to look later
            self.looks.load(state["looks"])

    @torch.no_grad()
    def _put_back(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in self._buffers():
            buffer.copy_(buffers[name])

    def _buffers(self) -> Iterable[tuple[str, Tensor]]:
        return self.accelerator.unwrap_model(self._forward).learning.named_buffers()
