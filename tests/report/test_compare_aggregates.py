"""Aggregates over tasks against rliable, scipy and naive loops."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import pytest
from scipy import stats as scipy_stats

from atradiff.report.aggregate import (
    AGGREGATES,
    aggregate_curve,
    aggregate_interval,
    improvement_interval,
    iqm,
    median,
    percentile_interval,
    performance_profile,
    runs_curve,
    runs_interval,
)

RUNS, TASKS = 6, 5


@pytest.fixture(scope="module")
def rliable() -> Iterator[types.SimpleNamespace]:
    """rliable's metrics and bootstrap.

    rliable asks for an ``arch`` below 8, whose time-series half fails to import beside pandas 3: only its bootstrap,
    which is all that rliable uses, is imported here.
    """
    spec = importlib.util.find_spec("arch")
    assert spec is not None
    bare = types.ModuleType("arch")
    bare.__path__ = list(spec.submodule_search_locations or [])
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "arch"}
    sys.modules["arch"] = bare
    from rliable import library, metrics

    yield types.SimpleNamespace(library=library, metrics=metrics)
    for name in [name for name in sys.modules if name.partition(".")[0] == "arch"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(autouse=True)
def _rliable_draws() -> None:
    """rliable draws from numpy's global state, whatever ``random_state`` it is given."""
    np.random.seed(1)


@pytest.fixture
def scores() -> np.ndarray:
    """(RUNS, TASKS) scores around 70, some beyond 100, with tasks of different difficulty."""
    rng = np.random.default_rng(0)
    return 70 + 25 * rng.normal(size=(RUNS, TASKS)) + np.linspace(-40, 40, TASKS)


def test_every_aggregate_and_its_interval_agree_with_rliable(
    rliable: types.SimpleNamespace, scores: np.ndarray
) -> None:
    theirs = {
        "IQM": rliable.metrics.aggregate_iqm,
        "median": rliable.metrics.aggregate_median,
        "mean": rliable.metrics.aggregate_mean,
        "optimality gap": lambda x: rliable.metrics.aggregate_optimality_gap(x, gamma=100),
    }
    assert set(theirs) == set(AGGREGATES)
    values, bounds = rliable.library.get_interval_estimates(
        {"arm": scores},
        lambda x: np.array([theirs[name](x) for name in AGGREGATES]),
        reps=1500,
    )
    for index, (name, aggregate) in enumerate(AGGREGATES.items()):
        ours = aggregate_interval(list(scores.T), aggregate, seed=2, resamples=1500)
        assert ours.value == pytest.approx(values["arm"][index]), name
        assert [ours.low, ours.high] == pytest.approx(bounds["arm"][:, index], abs=1.5), name


def test_probability_of_improvement_agrees_with_rliable(rliable: types.SimpleNamespace, scores: np.ndarray) -> None:
    other = np.round(scores + np.random.default_rng(3).normal(10, 20, scores.shape))
    values, bounds = rliable.library.get_interval_estimates(
        {"pair": (other, scores)},
        lambda x, y: np.array([rliable.metrics.probability_of_improvement(x, y)]),
        reps=800,
    )
    ours = improvement_interval(list(other.T), list(scores.T), seed=2)
    assert ours.value == pytest.approx(values["pair"][0])
    assert [ours.low, ours.high] == pytest.approx(bounds["pair"][:, 0], abs=0.05)


def test_performance_profiles_agree_with_rliable(rliable: types.SimpleNamespace, scores: np.ndarray) -> None:
    levels = np.linspace(0, 120, 13)
    shares, bounds = rliable.library.create_performance_profile({"arm": scores}, levels, reps=1000)
    value, low, high = performance_profile(list(scores.T), levels, seed=1)
    np.testing.assert_allclose(value, shares["arm"])
    np.testing.assert_allclose(low, bounds["arm"][0], atol=0.05)
    np.testing.assert_allclose(high, bounds["arm"][1], atol=0.05)


