"""Statistics against closed forms, scipy and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from atradiff.report.stats import (
    area_under_curve,
    curve_interval,
    interquartile_mean,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap,
)

scores = st.lists(st.integers(-100, 100), min_size=1, max_size=12)


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    assert interquartile_mean([1000, 1, 2, 3, 4, 5, 6, -1000]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([1, 2, 6]) == pytest.approx(3)


def test_bootstrap_agrees_with_scipy_for_one_stratum() -> None:
    sample = np.random.default_rng(0).normal(size=40)
    ours = stratified_bootstrap([sample], np.mean, seed=1, resamples=4000)
    theirs = scipy_stats.bootstrap(
        (sample,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(sample.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        interval = stratified_bootstrap([rng.normal(size=30)], np.mean, seed=trial, resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_strata_are_redrawn_apart() -> None:
    """Two tasks of very different scale without spread inside: no resample may mix them."""
    interval = stratified_bootstrap([[0.0] * 5, [100.0] * 5], np.mean, seed=0, resamples=200)
    assert (interval.value, interval.low, interval.high) == (50, 50, 50)


def test_one_run_has_an_interval_without_width() -> None:
    interval = stratified_bootstrap([[7.0]], seed=0)
    assert (interval.low, interval.value, interval.high) == (7, 7, 7)


def test_bootstrap_is_reproducible_and_refuses_empty_strata() -> None:
    assert stratified_bootstrap([[1, 2, 3]], seed=5) == stratified_bootstrap([[1, 2, 3]], seed=5)
    with pytest.raises(ValueError, match="at least one run"):
        stratified_bootstrap([[1.0], []], seed=0)


def test_the_interval_of_a_curve_agrees_with_the_interval_at_each_point() -> None:
    curves = np.random.default_rng(4).normal(loc=[0.0, 5.0, 10.0], size=(40, 3))
    middle, low, high = curve_interval(curves, seed=0)
    for point in range(3):
        alone = stratified_bootstrap([curves[:, point]], seed=1, resamples=4000)
        assert middle[point] == pytest.approx(alone.value)
        assert low[point] == pytest.approx(alone.low, abs=0.1)
        assert high[point] == pytest.approx(alone.high, abs=0.1)


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys_u(ours: list[int], theirs: list[int]) -> None:
    u = scipy_stats.mannwhitneyu(ours, theirs).statistic
    assert probability_of_improvement(ours, theirs) == pytest.approx(u / (len(ours) * len(theirs)))
    assert probability_of_improvement(ours, theirs) + probability_of_improvement(theirs, ours) == pytest.approx(1)


def test_area_under_curve_is_a_mean_in_the_unit_of_a_return() -> None:
    assert area_under_curve([0, 10, 40], [5, 5, 5]) == pytest.approx(5)
    x = np.linspace(0, 1, 1001)
    assert area_under_curve(1e4 * x, x**2) == pytest.approx(1 / 3, abs=1e-5)
    assert area_under_curve([100], [3]) == 3


def test_steps_to_threshold_is_the_first_evaluation_that_reaches_it() -> None:
    assert steps_to_threshold([0, 100, 200, 300], [0, 10, 5, 20], 10) == 100
    assert steps_to_threshold([0, 100], [0, 10], 11) is None
