"""The run of ``trueline evaluate`` of pictures: planning, drawing and judging, and what is written at the end."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trueline.commands._engine import recorded_end
from trueline.commands._images import read_pattern
from trueline.commands._model import find_device, load_pipeline, silence_libraries, warnings_as_lines
from trueline.commands._planners import PLANS, not_as_asked
from trueline.commands._report import report
from trueline.engine import Engine, Phase, carry_out, in_worker
from trueline.evaluation.benchmarks import benchmark_class
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.t2i_compbench import T2ICompBench
from trueline.evaluation.benchmarks.t2i_compbench.folder import SAMPLES, export_compbench, read_compbench
from trueline.evaluation.drawing import drawing
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.judges import make_judges, unmeasured
from trueline.evaluation.judging import judging, seen
from trueline.evaluation.picture_folders import export_pictures, pattern_of
from trueline.evaluation.planned_benchmark import PlannedBenchmark
from trueline.evaluation.planning import Asking, with_plans
from trueline.evaluation.run import REFERENCE, ROUND_TRIP, EvaluationRun, Judge, Row
from trueline.evaluation.world_judge import WorldJudge
from trueline.exits import NOT_AS_WANTED
from trueline.files import Job, pixel_hash
from trueline.pictures import open_picture
from trueline.sampling.pipeline import Pipeline


@dataclass
class Evaluation:
    """A run with all that it was asked for, checked as far as that needs no model.

    Args:
        choose: the rows, of pictures whose layouts are known, and the row that the others are compared with.
        names: of judges, besides the world's own.
        own: whether the world's own judge looks.
        asking: who is asked for boxes, for the examples at ``places``; None: nobody.
    """

    run: EvaluationRun
    choose: Callable[[Sequence[Wanted]], tuple[list[Row], str | None]]
    names: Sequence[str]
    own: bool
    options: argparse.Namespace
    command: str
    engine: Engine
    asking: Asking | None = None
    places: Sequence[int] = ()
    rows: list[Row] = field(default_factory=list)
    against: str | None = None
    judges: list[Judge] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def __call__(self) -> int:
        """Make all that is not there yet; the exit code."""
        with warnings_as_lines(), recorded_end(self._stopped):
            if not carry_out(self.run.folder, self._phases(), self.engine, self.options.quiet):
                return 0
            with self.run.folder.alone("end", wait=True):
                code = self._finish()
                self._close("complete")
        return max(code, not_as_asked(self._answered()), NOT_AS_WANTED if self.run.failed else 0)

    # The work

    def _phases(self) -> Iterator[Phase]:
        if self.asking is not None:
            phase = self.asking.phase()
            yield self._noted(phase)
            plans = self.asking.plans(self.run.folder, phase)
            for sentence in plans.remarks():
                print(f"trueline: {self.asking.planner.name}: {sentence}", file=sys.stderr)
            self.run.use(with_plans(self.run.benchmark, self.places, plans))
        self.rows, self.against = self.choose(self.run.pictures)
        for row in self.rows:
            self.run.check(row)
        phase = drawing(self.run, self.rows, self._load, self.own)
        yield self._noted(phase)
        for row in self.rows:  # also where nothing was left to draw, and the row's settings are damaged
            self.run.claim(row)
        self.run.failed = self.run.folder.failed(phase.jobs)
        if self.names or self.own:
            self.judges = self._make_judges()
        for judge in self.judges:
            yield self._noted(judging(self.run, self._judged(), judge))

    def _noted(self, phase: Phase) -> Phase:
        self.jobs += phase.jobs
        return phase

    def _load(self) -> Pipeline:
        settings, options = self.run.settings, self.options
        pipe = load_pipeline(
            {
                "model": options.model,
                "revision": None,
                "lora": None,
                "dtype": settings.dtype,
                "device": options.device,
                "offload": options.offload,
                "vae_tiling": settings.vae_tiling,
            }
        )
        if not pipe.backbone.grounded and (asked := [row.name for row in self.rows if row.grounded]):
            raise ValueError(
                f"--methods: {options.model} has no grounding layers for {asked[0]}; "
                "use a GLIGEN checkpoint, or leave it out"
            )
        return pipe

    def _make_judges(self) -> list[Judge]:
        """Once in each process: results are named after them. Where workers look, ours take no room on a GPU."""
        benchmark = self.run.benchmark
        whole = benchmark.benchmark if isinstance(benchmark, PlannedBenchmark) else benchmark
        own: list[Judge] = [WorldJudge(whole)] if self.own else []  # type: ignore[arg-type]
        works = self.engine.local or in_worker()
        device = str(find_device(self.options.device)) if works else "cpu"
        silence_libraries()
        rule = benchmark_class(self.options.benchmark)
        return own + make_judges(self.names, rule, self.options.mode, device, "float32", self._real())

    def _real(self) -> bool:
        """Whether there are real pictures to compare with."""
        return any(self.run.benchmark.has_reference(picture.example) for picture in self.run.pictures)

    def _drawn(self) -> list[str]:
        return [*(row.name for row in self.rows), *self.run.elsewhere]

    def _judged(self) -> list[str]:
        compared = self._real() and (self.own or any(judge.distances for judge in self.judges))
        return [*self._drawn(), *([REFERENCE] if compared else []), *([ROUND_TRIP] if self.own else [])]

    # The end

    def _finish(self) -> int:
        """Write and say what comes of it; the exit code."""
        run, notes = self.run, self._notes()
        if isinstance(run.benchmark, PlannedBenchmark):
            run.benchmark.keep(run.folder)
        for note in notes:
            print(f"trueline: {note}", file=sys.stderr)
        if self.options.export is not None:
            self._export(Path(self.options.export))
        if run.shard.count > 1 or not self.judges:
            done = f"shard {run.shard}" if run.shard.count > 1 else "drawing"
            cure = "give the command without --shard, and with judges, for the table"
            print(f"{done} is done in {run.out}; {cure}")
            return 0
        found = {m: {judge.name: seen(run, m, judge) for judge in self.judges} for m in self._judged()}
        return report(run, self.judges, found, self.command, notes, self.options.mode, self.against)

    def _notes(self) -> list[str]:
        notes = [f"prompts of {self.run.benchmark.source}"]
        if self.names:
            categories = {picture.example.category for picture in self.run.pictures}
            notes += unmeasured(benchmark_class(self.options.benchmark), self.names, categories)
        notes += [note for each in self.run.elsewhere.values() for note in each.notes]
        return notes + [
            f"the picture {name} could not be made: {why}" for name, why in self.run.failed.items()
        ]

    def _export(self, folder: Path) -> None:
        run = self.run
        pattern = read_pattern(self.options, "export") or pattern_of(benchmark_class(self.options.benchmark))
        mine = [picture for number in run.mine for picture in run.batches[number]]
        for method in self._drawn():
            there = [each for each in mine if run.exists_for(method, each)]
            if pattern is None or pattern.text == T2ICompBench.pictures:
                pairs = [(each.example, run.path(method, each)) for each in there]
                if not _holds(folder / method, pairs):
                    export_compbench(folder / method, pairs)
            else:
                pictures = [(each.example, each.place, each.copy, run.path(method, each)) for each in there]
                export_pictures(folder / method, pattern, pictures, len(run.settings.seeds))
            print(f"{len(there)} pictures exported to {folder / method}")

    def _answered(self) -> dict:
        planned = self.run.benchmark
        return {PLANS: planned.answered if isinstance(planned, PlannedBenchmark) else None}

    def _stopped(self, status: str) -> None:
        if self.run.folder.forget():
            return  # the error says it all
        with self.run.folder.alone("end", wait=True):
            self._close(status)
        print(f"trueline: {status}; how far: {self.run.out / 'state.json'}", file=sys.stderr)

    def _close(self, status: str) -> None:
        answered = {what: dict(each.by) for what, each in self._answered().items() if each is not None}
        self.run.folder.close(status, self.jobs, {"answered": answered})


def _holds(folder: Path, pairs: Iterable[tuple[Example, Path]]) -> bool:
    """Whether just these pictures were exported there, as by another process that shares the run."""
    try:
        there = read_compbench(folder)
    except ValueError:
        return False
    wanted = [(example.id, pixel_hash(open_picture(path))) for example, path in pairs]
    return wanted == [(one.id, pixel_hash(open_picture(folder / SAMPLES / one.file))) for one in there]
