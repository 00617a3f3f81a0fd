"""One training run in a folder: data, nets, loop, result. The same settings and folder again: it goes on."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from trueline.files import Folder
from trueline.layout import Layout, read_layouts
from trueline.models.backbone import Backbone
from trueline.models.grounding import fusers
from trueline.sampling.records import versions
from trueline.training.data.examples import Examples, digest, open_examples
from trueline.training.data.latents import Latents, Unseen, encoded, fingerprint
from trueline.training.data.stream import Shuffled
from trueline.training.log import LOG
from trueline.training.loop import NOTHING, Fit, Nets, make_accelerator
from trueline.training.parts import Parameters, open_part
from trueline.training.recipes.recipe import Task, checksum, recipe
from trueline.training.settings import Training, check_same, identity
from trueline.training.validation import BEST, Looks, Pictures, put

RECORD, RESULT = "train.json", "final"
BOUND_TO = "bound_to"  #: in the record, what the run is bound to beside its settings


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
class Run:
    """``trueline train NAME`` with these settings, in ``out``. ``commit``: of Trueline, for the record."""

    name: str
    settings: Training
    out: Path
    device: torch.device
    commit: str = ""
    quiet: bool = False

    home: Folder = field(init=False)
    accelerator: Accelerator = field(init=False)

    def __post_init__(self) -> None:
        self.home = Folder(self.out)

    def __call__(self) -> int:
        """Train, from the last checkpoint if there is one; the exit code.

        Raises:
            ValueError: settings, data, checkpoint or folder that cannot be used, in one sentence.
        """
        if (steps := self._done()) is not None:
            self._say(f"{self.home.path / RESULT} is there already, of {steps} steps; nothing to do")
            return 0
        self.accelerator = make_accelerator(self.settings, self.device)
        backbone = Backbone.from_pretrained(
            self.settings.model, self.settings.revision, device=self.accelerator.device
        )
        # As they were read: recipes add layers to them.
        nets = {"unet": checksum(backbone.unet), "text_encoder": checksum(backbone.text_encoder)}
        backbone.enable_gradient_checkpointing(self.settings.checkpointing)
        timesteps = backbone.scheduler.config.num_train_timesteps
        if self.settings.t_high > timesteps:
            raise ValueError(f"t_high: this model has {timesteps} timesteps (got {self.settings.t_high})")
        # All that can be wrong is said before pictures are encoded, which may take hours.
        examples = open_examples(self.settings.data, backbone.picture_size(None, None), backbone.max_regions)
        task = recipe(self.name).prepare(self.settings, backbone, self.home.path)
        if task.pictures and not examples.pictured:
            raise ValueError(
                f"data.source: {self.settings.data.source} holds prompts, and this recipe trains on pictures; give "
                'layouts with "image"'
            )
        bound = self._bound(backbone, examples, nets, task)
        self._check_bound(bound)
        looks = self._looks(task, backbone, examples)
        trained = self._trained(task, backbone)
        latents: Latents | Unseen
        if task.pictures:
            latents, mark = self._encoded(backbone, examples)
        else:
            latents, mark = Unseen(len(examples), backbone.latent_size()), examples.fingerprint
            self._tell_left_out(examples, len(latents))
        bound |= {"order": latents.order}
        facts = self._facts(backbone, examples, latents, mark) | {BOUND_TO: bound} | dict(task.facts)
        with Interrupt() as interrupt:
            fit = Fit(
                self.home.path,
                task.objective,
                Nets(backbone, task.further),
                trained,
                self._stream(examples, latents),
                self.settings,
                self.accelerator,
                identity={"recipe": self.name} | bound | identity(self.settings),
                observe=lambda: gates(backbone) if task.part != "none" and not self.settings.lora else {},
                looks=looks,
                tensorboard=self.settings.tensorboard,
                stop=interrupt.wanted,
            )
            self._record(facts, fit, "running")
            try:
                for line in fit:
                    self._progress(line)
            except BaseException:
                self._record(facts, fit, "failed")
                raise
        if not fit.finished:
            self._record(facts, fit, "stopped")
            self._say(
                f"stopped after step {fit.step} of {self.settings.steps}; the checkpoint is in {self.home.path}, and "
                "the same command goes on"
            )
            return 128 + (interrupt.received or signal.SIGINT)
        self._finish(task, fit, facts)
        return 0

    # Before

    def _recorded(self) -> dict[str, Any] | None:
        """The record of the run that is in the folder, done or not; None where there is none.

        Raises:
            ValueError: it cannot be read.
        """
        path = self.home.path / RECORD
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record["identity"], dict) and record["status"] and isinstance(record["steps"], int):
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

    def _bound(
        self, backbone: Backbone, examples: Examples, nets: Mapping[str, str], task: Task
    ) -> dict[str, Any]:
        """What the run is bound to beside its settings, as far as it is known before the pictures are encoded."""
        frozen = {
            name: checksum(net)
            for name, net in task.further.items()
            if not any(weight.requires_grad for weight in net.parameters())
        }
        sums = {f"nets.{name}": found for name, found in (dict(nets) | frozen | dict(task.identity)).items()}
        return sums | {
            "pictures": fingerprint(backbone, examples, backbone.picture_size(None, None)),
            "processes": self.accelerator.num_processes,
            "mixed_precision": self.accelerator.mixed_precision,
        }

    def _check_bound(self, bound: Mapping[str, Any]) -> None:
        """The checkpoints are asked again, once all is known.

        Raises:
            ValueError: the folder's run began with another of these.
        """
        began = (self._recorded() or {}).get(BOUND_TO, {})
        check_same({key: began[key] for key in began if key != "order"}, bound, self.home.path)

    def _encoded(self, backbone: Backbone, examples: Examples) -> tuple[Latents, str]:
        data = self.settings.data
        begun = time.monotonic()

        def report(done: int, of: int) -> None:
            if time.monotonic() - begun > 5:
                self._say(f"encoded {done} of {of} pictures")

        latents, mark = encoded(
            backbone,
            examples,
            Path(data.cache) if data.cache else self.home.path / "cache",
            backbone.picture_size(None, None),
            data.max_broken,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.accelerator.wait_for_everyone,
            report,
        )
        self._tell_left_out(examples, len(latents))
        return latents, mark

    def _tell_left_out(self, examples: Examples, used: int) -> None:
        if not self.accelerator.is_main_process:
            return
        left_out = examples.left_out
        lines = [json.dumps({"what": what, "why": why}) + "\n" for what, why in left_out.items]
        self.home.write("left_out.jsonl", lambda file: file.write("".join(lines).encode()))
        if left_out.counts:
            named = f"; all of them are in {self.home.path / 'left_out.jsonl'}" if left_out.items else ""
            self._say(
                f"left out: {left_out}{named}{', but for the boxes' if named and left_out.boxes else ''}"
            )
        if not (self.home.path / LOG).exists():
            first = {"step": 0, "examples": used, "left_out": left_out.counts}
            self.home.write(LOG, lambda file: file.write((json.dumps(first) + "\n").encode()))

    def _trained(self, task: Task, backbone: Backbone) -> Parameters:
        """What learns, by name; the part of the U-Net is opened here."""
        settings = self.settings
        unet = open_part(backbone.unet, task.part, settings.position_net, settings.lora, settings.seed)
        trained: Parameters = {f"unet.{name}": weight for name, weight in unet.items()}
        for owner, net in task.further.items():
            trained |= {
                f"{owner}.{n}": weight for n, weight in net.named_parameters() if weight.requires_grad
            }
        if not trained:
            raise ValueError(NOTHING)
        return trained

    def _stream(self, examples: Examples, latents: Latents | Unseen) -> Shuffled:
        settings, data = self.settings, self.settings.data
        times = settings.t_low, settings.t_high
        return Shuffled(examples, latents, settings.seed, data.drop_captions, data.drop_boxes, times)

    def _looks(self, task: Task, backbone: Backbone, examples: Examples) -> Looks | None:
        wish = self.settings.validation
        if wish.patience and task.best is None:
            raise ValueError(
                f"validation.patience: this run of {self.name} has no held-out score to wait for; set it to 0"
            )
        if not wish.every:
            return None
        layouts = self._shown(examples)
        pictures = Pictures(task, backbone, layouts, wish, self.home)
        if self.accelerator.is_main_process:  # who draws them
            pictures.check()
        of = wish.model_dump(mode="json", exclude={"every", "patience", "least", "layouts"})
        of["layouts"] = [layout.to_record() for layout in layouts]
        return Looks(
            pictures,
            wish.every,
            task.look is not None,
            task.best,
            wish.patience,
            wish.least,
            task.save,
            self.home.path,
            digest(json.dumps(of, sort_keys=True)),
            self._say,
        )

    def _shown(self, examples: Examples) -> list[Layout]:
        """The layouts that pictures are drawn of on the way."""
        wish = self.settings.validation
        try:
            layouts = read_layouts(wish.layouts) if wish.layouts else examples.samples(wish.n)
        except OSError as error:
            raise ValueError(
                f"validation.layouts: cannot read {wish.layouts} ({error.strerror}); give a .jsonl of layouts"
            ) from None
        except ValueError as error:
            raise ValueError(f"validation.layouts: {error}") from None
        if not layouts:
            raise ValueError(f"validation.layouts: {wish.layouts or 'the data'} holds no layout to draw")
        return layouts[: wish.n]

    # After

    def _finish(self, task: Task, fit: Fit, facts: dict[str, Any]) -> None:
        """The result appears whole or not at all."""
        if self.accelerator.is_main_process:
            target, beside = self.home.path / RESULT, self.home.path / f".{RESULT}.tmp"
            shutil.rmtree(beside, ignore_errors=True)
            with fit.averaged():
                task.save(beside)
            record = self._about(facts, fit, "complete")
            Folder(beside).write_json(RECORD, record)
            put(beside, target)
            self.home.write_json(RECORD, record)
        self.accelerator.wait_for_everyone()
        if fit.looks and fit.looks.score and fit.looks.best.step is not None:
            best = fit.looks.best
            why = f"stopped early, {best.waited} looks without a better one; " if fit.stopped_early else ""
            self._say(
                f"{why}the best {fit.looks.score}, {best.score:.4g}, was at step {best.step}: {self.home.path / BEST}"
            )
        self._say(
            f"{fit.step} steps in {fit.seconds:.0f} s ({fit.skipped} skipped): {self.home.path / RESULT}"
        )

    def _facts(
        self, backbone: Backbone, examples: Examples, latents: Latents | Unseen, mark: str
    ) -> dict[str, Any]:
        return {
            "recipe": self.name,
            "settings": self.settings.model_dump(mode="json"),
            "identity": {"recipe": self.name} | identity(self.settings),
            "commit": self.commit,
            "versions": versions(),
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "model": {"source": backbone.source, "revision": backbone.revision},
            "data": {
                "fingerprint": mark,
                "examples": len(latents),
                "left_out": examples.left_out.counts,
            },
        }

    def _about(self, facts: Mapping[str, Any], fit: Fit, status: str) -> dict[str, Any]:
        done: dict[str, Any] = {
            "steps": fit.step,
            "skipped": fit.skipped,
            "seconds": round(fit.seconds, 1),
        }
        if fit.looks and fit.looks.score:
            done["best"] = fit.looks.about()
        return {"status": status} | done | {"trained": _count(fit.trained)} | dict(facts)

    def _record(self, facts: Mapping[str, Any], fit: Fit, status: str) -> None:
        if self.accelerator.is_main_process:
            self.home.write_json(RECORD, self._about(facts, fit, status))

    # Saying

    def _progress(self, line: Mapping[str, Any]) -> None:
        per_step = line["seconds"] / line["step"]
        left = per_step * (self.settings.steps - line["step"]) / 60
        said = (
            name for name in line if name not in ("step", "seconds") and "/" not in name
        )  # "/": in the log
        terms = " ".join(f"{name} {line[name]:.4g}" for name in said)
        self._say(
            f"step {line['step']} of {self.settings.steps}: {terms} ({per_step:.2f} s a step, {left:.0f} min left)"
        )

    def _say(self, sentence: str) -> None:
        first = getattr(self, "accelerator", None)
        if not self.quiet and (first is None or first.is_main_process):
            print(sentence, file=sys.stderr, flush=True)


def gates(backbone: Backbone) -> dict[str, float]:
    """Mean |tanh| of the fusers' gates: the loss does not show whether grounding is learned (IGLIGEN's issue 5), and
    gates that stay small are what users report when boxes are ignored (GLIGEN's issue 97)."""
    layers = fusers(backbone.unet)
    if not layers:
        return {}
    found = {
        "gate_attn": [layer.alpha_attn for layer in layers],
        "gate_ff": [layer.alpha_dense for layer in layers],
    }
    return {name: float(torch.stack(list(g)).detach().tanh().abs().mean()) for name, g in found.items()}


def _count(trained: Parameters) -> int:
    return sum(weight.numel() for weight in trained.values())
