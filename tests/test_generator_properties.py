"""Whatever the model, fitted or not, and whatever is asked: trajectories are finite, legal, and end where they end."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atradiff.config import DiffuserConfig
from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import row_codec
from atradiff.generator import Calibration, Networks, TrajectoryDiffuser
from atradiff.types import Spaces
from tests.toys import random_data, tiny_diffuser

SPACES = {
    "bounded": Spaces(3, "continuous", action_low=(-1.0, 0.0), action_high=(1.0, 5.0)),
    "unbounded": Spaces(3, "continuous", action_low=(-np.inf, 0.0), action_high=(np.inf, np.inf)),
    "discrete": Spaces(3, "discrete", n_actions=4),
}
SIZES = {"lengths": (3, 6), "width": 16, "depth": 1, "heads": 2, "dynamics_models": 2, "dynamics_width": 16}
ROWS = ["differences", "absolute", "both", "residuals"]

MODELS = st.fixed_dictionaries(
    {
        "generator": st.sampled_from(["one", "bank"]),
        "rows": st.sampled_from(ROWS),
        "network": st.sampled_from(["transformer", "residual_mlp"]),
        "process": st.sampled_from(["shortcut", "edm"]),
        "solver": st.sampled_from(["dpm++", "heun", "stochastic"]),
        "condition": st.sampled_from(["state", "none"]),
        "guide": st.sampled_from(["none", "return"]),
        "history": st.sampled_from([0, 2]),
        "task_size": st.sampled_from([0, 2]),
    }
)
OPTIONS = st.fixed_dictionaries(
    {
        "refine": st.sampled_from(["none", "cut", "project", "dynamics"]),
        "prune": st.sampled_from(["none", "paper", "gated"]),
        "horizon": st.sampled_from([None, 1, 4, 20]),
        "length": st.sampled_from([None, 1, 5]),
        "calls": st.sampled_from([1, 2, 5]),
        "inner": st.sampled_from([{}, {}, {"inner_projection_steps": 2}, {"inner_roll": 0.8}]),
        "temperature": st.sampled_from([0.1, 1.0]),
        "state_temperature": st.sampled_from([None, 0.0, 0.5]),
        "guidance_scale": st.sampled_from([0.0, 1.0, 3.0]),
        "disagreement": st.sampled_from([0.01, 3.0]),
    }
).map(lambda options: {**options.pop("inner"), **options})


@cache
def data_of(actions):
    return random_data([12] * 6, [True, False] * 3, spaces=SPACES[actions])


@cache
def untrained(actions, wildness, **settings):
    """A model of random weights, ``wildness`` times as large as a new network's; its limits let nothing pass or all."""
    data, config = data_of(actions), DiffuserConfig(**SIZES, **settings)
    normalizer = Normalizer.fit(data).with_starts(data.columns.observations, 0)
    codec = row_codec(config.rows, data.spaces, normalizer).prepared(data, 5, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = Networks(config, codec)
        for parameter in networks.parameters():
            if not parameter.any():  # zero-initialised heads would hide what the network does
                torch.nn.init.normal_(parameter, std=0.1)
            parameter.data *= wildness
    limits = Calibration(noise=0.1, residual_limit=1.0, disagreement_limit=1.0)
    return TrajectoryDiffuser(config, codec, networks, limits, device="cpu")


@cache
def briefly_trained(actions, **settings):
    return tiny_diffuser(data_of(actions), config=DiffuserConfig(**SIZES, **settings))


def check(model, states, seed, options):
    options = options if model.config.guide != "none" else {**options, "guidance_scale": 0.0}
    task = np.ones((len(states), 2), np.float32) if model.config.task_size else None
    imagined = model.generate(states, task, generator_seed=seed, **options)
    longest = options["horizon"] or options["length"] or SIZES["lengths"][-1]
    assert len(imagined) == len(states)
    if model.starts_at_states:
        assert imagined.observations[:, 0].tobytes() == states.tobytes()
    assert 1 <= imagined.lengths.min() <= imagined.lengths.max() <= longest
    for column in (imagined.observations, imagined.actions, imagined.rewards):
        assert np.isfinite(column).all()
    before_the_last = np.arange(imagined.rewards.shape[1]) < imagined.lengths[:, None] - 1
    assert not imagined.terminated[before_the_last].any()
    assert not imagined.terminated[~imagined.mask].any()
    actions, spaces = imagined.actions[imagined.mask], model.spaces
    if spaces.discrete:
        assert actions.dtype == np.int64
        assert ((actions >= 0) & (actions < spaces.n_actions)).all()
    else:
        assert (actions >= np.float32(spaces.action_low)).all()
        assert (actions <= np.float32(spaces.action_high)).all()


def states_like(n, seed, spread):
    return (np.random.default_rng(seed).normal(size=(n, 3)) * spread).astype(np.float32)


HUGE_SCORES = {
    "generator": "one",
    "rows": "differences",
    "network": "transformer",
    "process": "shortcut",
    "solver": "dpm++",
    "condition": "state",
    "guide": "none",
    "history": 0,
    "task_size": 0,
}
"""With weights thirty times too large no key's score is near zero: a softmax without a shift divides zero by zero."""

RAW = {"refine": "none", "prune": "none", "horizon": None, "length": None, "calls": 1}
FED_BACK = HUGE_SCORES | {"network": "residual_mlp", "guide": "none", "history": 2}
CHAINED = RAW | {"horizon": 20, "length": 1, "temperature": 0.1}


@settings(max_examples=120)
@given(
    MODELS,
    OPTIONS,
    st.sampled_from(sorted(SPACES)),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.integers(1, 9),
    st.integers(0, 2**31),
    st.sampled_from([1e-3, 1.0, 1e6]),
)
@example(HUGE_SCORES, RAW, "bounded", 30.0, 1, 0, 1.0)
@example(FED_BACK, CHAINED, "discrete", 30.0, 1, 0, 1e-3)
def test_untrained_models(model, options, actions, wildness, n, seed, spread):
    check(untrained(actions, wildness, **model), states_like(n, seed, spread), seed, options)


@cache
def goal_conditioned(rows):
    """A model of episodes with a goal each, in the last column, and a reward of -1 until it is reached."""
    data = random_data([12] * 6, [True, False] * 3, spaces=SPACES["bounded"])
    goals = np.repeat(np.float32([0.1, 0.7, -0.3, 1.3, 0.55, 0.9]), 12)
    columns = replace(data.columns, rewards=data.columns.terminated.astype(np.float32) - 1)
    columns.observations[:, 2] = columns.next_observations[:, 2] = goals
    return tiny_diffuser(replace(data, columns=columns), config=DiffuserConfig(**SIZES, rows=rows))


@settings(max_examples=20)
@given(OPTIONS, st.sampled_from(ROWS), st.integers(0, 2**31))
def test_goals_stay_as_they_are_and_sparse_rewards_are_crisp(options, rows, seed):
    model, states = goal_conditioned(rows), states_like(6, seed, 1.0)
    imagined = model.generate(states, generator_seed=seed, **{**options, "guidance_scale": 0.0})
    real = np.pad(imagined.mask, ((0, 0), (1, 0)), constant_values=True)
    along = imagined.observations[..., 2]
    np.testing.assert_array_equal(along[real], np.broadcast_to(states[:, 2:], along.shape)[real])
    assert set(np.unique(imagined.rewards[imagined.mask])) <= {-1.0, 0.0}


@cache
def told_by_states(rows):
    """A model of a task that ends at 1.5 in its first state column, and goes on anywhere within -1..1."""
    data = random_data([12] * 24, [True, False] * 12, spaces=SPACES["bounded"])
    states, following, ends = data.columns.observations, data.columns.next_observations, data.columns.terminated
    for column in (states, following):
        np.clip(column, -1, 1, out=column)
    following[ends, 0] = 1.5
    model = tiny_diffuser(data, config=DiffuserConfig(**SIZES, rows=rows))
    assert model.dynamics.seen.tells_ends
    return model


def test_where_states_tell_the_end_a_row_is_terminal_exactly_if_it_leads_there():
    ends = []

    @settings(max_examples=20)
    @given(OPTIONS, st.sampled_from(ROWS), st.integers(0, 2**31))
    @example({"refine": "none", "horizon": 20}, "differences", 0)  # many ends
    def holds(options, rows, seed):
        model, states = told_by_states(rows), np.clip(states_like(16, seed, 1.0), -1, 1)
        imagined = model.generate(states, generator_seed=seed, **{**options, "guidance_scale": 0.0})
        following, terminated = imagined.observations[:, 1:, 0][imagined.mask], imagined.terminated[imagined.mask]
        assert terminated[following >= 1.5].all()
        assert not terminated[following <= 1].any()
        ends.append(terminated.any())
        check(model, states, seed, options)

    holds()
    assert any(ends)


@pytest.mark.parametrize("refine", ["none", "project", "dynamics"])
def test_a_diverged_model_raises_rather_than_return_nan(refine):
    broken = untrained("bounded", 1e6)
    with pytest.raises(FloatingPointError, match="weights are damaged or its fit diverged"):
        broken.generate(states_like(4, 0, 1.0), generator_seed=0, refine=refine)


@pytest.mark.parametrize("actions", sorted(SPACES))
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"rows": "both"},
        {"rows": "absolute", "network": "residual_mlp", "generator": "bank", "process": "edm", "solver": "stochastic"},
    ],
    ids=["ours", "two heads", "paper"],
)
def test_briefly_trained_models(model, actions):
    trained = briefly_trained(actions, **model)

    @settings(max_examples=12)
    @given(OPTIONS, st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 1e6]))
    def holds(options, n, seed, spread):
        check(trained, states_like(n, seed, spread), seed, options)

    holds()
