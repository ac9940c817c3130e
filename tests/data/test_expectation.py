"""What a small network expects of a step, against functions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from atradiff.data.expectation import Expectation


def inputs(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def bent(x):
    """A smooth function of order one, a line, and nothing at all."""
    return np.stack([np.sin(2 * x[:, 0]) * x[:, 1], x[:, 2], np.zeros(len(x))], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    x = inputs(4000)
    return Expectation.fit(x, bent(x), updates=600, seed=0)


def test_it_learns_a_function_and_says_how_much_it_leaves_of_rows_that_it_has_not_seen(fitted):
    fresh = inputs(4000, seed=1)
    left = np.sqrt(np.square(bent(fresh) - fitted(fresh)).mean(0))
    assert left[0] < 0.25 * bent(fresh)[:, 0].std()
    assert left[1] < 0.05
    np.testing.assert_allclose(fitted.spread, np.maximum(left, 0.01), rtol=0.35)


def test_noise_cannot_be_told_and_the_spread_says_so():
    x = inputs(300)
    noise = np.random.default_rng(2).normal(size=(300, 1)).astype(np.float32)
    fitted = Expectation.fit(x, noise, updates=600, seed=0)
    seen = np.sqrt(np.square(noise - fitted(x)).mean())
    assert fitted.spread[0] > max(0.9, 1.2 * seen)  # judged by rows that were not learned by heart


def test_the_same_seed_gives_the_same_and_another_one_another():
    x = inputs(200)
    first, again, other = (Expectation.fit(x, bent(x), updates=5, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.second, again.second)
    assert np.abs(first.second - other.second).max() > 0


def test_leading_axes_are_kept(fitted):
    x = inputs(12)
    np.testing.assert_array_equal(fitted(x.reshape(3, 4, 3)), fitted(x).reshape(3, 4, 3))


def test_a_handful_of_rows_is_enough():
    x = inputs(3)
    assert np.isfinite(Expectation.fit(x, bent(x), updates=2, seed=0).spread).all()
