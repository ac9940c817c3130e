"""RLlib's own episodes and its own un-squashing are the reference for our columns and our action scale."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.spaces.space_utils import unsquash_action

from atradiff.types import Spaces, Transitions
from rllib_ext.columns import ActionScale, RowSender, episode_key, episodes_to_transitions

BOX = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
CONTINUOUS = Spaces.from_gymnasium(gym.spaces.Box(-np.inf, np.inf, (1,)), BOX)
DISCRETE = Spaces(1, "discrete", n_actions=3)


def _episode(
    n: int, *, terminated: bool = False, truncated: bool = False, discrete: bool = False
) -> SingleAgentEpisode:
    episode = SingleAgentEpisode()
    episode.add_env_reset(np.array([0.0], np.float32))
    for t in range(n):
        last = t == n - 1
        episode.add_env_step(
            np.array([t + 1.0], np.float32),
            t % 3 if discrete else np.array([t, -t], np.float32),
            float(t) / 10,
            terminated=terminated and last,
            truncated=truncated and last,
        )
    return episode


def _reference(episodes: list[SingleAgentEpisode]) -> list[tuple[float, float, float, bool, bool]]:
    """(obs, next obs, reward, terminated, truncated), one step at a time by RLlib's own getters."""
    rows = []
    for episode in episodes:
        for t in range(len(episode)):
            obs, after = episode.get_observations(t), episode.get_observations(t + 1)
            last = t == len(episode) - 1
            rows.append(
                (
                    float(obs[0]),
                    float(after[0]),
                    pytest.approx(float(episode.get_rewards(t))),
                    last and episode.is_terminated,
                    last and episode.is_truncated,
                )
            )
    return rows


@settings(max_examples=40)
@given(
    chunks=st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["on", "end", "cut"])), min_size=1, max_size=4),
    as_numpy=st.booleans(),
    discrete=st.booleans(),
)
def test_rows_are_the_episodes_steps(chunks: list[tuple[int, str]], as_numpy: bool, discrete: bool) -> None:
    episodes = [_episode(n, terminated=how == "end", truncated=how == "cut", discrete=discrete) for n, how in chunks]
    reference = _reference(episodes)
    if as_numpy:
        episodes = [episode.to_numpy() for episode in episodes]
    rows = episodes_to_transitions(episodes, DISCRETE if discrete else CONTINUOUS)
    found = list(
        zip(
            rows.observations[:, 0].tolist(),
            rows.next_observations[:, 0].tolist(),
            rows.rewards.tolist(),
            rows.terminated.tolist(),
            rows.truncated.tolist(),
            strict=True,
        )
    )
    assert found == reference
    steps = np.concatenate([np.arange(n) for n, _ in chunks])
    expected = steps % 3 if discrete else np.stack([steps, -steps], axis=1)
    np.testing.assert_array_equal(rows.actions, expected)
    assert rows.actions.dtype == (np.int64 if discrete else np.float32)


def test_a_continued_chunk_starts_after_its_lookback() -> None:
    """RLlib's chunks carry earlier steps for recurrent modules: they must not be stored twice."""
    first = _episode(5)
    second = first.cut(len_lookback_buffer=3)
    second.add_env_step(np.array([6.0], np.float32), np.array([9, 9], np.float32), 1.0, terminated=True)
    rows = episodes_to_transitions([second.to_numpy()], CONTINUOUS)
    assert rows.observations.tolist() == [[5.0]]
    assert rows.next_observations.tolist() == [[6.0]]
    assert rows.terminated.tolist() == [True]


def test_a_chunk_that_goes_on_is_neither_terminated_nor_truncated() -> None:
    rows = episodes_to_transitions([_episode(4)], CONTINUOUS)
    assert not rows.terminated.any()
    assert not rows.truncated.any()


