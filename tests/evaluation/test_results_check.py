"""``trueline results --check``: rows against verdicts of a real run, documents against rows."""

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest

from trueline.cli import main
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.figures import TableSettings
from trueline.evaluation.quotations import answers, of_rows, read_document
from trueline.evaluation.verdicts import Verdicts, packed, read_verdicts
from trueline.layout import Layout

HOME = Path(__file__).parents[2]
MOST = 3_000_000  #: bytes of all verdicts of this repository


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("check") / "run"
    small = ["--n", "6", "--steps", "3", "--batch-size", "4", "--dtype", "fp32", "--quiet"]
    assert main(["evaluate", "world", *small, "--out", str(out)]) in (0, 1)
    return out


@pytest.fixture
def results(drawn, tmp_path) -> Path:
    """The file of that run in a folder of its own, with its verdicts."""
    (tmp_path / "results/verdicts").mkdir(parents=True)
    shutil.copy(drawn / "results.json", tmp_path / "results/small.json")
    shutil.copy(drawn / "verdicts/results.jsonl.xz", tmp_path / "results/verdicts/small.jsonl.xz")
    return tmp_path / "results/small.json"


def check(results: Path, text: str = "", name: str = "page.md") -> int:
    document = results.parents[1] / name
    document.write_text(text)
    return main(["results", "--check", str(results.parent), "--docs", str(document)])


def lines_of(results: Path) -> list[dict]:
    return [json.loads(line) for line in lzma.open(results.parent / "verdicts/small.jsonl.xz")]


