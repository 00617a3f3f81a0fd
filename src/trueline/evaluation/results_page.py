"""One page of all result files: ``docs/results.md``."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trueline.evaluation.tables import (
    check_rows,
    code,
    decimals,
    interval,
    is_finite,
    number,
    padded,
    plain,
    section,
    tables,
)
from trueline.files import write_text

FIGURE = ("name", "mean", "low", "high", "n")  #: keys of a figure of ``trueline world report``
WORLD_READS = (
    "Held-out scenes, picture seeds 0, 1, 2, ...; "
    "intervals are 95%, bootstrap over scenes; n counts judgements."
)
_SETTINGS = ("model", "steps", "guidance_scale", "guidance_interval", "dtype", "seconds")


FIRST_LINES = "# Results\n\nWritten from `results/*.json`; do not edit."  #: by which the page is known


def results_page(files: Iterable[str | Path]) -> str:
    """``docs/results.md``: a section per file, either a list of rows or the figures of ``trueline world report``.

    Raises:
        ValueError: a file is neither, named in one sentence.
    """
    sections = [file_section(Path(file)) for file in files]
    note = f"{FIRST_LINES} Below each table: command, commit and seeds of its numbers."
    return "\n".join([note, "↓ marks metrics of which less is better.", "", *sections])


def write_results_page(folder: str | Path, target: str | Path) -> None:
    """Write the page of all ``folder/*.json``, in the order of their names."""
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: holds no results (*.json); evaluate something first")
    write_text(target, results_page(files))


def file_section(file: Path) -> str:
    """The page's section of one file.

    Raises:
        ValueError: as ``read_results``.
    """
    content = read_results(file)
    if isinstance(content, list):
        return "\n".join([f"## {file.stem}", "", *(section(table, 3) for table in tables(content))])
    return _world_section(content, file)


def read_results(file: Path) -> list[dict[str, Any]] | dict[str, Any]:
    """A list of rows, or the figures of ``trueline world report``, checked.

    Raises:
        ValueError: the file is neither, named in one sentence.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError):  # broken JSON, or bytes that are no UTF-8
        raise ValueError(f"{file}: not JSON; write it anew with `trueline evaluate`") from None
    if isinstance(content, list):
        check_rows(content, str(file))
    elif isinstance(content, dict) and isinstance(content.get("figures"), list):
        _check_figures(content["figures"], file)
    else:
        raise ValueError(
            f"{file}: neither a list of rows nor the figures of `trueline world report`; move it away"
        )
    return content


def _check_figures(figures: list[Any], file: Path) -> None:
    for index, figure in enumerate(figures):
        for key in FIGURE:
            if not isinstance(figure, dict) or key not in figure:
                raise ValueError(
                    f"{file}: figures[{index}].{key} is missing; run `trueline world report` again"
                )
            if key != "name" and not is_finite(figure[key]):
                raise ValueError(
                    f"{file}: figures[{index}].{key} must be a finite number (got {figure[key]!r})"
                )


def _world_section(result: dict[str, Any], file: Path) -> str:
    """The figures of ``trueline world report``: each with its mean, interval, n and, where recorded, its goal."""
    figures = result["figures"]
    goals = any(figure.get("verdict") for figure in figures)
    body = []
    for f in figures:
        places = decimals((f["mean"], f["low"], f["high"]))
        numbers = [str(f["n"]), number(f["mean"], places), interval(f["low"], f["high"], places)]
        body.append([plain(f["name"]), *([f.get("verdict", "")] if goals else []), *numbers])
    header = ["figure", *(["goal"] if goals else []), "n", "mean", "95% interval"]
    settings = [f"{name.replace('_', ' ')} {result[name]}" for name in _SETTINGS if name in result]
    made = f"{code(result.get('command', ''))}, commit {code(result.get('commit', ''))}"
    table = "\n".join(padded(header, body, left=1 + goals))
    return f"## {file.stem}\n\n{table}\n\n{WORLD_READS}\n\n1. {', '.join([made, *settings])}\n"