def test_other_number_types_become_float32() -> None:
    episode = SingleAgentEpisode(
        observations=[np.array([0], np.uint8), np.array([255], np.uint8)],
        actions=[np.zeros(2, np.float64)],
        rewards=[1],
        len_lookback_buffer=0,
    )
    rows = episodes_to_transitions([episode.to_numpy()], CONTINUOUS)
    for name in ("observations", "actions", "rewards", "next_observations"):
        assert getattr(rows, name).dtype == np.float32, name
    assert rows.next_observations.tolist() == [[255.0]]


def test_empty_chunks_are_passed_over_but_not_silence() -> None:
    empty = SingleAgentEpisode()
    empty.add_env_reset(np.array([0.0], np.float32))
    assert len(episodes_to_transitions([empty, _episode(2)], CONTINUOUS)) == 2
    with pytest.raises(ValueError, match="returned 1 episodes without a single step"):
        episodes_to_transitions([empty], CONTINUOUS)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=5))
def test_the_scale_is_rllibs_own(actions: list[tuple[float, float]]) -> None:
    scale = ActionScale.of(CONTINUOUS, normalize_actions=True)
    learner = np.array(actions, np.float32)
    environment = np.stack([unsquash_action(a, BOX) for a in learner])
    np.testing.assert_allclose(scale.to_environment(learner), environment, atol=1e-5)
    back = scale.to_learner(_rows(environment)).actions
    np.testing.assert_allclose(back, learner, atol=1e-5)
    assert back.dtype == np.float32


@pytest.mark.parametrize(
    ("spaces", "normalize"),
    [
        (DISCRETE, True),
        (CONTINUOUS, False),
        (Spaces(1, "continuous", (-np.inf, 0.0), (np.inf, 1.0)), True),
    ],
)
def test_no_scale_where_rllib_has_none(spaces: Spaces, normalize: bool) -> None:
    scale = ActionScale.of(spaces, normalize)
    rows = _rows(np.array([[3.0, 4.0]], np.float32))
    assert scale.to_learner(rows).actions is rows.actions
    assert scale.to_environment(rows.actions) is rows.actions


def _rows(actions: np.ndarray) -> Transitions:
    n = len(actions)
    zeros, flags = np.zeros((n, 1), np.float32), np.zeros(n, bool)
    return Transitions(zeros, actions.astype(np.float32), zeros[:, 0], zeros, flags, flags)


def test_a_sender_counts_its_chunks_and_names_episodes_alike_in_all_of_them() -> None:
    sender, other = RowSender(CONTINUOUS), RowSender(CONTINUOUS)
    running, done = _episode(3), _episode(2, terminated=True)
    first = sender.chunk([done, running])
    rest = running.cut()
    rest.add_env_step(np.array([4.0], np.float32), np.array([3, -3], np.float32), 0.3)
    second = sender.chunk([rest, _episode(0)])
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence) == (0, 1)
    assert first.source == second.source != other.source
    assert first.episodes.dtype == np.int64
    assert first.episodes.tolist() == [episode_key(done.id_)] * 2 + [episode_key(running.id_)] * 3
    assert second.episodes.tolist() == [episode_key(running.id_)]
    assert len(first.rows) == 5
    assert sender.chunk([]) is None
    assert sender.chunk([_episode(0)]) is None
    assert other.chunk([running]).sequence == 0  # type: ignore[union-attr]


@given(st.text())
def test_episode_keys_fit_an_int64_and_differ(name: str) -> None:
    assert 0 <= episode_key(name) < 2**63
    assert episode_key(name) == episode_key(str(name))
    assert episode_key(name) != episode_key(name + "x")


def test_rows_go_to_the_environments_scale_and_back() -> None:
    scale = ActionScale.of(CONTINUOUS, normalize_actions=True)
    rows = episodes_to_transitions([_episode(1)], CONTINUOUS)
    restored = scale.to_learner(scale.rows_to_environment(rows))
    np.testing.assert_allclose(restored.actions, rows.actions, atol=1e-6)
    np.testing.assert_array_equal(restored.observations, rows.observations)
