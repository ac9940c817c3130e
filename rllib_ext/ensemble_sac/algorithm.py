"""EnsembleSAC: sample, store, imagine, learn, sync. The whole flow of a training step is on this page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from atradiff.ports import TrajectoryGenerator
from atradiff.replay.mixed import MixedReplay, ReplayBatch, ReplayConfig
from atradiff.serving import LocalServer
from atradiff.types import FloatArray, Spaces
from rllib_ext.columns import ActionScale, episodes_to_transitions
from rllib_ext.ensemble_sac.config import EnsembleSACConfig
from rllib_ext.ensemble_sac.learner import LEARNER_METRICS, TD_ERROR, EnsembleSACLearner, to_rllib_batch
from rllib_ext.ensemble_sac.state import read_state, write_state
from rllib_ext.folder_component import FolderComponent
from rllib_ext.replay_metrics import replay_metrics

STATE_COMPONENT = "ensemble_sac"

_logger = logging.getLogger(__name__)

TDErrorListener = Callable[[list[ReplayBatch], FloatArray], None]
"""Called with the batches of a training step and |TD| of their rows (U, B), in the batches' order."""


class EnsembleSAC(Algorithm):
    """SAC with N critics on column replay, with or without a trajectory generator.

    ``on_td_errors`` (None or a :data:`TDErrorListener`) is told of every row that was learned from.
    """

    config: EnsembleSACConfig
    on_td_errors: TDErrorListener | None = None

    @classmethod
    def get_default_config(cls) -> EnsembleSACConfig:
        return EnsembleSACConfig()

    def setup(self, config: EnsembleSACConfig) -> None:
        """Build env runners, learner, replay and server; raises ``ValueError`` where generator and env do not fit."""
        super().setup(config)
        seed = self.config.seed
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.checkpoints = 0
        self.env_spaces = Spaces.from_gymnasium(*self.env_runner_group.get_spaces()[INPUT_ENV_SINGLE_SPACES])
        self._generator = self._load_generator()
        self.replay = MixedReplay(self.env_spaces, self._replay_config(), self.seed)
        self.server = self._build_server()

    @property
    def learner(self) -> EnsembleSACLearner:
        """The one learner, in this process."""
        return self.learner_group._learner

    @property
    def env_steps(self) -> int:
        """Env steps that were stored since the first step of the run."""
        return self.replay.counters.env_steps

    def _load_generator(self) -> TrajectoryGenerator | None:
        if self.config.generator is None:
            return None
        generator = self.config.generator.load()
        generator.spaces.require_equal(self.env_spaces, "the generator", f"environment {self.config.env}")
        return generator

    def _replay_config(self) -> ReplayConfig:
        """Without a generator rho is 0: nothing is requested, every row is real."""
        if self._generator is None:
            return replace(self.config.replay, rho=0.0, rho_end=None)
        return self.config.replay

    def _build_server(self) -> LocalServer | None:
        if self._generator is None:
            return None
        scale = ActionScale.of(self.env_spaces, normalize_actions=True)
        return LocalServer(self.replay, self._generator, self.config.serving, self.seed, scale.to_learner)

    def training_step(self) -> None:
        """ATraDiff's algorithm 1 around SAC: the learner never sees whether a row was lived or imagined."""
        with self.metrics.log_time(("time", "sample")):
            episodes = self._sample_episodes()
        if not any(len(episode) for episode in episodes):
            _logger.warning("The env runners returned no steps: see above for failed or slow ones.")
            return
        self.replay.store(episodes_to_transitions(episodes, self.env_spaces))
        if self.server is not None:
            with self.metrics.log_time(("time", "generate")):
                self.server.serve()
        with self.metrics.log_time(("time", "learn")):
            learned = self._learn()
        if learned:
            with self.metrics.log_time(("time", "sync_weights")):
                self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)
        self._log_replay()

    def _sample_episodes(self) -> list[SingleAgentEpisode]:
        episodes, results = synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            random_actions=self.env_steps < self.config.settings.learning_starts,
            sample_timeout_s=self.config.sample_timeout_s,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        return episodes

    def _learn(self) -> bool:
        """All updates that the new env steps owe, in one call of the learner."""
        settings = self.config.settings
        due = settings.updates_due(self.env_steps, self.learner.updater.updates)
        if due == 0:
            return False
        batches = [self.replay.sample(settings.batch_size) for _ in range(due)]
        results = self.learner_group.update(batch=to_rllib_batch([b.transitions for b in batches]))
        self._report(batches, results[0][DEFAULT_MODULE_ID])
        return True

    def _report(self, batches: list[ReplayBatch], results: dict[str, Any]) -> None:
        td_errors = np.asarray(results.pop(TD_ERROR).peek(compile=False)).reshape(len(batches), -1)
        if self.on_td_errors is not None:
            self.on_td_errors(batches, td_errors)
        for name in LEARNER_METRICS & results.keys():
            self.metrics.log_value(("learner", name), results[name].peek(), window=1)
        self.metrics.log_value(("learner", "updates"), self.learner.updater.updates, reduce="max", window=1)

    def _log_replay(self) -> None:
        version = None if self.server is None else self.server.generator.version
        for name, value in replay_metrics(self.replay, version).items():
            self.metrics.log_value(("replay", name), value, window=1)

    def save_state(self, folder: Path) -> None:
        """Write the whole run into ``folder``, as safetensors, npy and JSON; nothing is pickled.

        An environment cannot be stored in the middle of an episode. So saving ends the running episodes, here as in
        every run restored from this checkpoint: both reset their environments with seeds derived from the run's seed
        and the number of checkpoints, and go on alike.
        """
        self.checkpoints += 1
        self._start_over()
        write_state(folder, self)

    def load_state(self, folder: Path) -> None:
        """Become the run that :meth:`save_state` wrote; raises ``ValueError`` where the configuration differs."""
        read_state(folder, self)
        self.server = self._build_server()  # its seed is the restored run's
        self._start_over()
        self.env_runner_group.foreach_env_runner(lambda runner: runner.expect_any_weights())
        self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def _start_over(self) -> None:
        seeds = (self.seed, self.checkpoints)
        self.env_runner_group.foreach_env_runner(lambda runner: runner.start_over(*seeds))

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """RLlib's components, then the run's whole state, which has the last word when restoring."""
        state = FolderComponent(save=self.save_state, load=self.load_state)
        return [*super().get_checkpointable_components(), (STATE_COMPONENT, state)]

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's in-memory state: weights and optimisers, without the replay rings (see :meth:`save_state`)."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(STATE_COMPONENT, components, not_components):
            state[STATE_COMPONENT] = {}
        return state
