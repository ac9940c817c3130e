from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atradiff.data.normalize import DecodedRows, Normalizer
from atradiff.data.row_codecs import DifferenceRows
from atradiff.dynamics import BatchedMLP, DynamicsEnsemble
from atradiff.refine import Thresholds, refine_windows, step_residuals
from atradiff.types import Spaces
from tests.toys import CHAIN, GOAL, chain_data, chain_step, random_data

FREE = Thresholds(residual=np.inf, disagreement=np.inf)


@pytest.fixture(scope="module")
def learned():
    data = chain_data(episodes=60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DynamicsEnsemble(DifferenceRows(data.spaces, Normalizer.fit(data)), models=3, width=64)
    model.update(data.columns, 700, seed=0, batch=128, rate=3e-3)
    model.update(data.columns, 300, seed=1, batch=128, rate=3e-4)
    return model


def fresh_rows(n=400, seed=9):
    data = chain_data(episodes=40, seed=seed)
    rows = np.random.default_rng(0).choice(data.n_transitions, n, replace=False)
    return data.columns[rows]


def test_members_are_independent_networks():
    torch.manual_seed(0)
    net = BatchedMLP(2, (3, 8, 4))
    x = torch.randn(2, 5, 3)
    for m in range(2):
        hidden = torch.nn.functional.silu(x[m] @ net.weights[0][m] + net.biases[0][m])
        torch.testing.assert_close(net(x)[m], hidden @ net.weights[1][m] + net.biases[1][m])


def test_learns_the_step_the_rare_reward_and_the_end(learned):
    rows = fresh_rows()
    step = learned.predict(torch.from_numpy(rows.observations), torch.from_numpy(rows.actions))
    following, rewards, done = chain_step(rows.observations, rows.actions)
    moved = np.sqrt(np.square((following - rows.observations) / learned.delta_scale.numpy()).mean())
    error = ((rows.observations + step.deltas.numpy() - following) / learned.delta_scale.numpy()).std()
    assert error < 0.08 * moved
    agree = step.terminated.numpy() == done
    crossing = np.abs(following[:, 0] - GOAL) < 0.02
    assert agree[~crossing].all()
    assert np.abs(step.rewards.numpy() - rewards)[agree].max() < 0.1


def test_a_column_that_only_counts_goes_on_counting():
    """Observations that hold the time: their differences never vary, so there is nothing to learn, but they move."""
    count = np.arange(12, dtype=np.float32)
    data = random_data([12], [True], spaces=Spaces(3, "continuous", (-1.0,), (1.0,)))
    columns = data.columns
    columns.observations[:, 1], columns.next_observations[:, 1] = count / 4, (count + 1) / 4
    columns.observations[:, 2], columns.next_observations[:, 2] = 7.0, 7.0
    model = DynamicsEnsemble(DifferenceRows(data.spaces, Normalizer.fit(data)), models=2, width=16)
    step = model.predict(torch.from_numpy(columns.observations), torch.from_numpy(columns.actions))
    np.testing.assert_array_equal(step.deltas[:, 1:], np.tile(np.float32([0.25, 0]), (12, 1)))


def test_disagreement_grows_away_from_the_data(learned):
    near, far = fresh_rows(), np.array([[6.0, -2.0], [-9.0, 3.0]], np.float32)
    at = learned.predict(torch.from_numpy(near.observations), torch.from_numpy(near.actions)).disagreement
    away = learned.predict(torch.from_numpy(far), torch.zeros(2, 1)).disagreement
    assert away.min() > 5 * at.quantile(0.9)
    assert learned.leaves_data(torch.from_numpy(far)).all()
    assert not learned.leaves_data(torch.from_numpy(near.observations)).any()


def window(actions, start, states=None):
    """One decoded window from ``start``; the diffused states are those of the true chain unless given."""
    path = [start]
    for action in actions:
        path.append(chain_step(path[-1][None], np.array([[action]], np.float32))[0][0])
    states = np.array(path, np.float32)[None] if states is None else states
    k = len(actions)
    return DecodedRows(
        states, np.array(actions, np.float32)[None, :, None], np.zeros((1, k), np.float32), np.zeros((1, k), bool)
    )


def test_rerolled_rows_follow_the_true_chain_to_its_end(learned):
    rows = window([0.8] * 25, np.array([0.0, 0.1], np.float32))
    refined = refine_windows("dynamics", learned, FREE, rows, np.array([25]))
    end = int(np.argmax(rows.states[0, 1:, 0] >= GOAL)) + 1
    assert abs(int(refined.lengths[0]) - end) <= 1
    kept = min(int(refined.lengths[0]), end)
    assert refined.rows.terminated[0, refined.lengths[0] - 1]
    assert not refined.rows.terminated[0, : refined.lengths[0] - 1].any()
    np.testing.assert_allclose(refined.rows.states[0, : kept + 1], rows.states[0, : kept + 1], atol=0.03)
    assert refined.rows.rewards[0, refined.lengths[0] - 1] == pytest.approx(100 - 0.1 * 0.64, abs=0.1)
    assert refined.residual[0] < 0.5


def test_cut_ends_before_the_first_false_row(learned):
    rows = window([0.5] * 10, np.array([-0.5, 0.0], np.float32))
    rows.states[0, 7:] += 0.3  # row 6 leaps
    residuals = step_residuals(learned, rows)
    assert residuals[0].argmax() == 6
    refined = refine_windows("cut", learned, Thresholds(1.0, np.inf), rows, np.array([10]))
    assert refined.lengths.tolist() == [6]
    assert refined.stopped.tolist() == [True]
    np.testing.assert_array_equal(refined.rows.states, rows.states)


def test_disagreement_ends_a_trajectory_but_never_empties_it(learned):
    rows = window([0.5] * 10, np.array([-0.5, 0.0], np.float32))
    refined = refine_windows("dynamics", learned, Thresholds(np.inf, -1.0), rows, np.array([10]))
    assert refined.lengths.tolist() == [1]
    assert refined.stopped.tolist() == [True]
    assert refined.left_data.tolist() == [False]


def test_leaving_the_data_ends_a_trajectory_and_is_told_apart(learned):
    rows = window([0.0] * 3, np.array([-0.5, 0.0], np.float32))
    rows.states[0, 0] = 50.0
    refined = refine_windows("dynamics", learned, FREE, rows, np.array([3]))
    assert refined.lengths.tolist() == [1]
    assert refined.stopped.tolist() == [True]
    assert refined.left_data.tolist() == [True]


def test_none_changes_nothing(learned):
    rows = window([0.5] * 4, np.array([-0.5, 0.0], np.float32))
    refined = refine_windows("none", learned, Thresholds(0, 0), rows, np.array([3]))
    assert refined.rows is rows
    assert refined.lengths.tolist() == [3]


def test_rewards_of_few_levels_are_predicted_as_levels():
    data = chain_data(10)
    rewards = data.columns.terminated.astype(np.float32) - 1  # -1 until done
    data = replace(data, columns=replace(data.columns, rewards=rewards))
    model = DynamicsEnsemble(DifferenceRows(data.spaces, Normalizer.fit(data)), models=2, width=16)
    states, actions = torch.randn(50, 2), torch.rand(50, 1)
    assert set(model.predict(states, actions).rewards.tolist()) <= {-1.0, 0.0}


def test_where_states_tell_the_end_no_net_is_asked():
    rows = fresh_rows()
    model = DynamicsEnsemble(DifferenceRows(CHAIN, falling_normalizer()), models=2, width=16)
    states, actions = torch.from_numpy(rows.observations), torch.from_numpy(rows.actions)
    for seed in range(3):
        scaled = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(seed))
        position = states[:, 0] + scaled[:, 0] * model.delta_scale[0]
        _, terminated = model.outcomes(states, actions, scaled)
        torch.testing.assert_close(terminated, position > 0.5)
        assert 0 < terminated.sum() < len(rows)


