"""Rows as Markdown, and the page of results from both formats of file."""

import json
import os

import pytest

from trueline.evaluation.results_page import results_page, write_results_page
from trueline.evaluation.tables import (
    decimals,
    interval,
    lower_is_better,
    markdown,
    number,
    ranges,
    tables,
    verdict,
)
from trueline.files import write_text


def row(method="plain", metric="color_accuracy", value=0.5, category="", difference=None, **changes):
    """A row of results.json; ``difference``: (value, low, high) against "plain"."""
    made = {
        "benchmark": "world",
        "model": "m",
        "method": method,
        "metric": metric,
        "category": category,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
        "n": 256,
        "images_per_prompt": 1,
        "seeds": [0, 1, 2, 7],
        "protocol": "oracle, fixed",
        "command": "trueline evaluate world",
        "commit": "abc1234",
    }
    if difference:
        names = ("difference", "difference_low", "difference_high")
        made |= {"against": "plain"} | dict(zip(names, difference, strict=True))
    return made | changes


def cells(line):
    return [cell.strip() for cell in line.strip("| \n").split(" | ")]


def test_a_table_holds_every_number_with_interval_n_command_commit_and_seeds():
    text = markdown(
        [
            row(),
            row("hcma", value=0.7312, difference=(0.2312, 0.1, 0.36)),
            row(metric="fid[world]", value=43.218),
            row("hcma", metric="fid[world]", value=44.5, difference=(1.282, -0.4, 2.9)),
        ]
    )
    table = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["metric", "n", "plain", "hcma"]
    assert table[2] == ["color_accuracy", "256", "0.500 [0.450, 0.550]", "0.731 [0.681, 0.781]"]
    assert table[3] == ["fid[world] ↓", "256", "43.22 [43.17, 43.27]", "44.50 [44.45, 44.55]"]
    assert table[4] == ["metric", "n", "hcma"], "the first method is not compared with itself"
    assert table[6][2] == "**+0.231** [+0.100, +0.360] better"
    assert table[7][2] == "+1.28 [-0.40, +2.90]", "an interval that holds 0 proves nothing"
    assert "`trueline evaluate world`, commit `abc1234`, seeds 0..2, 7, 1 picture a prompt" in text
    assert "- `color_accuracy`, `fid[world]`: oracle, fixed" in text
    assert len({len(line) for line in text.splitlines()[2:6]}) == 1, "columns line up in a terminal"


def test_methods_go_into_rows_when_there_are_more_of_them_than_metrics():
    text = markdown([row(), row("a"), row("b", n=250)])
    table = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["method", "color_accuracy (n = 256 / 256 / 250)"]
    assert [line[0] for line in table[2:]] == ["plain", "a", "b"]


def test_many_methods_have_rows_and_no_categories():
    names, metrics = [f"m{i}" for i in range(7)], [f"metric_{i}" for i in range(9)]
    rows = [row(name, metric, category=c) for name in names for metric in metrics for c in ("", "spatial")]
    assert "the numbers of 9 more lines, by category, are in the file" in markdown(rows)
    table = [cells(line) for line in markdown(rows).splitlines() if line.startswith("|")]
    assert table[0] == ["method", *(f"{metric} (n = 256)" for metric in metrics)]
    assert [line[0] for line in table[2:]] == names
    only = [each for each in rows if each["category"]]
    assert "spatial" in markdown(only), "what stands in categories only is shown nevertheless"


def test_categories_come_after_the_whole_and_missing_cells_are_shown():
    rows = [row(category="spatial"), row(), row("hcma", category="spatial") | {"value": None}]
    table = [cells(line) for line in markdown(rows).splitlines() if line.startswith("|")]
    assert table[2] == ["color_accuracy", "all", "256", "0.500 [0.450, 0.550]", "-"]
    assert table[3] == ["color_accuracy", "spatial", "256", "0.500 [0.450, 0.550]", "- [0.450, 0.550]"]


def test_numbers_of_several_runs_say_which():
    text = markdown([row(), row(metric="mean_iou", commit="def5678"), row("b", metric="mean_iou")])
    assert "0.500 [0.450, 0.550] (1)" in text and "0.500 [0.450, 0.550] (2)" in text
    assert "1. `trueline evaluate world`, commit `abc1234`" in text
    assert "2. `trueline evaluate world`, commit `def5678`" in text


def test_each_benchmark_and_model_has_its_own_table():
    made = tables([row(), row(benchmark="geneval"), row(model="sd")])
    assert [(table.benchmark, table.model) for table in made] == [
        ("world", "m"),
        ("geneval", "m"),
        ("world", "sd"),
    ]