def rewrite(results: Path, lines: list[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (results.parent / "verdicts/small.jsonl.xz").write_bytes(lzma.compress(text.encode()))


def quoted(row: dict, digits: int = 3) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(row["value"], row["low"], row["high"], d=digits)


def row_of(results: Path, method: str, metric: str) -> dict:
    rows = json.loads(results.read_text())
    return next(
        row for row in rows if (row["method"], row["metric"], row["category"]) == (method, metric, "")
    )


def test_what_is_computed_again_is_what_was_recorded(results, capsys):
    assert check(results, "Nothing is quoted here, not even seeds [3, 4] or a box [0.1, 0.2, 0.3, 0.4].") == 0
    rows = json.loads(results.read_text())
    sets = [row for row in rows if row["metric"] in ("fid", "region_fid", "ap")]
    said = capsys.readouterr().out
    assert f"{len(rows) - len(sets)} of {len(rows)} rows have verdicts" in said
    assert "0 intervals are quoted" in said
    assert len(sets) < len(rows) / 10, "figures of whole sets are few"


def test_one_file_of_a_run_is_checked_where_it_lies(drawn, tmp_path, capsys):
    (tmp_path / "none.md").write_text("nothing\n")
    assert main(["results", "--check", str(drawn / "results.json"), "--docs", str(tmp_path / "none.md")]) == 0
    assert "rows have verdicts" in capsys.readouterr().out


def test_a_changed_verdict_is_found_out(results, capsys):
    lines = lines_of(results)
    one = next(
        each for each in lines if each.get("metric") == "object_accuracy" and each["method"] == "plain"
    )
    place = next(i for i, under in enumerate(one["under"]) if under)
    one["over"][place] = 0 if one["over"][place] else one["under"][place]
    rewrite(results, lines)
    assert check(results) == 1
    said = capsys.readouterr().out
    assert "small.json: world, plain, object_accuracy: value is" in said and "by the verdicts" in said
    assert "gligen, object_accuracy: difference is" in said


def test_a_changed_interval_of_a_row_is_found_out(results, capsys):
    rows = json.loads(results.read_text())
    row = next(row for row in rows if row["metric"] == "mean_iou" and row["method"] == "gligen")
    row["difference_high"] += 1e-4
    results.write_text(json.dumps(rows))
    assert check(results) == 1
    assert "gligen, mean_iou: difference_high is" in capsys.readouterr().out


def test_verdicts_of_another_command_are_not_taken(results, capsys):
    lines = lines_of(results)
    lines[0]["command"] += " --n 7"
    rewrite(results, lines)
    assert check(results) == 1
    assert "holds no verdicts of the runs of" in capsys.readouterr().out


def test_verdicts_without_results_are_said(results, capsys):
    shutil.copy(results.parent / "verdicts/small.jsonl.xz", results.parent / "verdicts/lost.jsonl.xz")
    assert check(results) == 1
    assert "there is no lost.json beside its folder" in capsys.readouterr().out


def test_a_quotation_is_found_and_a_changed_digit_is_not(results, capsys):
    row = row_of(results, "gligen", "mean_iou")
    good = (
        f"By `results/small.json` it is {quoted(row)}, or {100 * row['value']:.0f}% [{100 * row['low']:.0f}, "
    )
    good += f"{100 * row['high']:.0f}]; a difference of **{row['difference']:+.2f}** [{row['difference_low']:.2f},\n"
    good += f"{row['difference_high']:.2f}].\n"
    assert check(results, good) == 0
    assert "3 intervals are quoted: 3 computed again from verdicts" in capsys.readouterr().out
    text = quoted(row)
    bad = text[:-2] + str((int(text[-2]) + 5) % 10) + "]"
    assert check(results, good.replace(text, bad)) == 1
    said = capsys.readouterr().out
    assert f"page.md, line 1: {bad} is in no row of small" in said
    assert (
        "2 computed again from verdicts, 0 recorded without verdicts, 0 marked as unrecorded, 1 not found"
        in said
    )


def test_a_document_that_names_no_file_is_not_held_to_one(results, capsys):
    assert (
        check(results, f"It is {quoted(row_of(results, 'gligen', 'mean_iou'))}, not 0.77 [0.66, 0.88].") == 0
    )
    said = capsys.readouterr().out
    assert "1 computed again" in said and "page.md, line 1: 0.77 [0.66, 0.88] is not found" in said


def test_a_mark_excuses_its_line_alone(results, capsys):
    marked = "`results/small.json`: 0.77 [0.66, 0.88] <!-- unrecorded -->\n"
    assert check(results, marked) == 0
    assert "1 marked as unrecorded" in capsys.readouterr().out
    assert check(results, marked + "and 0.66 [0.55, 0.77]\n") == 1
    assert "line 2: 0.66 [0.55, 0.77] is in no row" in capsys.readouterr().out


def test_a_file_that_is_named_must_be_there(results, capsys):
    assert check(results, "`results/other.json` has 0.5 [0.4, 0.6] <!-- unrecorded -->") == 1
    assert "names results/other.json, which is not there" in capsys.readouterr().out


def test_rows_without_verdicts_are_recorded_only(results, capsys):
    row = row_of(results, "gligen", "mean_iou")
    shutil.rmtree(results.parent / "verdicts")
    assert check(results, f"`results/small.json`: {quoted(row)}") == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("0 of ") and "1 recorded without verdicts" in said


def test_the_page_of_all_results_must_be_of_the_files_as_they_are(results, tmp_path, capsys):
    page = tmp_path / "results.md"
    assert main(["results", str(results.parent), "--out", str(page)]) == 0
    text = page.read_text()
    assert check(results, text) == 0
    value = quoted(row_of(results, "gligen", "mean_iou"))
    assert value in text
    assert check(results, text.replace(value, "9" + value)) == 1
    assert "run `trueline results` again" in capsys.readouterr().out


def test_what_this_repository_quotes_is_what_it_records(capsys, monkeypatch):
    monkeypatch.chdir(HOME)
    code = main(["results", "--check"])
    assert code == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert int(said.partition(" intervals are quoted")[0].rpartition("\n")[2]) > 800
    share = float(said.partition("would be found out in ")[2].partition("%")[0])
    assert share > 98, "in text and tables a wrong digit must not pass for another row's"


# Tables


def rows_of_table(*cells: tuple[str, str, float]) -> list[dict]:
    return [
        {"method": method, "metric": metric, "category": "", "value": v, "low": v - 0.1, "high": v + 0.1}
        for method, metric, v in cells
    ]


@pytest.mark.parametrize("turned", [False, True])
def test_a_cell_is_of_its_lines_method_and_its_columns_metric(turned):
    """A number of another method, right in itself, is wrong in this line."""
    cells = [
        (m, k, round(0.2 + 0.1 * i + 0.02 * j, 2)) for i, m in enumerate("abc") for j, k in enumerate("xyz")
    ]
    recorded = of_rows("one", rows_of_table(*cells), [True] * len(cells))
    values = {(m, k): f"{v:.2f} [{v - 0.1:.2f}, {v + 0.1:.2f}]" for m, k, v in cells}

    def table(swapped: bool) -> str:
        grid = [
            [values["a", "x"] if swapped and (m, k) == ("b", "y") else values[m, k] for k in "xyz"]
            for m in "abc"
        ]
        grid = [list(line) for line in zip(*grid, strict=True)] if turned else grid
        lines = [
            "| row | 1 | 2 | 3 |",
            "|---|---|---|---|",
            *(f"| it | {' | '.join(line)} |" for line in grid),
        ]
        return "`results/one.json`\n\n" + "\n".join(lines) + "\n"

    def missing(text: str) -> list[int]:
        found = answers(read_document(Path("d"), text), recorded)
        assert len(found) == 9
        return [place for place, answer in enumerate(found) if not answer.found]

    assert missing(table(swapped=False)) == []
    assert missing(table(swapped=True)) == [4]


def test_quotations_are_read_with_their_lines_and_digits():
    minus = "\N{MINUS SIGN}0.10"
    text = f"one {minus} [-0.2,\n0.30] and 1,074 [1,000, 1,100]\n\n```\n0.5 [0.4, 0.6] results/no.json\n```\n"
    text += "| a | +2.0% [1.0, 3.0] |\n"
    document = read_document(Path("d"), text)
    assert [(q.line, q.written, q.percent, q.place is not None) for q in document.quotations] == [
        (1, (minus, "-0.2", "0.30"), False, False),
        (2, ("1,074", "1,000", "1,100"), False, False),
        (7, ("+2.0", "1.0", "3.0"), True, True),
    ]
    assert document.sources == frozenset()
    assert read_document(Path("d"), "```\nx --results results/a.json\n```\n").sources == {"a"}


# The file


def made(methods: int, pictures: int, metrics: int) -> Verdicts:
    """Half of the metrics are counts, half are numbers of any size."""
    rng = np.random.default_rng(0)
    layout = Layout("a dog")
    wanted = [Wanted(Example(f"p-{i:04d}", layout, "color"), i, 0, 0) for i in range(pictures)]
    looks = {
        f"method-{m}": {
            "judge": [
                {
                    f"ratio/metric_{k}": np.array([rng.integers(3) if k % 2 else rng.random() * 2, 2.0])
                    for k in range(metrics)
                    if (i + k) % 5
                }
                for i in range(pictures)
            ]
        }
        for m in range(methods)
    }
    context = TableSettings("world", "world", (0,), "trueline evaluate world", "abc1234")
    return Verdicts.of(wanted, looks, context, {"method-0": "plain"})


def test_the_file_comes_back_and_is_read_with_the_standard_library(tmp_path):
    first = made(2, 10, 4)
    (tmp_path / "a.jsonl.xz").write_bytes(packed([first]) + packed([first]))  # as by cat
    (again, second) = read_verdicts(tmp_path / "a.jsonl.xz")
    assert packed([again]) == packed([first]) == packed([second])
    assert set(again.pairs) == {(m, f"metric_{k}") for m in ("plain", "method-1") for k in range(4)}
    for key, pairs in first.pairs.items():
        for mine, theirs in zip(pairs, again.pairs[key], strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or theirs == pytest.approx(mine, rel=5e-7)
    with lzma.open(tmp_path / "a.jsonl.xz") as file:
        head, line = json.loads(next(file)), json.loads(next(file))
    assert head["prompts"][3] == "p-0003" and head["seeds"] == [0] * 10
    assert (line["method"], line["metric"]) == ("plain", "metric_1")
    assert [place for place, over in enumerate(line["over"]) if over is None] == [4, 9]
    assert line["under"][3:6] == [2, None, 2]


def test_all_verdicts_stay_small():
    """Every method twice, on both nets, on 256 prompts; and what the repository has."""
    assert len(packed([made(60, 256, 14)])) < MOST / 2
    assert sum(path.stat().st_size for path in (HOME / "results/verdicts").glob("*")) < MOST


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        (1, {"over": [1]}, "line 2: over must be a list of 6 numbers"),
        (1, {"under": [-1] * 6}, "is no verdict"),
        (1, {"over": [None] * 6}, "None over"),
        (1, {"more": 1}, "line 2: neither a run nor verdicts of one"),
        (0, {"seeds": [0]}, "line 1: prompts, seeds, categories, groups must be of one length"),
        (0, {"prompts": [1] * 6}, "line 1: prompts must be a list, of str"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_line(results, capsys, line, change, said):
    lines = lines_of(results)
    lines[line] |= change
    rewrite(results, lines)
    assert check(results) == 2
    assert said in capsys.readouterr().err


def test_a_broken_file_is_refused(results, capsys):
    path = results.parent / "verdicts/small.jsonl.xz"
    path.write_bytes(path.read_bytes()[:-40])
    assert check(results) == 2
    assert "cannot be read" in capsys.readouterr().err
    rewrite(results, [*lines_of_bytes()])
    assert check(results) == 2
    assert "neither a run nor verdicts" in capsys.readouterr().err


def lines_of_bytes() -> list[dict]:
    return [{"method": "plain", "metric": "x", "over": [], "under": []}]


def test_docs_without_check_are_refused(results, capsys):
    assert main(["results", str(results.parent), "--docs", "README.md"]) == 2
    assert "--docs: belongs to --check" in capsys.readouterr().err
