"""The phase in which a run's pictures are drawn: all rows together, so that a process loads the model once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from PIL import Image

from trueline.engine import Phase
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.loras import worn
from trueline.evaluation.run import ROUND_TRIP, EvaluationRun, Row, file_of, part_of_unit
from trueline.files import Bundle, Job, Outcome
from trueline.sampling.pipeline import Pipeline


def drawing(
    run: EvaluationRun, rows: Sequence[Row], load: Callable[[], Pipeline], round_trip: bool = False
) -> Phase:
    """All batches of the shard, row by row.

    Args:
        load: called in a process that has something to draw; rows' LoRAs go on and off its U-Net.
        round_trip: also the benchmark's own pictures, after the model's autoencoder.
    """
    names = [*(row.name for row in rows), *([ROUND_TRIP] if round_trip else [])]
    jobs = [job for name in names for number in run.mine for job in _jobs(run, name, number)]
    return Phase("drawing", jobs, lambda: _Drawer(run, rows, jobs, load()))


def _jobs(run: EvaluationRun, method: str, number: int) -> list[Job]:
    """One; none where the method has none of the batch's pictures."""
    names = [
        f"{method}/{each.name}"
        for each in run.batches[number]
        if method != ROUND_TRIP or run.exists_for(method, each)
    ]
    unit = f"draw/{part_of_unit(method)}/{number:05d}"
    return [Job(unit, (method, number), tuple(names))] if names else []


class _Drawer:
    """Draws a batch of any row with one pipeline.

    Raises:
        ValueError: ``loras.worn``'s.
    """

    def __init__(self, run: EvaluationRun, rows: Sequence[Row], jobs: Sequence[Job], pipe: Pipeline):
        self.run, self.rows, self.pipe = run, {row.name: row for row in rows}, pipe
        self.wearing: Row | None = None
        self.loras = ExitStack()
        left = {job.spec[0] for job in run.folder.todo(jobs)}
        for row in rows:  # what does not fit is said before anything is drawn
            if row.loras and row.name in left:
                with worn(pipe, row.loras):
                    pass
        for row in rows:
            if row.name in left:
                run.claim(row)

    def __call__(self, job: Job) -> Outcome:
        method, number = job.spec
        row, batch, files = self.rows.get(method), self.run.batches[number], Bundle()
        failed: dict[str, str] = {}
        self._wear(row)
        made = self._round_trip(batch) if row is None else self._drawn(row, batch, failed)
        for picture, image, record in made:
            files.write_png(file_of(method, picture), image, record)
        return Outcome(files.files, failed)

    def _wear(self, row: Row | None) -> None:
        """The row's LoRAs, until another row comes."""
        if row is not self.wearing:
            self.loras.close()
            self.loras.enter_context(worn(self.pipe, row.loras if row else ()))
            self.wearing = row

    def _drawn(
        self, row: Row, batch: Sequence[Wanted], failed: dict[str, str]
    ) -> Iterator[tuple[Wanted, Image.Image, dict[str, Any]]]:
        made = self.pipe.stream(
            [row.layout(picture) for picture in batch],
            seeds=[(p.seed, p.place) for p in batch],
            methods=row.methods,
            sampling=self.run.settings.sampling,
            **row.changed,
            batch_size=len(batch),
            progress=False,
            checked=True,  # a batch without boxes belongs to a benchmark that has some (commands/_rows.py)
        )
        about = {"method": row.name} | row.about_loras()
        for drawn in made:
            if drawn.failed:
                failed[f"{row.name}/{batch[drawn.index].name}"] = drawn.failed
            else:
                yield batch[drawn.index], drawn.image, drawn.record | about

    def _round_trip(self, batch: Sequence[Wanted]) -> Iterator[tuple[Wanted, Image.Image, dict[str, Any]]]:
        import torch

        batch = [picture for picture in batch if self.run.exists_for(ROUND_TRIP, picture)]
        images = [self.run.benchmark.reference(picture.example) for picture in batch]
        backbone = self.pipe.backbone
        arrays = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images if image]
        with torch.no_grad():
            pixels = torch.stack(arrays).to(backbone.device, backbone.dtype) / 127.5 - 1
            decoded = backbone.reconstruct(pixels).float().clamp(-1, 1)
        made = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for picture, array in zip(batch, made, strict=True):
            record = {"method": ROUND_TRIP, "example": picture.example.id}
            yield picture, Image.fromarray(array), record
