"""THE training loop: an objective and a stream of batches in, a stream of log lines out.

    loop = TrainingLoop(folder, objective, modules, trained, stream, settings, accelerator)
    for line in loop:
        ...

It knows nothing of diffusion: the world's nets are trained by it too. Every draw of a step comes from (seed, place
in the stream of examples), so that a run that was stopped goes on as if it had not been. Mixed precision, scaling of
fp16 losses and several processes are accelerate's.
"""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trueline.files import Folder
from trueline.seeds import seeded
from trueline.training.accelerator import gathered, in_any_process, of_main_process
from trueline.training.checkpoints import Checkpoints, moments, put_moments
from trueline.training.log import Log
from trueline.training.objective import Losses
from trueline.training.parts import Average, Parameters
from trueline.training.settings import Optimisation
from trueline.training.validation import Validator

logger = logging.getLogger(__name__)
NOT_FINITE = "not_finite.jsonl"  #: the last steps without a finite loss and gradient, where a run gave up
NOTHING = "part: nothing is left to train; choose a part of the U-Net or an objective with a net"


class Described(Protocol):
    """A batch."""

    def about(self) -> Mapping[str, Any]:
        """What a report of a failed step says of it, as JSON."""


_Batch = TypeVar("_Batch", bound=Described)
_Out = TypeVar("_Out", bound=Described, covariant=True)


class Stream(Protocol[_Out]):
    """Batches by step and places (of examples, from 0 on); the same arguments, the same batch."""

    def batch(self, step: int, places: range) -> _Out: ...


class TrainingError(ValueError):
    """Training cannot go on; one sentence with the cure."""


class _Forward(nn.Module):
    """The objective as one module, so that accelerate's wrappers (autocast, DDP) stand around all nets that learn."""

    def __init__(self, objective: Callable[[Any], Losses], learning: Mapping[str, nn.Module]):
        super().__init__()
        self.objective, self.learning = objective, nn.ModuleDict(learning)

    def forward(self, batch: Any) -> Losses:
        return self.objective(batch)