def falling_normalizer():
    """Of a chain whose end at 0.5 is known."""
    far = np.float32(np.finfo(np.float32).max)
    bounds = {"alive_low": np.array([-far, -far]), "alive_high": np.array([0.5, far], np.float32)}
    return replace(Normalizer.fit(chain_data(5)), **bounds)


def true_gaps(rows, scale):
    """(B, K) how far each next state lies from the true chain's, in units of the differences' scale."""
    batch, length = rows.rewards.shape
    here = rows.states[:, :-1].reshape(batch * length, -1)
    following = chain_step(here, rows.actions.reshape(batch * length, -1))[0].reshape(batch, length, -1)
    return np.linalg.norm((rows.states[:, 1:] - following) / scale, axis=-1)


def test_projected_windows_are_truer_and_keep_near_the_plan(learned):
    rng, scale = np.random.default_rng(0), learned.delta_scale.numpy()
    starts = rng.uniform(-0.8, 0.0, (20, 2)).astype(np.float32) * np.float32([1, 0.1])
    parts = [window(rng.uniform(-0.9, 0.9, 12), start) for start in starts]
    states, actions = (np.concatenate([getattr(p, name) for p in parts]) for name in ("states", "actions"))
    true = replace(parts[0], states=states, actions=actions, rewards=np.zeros((20, 12), np.float32))
    true = replace(true, terminated=np.zeros((20, 12), np.bool_))
    noise = rng.normal(size=states[:, 1:].shape).astype(np.float32) * scale * 0.5
    plan = replace(true, states=np.concatenate([states[:, :1], states[:, 1:] + noise], axis=1))
    refined = refine_windows("project", learned, FREE, plan, np.full(20, 12), projection_steps=20)
    whole = refined.lengths == 12  # none beyond the goal, whose last row is terminal
    assert whole.sum() > 10
    before, after = (np.square(true_gaps(rows, scale)[whole]).sum(axis=1) for rows in (plan, refined.rows))
    assert (after < before).all()
    assert after.mean() < 0.1 * before.mean()
    gap = step_residuals(learned, refined.rows)[whole].mean(axis=1)
    np.testing.assert_allclose(refined.residual[whole], gap, rtol=1e-4)
    moved = np.abs(refined.rows.states - plan.states)[whole] / scale
    assert moved.max() < 2
    np.testing.assert_array_equal(refined.rows.states[:, 0], plan.states[:, 0])


def test_projected_windows_end_where_rolled_ones_would(learned):
    rows = window([0.5] * 10, np.array([-0.5, 0.0], np.float32))
    unsure = refine_windows("project", learned, Thresholds(np.inf, -1.0), rows, np.array([10]))
    assert (unsure.lengths.tolist(), unsure.stopped.tolist(), unsure.left_data.tolist()) == ([1], [True], [False])
    rows.states[0, 4:] += 50.0
    away = refine_windows("project", learned, FREE, rows, np.array([10]), projection_steps=1)
    assert (away.stopped.tolist(), away.left_data.tolist()) == ([True], [True])
    assert 1 <= away.lengths[0] <= 3


def test_projected_windows_end_at_the_goal_and_are_paid_there(learned):
    rows = window([0.8] * 25, np.array([0.0, 0.1], np.float32))
    end = int(np.argmax(rows.states[0, 1:, 0] >= GOAL)) + 1
    refined = refine_windows("project", learned, FREE, rows, np.array([25]))
    assert abs(int(refined.lengths[0]) - end) <= 1
    assert refined.rows.terminated[0, refined.lengths[0] - 1]
    assert refined.rows.rewards[0, refined.lengths[0] - 1] == pytest.approx(100, abs=1)
