from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.config import SamplingConfig
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import TrajectoryGenerator
from atradiff.types import Spaces
from tests.toys import CHAIN, TINY, chain_data, random_data, tiny_diffuser

DISCRETE = Spaces(3, "discrete", n_actions=4)


@pytest.fixture(scope="module")
def diffuser():
    return tiny_diffuser()


@pytest.fixture(scope="module")
def discrete_diffuser():
    return tiny_diffuser(random_data([12] * 6, [True, False] * 3, spaces=DISCRETE))


def states_like(n, seed=0, width=2):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


@settings(max_examples=25)
@given(
    st.integers(1, 9),
    st.integers(0, 2**31),
    st.sampled_from(["none", "cut", "project", "dynamics"]),
    st.sampled_from(["none", "paper", "gated"]),
    st.sampled_from([None, 1, 4, 20]),
    st.sampled_from([None, 1, 5]),
    st.floats(1e-3, 1e3),
)
def test_whatever_is_asked_the_answer_is_well_formed(diffuser, n, seed, refine, prune, horizon, length, spread):
    states = states_like(n, seed) * np.float32(spread)
    t = diffuser.generate(states, generator_seed=seed, refine=refine, prune=prune, horizon=horizon, length=length)
    check_form(t, states, horizon or length or TINY.longest)
    assert (np.abs(t.actions) <= 1).all()
    assert np.abs(t.observations).max() < 1e5


@pytest.mark.parametrize("refine", ["none", "cut", "project", "dynamics"])
def test_discrete_actions(discrete_diffuser, refine):
    states = states_like(7, width=3)
    t = discrete_diffuser.generate(states, generator_seed=0, refine=refine, horizon=15)
    check_form(t, states, 15)
    assert t.actions.dtype == np.int64
    assert set(np.unique(t.actions)) <= set(range(4))


def check_form(t, states, longest):
    assert t.observations[:, 0].tobytes() == states.tobytes()
    assert t.lengths.min() >= 1
    assert t.lengths.max() <= longest
    assert t.observations.shape[1] == t.lengths.max() + 1
    for column in (t.observations, t.actions, t.rewards):
        assert np.isfinite(column).all()
    before_the_last = np.arange(t.rewards.shape[1]) < t.lengths[:, None] - 1
    assert not t.terminated[before_the_last].any()
    assert not t.terminated[~t.mask].any()


def test_same_seed_same_answer_whatever_the_global_generator(diffuser):
    states = states_like(5)
    torch.manual_seed(1)
    first = diffuser.generate(states, generator_seed=7, horizon=20)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = diffuser.generate(states, generator_seed=7, horizon=20)
    assert torch.equal(torch.get_rng_state(), state)
    other = diffuser.generate(states, generator_seed=8, horizon=20)
    np.testing.assert_array_equal(first.observations, second.observations)
    np.testing.assert_array_equal(first.actions, second.actions)
    assert not np.array_equal(first.actions[:, 0], other.actions[:, 0])


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((3, 5), np.float32), r"as wide as in the data, got \(3, 5\)"),
        (np.zeros(2, np.float32), "must have the shape"),
        (np.zeros((0, 2), np.float32), "must have the shape"),
        (np.array([[0, 0], [np.nan, 0]], np.float32), "NaN or infinity in row"),
    ],
)
def test_wrong_states_are_refused(diffuser, states, message):
    with pytest.raises(ValueError, match=message):
        diffuser.generate(states, generator_seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 7}, r"length must lie in 1\.\.6"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"calls": 0}, "calls must be at least 1"),
        ({"refine": "magic"}, "refine must be one of"),
        ({"projection_steps": 0}, "projection_steps must be at least 1"),
        ({"inner_projection_steps": -1}, "inner_projection_steps must not be negative"),
        ({"inner_roll": 1.5}, r"inner_roll must lie in 0\.\.1"),
        ({"inner_roll": 0.5, "inner_projection_steps": 2}, "inner_roll must be 0 beside inner_projection_steps"),
        ({"disagreement": 0}, "disagreement must be positive"),
        ({"prune": "magic"}, "prune must be one of"),
        ({"task": np.zeros((1, 3), np.float32)}, "fitted without tasks"),
    ],
)
def test_wrong_options_are_refused(diffuser, options, message):
    with pytest.raises(ValueError, match=message):
        diffuser.generate(states_like(1), generator_seed=0, **options)


def test_task_of_a_wrong_width_is_refused():
    from atradiff.generator import Networks, TrajectoryDiffuser

    fitted = tiny_diffuser()
    config = replace(fitted.config, task_size=3)
    diffuser = TrajectoryDiffuser(config, fitted.codec, Networks(config, fitted.codec), device="cpu")
    task = np.eye(3, dtype=np.float32)
    assert len(diffuser.generate(states_like(3), task, generator_seed=0)) == 3
    for wrong, message in ((None, "task must be 3 finite numbers"), (task[:, :2], r"the shape \(3, 3\)")):
        with pytest.raises(ValueError, match=message):
            diffuser.generate(states_like(3), wrong, generator_seed=0)


def test_is_a_trajectory_generator(diffuser):
    generator: TrajectoryGenerator = diffuser
    assert generator.spaces == CHAIN
    assert generator.version == 0


