"""One training run in a folder: data, nets, loop, result. The same settings and folder again: it goes on."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from trueline.errors import redacted
from trueline.files import Busy, Folder, disk_full_said
from trueline.models.backbone import Backbone
from trueline.models.grounding_layers import gates
from trueline.sampling.records import versions
from trueline.training.accelerator import alone, make_accelerator
from trueline.training.data.examples import Examples, LeftOut, Refused, check_pictured, open_examples
from trueline.training.data.latents import Latents, Unseen, encoded, fingerprint
from trueline.training.data.stream import Shuffled
from trueline.training.log import LOG
from trueline.training.loop import NOTHING, TrainingLoop
from trueline.training.objective import Batch, Nets
from trueline.training.parts import Parameters, open_part
from trueline.training.recipes.recipe import Task, checksum, recipe
from trueline.training.settings import Training, check_same, identity
from trueline.training.validation import BEST, Validator, replace_folder
from trueline.training.validation_pictures import ValidationPictures, validation_layouts

logger = logging.getLogger(__name__)
RECORD, RESULT = "train.json", "final"
BOUND_TO = "bound_to"  #: in the record, what the run is bound to besides its settings


class Interrupt:
    """Ctrl-C and SIGTERM as a wish to stop, as long as it is open. A second one acts as ever."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])

    def wanted(self) -> bool:
        return self.received is not None


