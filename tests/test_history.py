"""What windows are told of the rows before them, and what that is for: behaviour that the state does not show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.adaptation.windows import concatenate_windows
from atradiff.config import DiffuserConfig
from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import row_codec
from atradiff.data.windows import WindowSampler, told_rows
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.history import HistoryConditioned
from atradiff.diffusion.transformer import RowTransformer
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import Spaces, Transitions
from tests.toys import TINY, chain_data, lay_out, random_data, tiny_diffuser, tiny_fit

CLOCK = Spaces(1, "continuous", action_low=(-1.0,), action_high=(1.0,))


def clock_episode(mode: float, rng: np.random.Generator, rows: int = 12) -> Transitions:
    """The state swings between -1 and 1 whatever is done; all actions of an episode lie near ``mode``."""
    states = np.where(np.arange(rows + 1) % 2 == rng.integers(2), 1, -1).astype(np.float32)[:, None]
    actions = (mode + 0.05 * rng.normal(size=(rows, 1))).astype(np.float32)
    last = np.arange(rows) == rows - 1
    return Transitions(states[:-1], actions, np.zeros(rows, np.float32), states[1:], np.zeros(rows, np.bool_), last)


@pytest.fixture(scope="module")
def told() -> TrajectoryDiffuser:
    rng = np.random.default_rng(0)
    data = lay_out(CLOCK, [clock_episode(mode, rng) for mode in (-0.6, 0.6) * 20])
    network = DiffuserConfig(lengths=(2,), width=32, depth=1, heads=2, dynamics_models=1, dynamics_width=8, history=2)
    budget = tiny_fit(200, tokens_per_step=128, dynamics_updates=1, checkpoint_every=200)
    return fit(data, config=network, settings=budget, device="cpu", quiet=True)


def link_modes(model: TrajectoryDiffuser, links: int, seed: int = 0, chains: int = 200) -> np.ndarray:
    """(chains, links) the sign of the actions in each link of two rows."""
    states = np.where(np.arange(chains) % 2, 1, -1).astype(np.float32)[:, None]
    made = model.generate(states, generator_seed=seed, horizon=2 * links, length=2, refine="none", prune="none")
    assert (made.lengths == 2 * links).all()
    return np.sign(made.actions[..., 0].reshape(chains, links, 2).sum(-1))


def changed(modes: np.ndarray) -> float:
    return float((modes[:, 1:] != modes[:, :-1]).mean())


def test_a_mode_that_the_state_hides_lasts_along_a_chain(told):
    """Each chain begins with either mode and keeps it; links that are told nothing draw it anew: half change."""
    chains = link_modes(told, links=6)
    assert abs((chains[:, 0] > 0).mean() - 0.5) < 0.2
    assert changed(chains) < 0.1
    untold = np.concatenate([link_modes(told, links=1, seed=seed) for seed in range(6)], axis=1)
    expected = 2 * (untold > 0).mean() * (untold < 0).mean()
    assert abs(changed(untold) - expected) < 0.05
    assert expected > 0.4


def naive_past(data, start, history, told):
    """(row, known) of each of the rows before ``start``, oldest first, straight from the definition."""
    episode = int(np.searchsorted(data.offsets, start, side="right")) - 1
    rows = range(start - history, start)
    return [(row, row >= data.offsets[episode] and start - row <= told) for row in rows]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 99)
)
def test_the_past_of_every_row_is_the_definition_row_by_row(shape, history, seed):
    data = random_data([n for n, _ in shape], [end for _, end in shape], seed=seed)
    starts = np.arange(data.n_transitions)
    counts = np.random.default_rng(seed).integers(history + 1, size=len(starts))
    past = WindowSampler(data, (1,), history=history).before(starts, counts)
    columns = data.columns
    for i, start in enumerate(starts):
        np.testing.assert_array_equal(past.states[i, -1], columns.observations[start])
        for j, (row, known) in enumerate(naive_past(data, start, history, counts[i])):
            assert past.padding[i, j] == (not known)
            if known:
                np.testing.assert_array_equal(past.states[i, j], columns.observations[row])
                np.testing.assert_array_equal(past.actions[i, j], columns.actions[row])
                assert past.rewards[i, j] == columns.rewards[row]


def test_encoded_history_is_zero_where_unknown_and_else_rows_as_windows_have_them():
    data = chain_data(6)
    codec = row_codec("differences", data.spaces, Normalizer.fit(data))
    sampler = WindowSampler(data, (4,), history=4)
    start = np.array([data.offsets[1] + 9])
    told = codec.encode_history(sampler.before(start, np.array([3])))
    np.testing.assert_array_equal(told[:, 0], 0)
    np.testing.assert_array_equal(told[:, 1:], codec.encode(sampler.at(start - 4, 4))[:, 1:])
    assert (told[:, 1:, -1] == -1).all()


def test_two_heads_of_history_tell_of_the_way_to_the_window_whatever_lies_before():
    data = chain_data(6)
    codec = row_codec("both", data.spaces, Normalizer.fit(data))
    past = WindowSampler(data, (4,), history=4).before(np.array([data.offsets[1] + 9]), np.array([3]))
    told = codec.encode_history(past)
    back = (past.states[:, 1:] - past.states[:, -1:]) / codec.normalizer.state_scale
    np.testing.assert_allclose(told[:, 1:, 4:6], back[:, 1:], atol=1e-5)
    unknown = past.states.copy()
    unknown[:, 0] = 1e3
    np.testing.assert_array_equal(codec.encode_history(replace(past, states=unknown)), told)


def test_training_tells_none_some_and_all():
    told = told_rows(8, 30_000, np.random.default_rng(0))
    shares = np.bincount(told, minlength=9) / len(told)
    expected = np.full(9, 1 / 27) + np.array([1 / 3, *[0] * 7, 1 / 3])
    np.testing.assert_allclose(shares, expected, atol=0.01)


def test_no_history_is_a_history_of_unknown_rows_and_known_rows_reach_every_row():
    torch.manual_seed(0)
    inner = RowTransformer(6, slice(2, 5), torch.ones(3), 4, width=16, depth=1, heads=2, task_size=16)
    network = HistoryConditioned(inner, history=2, state_size=3, width=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    rows, noise, lengths = torch.randn(3, 4, 6), torch.rand(3), torch.full((3,), 4)
    condition = Condition(torch.randn(3, 3), lengths)
    without = network(rows, noise, noise, condition)
    torch.testing.assert_close(network(rows, noise, noise, replace(condition, history=torch.zeros(3, 2, 6))), without)
    told = replace(condition, history=torch.randn(3, 2, 6))
    assert ((network(rows, noise, noise, told) - without).abs().amax(-1) > 1e-4).all()
    torch.testing.assert_close(network(rows, noise, noise, told)[1:], network(rows[1:], noise[1:], noise[1:], told[1:]))


@pytest.mark.parametrize(
    "change", [{"generator": "bank", "rows": "both"}, {"network": "residual_mlp"}, {"guide": "return", "rows": "both"}]
)
def test_history_goes_with_every_network_and_its_model_folder(tmp_path, change):
    model = tiny_diffuser(config=replace(TINY, history=3, **change))
    model.save_pretrained(tmp_path / "model")
    loaded = TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu")
    states = np.zeros((4, 2), np.float32)
    first, second = (m.generate(states, generator_seed=1, horizon=12, length=3) for m in (model, loaded))
    np.testing.assert_array_equal(first.observations, second.observations)
    assert loaded.config.history == 3


def test_joined_windows_keep_their_history_and_that_of_the_others_is_unknown():
    data = chain_data(6)
    told, untold = WindowSampler(data, (3,), history=4), WindowSampler(data, (3,))
    parts = [told.sample(3, 5, np.random.default_rng(seed)) for seed in (0, 1)]
    joined = concatenate_windows(parts)
    np.testing.assert_array_equal(joined.history.rewards, np.concatenate([part.history.rewards for part in parts]))
    mixed = concatenate_windows([parts[0], untold.sample(3, 2, np.random.default_rng(0))])
    np.testing.assert_array_equal(mixed.history.states[:5], parts[0].history.states)
    np.testing.assert_array_equal(mixed.history.padding[:5], parts[0].history.padding)
    assert mixed.history.padding[5:].all()
    np.testing.assert_array_equal(mixed.history.states[5:, -1], mixed.states[5:, 0])


def test_a_negative_history_is_refused():
    with pytest.raises(ValueError, match="history must not be negative, got -1"):
        DiffuserConfig(history=-1)
