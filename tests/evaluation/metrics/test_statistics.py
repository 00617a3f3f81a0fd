"""Ratios with prompt-clustered intervals, and paired differences."""

import numpy as np
import pytest
from scipy import stats

from trueline.evaluation.metrics.statistics import (
    Terms,
    crossed_mean,
    estimate_of,
    macro,
    macro_difference,
    paired_difference,
    ratio,
    set_draws,
)


def test_a_ratio_is_the_sum_over_the_sum_not_the_mean_of_ratios():
    estimate = ratio(Terms.of([1, 0, 3], [1, 2, 3], ["a", "b", "c"]))
    assert estimate.value == pytest.approx(4 / 6)
    assert (estimate.n, estimate.clusters) == (3, 3)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        wins = (rng.random(60) < 0.7).astype(float)
        estimate = ratio(Terms.of(wins, np.ones(60), range(60)), draws=400, seed=trial)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.98


def test_copies_of_a_picture_under_one_prompt_do_not_narrow_the_interval():
    rng = np.random.default_rng(2)
    wins, prompts = (rng.random(40) < 0.5).astype(float), np.arange(40)
    once = ratio(Terms.of(wins, np.ones(40), prompts.tolist()))
    tenfold = ratio(Terms.of(np.repeat(wins, 10), np.ones(400), np.repeat(prompts, 10).tolist()))
    assert (tenfold.value, tenfold.low, tenfold.high) == pytest.approx((once.value, once.low, once.high))
    assert (tenfold.n, tenfold.clusters) == (400, 40)


def test_shards_in_any_order_of_pictures_give_the_same_value():
    tops, bottoms, prompts = [1.0, 0.0, 1.0, 1.0], [1.0] * 4, ["a", "b", "a", "c"]
    whole = Terms.of(tops, bottoms, prompts)
    parts = Terms.of(tops[2:] + tops[:2], bottoms, prompts[2:] + prompts[:2])
    assert whole.value == parts.value


def test_a_paired_difference_is_narrower_than_what_the_prompts_vary():
    rng = np.random.default_rng(3)
    hard = rng.random(200)
    b = Terms.of(hard, np.ones(200), range(200))
    a = Terms.of(hard + 0.05, np.ones(200), range(200))
    difference, alone = paired_difference(a, b), ratio(a)
    assert difference.value == pytest.approx(0.05)
    assert difference.high - difference.low < 1e-9 < alone.high - alone.low


def test_a_difference_of_other_prompts_is_refused():
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference(Terms.of([1], [1], ["a"]), Terms.of([1], [1], ["b"]))


def test_nothing_asked_has_no_value_and_one_prompt_no_interval():
    assert ratio(Terms.of([0, 0], [0, 0], ["a", "b"])).value is None
    one = ratio(Terms.of([1, 0], [1, 1], ["a", "a"]))
    assert one.value == 0.5 and one.low is None and one.high is None


def test_a_macro_mean_weighs_its_parts_equally():
    easy, hard = Terms.of([1] * 90, [1] * 90, range(90)), Terms.of([0] * 10, [1] * 10, range(10))
    assert macro([easy, hard]).value == 0.5
    assert macro([easy, Terms.of([0], [0], ["x"])]).value is None


@pytest.mark.parametrize(
    ("tops", "bottoms", "clusters", "message"),
    [
        ([float("nan"), 1], [1, 1], [0, 1], "1 of 2"),
        ([1], [-1], [0], "negative"),
        ([1, 1], [1, 1], [0], "one per picture"),
    ],
)
def test_bad_numbers_are_named(tops, bottoms, clusters, message):
    with pytest.raises(ValueError, match=message):
        Terms.of(tops, bottoms, clusters)


def test_a_difference_of_macro_means_is_paired_within_each_group():
    a = [Terms.of([1, 1, 0, 1], [1] * 4, list("abcd")), Terms.of([0, 1], [1] * 2, list("ef"))]
    b = [Terms.of([1, 0, 0, 1], [1] * 4, list("abcd")), Terms.of([0, 1], [1] * 2, list("ef"))]
    found = macro_difference(a, b)
    assert found.value == pytest.approx(((3 - 2) / 4 + 0) / 2)
    assert found.low is not None and found.low >= 0
    assert macro_difference(a, a).low == macro_difference(a, a).high == 0
    with pytest.raises(ValueError, match="same groups"):
        macro_difference(a, list(reversed(b)))


def test_the_interval_is_scipys_on_the_same_draws():
    """scipy's generator draws the same prompts: its 95% percentile interval is ours to rounding, no other is."""
    scores = np.random.default_rng(5).normal(size=37)
    own = ratio(Terms.of(scores, np.ones(37), range(100, 137)), draws=999, seed=3)
    theirs = stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=999,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (own.low, own.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_interval_of_a_macro_mean_draws_each_part_by_itself():
    """As independent parts have it: drawn together, two equal parts would be as uncertain as one."""
    scores = np.random.default_rng(6).normal(size=80)
    part = Terms.of(scores, np.ones(80), range(80))
    own, alone = macro([part, part]), ratio(part)
    error = scores.std() / np.sqrt(80)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert own.high - own.low == pytest.approx(2 * 1.96 * error / np.sqrt(2), rel=0.06)
    draws = np.mean([part.draws(seed=seed) for seed in (0, 1)], axis=0)
    assert (own.low, own.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-12)


def test_figures_of_sets_are_drawn_as_ratios_are():
    """A mean is a figure of a set too: the same prompts are drawn, all pictures of each."""
    scores, prompts = np.random.default_rng(7).random(30), [f"p{i % 10}" for i in range(30)]
    (drawn,) = set_draws([lambda places: float(scores[list(places)].mean())], prompts, draws=50, seed=4)
    assert drawn == pytest.approx(Terms.of(scores, np.ones(30), prompts).draws(50, 4))
    shifted = estimate_of(10.0, drawn, 30, 10, centred=True, bounds=(9.99, 20.0))
    assert shifted.low == 9.99
    assert shifted.high == pytest.approx(10 + np.quantile(drawn, 0.975) - drawn.mean())
    assert set_draws([len], ["p", "p"]).shape == (1, 0)


def test_a_mean_that_two_kinds_of_clusters_cross_is_as_uncertain_as_both_together():
    """Prompts and raters that each add a normal error: the variance is about the sum of the variances."""
    rng = np.random.default_rng(8)
    of_prompt, of_rater = rng.normal(size=60), rng.normal(size=40)
    votes = [(of_prompt[p] + of_rater[r], p, r) for p in range(60) for r in range(40)]
    estimate = crossed_mean(*zip(*votes, strict=True))
    error = np.sqrt(of_prompt.var() / 60 + of_rater.var() / 40)
    assert estimate.value == pytest.approx(of_prompt.mean() + of_rater.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.06)