def test_names_cannot_break_the_table():
    text = markdown([row("a|b\n<img src=x>", category="c|d")])
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert "a\\|b &lt;img src=x>" in body[0] or "a\\|b &lt;img src=x>" in body[2]
    assert "<img" not in text


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("fid[clean]", True),
        ("region_fid[world]", True),
        ("kid[clean]", True),
        ("cmmd", True),
        ("counting_mae", True),
        ("color_accuracy", False),
        ("clip_score[fidelity]", False),
        ("mean_iou", False),
    ],
)
def test_direction_of_a_metric(metric, expected):
    assert lower_is_better(metric) is expected


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("mean_iou", 0.1, 0.2, "better"),
        ("mean_iou", -0.2, -0.1, "worse"),
        ("fid", 0.1, 0.2, "worse"),
        ("fid", -2.0, -1.0, "better"),
        ("fid", -1.0, 1.0, ""),
        ("mean_iou", 0.0, 0.2, ""),
        ("mean_iou", None, None, ""),
    ],
)
def test_verdict_needs_an_interval_without_zero(metric, low, high, expected):
    assert verdict(row(metric=metric, difference=(0.1, low, high))) == expected


def test_numbers_read_well():
    assert [decimals([v]) for v in (0.0, 0.5, 1.0, 9.99, 31.4, 143.2, 1234.5, 0.042, 0.0042, 1e-12)] == [
        3,
        3,
        3,
        3,
        2,
        1,
        0,
        4,
        5,
        6,
    ]
    assert number(1234.56, 1) == "1,234.6" and number(0.25, 3, sign=True) == "+0.250"
    assert number(-0.0001, 3, sign=True) == "0.000", "no sign on a zero"
    assert number(None, 3) == "-" and interval(None, 1.0, 3) == ""
    assert ranges([3, 1, 2, 7, 2]) == "1..3, 7" and ranges([]) == "-"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"rows": []}, "must be a list of rows"),
        ([3], r"rows\[0\]: must be an object"),
        ([{**row(), "value": float("nan")}], r"rows\[0\].value: must be a finite number or null \(got nan\)"),
        ([{k: v for k, v in row().items() if k != "commit"}], r"rows\[0\]: commit is missing"),
        ([row(seeds="0-9")], r"rows\[0\].seeds: must be whole numbers"),
        ([row(method=None)], r"rows\[0\].method: must be text"),
        ([row(), row()], "two values for world, plain, color_accuracy, category all"),
    ],
)
def test_bad_rows_are_named(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        tables(rows)


def world_file(**changes):
    figures = [
        {"name": "oracle_name", "mean": 1.0, "low": 1.0, "high": 1.0, "n": 48},
        {"name": "vae_psnr", "mean": 31.457, "low": 30.814, "high": 32.148, "n": 48},
    ]
    return {
        "command": "trueline world report --n 48",
        "commit": "6619cf6",
        "steps": 50,
        "figures": figures,
    } | changes


def test_results_page_reads_both_formats(tmp_path):
    (tmp_path / "world.json").write_text(json.dumps(world_file()))
    (tmp_path / "evaluation.json").write_text(json.dumps([row(), row("hcma", value=0.625)]))
    write_results_page(tmp_path, tmp_path / "docs" / "results.md")
    page = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    assert page.index("## evaluation") < page.index("## world")
    table = [cells(line) for line in page.splitlines() if line.startswith("|")]
    assert ["vae_psnr", "48", "31.46", "[30.81, 32.15]"] in table
    assert ["hcma", "0.625 [0.575, 0.675]"] in table
    assert "`trueline world report --n 48`, commit `6619cf6`, steps 50" in page
    assert "`trueline evaluate world`, commit `abc1234`" in page
    write_results_page(tmp_path, tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text(encoding="utf-8") == page, "the page depends on the files alone"


def test_goals_of_the_world_are_shown_where_the_file_has_them(tmp_path):
    content = world_file()
    content["figures"][1]["verdict"] = ">= 33: **does not hold**"
    (tmp_path / "world.json").write_text(json.dumps(content))
    assert "| >= 33: **does not hold** |" in results_page([tmp_path / "world.json"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "x.json: not JSON"),
        ("\udcff", "x.json: not JSON"),
        ("[" * 100_000, "x.json: not JSON"),
        ('{"a": 1}', "x.json: neither a list of rows nor the figures"),
        ('[{"benchmark": "b"}]', r"x.json\[0\]: model is missing"),
        ('{"figures": [{"name": "a"}]}', r"x.json: figures\[0\].mean is missing"),
        (
            '{"figures": [{"name": "a", "mean": null, "low": 0, "high": 0, "n": 1}]}',
            "must be a finite number",
        ),
    ],
)
def test_broken_result_files_are_named(tmp_path, text, sentence):
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=sentence):
        write_results_page(tmp_path, tmp_path / "results.md")
    assert not (tmp_path / "results.md").exists()


def test_an_empty_folder_is_no_page(tmp_path):
    with pytest.raises(ValueError, match="holds no results"):
        write_results_page(tmp_path, tmp_path / "results.md")


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    write_text(target, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"page\.html: no space left on the disk; free some"):
        write_text(target, "new" * 1000)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target], "no temporary file stays behind"