def test_updating_the_one_step_model_raises_the_version_and_lowers_its_loss():
    diffuser, data = tiny_diffuser(), chain_data(10, seed=5)
    first = diffuser.update_dynamics(data.columns, 20, seed=0)
    later = diffuser.update_dynamics(data.columns, 200, seed=1)
    assert later < first
    assert diffuser.version == 2
    assert diffuser.generate(states_like(2), generator_seed=0).generator_version == 2


def test_large_batches_are_chunked_without_mixing_trajectories(diffuser, monkeypatch):
    states = states_like(50)
    whole = diffuser.generate(states, generator_seed=3, refine="none", prune="none")
    monkeypatch.setattr("atradiff.diffusion.sample.CHUNK", 8)
    chunked = diffuser.generate(states, generator_seed=3, refine="none", prune="none")
    np.testing.assert_array_equal(whole.lengths, chunked.lengths)
    np.testing.assert_allclose(whole.observations, chunked.observations, atol=2e-2)


@pytest.mark.parametrize("solver", ["dpm++", "heun"])
def test_edm_generates_too(solver):
    diffuser = tiny_diffuser(config=replace(TINY, process="edm", solver=solver))
    states = states_like(4)
    check_form(diffuser.generate(states, generator_seed=0, calls=4), states, TINY.longest)


def test_report_counts_what_happened(diffuser):
    states = states_like(20)
    trajectories, report = diffuser.generate_with_report(states, generator_seed=0, refine="dynamics")
    assert report.windows == 20
    assert report.mean_length == pytest.approx(trajectories.lengths.mean())
    assert report.terminated == pytest.approx(trajectories.terminated.any(1).mean())
    assert 0 <= report.left_data <= report.disagreement <= 1
    assert report.cut == 0
    assert report.residual > 0


def test_sampling_set_on_the_model_is_what_a_caller_leaves_out(diffuser):
    states = states_like(3)
    asked = diffuser.generate(states, generator_seed=1, horizon=7, length=2, refine="none")
    diffuser.sampling = SamplingConfig(horizon=7, length=2, refine="none")
    try:
        left_out = diffuser.generate(states, generator_seed=1)
        overridden = diffuser.generate(states, generator_seed=1, refine="dynamics")
    finally:
        diffuser.sampling = SamplingConfig()
    np.testing.assert_array_equal(left_out.observations, asked.observations)
    again = diffuser.generate(states, generator_seed=1, horizon=7, length=2, refine="dynamics")
    np.testing.assert_array_equal(overridden.observations, again.observations)


def test_sampling_that_the_model_cannot_do_is_refused_when_it_is_set(diffuser):
    before = diffuser.sampling
    for wrong, message in ((SamplingConfig(length=7), "length"), (SamplingConfig(guidance_scale=1), "without a guide")):
        with pytest.raises(ValueError, match=message):
            diffuser.sampling = wrong
    assert diffuser.sampling is before


def test_a_low_temperature_makes_draws_alike(diffuser):
    states = np.zeros((400, 2), np.float32)

    def spread(temperature):
        drawn = diffuser.generate(
            states, generator_seed=0, length=5, refine="none", prune="none", temperature=temperature
        )
        return drawn.actions[:, 0].std()

    assert spread(0.1) < 0.5 * spread(1.0)


@pytest.mark.parametrize("rows", ["differences", "residuals"])
def test_without_noise_in_states_only_actions_are_drawn(rows):
    """A network that answers nothing leaves rows as the noise they were."""
    model = tiny_diffuser(config=replace(TINY, rows=rows))
    torch.nn.init.zeros_(model.networks.diffuser.head.weight)
    torch.nn.init.zeros_(model.networks.diffuser.head.bias)
    states = np.tile(states_like(1), (50, 1))

    def drawn(**options):
        return model.generate(states, generator_seed=0, length=1, refine="none", prune="none", **options)

    def gap(imagined):
        """Between where rows lead and what is expected of their actions; some are held to the data's range."""
        scales = model.codec.normalizer
        moves = (imagined.observations[:, 1] - imagined.observations[:, 0]) / scales.delta_scale
        taken = (imagined.actions[:, 0] - scales.action_mean) / scales.action_scale
        seen = np.concatenate([scales.states(imagined.observations[:, 0]), taken], axis=1)
        return np.median(np.abs(moves - (0 if rows == "differences" else scales.expected_moves(seen))))

    assert gap(drawn(state_temperature=0)) < 1e-5 < 0.05 < gap(drawn(state_temperature=1))
    assert drawn(state_temperature=0).actions.std() > 0.1
    default = drawn()
    np.testing.assert_array_equal(
        default.observations, drawn(state_temperature=0 if rows == "residuals" else 1).observations
    )


def test_without_condition_trajectories_start_at_states_of_the_data(tmp_path):
    data = chain_data(10)
    diffuser = tiny_diffuser(data, config=replace(TINY, condition="none"))
    diffuser.save_pretrained(tmp_path / "model")
    again = TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu")
    far = np.full((30, 2), 50, np.float32)
    imagined = again.generate(far, generator_seed=3)
    known = {tuple(state) for state in data.columns.observations.tolist()}
    assert not again.starts_at_states
    assert len(imagined) == 30
    assert {tuple(state) for state in imagined.observations[:, 0].tolist()} <= known
    assert len(np.unique(imagined.observations[:, 0], axis=0)) > 20
    np.testing.assert_array_equal(
        imagined.observations, diffuser.generate(states_like(30), generator_seed=3).observations
    )
