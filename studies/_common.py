"""What the studies of the three systems share: trainings, rows that are drawn from the same noise, and their tables.

A study is a list of steps; a step is a list of jobs; a job is one ``trueline`` command or one function. Everything
that is done stays done: trainings and drawings go on where they were stopped, and a second run draws nothing twice.

    OUT/train/TRAINING/SEED    what ``trueline train`` writes
    OUT/world                  what ``trueline evaluate world`` writes: rows of the world's own U-Net and its LoRAs
    OUT/draw/TRAINING-SEED     pictures of a U-Net that was trained itself; they are judged in OUT/world
    OUT/tables.md              the tables; the same rows go to --results

Files that begin with "_" are no commands.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trueline.errors import redacted_arguments
from trueline.files import Claims

HOME = Path(__file__).parents[1]  #: of the repository
LORA_FILE = (
    "pytorch_lora_weights.safetensors"  #: what diffusers calls the LoRA that ``trueline train`` writes
)
WORLD = "world"
ONE = "1/1"

# CPU seconds on one slow core, for estimates only: 4 pictures of 10 steps at guidance 4, float32 (plain 0.045 s a
# picture and step with its share of the decoding), and one look of the world's judge.
STEP_SECONDS, JUDGE_SECONDS = 0.045, 0.10
SPEEDS = HOME / "results" / "world-methods-speed.json"  #: of methods, in plain pictures


@dataclass(frozen=True)
class Training:
    """One net, trained once for each training seed.

    ``seconds``: of a step, for estimates. ``steps``: of the YAML, for estimates. ``lora``: a LoRA comes out, not a
    checkpoint.
    """

    name: str
    recipe: str
    config: str
    settings: tuple[str, ...] = ()
    stage: str | None = None
    data: str | None = None
    lora: bool = False
    steps: int = 1000
    seconds: float = 1.0


@dataclass(frozen=True)
class Row:
    """One line of a table. ``draws``: a row of ``trueline evaluate --methods``, with ``{lora}`` where the LoRA of its
    training stands. ``folder``: of pictures that are drawn otherwise, with ``{seed}`` where it was trained."""

    name: str
    draws: str
    training: Training | None = None
    folder: str | None = None

    @property
    def slug(self) -> str:
        """The name as ``trueline evaluate --images`` takes it."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", self.name).strip("-.")

    @property
    def own_net(self) -> bool:
        """Whether it is drawn by a U-Net of its own, not by the world's with a LoRA."""
        return self.training is not None and not self.training.lora


@dataclass
class Job:
    """One command of ``trueline``, or a function. ``minutes``: of CPU, estimated, for what is still to do."""

    what: str
    arguments: Sequence[str] = ()
    call: Callable[[], None] | None = None
    minutes: float = 0.0

    @property
    def line(self) -> str:
        return (
            shlex.join(["trueline", *redacted_arguments(self.arguments)])
            if self.arguments
            else f"# {self.what}"
        )

    def __call__(self) -> None:
        """
        Raises:
            SystemExit: the command failed or was stopped; with its exit code.
        """
        print(f"== {self.what}\n   {self.line}", file=sys.stderr, flush=True)
        if self.call is not None:
            self.call()
            return
        code = finished([sys.executable, "-m", "trueline.cli", *self.arguments])
        if code == 1 and self.arguments[0] == "evaluate":
            print("   the judge was not sure enough (above): the tables are in doubt", file=sys.stderr)
        elif code:
            raise SystemExit(code)