@dataclass
class TrainingLoop(Generic[_Batch]):
    """One training run in ``folder``, from its newest checkpoint on; iterate over it for the log lines.

    A step whose loss or gradient is not finite is skipped and counted. When ``stop`` says so, the run writes a
    checkpoint and ends early (``finished`` is False): the gradient of a step half done is thrown away, to be made
    again.

    Args:
        objective: a batch -> named scalars, all of them logged; "total" is minimised.
        modules: the nets of the objective by name; they are moved to the accelerator's device.
        trained: the parameters that learn, by name. The names are those of the checkpoints.
        statistics: a module whose buffers the run changes besides those of nets that learn; checkpoints hold them.
        identity: what must be the same when the run goes on.
        observe: more to log, with each line.
        check: raises where nothing may be written any more; asked before each line and checkpoint.
        validator: what is drawn and scored on the way, with the averaged weights in place; it may end the run early.

    Raises:
        ValueError: nothing to train, or the folder holds a run of another ``identity``.
    """

    folder: Path
    objective: Callable[[_Batch], Losses]
    modules: Mapping[str, nn.Module]
    trained: Parameters
    stream: Stream[_Batch]
    settings: Optimisation
    accelerator: Accelerator
    statistics: nn.Module | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    observe: Callable[[], Mapping[str, float]] = dict
    validator: Validator | None = None
    tensorboard: bool = False
    stop: Callable[[], bool] = lambda: False
    check: Callable[[], None] = lambda: None

    step: int = field(default=0, init=False)  #: steps done
    skipped: int = field(default=0, init=False)  #: of them without an update
    seconds: float = field(default=0.0, init=False)  #: spent training, those of earlier runs included
    average: Average | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.trained:
            raise ValueError(NOTHING)
        if wrong := [n for n, p in self.trained.items() if p.dtype not in (torch.float32, torch.float64)]:
            raise ValueError(f"trained: {wrong[0]} must be float32; mixed precision is the forward pass's")
        settings = self.settings
        self.home = Folder(self.folder)
        self.checkpoints = Checkpoints(self.home.path / "checkpoints", self.identity, settings.keep)
        for net in self.modules.values():
            net.to(self.accelerator.device)
        optimiser = torch.optim.AdamW(
            list(self.trained.values()),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        forward = _Forward(self.objective, self._learning())
        self._forward, self._optimiser = self.accelerator.prepare(forward, optimiser)
        forward.learning.train()
        if settings.ema:
            self.average = Average(self.trained, settings.ema)
        self._in_a_row = 0  # skipped steps
        self._batches: list[_Batch] = []  # of the step
        self._not_finite: deque[dict[str, Any]] = deque(maxlen=settings.give_up)  # about skipped steps
        self._owed = False  # the last step was not validated, for validation failed
        self.log = Log(self.home, self.tensorboard, self.accelerator.is_main_process)
        self._resume()

    def _learning(self) -> dict[str, nn.Module]:
        held = {id(weight) for weight in self.trained.values()}
        learning = {
            name: net
            for name, net in self.modules.items()
            if any(id(weight) in held for weight in net.parameters())
        }
        return learning | ({} if self.statistics is None else {"statistics": self.statistics})

    @property
    def finished(self) -> bool:
        """All steps are done, or the held-out score has not risen for long enough."""
        return self.step >= self.settings.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        return self.step < self.settings.steps and self.validator is not None and self.validator.stale

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """
        Raises:
            TrainingError: ``give_up`` steps in a row without a finite loss and gradient.
        """
        # Killed between the validation of the base and the first checkpoint: it is done once more.
        again = self.step == 0 and self.validator is not None and self.validator.last < 0
        self.log.open(self.step, without_scores=again)
        try:
            self._begin_validation()
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
        """Validation, before the checkpoint that holds what came of it; the log line; the checkpoint."""
        better = self._validate_or_save()
        if self.step % self.settings.log_every == 0 or self.finished:
            yield self._line()
        if better or self.step % self.settings.save_every == 0 or self.finished:
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
        settings, losses = self.settings, []
        self._batches = []
        # A step without effect leaves buffers as they were, too.
        buffers = {name: buffer.clone() for name, buffer in self._buffers()}
        for group in self._optimiser.param_groups:
            group["lr"] = settings.rate(self.step)
        self._optimiser.zero_grad(set_to_none=True)
        for turn in range(settings.accumulate):
            if in_any_process(self.accelerator, self.stop()):
                self._put_back(buffers)
                return False
            losses.append(self._train_batch(turn))
        ceiling = settings.clip or math.inf
        norm = float(self.accelerator.clip_grad_norm_(list(self.trained.values()), ceiling))
        totals = [terms["total"] for terms in losses]
        if in_any_process(self.accelerator, not all(map(math.isfinite, [norm, *totals]))):
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
        settings, accelerator = self.settings, self.accelerator
        batches = (self.step * settings.accumulate + turn) * accelerator.num_processes
        first = (batches + accelerator.process_index) * settings.batch
        batch = self.stream.batch(self.step, range(first, first + settings.batch))
        self._batches.append(batch)
        last = turn == settings.accumulate - 1
        alone = nullcontext() if last else accelerator.no_sync(self._forward)
        with alone, seeded(settings.seed, "global", self.step, turn, accelerator.process_index):
            losses = self._forward(batch)
            if "total" not in losses or not losses["total"].requires_grad:
                raise TrainingError('objective: no gradient leads from its "total" to what is trained')
            accelerator.backward(losses["total"] / settings.accumulate)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _skip(self, norm: float, totals: list[float]) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # an overflow in fp16: the next loss is scaled less
        self._optimiser.zero_grad(set_to_none=True)
        self.skipped += 1
        self._in_a_row += 1
        self._not_finite.append(self._about_skipped(norm, totals))
        if self._in_a_row >= self.settings.give_up:
            what = f"gradient norm {norm:g}" if all(map(math.isfinite, totals)) else f"losses {totals}"
            raise TrainingError(
                f"give_up: {self._in_a_row} steps in a row had no finite loss and gradient (last: {what}, step "
                f"{self.step}); {self._report_skipped()} names their examples; raise give_up to go on in this "
                "folder, or begin in another with a lower lr, with precision=fp32, or without those examples"
            )

    def _about_skipped(self, norm: float, totals: list[float]) -> dict[str, Any]:
        """Of this process; numbers that JSON does not have are text."""
        batches = [batch.about() for batch in self._batches]
        return {
            "step": self.step,
            "process": self.accelerator.process_index,
            "losses": [value if math.isfinite(value) else str(value) for value in totals],
            "grad_norm": norm if math.isfinite(norm) else str(norm),
        } | {key: [about[key] for about in batches] for key in batches[0]}

    def _report_skipped(self) -> Path:
        """Write what is known of the last skipped steps, of all processes, beside the log."""
        rows = gathered(self.accelerator, list(self._not_finite))
        rows.sort(key=lambda row: (row["step"], row["process"]))
        if self.accelerator.is_main_process:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            self.home.write(NOT_FINITE, lambda file: file.write(text.encode()))
        return self.home.path / NOT_FINITE

    def _line(self) -> dict[str, Any]:
        """Means since the last line, over all processes."""
        self.check()
        sums = gathered(self.accelerator, [self.log.sums])
        more = {"lr": self.settings.rate(self.step - 1), "skipped": self.skipped, **self.observe()}
        return self.log.line(self.step, sums, more | {"seconds": round(self.seconds, 2)})

    # Validation

    def _begin_validation(self) -> None:
        """The base's own scores; and the best weights, where the run was killed before they were written."""
        if self.validator is None:
            return
        if self.step == 0 and self._validate():
            self._save()
            self._keep_best()
        elif in_any_process(self.accelerator, self.validator.lost(self.step)):
            self._keep_best()

    def _validate(self) -> bool:
        """Draw and score where it is due; whether this step is the best so far. All processes learn of it."""
        if self.validator is None or not self.validator.due(self.step):
            return False
        scores: dict[str, float] = {}
        if self.accelerator.is_main_process:
            with self.averaged(), seeded(self.settings.seed, "look", self.step):
                scores = dict(self.validator.draw(self.step, self.log.events) or {})
        better, logged = self.validator.take(self.step, of_main_process(self.accelerator, scores))
        self.log.scores(self.step, logged)
        if logged and self.accelerator.is_main_process:
            logger.info(self.validator.sentence(self.step, logged))
        return better

    def _validate_or_save(self) -> bool:
        """``_validate``; where it fails, a checkpoint holds the steps since the last one, and validation is owed."""
        self._owed = False
        try:
            return self._validate()
        except Exception:
            self._owed = True
            self._write_checkpoint()
            raise

    def _keep_best(self) -> None:
        if self.accelerator.is_main_process and self.validator:
            with self.averaged():
                self.validator.keep()
        self.accelerator.wait_for_everyone()

    # Stopping and going on

    def _save(self) -> None:
        self._write_checkpoint()
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self) -> None:
        """Without waiting: where validation fails, the other processes do not come."""
        if self.accelerator.is_main_process:
            self.check()
            scaler = self.accelerator.scaler
            tensors: dict[str, dict[str, Tensor]] = {
                "weights": dict(self.trained),
                "buffers": dict(self._buffers()),
                "average": self.average.values if self.average else {},
            }
            rest = {
                "averaged": self.average.count if self.average else 0,
                "scaler": scaler.state_dict() if scaler else None,
                "sums": self.log.sums,
                "skipped": [self.skipped, self._in_a_row],
                "seconds": self.seconds,
                "validation": self.validator.state() if self.validator else None,
                "owed": self._owed,
            }
            self.checkpoints.save(self.step, tensors | moments(self._optimiser, [*self.trained]), rest)

    def _resume(self) -> None:
        state = self.checkpoints.newest()
        if state is None:
            return
        tensors, rest = state.tensors, state.rest
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(tensors["weights"][name])
        self._put_back(tensors.get("buffers", {}))
        put_moments(self._optimiser, [*self.trained], tensors)
        if self.average:
            self.average.load(rest["averaged"], tensors["average"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(rest["scaler"])
        self.step, self.log.sums = state.step, rest["sums"]
        (self.skipped, self._in_a_row), self.seconds = rest["skipped"], rest["seconds"]
        self._owed = rest["owed"]
        if self.validator and rest["validation"]:  # a run may begin to validate later
            self.validator.load(rest["validation"])

    @torch.no_grad()
    def _put_back(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in self._buffers():
            buffer.copy_(buffers[name])

    def _buffers(self) -> Iterable[tuple[str, Tensor]]:
        return self.accelerator.unwrap_model(self._forward).learning.named_buffers()