def test_one_task_is_the_plain_bootstrap_of_scipy(scores: np.ndarray) -> None:
    sample = scores[:, 0]
    ours = aggregate_interval([sample], AGGREGATES["mean"], seed=0, resamples=5000)
    theirs = scipy_stats.bootstrap(
        (sample,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=1.0)


def test_intervals_cover_the_true_mean_about_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        interval = aggregate_interval([rng.normal(size=30)], AGGREGATES["mean"], seed=trial, resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_task_has_one_interval_by_itself_and_over_tasks() -> None:
    finals = [3.0, 1.0, 4.0, 1.5]
    assert runs_interval(finals, seed=5) == aggregate_interval([finals], iqm, seed=5) == runs_interval(finals, seed=5)
    one = runs_interval([7.0], seed=0)
    assert (one.low, one.value, one.high) == (7, 7, 7)


def test_the_interval_of_a_curve_agrees_with_the_interval_at_each_point() -> None:
    curves = np.random.default_rng(4).normal(loc=[0.0, 5.0, 10.0], size=(40, 3))
    middle, low, high = runs_curve(curves, seed=0)
    for point in range(3):
        alone = runs_interval(curves[:, point], seed=1)
        assert middle[point] == pytest.approx(alone.value)
        assert [low[point], high[point]] == pytest.approx([alone.low, alone.high], abs=0.1)


def test_ends_of_an_interval_are_interpolated_unless_a_draw_is_infinite() -> None:
    draws = np.arange(11.0)
    assert (percentile_interval(5, draws).low, percentile_interval(5, draws).high) == pytest.approx((0.25, 9.75))
    draws[-1] = np.inf
    assert (percentile_interval(5, draws).low, percentile_interval(5, draws).high) == (0, np.inf)


def test_tasks_with_unequal_numbers_of_runs_count_alike_in_mean_and_median() -> None:
    uneven = [np.array([10.0]), np.array([20.0, 40.0]), np.array([90.0, 90.0, 90.0, 90.0])]
    assert AGGREGATES["mean"](uneven) == pytest.approx((10 + 30 + 90) / 3)
    assert median(uneven) == pytest.approx(30)
    assert AGGREGATES["optimality gap"](uneven) == pytest.approx((90 + 70 + 10) / 3)


def test_a_curve_of_aggregates_is_the_aggregate_at_each_point() -> None:
    rng = np.random.default_rng(5)
    curves = [rng.normal(size=(4, 7)), rng.normal(3, 1, size=(5, 7))]
    middle, low, high = aggregate_curve(curves, iqm, seed=0)
    for point in range(7):
        assert middle[point] == pytest.approx(
            scipy_stats.trim_mean(np.concatenate([curves[0][:, point], curves[1][:, point]]), 0.25)
        )
    assert np.all(low <= middle)
    assert np.all(middle <= high)


def test_runs_are_never_redrawn_across_tasks_and_empty_tasks_are_refused() -> None:
    fixed = aggregate_interval([[0.0] * 4, [100.0] * 4], AGGREGATES["mean"], seed=0)
    assert (fixed.value, fixed.low, fixed.high) == (50, 50, 50)
    with pytest.raises(ValueError, match="at least one run"):
        aggregate_interval([[1.0], []], iqm, seed=0)
    with pytest.raises(ValueError, match="same tasks, got 1 and 2"):
        improvement_interval([[1.0]], [[1.0], [2.0]], seed=0)


COIN = np.array([0.0, 100.0] * 4)
"""Eight runs, half of them at 100: of redrawn ones, a binomial number is."""


def ends_over_coins(measure: str, groups: Sequence[Hashable] | None) -> list[float]:
    """The interval, from 0 to 100, of a measure over three tasks that each have COIN's runs."""
    coins, curves, fixed = [COIN] * 3, [COIN[:, None]] * 3, [[50.0]] * 3
    if measure == "curve":
        return [float(end[0]) for end in aggregate_curve(curves, iqm, seed=0, groups=groups, resamples=4000)[1:]]
    if measure == "profile":
        _, *ends = performance_profile(coins, [50.0], seed=0, groups=groups, resamples=5000)
        return [100 * float(end[0]) for end in ends]
    if measure == "better":
        interval = improvement_interval(coins, fixed, seed=0, our_groups=groups, resamples=20_000)
    elif measure == "worse":
        interval = improvement_interval(fixed, coins, seed=0, their_groups=groups, resamples=20_000)
    else:
        interval = aggregate_interval(coins, AGGREGATES[measure], seed=0, groups=groups, resamples=20_000)
    return [(1 if measure in AGGREGATES else 100) * end for end in (interval.low, interval.high)]


@pytest.mark.parametrize("measure", ["mean", "optimality gap", "IQM", "curve", "profile", "better", "worse"])
@pytest.mark.parametrize(("groups", "coins"), [(["same"] * 3, 8), (None, 24), (["a", "b", "c"], 24)])
def test_runs_that_tasks_share_are_redrawn_together(
    measure: str, groups: Sequence[Hashable] | None, coins: int
) -> None:
    shares = scipy_stats.binom.ppf([0.025, 0.975], coins, 0.5) / coins
    if measure in ("IQM", "curve"):  # of the sorted runs, the middle half
        shares = np.clip(2 * shares - 0.5, 0, 1)
    assert ends_over_coins(measure, groups) == pytest.approx(100 * shares)


def test_tasks_that_share_runs_say_no_more_than_one_of_them(scores: np.ndarray) -> None:
    runs, other = scores[:4, 0], scores[:4, 1]
    for name, aggregate in AGGREGATES.items():
        alone = aggregate_interval([runs], aggregate, seed=0)
        thrice = aggregate_interval([runs] * 3, aggregate, seed=0, groups=[("a", "b", "c", "d")] * 3)
        assert [thrice.value, thrice.low, thrice.high] == pytest.approx([alone.value, alone.low, alone.high]), name
    apart, mixed = (
        aggregate_interval([runs, other, runs], AGGREGATES["mean"], seed=0, groups=groups)
        for groups in (None, ["x", "y", "x"])
    )
    assert mixed.high - mixed.low > apart.high - apart.low


def test_groups_that_do_not_match_the_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equally many runs, got \['x'\] for \[1, 1\] runs"):
        aggregate_interval([[1.0], [2.0]], iqm, seed=0, groups=["x"])
    with pytest.raises(ValueError, match=r"equally many runs, got \['x', 'x'\] for \[1, 2\] runs"):
        improvement_interval([[1.0]] * 2, [[1.0], [2.0, 3.0]], seed=0, their_groups=["x", "x"])