def finished(command: Sequence[str]) -> int:
    """The exit code of the command, once it has ended: stopped by Ctrl-C or SIGTERM, it saves what it has first."""
    process = subprocess.Popen(command)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # which the command has received, too
                continue
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Study:
    """Rows of one system, in ``options.out``.

    Args:
        name: of the LoRAs: NAME-TRAINING-SEED.
        settings: flags of ``trueline evaluate`` for a method, by its name: ("--hcma.weights", DIR).
        judges: further judges. data: folder of benchmark files.
        benchmark: options of the benchmark, KEY=VALUE.
    """

    name: str
    options: argparse.Namespace
    rows: Sequence[Row]
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    judges: Sequence[str] = ()
    data: str | None = None
    benchmark: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  #: by --rows

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"rows: there are two of the name {twice[0]}")
        if wished := self.options.rows:
            if strange := [name for name in wished if name not in names]:
                raise ValueError(f"--rows: there is no {strange[0]!r}; there are {', '.join(names)}")
            self.left_out = tuple(name for name in names if name not in wished)
            self.rows = [row for row in self.rows if row.name in wished]

    @property
    def out(self) -> Path:
        return Path(self.options.out)

    @property
    def world(self) -> Path:
        return self.out / "world"

    # Trainings

    @property
    def trainings(self) -> list[Training]:
        return list(dict.fromkeys(row.training for row in self.rows if row.training))

    def seeds(self, row: Row) -> tuple[int, ...]:
        """Training seeds of the row; () where nothing was trained."""
        return tuple(range(self.options.seeds)) if row.training else ()

    def trained(self, training: Training, seed: int) -> Path:
        return self.out / "train" / training.name / str(seed)

    def lora(self, training: Training, seed: int) -> str:
        return f"{self.name}-{training.name}-{seed}"

    def train(self, once: Sequence[Training] = ()) -> list[Job]:
        """What is not finished, for all seeds, one after the other; ``once``: before them, with seed 0 only.

        Raises:
            ValueError: --trainings names one that there is not.
        """
        runs = [(one, 0) for one in once]
        runs += [(one, seed) for one in self.trainings for seed in range(self.options.seeds)]
        wished, known = self.options.trainings, dict.fromkeys(one.name for one, _ in runs)
        if strange := [name for name in wished or [] if name not in known]:
            raise ValueError(f"--trainings: there is no {strange[0]!r}; there are {', '.join(known)}")
        return [self._train(one, seed) for one, seed in runs if not wished or one.name in wished]

    def _train(self, training: Training, seed: int) -> Job:
        options, folder = self.options, self.trained(training, seed)
        settings = {"validation.every": "0", **_pairs(training.settings), "seed": str(seed)}
        if options.train_steps:
            settings["steps"] = str(options.train_steps)
        if options.cache:
            settings["data.cache"] = options.cache
        settings |= _pairs(options.train_set)
        arguments = ["train", training.recipe, "--config", str(HOME / "configs" / training.config)]
        arguments += ["--stage", training.stage] if training.stage else []
        arguments += ["--data", training.data] if training.data else []
        arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        arguments += ["--out", str(folder)] + (["--device", options.device] if options.device else [])
        steps = int(settings.get("steps", training.steps))
        left = 0 if (folder / "final").is_dir() else max(0, steps - _steps_done(folder))
        return Job(f"train {training.name}, seed {seed}", arguments, minutes=left * training.seconds / 60)

    # Pictures

    def method(self, row: Row, seed: int | None) -> str:
        """Of the row trained with that seed: the name by which evaluate draws it."""
        if row.training is None or seed is None:
            return row.draws
        return row.draws.replace("{lora}", f"lora:{self.lora(row.training, seed)}")

    def seen_as(self, row: Row, seed: int | None) -> str:
        """... and by which it is judged."""
        if row.own_net or row.folder:
            return row.slug if seed is None else f"{row.slug}-{seed}"
        return self.method(row, seed)

    def pictures(self, row: Row, seed: int | None) -> Path:
        """The folder of its pictures."""
        if row.folder:
            return self.out / row.folder.format(seed=seed)
        if row.own_net and row.training:
            return self.out / "draw" / f"{row.training.name}-{seed}" / "pictures" / row.draws
        return self.world / "pictures" / self.method(row, seed)

    def runs(self, rows: Sequence[Row] | None = None) -> list[tuple[Row, int | None]]:
        """Every row with each of its training seeds."""
        return [(row, seed) for row in rows or self.rows for seed in self.seeds(row) or (None,)]

    def draw(self) -> list[Job]:
        """One drawing for each U-Net: the world's, with all LoRAs, and every one that was trained itself."""
        jobs = []
        ours = [(row, seed) for row, seed in self.runs() if not row.own_net and not row.folder]
        if ours:
            jobs.append(self._draw("draw the world's rows", self.world, ours, WORLD))
        for training in self.trainings:
            some = [row for row in self.rows if row.training == training and row.own_net and not row.folder]
            for seed in range(self.options.seeds) if some else ():
                folder = self.out / "draw" / f"{training.name}-{seed}"
                model = str(self.trained(training, seed) / "final")
                jobs.append(self._draw(f"draw {folder.name}", folder, [(row, seed) for row in some], model))
        return jobs

    def _draw(self, what: str, folder: Path, runs: Sequence[tuple[Row, int | None]], model: str) -> Job:
        arguments = [*self.evaluate(folder, runs), "--model", model, "--judges", "none"]
        arguments += ["--shard", self.options.shard] if self.options.shard != ONE else []
        share = int(self.options.shard.partition("/")[2])
        seconds = 0.0
        for row, seed in runs:
            left = self.asked() - len(list(self.pictures(row, seed).glob("*.png")))
            seconds += max(0, left) * self.options.steps * STEP_SECONDS * cost(row.draws)
        return Job(what, arguments, minutes=seconds / 60 / share)

    def judge(self) -> list[Job]:
        """All pictures by one command: the world's rows, and the others as pictures made elsewhere."""
        ours = [(row, seed) for row, seed in self.runs() if not row.own_net and not row.folder]
        others = [(row, seed) for row, seed in self.runs() if row.own_net or row.folder]
        arguments = [*self.evaluate(self.world, ours), "--model", WORLD]
        if others:
            named = (f"{self.seen_as(row, seed)}={self.pictures(row, seed)}" for row, seed in others)
            arguments += ["--images", *named]
        arguments += ["--judges", *self.judges] if self.judges else []
        arguments += ["--shard", self.options.shard] if self.options.shard != ONE else []
        share = int(self.options.shard.partition("/")[2])
        seconds = (
            self.asked() * JUDGE_SECONDS * (len(self.runs()) + 2) / share
        )  # and the true pictures, twice
        return [Job("judge", arguments, minutes=seconds / 60)]

    def evaluate(self, folder: Path, runs: Sequence[tuple[Row, int | None]]) -> list[str]:
        """The command that draws these rows, with what every drawing of the study has in common."""
        options = self.options
        methods = list(dict.fromkeys(self.method(row, seed) for row, seed in runs))
        loras = {
            self.lora(row.training, seed): self.trained(row.training, seed) / "final" / LORA_FILE
            for row, seed in runs
            if row.training and row.training.lora and seed is not None
        }
        arguments = ["evaluate", "world", *(["--methods", *methods] if methods else [])]
        arguments += ["--loras", *(f"{name}={file}" for name, file in loras.items())] if loras else []
        for name, flags in self.settings.items():
            if any(name in re.split(r"[+@]", method) for method in methods):
                arguments += flags
        arguments += ["--n", str(options.n)] if options.n else []
        arguments += ["--data", self.data] if self.data else []
        arguments += ["--option", *self.benchmark] if self.benchmark else []
        for flag in ("images_per_prompt", "steps", "guidance_scale", "batch_size", "dtype", "device"):
            if getattr(options, flag) is not None:
                arguments += [f"--{flag.replace('_', '-')}", str(getattr(options, flag))]
        return [*arguments, "--quiet", "--out", str(folder)]

    def asked(self) -> int:
        """Pictures of a row. Where no number of prompts is given: all of the world's own."""
        return (self.options.n or 600) * self.options.images_per_prompt


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    """
    Raises:
        ValueError: one that is not KEY=VALUE.
    """
    for text in settings:
        if not re.fullmatch(r"[^=]+=.*", text, re.DOTALL):
            raise ValueError(f"--train-set: write KEY=VALUE, such as lr=1e-4 (got {text!r})")
    return {text.partition("=")[0]: text.partition("=")[2] for text in settings}


