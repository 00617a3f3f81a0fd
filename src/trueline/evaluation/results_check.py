"""Checks results: rows against the verdicts beside them, and documents against rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueline.evaluation.quotations import Recorded, answers, of_rows, read_document
from trueline.evaluation.results_page import FIRST_LINES, file_section, read_results
from trueline.evaluation.verdicts import ENDING, file_of, read_verdicts
from trueline.files import read_text


@dataclass
class ResultsCheck:
    """What was compared. ``problems``: sentences, each of which says that something is not what it is said to be."""

    rows: int = 0
    with_verdicts: int = 0
    quoted: int = 0
    computed: int = 0
    recorded: int = 0
    marked: int = 0
    off: int = 0
    unseen: int = 0
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def report(self) -> list[str]:
        """For people, the problems last."""
        text = self.quoted - self.computed - self.recorded - self.marked
        said = [
            *self.lines,
            f"{self.with_verdicts} of {self.rows} rows have verdicts",
            f"{self.quoted} intervals are quoted: {self.computed} computed again from verdicts, {self.recorded} "
            f"recorded without verdicts, {self.marked} marked as unrecorded, {text} not found",
        ]
        if self.off:
            share = 100 * (1 - self.unseen / self.off)
            said.append(
                f"a quotation with a last digit off by one would be found out in {share:.1f}% of cases"
            )
        return said + self.problems


def check_results(files: Sequence[Path], documents: Sequence[Path]) -> ResultsCheck:
    """Compare the rows of ``files`` with their verdicts, and what ``documents`` quote with the rows.

    Raises:
        ValueError: a file cannot be read, or is none of that kind.
    """
    check, recorded = ResultsCheck(), []
    for file in files:
        recorded += _rows(file, check)
    for home in sorted({file.parent / "verdicts" for file in files}):
        names = [path.name.removesuffix(ENDING) for path in sorted(home.glob(f"*{ENDING}"))]
        lost = [name for name in names if not (home.parent / f"{name}.json").exists()]
        check.problems += [
            f"{home / name}{ENDING}: there is no {name}.json beside its folder" for name in lost
        ]
    for path in documents:
        text = read_text(path, "give a Markdown file")
        if text.startswith(FIRST_LINES):
            _page(path, text, files, check)
        else:
            _document(path, text, recorded, {file.stem for file in files}, check)
    return check


def _rows(file: Path, check: ResultsCheck) -> list[Recorded]:
    content = read_results(file)
    if isinstance(content, dict):
        return _figures(file, content["figures"], check)
    runs = read_verdicts(file_of(file)) if file_of(file).exists() else []
    computed, wrong = [], []
    for row in content:
        run = next((run for run in runs if run.holds(row)), None)
        computed.append(run is not None)
        if run is not None and (sentence := run.wrong(row)):
            where = ", ".join(filter(None, (row["benchmark"], row["method"], row["metric"], row["category"])))
            wrong.append(f"{file}: {where}: {sentence}")
    if runs:
        check.lines.append(f"{file}: {sum(computed)} of {len(content)} rows have verdicts")
        if not any(computed):
            wrong.append(
                f"{file_of(file)}: holds no verdicts of the runs of {file}; they have another command"
            )
    check.rows += len(content)
    check.with_verdicts += sum(computed)
    check.problems += wrong
    return of_rows(file.stem, content, computed)


def _figures(file: Path, figures: Sequence[dict[str, Any]], check: ResultsCheck) -> list[Recorded]:
    """Of ``trueline world report``."""
    check.rows += len(figures)
    return [
        Recorded(file.stem, "", each["name"], "", "value", (each["mean"], each["low"], each["high"]))
        for each in figures
    ]


def _page(path: Path, text: str, files: Sequence[Path], check: ResultsCheck) -> None:
    """The page of all results must hold each file's section as it is written now."""
    old = [file for file in files if file_section(file) not in text]
    check.problems += [f"{path}: is not as {file} has it; run `trueline results` again" for file in old]
    check.lines.append(f"{path}: has {len(files) - len(old)} of {len(files)} files as they are")


def _document(
    path: Path, text: str, recorded: Sequence[Recorded], known: set[str], check: ResultsCheck
) -> None:
    document = read_document(path, text)
    if not document.quotations:
        return
    check.quoted += len(document.quotations)
    check.marked += sum(quotation.marked for quotation in document.quotations)
    check.problems += [
        f"{path}: names results/{name}.json, which is not there" for name in sorted(document.sources - known)
    ]
    for answer in answers(document, recorded):
        check.off += answer.off
        check.unseen += answer.unseen
        if any(one.verdicts for one in answer.found):
            check.computed += 1
        elif answer.found:
            check.recorded += 1
        elif document.sources:
            names = ", ".join(sorted(document.sources))
            check.problems.append(
                f"{path}, line {answer.quotation.line}: {answer.quotation} is in no row of {names}"
            )
        else:
            check.lines.append(f"{path}, line {answer.quotation.line}: {answer.quotation} is not found")
