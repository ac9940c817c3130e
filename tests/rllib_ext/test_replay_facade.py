"""The facade by itself: RLlib's calls in, rows out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.replay_buffers import PrioritizedEpisodeReplayBuffer
from toy_worlds import ConstantGenerator

from atradiff.config import ServingConfig
from atradiff.ports import ServiceOrder
from atradiff.replay.local import LocalReplay
from atradiff.replay.mixed import ReplayConfig
from atradiff.types import Spaces
from rllib_ext.replay_facade import ReplayFacade

SPACES = Spaces(1, "discrete", n_actions=2)


@pytest.fixture
def facade() -> ReplayFacade:
    order = ServiceOrder(
        spaces=SPACES,
        replay=ReplayConfig(capacity=100, rho=0.5, expected_length=2.0),
        serving=ServingConfig(2),
        seed=0,
        generator=ConstantGenerator(SPACES, 1, length=2),
        to_learner=lambda rows: rows,
        to_environment=lambda rows: rows,
    )
    return ReplayFacade(LocalReplay(order), SPACES, capacity=100)


def _episode(steps: int) -> SingleAgentEpisode:
    observations = [np.array([t], np.float32) for t in range(steps + 1)]
    return SingleAgentEpisode(
        observations=observations, actions=[0] * steps, rewards=[1.0] * steps, len_lookback_buffer=0
    )


def test_what_is_added_can_be_sampled(facade: ReplayFacade) -> None:
    assert isinstance(facade, PrioritizedEpisodeReplayBuffer)
    facade.add([_episode(20), _episode(10)])
    facade.add(_episode(5))
    assert len(facade) == facade.get_num_timesteps() == 35
    (batch,) = facade.sample(16, n_step=1, gamma=0.99, beta=0.4, sample_episodes=True)
    assert len(batch) == 16
    assert {name: len(column) for name, column in batch.columns.items()} == dict.fromkeys(batch.columns, 16)
    assert (batch.columns["weights"] == 1).all()
    assert (batch.columns["n_step"] == 1).all()
    metrics = facade.service.metrics()
    assert metrics["real_rows"] == 35
    assert metrics["synthetic_rows"] == 2 * metrics["trajectories"] > 0
    assert metrics["requests"] == metrics["trajectories"] + metrics["requests_pending"]


def test_several_steps_are_refused_here_too(facade: ReplayFacade) -> None:
    facade.add(_episode(5))
    with pytest.raises(ValueError, match="n_step=3 was asked for"):
        facade.sample(4, n_step=3)


def test_td_errors_that_fit_no_sample_are_refused(facade: ReplayFacade) -> None:
    with pytest.raises(ValueError, match="3 TD errors came back for a sample of 0 rows"):
        facade.update_priorities(np.zeros(3))
    facade.add(_episode(5))
    facade.sample(4)
    facade.update_priorities(np.array([-1.0, 2.0, 0.0, -4.0]), "default_policy")
    assert facade.scored is not None
    assert facade.scored.td_errors.tolist() == [1.0, 2.0, 0.0, 4.0]
    with pytest.raises(ValueError, match="3 TD errors came back for a sample of 4 rows"):
        facade.update_priorities(np.zeros(3))


def test_a_round_without_steps_is_told_and_survived(facade: ReplayFacade, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rllib_ext"):
        facade.add([])
    assert "returned no steps" in caplog.text
    assert len(facade) == 0
