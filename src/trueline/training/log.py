"""What a run writes down while it trains: log.jsonl always, TensorBoard's events when asked."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trueline.files import Folder

LOG, EVENTS = "log.jsonl", "tensorboard"
SCORES = "look/"  #: before the names of validation scores
Sums = dict[str, list[float]]  #: name -> [sum, count]


class Log:
    """Means of named terms between two lines. ``writes``: in one process only."""

    def __init__(self, folder: Folder, tensorboard: bool, writes: bool):
        self.folder, self.writes, self._tensorboard = folder, writes, tensorboard and writes
        self.sums: Sums = {}
        self.events: Any = None

    def count(self, terms: Mapping[str, float]) -> None:
        for name, value in terms.items():
            if not math.isfinite(value):  # JSON has no such number; the total decides whether the step counts
                continue
            total = self.sums.setdefault(name, [0.0, 0])
            total[0], total[1] = total[0] + value, total[1] + 1

    def open(self, step: int, without_scores: bool = False) -> None:
        """Begin to write after ``step``: lines and events of later steps, which will be done again, are removed; and
        with ``without_scores`` all scores of validation.

        Raises:
            ValueError: TensorBoard is wanted and not installed.
        """
        path = self.folder.path / LOG
        if self.writes and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if without_scores:
                kept = [line for line in kept if not _has_scores(line)]
            self.folder.write(LOG, lambda file: file.write("".join(f"{line}\n" for line in kept).encode()))
        if self._tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                cure = "pip install 'trueline[tensorboard]', or leave it off"
                raise ValueError(f"tensorboard: it is not installed; {cure}") from None
            self.events = SummaryWriter(str(self.folder.path / EVENTS), purge_step=step + 1)

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
            self.events = None

    def line(self, step: int, parts: Sequence[Sums], more: Mapping[str, float]) -> dict[str, Any]:
        """Write the means over ``parts`` (of each process its sums) and what else there is; begin anew."""
        self.sums = {}
        line: dict[str, Any] = {"step": step}
        for name in dict.fromkeys(name for part in parts for name in part):
            sums = [part[name] for part in parts if name in part]
            line[name] = _short(sum(total for total, _ in sums) / sum(count for _, count in sums))
        line |= {name: _short(value) for name, value in more.items()}
        self._write(line)
        return line

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """A line of its own for the scores of a validation. Those that are not finite are left out."""
        if line := {name: _short(value) for name, value in scores.items() if math.isfinite(value)}:
            self._write({"step": step} | line)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.writes:
            with (self.folder.path / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if self.events is not None:
            for name in line.keys() - {"step"}:
                self.events.add_scalar(name, line[name], line["step"])


def _step_of(line: str) -> float:
    """The step of a log line; infinite for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _has_scores(line: str) -> bool:
    return any(name.startswith(SCORES) for name in json.loads(line))


def _short(value: float) -> float:
    """Six digits, which is what a reader of a log needs; whole numbers as they are."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