def _steps_done(folder: Path) -> int:
    try:
        return int(json.loads((folder / "train.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def seconds_of(folder: Path) -> float | None:
    """Of a finished training; None where it is not."""
    try:
        return float(json.loads((folder / "final" / "train.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def cost(draws: str) -> float:
    """Of a picture of that row in plain pictures, measured where there is a measurement, else guessed."""
    plain = re.sub(r"\+?\{lora\}", "", draws) or "plain"
    try:
        known = {row["method"]: row["value"] for row in json.loads(SPEEDS.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError):
        known = {}
    own = known.get(plain)
    if own is None:
        own = (1.23 if plain.startswith("gligen") else 1.0) + 0.1 * ("hcma" in plain)
    return float(own) * (1.1 if "{lora}" in draws else 1.0)


# The command line


def base_parser(prog: str, about: str, seeds: int, images: int) -> argparse.ArgumentParser:
    """Flags of every study. ``seeds``: training seeds; ``images``: pictures of a prompt; both by default."""
    from trueline.commands._parser import Parser

    top = Parser(prog=prog, description=about, formatter_class=argparse.RawTextHelpFormatter)
    name = prog.removesuffix(".py").removesuffix("_tables")
    top.add_argument("--out", default=f"out/{name}_tables", metavar="DIR", help="default: %(default)s")
    top.add_argument(
        "--results", type=Path, metavar="FILE", help="rows for `trueline results`; default OUT/rows.json"
    )
    top.add_argument("--only", nargs="+", metavar="STEP", help="these steps only (default: all, in order)")
    top.add_argument("--dry-run", action="store_true", help="print the commands and CPU minutes, and stop")
    what = top.add_argument_group("how much")
    what.add_argument(
        "--seeds", type=_positive, default=seeds, metavar="COUNT", help="training seeds (default %(default)s)"
    )
    what.add_argument(
        "--n", type=_positive, metavar="COUNT", help="prompts (default: all 600 of the world's own)"
    )
    what.add_argument(
        "--images-per-prompt", type=_positive, default=images, metavar="COUNT", help="default %(default)s"
    )
    what.add_argument("--steps", type=_positive, default=20, help="of sampling (default %(default)s)")
    what.add_argument("--rows", nargs="+", metavar="NAME", help="of the tables, these only (default: all)")
    what.add_argument("--train-steps", type=_positive, metavar="COUNT", help="default: those of the YAML")
    how = top.add_argument_group("how")
    how.add_argument(
        "--train-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all trainings"
    )
    how.add_argument("--trainings", nargs="+", metavar="NAME", help="of step train, these only")
    how.add_argument("--cache", metavar="DIR", help="of the encoded pictures (default: the YAML's)")
    how.add_argument(
        "--shard", default=ONE, metavar="I/N", help="draw and judge this part only; then no other steps"
    )
    how.add_argument("--guidance-scale", type=float, default=4.0, metavar="W", help="default %(default)s")
    how.add_argument("--batch-size", type=_positive, metavar="COUNT", help="of drawing")
    how.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of drawing")
    how.add_argument("--device")
    how.add_argument("--threads", type=_positive, default=1, help="of a command (default %(default)s)")
    return top


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {text})")
    return int(text)


Steps = Mapping[str, Callable[[], Sequence[Job]]]
SHARED = ("draw", "fine", "judge")  #: steps of which a shard does a part


def run(options: argparse.Namespace, steps: Steps) -> int:
    """Do the steps that are asked for, in their order; with ``--dry-run`` only say what they would do.

    Raises:
        ValueError: a step that there is not, or one that cannot be done in shards.
    """
    chosen = _chosen(options, steps)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))  # of the commands
    total = 0.0
    if not options.dry_run:
        claims = Claims(Path(options.out) / "claims")
        with claims.held(f"shard {options.shard}", what=f"--out: {options.out}"):
            for name in chosen:
                for job in steps[name]():
                    job()
        return 0
    for name in chosen:
        jobs = steps[name]()
        minutes = sum(job.minutes for job in jobs)
        total += minutes
        print(f"# {name}: {len(jobs)} jobs, about {minutes:.0f} CPU minutes")
        print("".join(f"{job.line}  # {job.minutes:.0f} min\n" for job in jobs))
    print(f"# about {total:.0f} CPU minutes ({total / 60:.1f} hours) in all, of one slow core")
    return 0


def _chosen(options: argparse.Namespace, steps: Steps) -> list[str]:
    from trueline.engine import Shard

    if strange := [name for name in options.only or [] if name not in steps]:
        raise ValueError(f"--only: there is no step {strange[0]!r}; there are {', '.join(steps)}")
    try:
        shard = Shard.parse(options.shard)
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    if shard.count == 1:
        return [name for name in steps if not options.only or name in options.only]
    shared = [name for name in steps if name in SHARED]
    if whole := [name for name in options.only or [] if name not in shared]:
        raise ValueError(f"--shard: step {whole[0]} is not done in parts; give --only {' '.join(shared)}")
    return [name for name in shared if not options.only or name in options.only]


def entry(main: Callable[[Sequence[str]], int]) -> None:
    """``main`` as a script: an error is one sentence."""
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
