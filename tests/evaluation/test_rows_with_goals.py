"""Rows that are not of pictures: speed, with its goal and its own reading of interval and n."""

import pytest

from trueline.evaluation.tables import READS, check_rows, lower_is_better, markdown


def row(method, **changes):
    return {
        "benchmark": "guided step",
        "model": "m",
        "method": method,
        "metric": "step_cost",
        "category": "",
        "value": 1.5,
        "low": 1.4,
        "high": 1.6,
        "n": 2,
        "images_per_prompt": 1,
        "seeds": [0],
        "protocol": "CPU time",
        "command": "python speed.py",
        "commit": "abc1234",
    } | changes


def test_a_goal_and_what_the_numbers_are_stand_below_the_table():
    reads = "Medians, in brackets the least and the greatest."
    text = markdown([row("boxdiff", goal="at most 1.9: holds", reads=reads), row("structured", reads=reads)])
    assert "- boxdiff, `step_cost` at most 1.9: holds\n" in text
    assert text.count(reads) == 1 and READS not in text
    assert "- structured" not in text


def test_rows_without_them_read_as_before():
    text = markdown([row("boxdiff")])
    assert text.count(READS) == 1 and "Goals" not in text
    assert READS in markdown([row("boxdiff"), row("structured", reads="Medians.")]), "each reading is said"


def test_less_of_a_cost_is_better():
    assert lower_is_better("step_cost") and lower_is_better("run_seconds")
    assert lower_is_better("step_memory_gib") and not lower_is_better("color_accuracy")


def test_a_goal_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"rows\[0\]\.goal: must be text \(got 1\.9\)"):
        check_rows([row("boxdiff", goal=1.9)])
