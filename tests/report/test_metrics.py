"""Metrics against closed forms, scipy and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from atradiff.data.normalize import Normalizer
from atradiff.data.trajectories import Trajectories
from atradiff.report.metrics import (
    correlation_distance,
    marginal_similarity,
    nearest_distances,
    relative_dynamics_error,
    relative_reward_error,
    row_features,
    step_sizes,
    terminal_agreement,
)
from atradiff.report.simulator import SimulatedSteps
from atradiff.types import Spaces, Transitions

SPACES = Spaces(3, "continuous", (-1.0,), (1.0,))


def rows(n: int, seed: int = 0) -> Transitions:
    """Differences of spread 1, 10 and 0: the third dimension never moves."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 3)).astype(np.float32)
    moved = states + (rng.normal(size=(n, 3)) * [1, 10, 0]).astype(np.float32)
    end = np.arange(n) == n - 1
    actions = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    return Transitions(states, actions, rng.normal(size=n).astype(np.float32), moved, np.zeros(n, bool), end)


def scales(data: Transitions) -> Normalizer:
    return Normalizer.fit(Trajectories(SPACES, data, np.array([0, len(data)])))


def truth(data: Transitions, **changes: np.ndarray) -> SimulatedSteps:
    columns = {
        "next_observations": data.next_observations,
        "rewards": data.rewards,
        "terminated": data.terminated,
        "valid": np.ones(len(data), bool),
    }
    return SimulatedSteps(**(columns | changes))


def test_marginal_similarity_of_shifted_uniforms_is_their_overlap() -> None:
    grid = np.linspace(0, 1, 4001)[:, None].astype(np.float32)
    both = marginal_similarity(np.hstack([grid, grid]), np.hstack([grid, grid + 0.25]))
    np.testing.assert_allclose(both, [1, 0.75], atol=1e-3)


def test_correlation_distance_of_opposite_pairs() -> None:
    x = np.random.default_rng(0).normal(size=500).astype(np.float32)
    real = np.stack([x, x, np.ones(500)], axis=1)  # correlation 1; the constant column does not count
    assert correlation_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert correlation_distance(np.stack([x, -x, x], axis=1), real) == pytest.approx(2, abs=1e-6)
    assert correlation_distance(np.stack([x, 0 * x, x], axis=1), real) == pytest.approx(1, abs=1e-6)
    assert correlation_distance(real[:, 1:], real[:, 1:]) is None


def test_correlation_distance_agrees_with_numpy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4))
    pairs = [(i, j) for i in range(4) for j in range(i)]
    naive = np.mean([abs(np.corrcoef(a.T)[i, j] - np.corrcoef(b.T)[i, j]) for i, j in pairs])
    assert correlation_distance(a, b) == pytest.approx(naive)


def test_dynamics_error_counts_each_dimension_in_its_own_unit() -> None:
    data = rows(4000)
    spread = (data.next_observations - data.observations).std(0)
    wrong = data.next_observations + np.float32(0.5) * spread * [1, -1, 0]
    imagined = Transitions(**dict(data.items()) | {"next_observations": wrong})
    assert relative_dynamics_error(imagined, truth(data), scales(data)) == pytest.approx(0.5, rel=1e-3)
    assert relative_dynamics_error(data, truth(data), scales(data)) == 0


def test_standing_still_has_relative_dynamics_error_one() -> None:
    data = rows(100)
    still = Transitions(**dict(data.items()) | {"next_observations": data.observations})
    assert relative_dynamics_error(still, truth(data), scales(data)) == pytest.approx(1)


def test_invalid_rows_do_not_count() -> None:
    data = rows(100)
    valid = np.arange(100) < 50
    wrong = data.next_observations.copy()
    wrong[50:] = np.nan
    reward = np.where(valid, data.rewards, np.nan)
    seen = truth(data, next_observations=wrong, rewards=reward, terminated=~valid, valid=valid)
    assert relative_dynamics_error(data, seen, scales(data)) == 0
    assert relative_reward_error(data, seen) == 0
    assert terminal_agreement(data, seen)[0] == 1
    nothing = truth(data, valid=np.zeros(100, bool))
    assert relative_dynamics_error(data, nothing, scales(data)) is None
    assert relative_reward_error(data, nothing) is None


def test_predicting_the_mean_reward_has_relative_error_one() -> None:
    data = rows(200)
    mean = Transitions(**dict(data.items()) | {"rewards": np.full(200, data.rewards.mean())})
    assert relative_reward_error(mean, truth(data)) == pytest.approx(1, rel=1e-5)
    assert relative_reward_error(data, truth(data, rewards=np.full(200, -1, np.float32))) is None


def test_terminal_agreement_by_hand() -> None:
    data = rows(5)
    data.terminated[:] = [True, True, False, False, False]
    agreement = terminal_agreement(data, truth(data, terminated=np.array([True, False, True, True, False])))
    assert agreement == pytest.approx((2 / 5, 1 / 2, 1 / 3))


def test_step_sizes_are_euclidean_in_data_units() -> None:
    data = rows(1000)
    spread = (data.next_observations - data.observations).std(0)
    naive = [np.hypot(d[0] / spread[0], d[1] / spread[1]) for d in data.next_observations - data.observations]
    np.testing.assert_allclose(step_sizes(data, scales(data)), naive, rtol=1e-4)


def test_discrete_actions_become_one_hot_features() -> None:
    data = rows(2)
    discrete = Transitions(**dict(data.items()) | {"actions": np.array([2, 0])})
    features = row_features(discrete, Spaces(3, "discrete", n_actions=3))
    assert features[:, 3:6].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert row_features(data, SPACES).shape == (2, 5)


def test_nearest_distances_agree_with_a_tree_and_see_exact_copies() -> None:
    rng = np.random.default_rng(2)
    references = (rng.normal(size=(700, 6)) + 100).astype(np.float32)
    queries = np.concatenate([references[:10], (rng.normal(size=(600, 6)) + 100).astype(np.float32)])
    distances = nearest_distances(queries, references, chunk=128)
    assert (distances[:10] == 0).all()
    np.testing.assert_allclose(distances, cKDTree(references).query(queries)[0], atol=1e-2)
