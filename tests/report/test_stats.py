"""Statistics against closed forms, scipy and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from atradiff.report.stats import (
    area_under_curve,
    interquartile_mean,
    probability_of_improvement,
    steps_to_threshold,
)

scores = st.lists(st.integers(-100, 100), min_size=1, max_size=12)


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    assert interquartile_mean([1000, 1, 2, 3, 4, 5, 6, -1000]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([1, 2, 6]) == pytest.approx(3)


@given(st.integers(1, 30), st.integers(1, 4), st.sampled_from([None, 0, 1, -1]), st.integers(0, 99))
def test_interquartile_mean_is_scipys_trimmed_mean(runs: int, tasks: int, axis: int | None, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(runs, tasks)).round(1)  # with ties
    ours, theirs = interquartile_mean(scores, axis=axis), scipy_stats.trim_mean(scores, 0.25, axis=axis)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


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


def test_a_mean_of_exactly_the_threshold_reaches_it() -> None:
    means = [float(interquartile_mean(returns)) for returns in ([0.7, 0.8, 0.8], [0.75, 0.8, 0.85])]
    assert means[1] < 0.8  # by rounding
    assert steps_to_threshold([100, 200], means, 0.8) == 200
    assert steps_to_threshold([100, 200], [-1000.001, -1000 - 1e-12], -1000) == 200