@dataclass
class TrainingRun:
    """``trueline train NAME`` with these settings, in ``out``. ``commit``: of Trueline, for the record."""

    name: str
    settings: Training
    out: Path
    device: torch.device
    commit: str = ""

    home: Folder = field(init=False)
    accelerator: Accelerator = field(init=False)
    examples: Examples = field(init=False)
    task: Task = field(init=False)
    _check: Callable[[], None] = field(init=False)  #: raises where the folder is another's by now

    def __post_init__(self) -> None:
        self.home = Folder(self.out)

    def __call__(self) -> int:
        """Train, from the last checkpoint if there is one; the exit code.

        Raises:
            ValueError: settings, data, checkpoint or folder that cannot be used, in one sentence.
            Busy: another trains in the folder.
        """
        self.accelerator = make_accelerator(self.settings, self.device)
        with alone(self.accelerator, self.home.path) as self._check:
            try:
                return self._run()
            except Refused as error:
                if not error.left_out.items:
                    raise
                raise ValueError(f"{error}; all of them are in {self._keep(error.left_out)}") from None

    def _run(self) -> int:
        if (steps := self._done()) is not None:
            self._say(f"{self.home.path / RESULT} is there already, of {steps} steps; nothing to do")
            return 0
        backbone = self._backbone()
        # As they were read: recipes add layers to them.
        nets = {name: checksum(net) for name, net in backbone.nets().items() if name != "vae"}
        # All that can be wrong is said before pictures are encoded, which may take hours.
        size = backbone.picture_size(None, None)
        self.examples = open_examples(self.settings.data, size, backbone.max_regions)
        self.task = recipe(self.name).prepare(self.settings, backbone, self.home.path)
        if self.task.pictures:
            check_pictured(self.examples, self.settings.data.source)
        bound = self._bound(nets)
        self._check_bound(bound)
        validator = self._validator()
        trained = self._trained()
        latents, mark = self._latents()
        bound |= {"order": latents.order}
        facts = self._facts(len(latents), mark) | {BOUND_TO: bound} | dict(self.task.facts)
        with Interrupt() as interrupt:
            loop = self._loop(trained, self._stream(latents), bound, validator, interrupt.wanted)
            self._train(loop, facts)
        if loop.finished:
            self._finish(loop, facts)
            return 0
        self._record(facts, loop, "stopped")
        self._say(
            f"stopped after step {loop.step} of {self.settings.steps}; the checkpoint is in {self.home.path}, and "
            "the same command goes on"
        )
        return 128 + (interrupt.received or signal.SIGINT)

    def _loop(
        self,
        trained: Parameters,
        stream: Shuffled,
        bound: Mapping[str, Any],
        validator: Validator | None,
        stop: Callable[[], bool],
    ) -> TrainingLoop[Batch]:
        settings, task = self.settings, self.task
        nets = Nets(task.backbone, task.further)
        gated = task.part != "none" and not settings.lora
        return TrainingLoop(
            self.home.path,
            partial(task.objective, nets=nets),
            nets.modules,
            trained,
            stream,
            settings,
            self.accelerator,
            task.statistics,
            identity={"recipe": self.name, **bound, **identity(settings)},
            observe=partial(gates, task.backbone) if gated else dict,
            validator=validator,
            tensorboard=settings.tensorboard,
            stop=stop,
            check=self._check,
        )

    def _train(self, loop: TrainingLoop[Batch], facts: Mapping[str, Any]) -> None:
        self._record(facts, loop, "running")
        try:
            for line in loop:
                self._progress(line)
        except Busy:
            raise  # the folder is another's
        except BaseException:
            self._record(facts, loop, "failed")
            raise

    # Before the loop

    def _backbone(self) -> Backbone:
        settings = self.settings
        backbone = Backbone.from_pretrained(settings.model, settings.revision, device=self.accelerator.device)
        backbone.enable_gradient_checkpointing(settings.checkpointing)
        if settings.t_high > backbone.timesteps:
            raise ValueError(f"t_high: this model has {backbone.timesteps} timesteps (got {settings.t_high})")
        return backbone

    def _recorded(self) -> dict[str, Any] | None:
        """The record of the run that is in the folder, done or not; None where there is none.

        Raises:
            ValueError: it cannot be read.
        """
        path = self.home.path / RECORD
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            kinds = {"identity": dict, BOUND_TO: dict, "status": str, "steps": int}
            if all(isinstance(record[key], kind) for key, kind in kinds.items()):
                return record
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise ValueError(f"{path} cannot be read; choose another folder")

    def _done(self) -> int | None:
        """The steps of the finished run that is in the folder; None: there is still something to do.

        Raises:
            ValueError: the folder's run began with other settings.
        """
        record = self._recorded()
        if record is None:
            return None
        check_same(record["identity"], {"recipe": self.name} | identity(self.settings), self.home.path)
        waited = (record.get("best") or {}).get("waited", 0)
        stale = 0 < self.settings.validation.patience <= waited
        # It may be given more steps, or more patience.
        steps = record["steps"]
        whole = record["status"] == "complete" and (steps >= self.settings.steps or stale)
        return steps if whole and (self.home.path / RESULT).is_dir() else None

    def _bound(self, nets: Mapping[str, str]) -> dict[str, Any]:
        """What the run is bound to besides its settings, as far as it is known before the pictures are encoded."""
        task, backbone = self.task, self.task.backbone
        frozen = {
            name: checksum(net)
            for name, net in task.further.items()
            if not any(weight.requires_grad for weight in net.parameters())
        }
        sums = {f"nets.{name}": found for name, found in (dict(nets) | frozen | dict(task.identity)).items()}
        return sums | {
            "pictures": fingerprint(backbone, self.examples, backbone.picture_size(None, None)),
            "processes": self.accelerator.num_processes,
            "mixed_precision": self.accelerator.mixed_precision,
        }

    def _check_bound(self, bound: Mapping[str, Any]) -> None:
        """The checkpoints are asked again, once all is known.

        Raises:
            ValueError: the folder's run began with another of these.
        """
        if (record := self._recorded()) is not None:
            before = {key: value for key, value in record[BOUND_TO].items() if key != "order"}
            check_same(before, bound, self.home.path)

    def _latents(self) -> tuple[Latents | Unseen, str]:
        """Of the examples, and what they depend on."""
        backbone, examples, data = self.task.backbone, self.examples, self.settings.data
        latents: Latents | Unseen
        if self.task.pictures:
            latents, mark = encoded(
                backbone,
                examples,
                Path(data.cache) if data.cache else self.home.path / "cache",
                backbone.picture_size(None, None),
                data.max_broken,
                self.accelerator.process_index,
                self.accelerator.num_processes,
                self.accelerator.wait_for_everyone,
            )
        else:
            latents, mark = Unseen(len(examples), backbone.latent_size()), examples.fingerprint
        self._write_left_out(len(latents))
        return latents, mark

    def _write_left_out(self, used: int) -> None:
        if not self.accelerator.is_main_process:
            return
        left_out = self.examples.left_out
        path = self._keep(left_out)
        if left_out.counts:
            named = f"; all of them are in {path}" if left_out.items else ""
            self._say(
                f"left out: {left_out}{named}{', except the boxes' if named and left_out.boxes else ''}"
            )
        if not (self.home.path / LOG).exists():
            first = {"step": 0, "examples": used, "left_out": left_out.counts}
            self.home.write(LOG, lambda file: file.write((json.dumps(first) + "\n").encode()))

    def _keep(self, left_out: LeftOut) -> Path:
        """``left_out.jsonl``, written by the main process."""
        path = self.home.path / "left_out.jsonl"
        if self.accelerator.is_main_process:
            self.home.write(path.name, lambda file: file.write(left_out.lines()))
        return path

    def _trained(self) -> Parameters:
        """What learns, by name; the part of the U-Net is opened here."""
        settings, task = self.settings, self.task
        part = task.part or settings.part
        opened = open_part(task.backbone, part, settings.position_net, settings.lora, settings.seed)
        trained: Parameters = {f"unet.{name}": weight for name, weight in opened.items()}
        for owner, net in task.further.items():
            learning = ((name, weight) for name, weight in net.named_parameters() if weight.requires_grad)
            trained |= {f"{owner}.{name}": weight for name, weight in learning}
        if not trained:
            raise ValueError(NOTHING)
        return trained

    def _stream(self, latents: Latents | Unseen) -> Shuffled:
        settings, data = self.settings, self.settings.data
        times = settings.t_low, settings.t_high
        return Shuffled(self.examples, latents, settings.seed, data.drop_captions, data.drop_boxes, times)

    def _validator(self) -> Validator | None:
        settings, task = self.settings.validation, self.task
        if settings.patience and task.best is None:
            raise ValueError(
                f"validation.patience: this run of {self.name} has no held-out score to wait for; set it to 0"
            )
        if not settings.every:
            return None
        layouts = validation_layouts(settings, self.examples)
        pictures = ValidationPictures(task, task.backbone, layouts, settings, self.home)
        if self.accelerator.is_main_process:  # who draws them
            pictures.check()
        return Validator(
            settings, pictures, task.scored, task.best, task.save, self.home.path, pictures.fingerprint
        )

    # After the loop

    def _finish(self, loop: TrainingLoop[Batch], facts: Mapping[str, Any]) -> None:
        """The result appears whole or not at all."""
        if self.accelerator.is_main_process:
            self._check()
            target, temporary = self.home.path / RESULT, self.home.path / f".{RESULT}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            with loop.averaged(), disk_full_said(target):
                self.task.save(temporary)
            record = self._about(facts, loop, "complete")
            Folder(temporary).write_json(RECORD, record)
            replace_folder(temporary, target)
            self.home.write_json(RECORD, record)
        self.accelerator.wait_for_everyone()
        if loop.validator and loop.validator.score and loop.validator.best.step is not None:
            best = loop.validator.best
            why = (
                f"stopped early, {best.waited} validations without a better one; "
                if loop.stopped_early
                else ""
            )
            self._say(
                f"{why}the best {loop.validator.score}, {best.score:.4g}, was at step {best.step}: "
                f"{self.home.path / BEST}"
            )
        self._say(
            f"{loop.step} steps in {loop.seconds:.0f} s ({loop.skipped} skipped): {self.home.path / RESULT}"
        )

    def _facts(self, used: int, mark: str) -> dict[str, Any]:
        backbone = self.task.backbone
        return {
            "recipe": self.name,
            "settings": redacted(self.settings.model_dump(mode="json")),
            "identity": {"recipe": self.name} | identity(self.settings),
            "commit": self.commit,
            "versions": versions(),
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "model": {"source": redacted(backbone.source), "revision": backbone.revision},
            "data": {"fingerprint": mark, "examples": used, "left_out": self.examples.left_out.counts},
        }

    def _about(self, facts: Mapping[str, Any], loop: TrainingLoop[Batch], status: str) -> dict[str, Any]:
        done: dict[str, Any] = {
            "steps": loop.step,
            "skipped": loop.skipped,
            "seconds": round(loop.seconds, 1),
        }
        if loop.validator and loop.validator.score:
            done["best"] = loop.validator.about()
        return {"status": status} | done | {"trained": _count(loop.trained)} | dict(facts)

    def _record(self, facts: Mapping[str, Any], loop: TrainingLoop[Batch], status: str) -> None:
        if self.accelerator.is_main_process:
            self.home.write_json(RECORD, self._about(facts, loop, status))

    # Progress

    def _progress(self, line: Mapping[str, Any]) -> None:
        per_step = line["seconds"] / line["step"]
        left = per_step * (self.settings.steps - line["step"]) / 60
        # Those with a "/" are in the log only.
        names = (name for name in line if name not in ("step", "seconds") and "/" not in name)
        terms = " ".join(f"{name} {line[name]:.4g}" for name in names)
        self._say(
            f"step {line['step']} of {self.settings.steps}: {terms} ({per_step:.2f} s a step, {left:.0f} min left)"
        )

    def _say(self, sentence: str) -> None:
        """Once, however many processes there are."""
        if self.accelerator.is_main_process:
            logger.info(sentence)


def _count(trained: Parameters) -> int:
    return sum(weight.numel() for weight in trained.values())
