"""A small diffuser learns the toy chain, and what it imagines is held against the chain's closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.fit import fit
from tests.toys import GOAL, chain_data, chain_step

CONFIG = DiffuserConfig(lengths=(5, 10), width=32, depth=2, heads=2, dynamics_models=2, dynamics_width=64)


@pytest.fixture(scope="module")
def learned():
    settings = FitConfig(
        steps=350,
        tokens_per_step=400,
        dynamics_batch=128,
        checkpoint_every=1000,
        precision="float32",  # the same on every machine: where bfloat16 is fast, it is the default
    )
    return fit(chain_data(60), config=CONFIG, settings=settings, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def starts():
    data = chain_data(20, seed=3)
    return data.columns.observations[np.random.default_rng(0).choice(data.n_transitions, 200)]


def truth(rows):
    following, rewards, done = chain_step(rows.observations, rows.actions)
    return following, rewards, done, np.abs(following[:, 0] - GOAL) > 0.05  # the last: not on the very edge


def relative_error(rows, scale):
    following = truth(rows)[0]
    error = (rows.next_observations - following) / scale
    return np.sqrt(np.square(error).mean() / np.square((rows.observations - following) / scale).mean())


def test_chains_reach_the_goal_and_end_there(learned, starts):
    trajectories, report = learned.generate_with_report(starts, generator_seed=0, horizon=80, refine="dynamics")
    rows = trajectories.to_transitions()
    _, rewards, done, clear = truth(rows)
    assert report.terminated > 0.8  # the others were cut where the members disagree, or ran out of rows
    assert trajectories.lengths.max() > CONFIG.longest
    np.testing.assert_array_equal(rows.terminated[clear], done[clear])
    assert np.abs(rows.rewards - rewards)[clear].max() < 0.2
    assert relative_error(rows, learned.codec.normalizer.delta_scale) < 0.1


def test_rerolled_rows_are_truer_than_diffused_ones(learned, starts):
    errors = {
        refine: relative_error(
            learned.generate(starts, generator_seed=0, length=10, refine=refine).to_transitions(),
            learned.codec.normalizer.delta_scale,
        )
        for refine in ("none", "dynamics")
    }
    assert errors["dynamics"] < 0.5 * errors["none"]


def test_steps_are_as_large_as_real_ones(learned, starts):
    rows = learned.generate(starts, generator_seed=0, length=10, refine="none", prune="none").to_transitions()
    data = chain_data(20, seed=3).columns
    sizes = [np.abs(c.next_observations - c.observations)[:, 0].mean() for c in (rows, data)]
    assert 0.85 < sizes[0] / sizes[1] < 1.15


def test_lengths_shrink_towards_the_goal(learned):
    states = np.array([[-1.0, 0.05], [0.95, 0.15]], np.float32)
    trajectories = learned.generate(states, generator_seed=0, refine="none")
    assert trajectories.lengths[0] > trajectories.lengths[1]


@pytest.mark.parametrize("refine", ["project", "dynamics"])
def test_members_are_no_farther_apart_than_so_many_times_the_data_make_them(learned, starts, refine):
    def apart(rows):
        return learned.dynamics.predict(
            torch.from_numpy(rows.observations), torch.from_numpy(rows.actions)
        ).disagreement.numpy()

    one_in_a_thousand = np.quantile(apart(chain_data(60).columns), 0.999)  # of the data that were fitted
    lengths = []
    for times in (3.0, 0.3):
        made = learned.generate(starts, generator_seed=0, refine=refine, horizon=40, disagreement=times)
        ends = np.cumsum(made.lengths)
        within = np.delete(apart(made.to_transitions()), [0, *ends[:-1], *ends - 1])  # a window's first row is kept
        assert within.max() <= 1.001 * times * one_in_a_thousand
        lengths.append(made.lengths.mean())
    assert lengths[1] < lengths[0]


def test_calibration_is_of_the_right_size(learned):
    limits = learned.calibration
    assert 0 <= limits.noise < 0.5
    assert 0 < limits.residual_limit < 0.3
    assert 0 < limits.disagreement_limit < 0.5
