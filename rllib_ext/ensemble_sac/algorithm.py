"""EnsembleSAC: sample, store, imagine, learn, sync. The whole flow of a training step is on this page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from atradiff.replay.mixed import MixedReplay, ReplayBatch
from atradiff.serving import LocalServer
from atradiff.types import FloatArray, Spaces
from rllib_ext.columns import ActionScale, episodes_to_transitions
from rllib_ext.ensemble_sac.config import EnsembleSACConfig
from rllib_ext.ensemble_sac.learner import LEARNER_METRICS, TD_ERROR, to_rllib_batch

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
        spaces = Spaces.from_gymnasium(*self.env_runner_group.get_spaces()[INPUT_ENV_SINGLE_SPACES])
        seed = self.config.seed if self.config.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self.seed = seed
        self.env_spaces = spaces
        self.replay, self.server = self._build_replay(spaces, seed)
        self.updates = 0

    def _build_replay(self, spaces: Spaces, seed: int) -> tuple[MixedReplay, LocalServer | None]:
        if self.config.generator is None:  # rho = 0: nothing is requested, every row is real
            return MixedReplay(spaces, replace(self.config.replay, rho=0.0, rho_end=None), seed), None
        generator = self.config.generator.load()
        generator.spaces.require_equal(spaces, "the generator", f"environment {self.config.env}")
        replay = MixedReplay(spaces, self.config.replay, seed)
        scale = ActionScale.of(spaces, normalize_actions=True)
        return replay, LocalServer(replay, generator, self.config.serving, seed, scale.to_learner)

    def training_step(self) -> None:
        """ATraDiff's algorithm 1 around SAC: the learner never sees whether a row was lived or imagined."""
        with self.metrics.log_time(("time", "sample")):
            episodes = self._sample_episodes()
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
            random_actions=self.replay.counters.env_steps < self.config.settings.learning_starts,
            sample_timeout_s=self.config.sample_timeout_s,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        return episodes

    def _learn(self) -> bool:
        """All updates that the new env steps owe, in one call of the learner."""
        settings = self.config.settings
        due = settings.updates_due(self.replay.counters.env_steps, self.updates)
        if due == 0:
            return False
        batches = [self.replay.sample(settings.batch_size) for _ in range(due)]
        results = self.learner_group.update(batch=to_rllib_batch([b.transitions for b in batches]))
        self.updates += due
        self._report(batches, results[0][DEFAULT_MODULE_ID])
        return True

    def _report(self, batches: list[ReplayBatch], results: dict[str, Any]) -> None:
        td_errors = np.asarray(results.pop(TD_ERROR).peek(compile=False)).reshape(len(batches), -1)
        if self.on_td_errors is not None:
            self.on_td_errors(batches, td_errors)
        for name in LEARNER_METRICS & results.keys():
            self.metrics.log_value(("learner", name), results[name].peek(), window=1)
        self.metrics.log_value(("learner", "updates"), self.updates, reduce="max", window=1)

    def _log_replay(self) -> None:
        replay, counters = self.replay, self.replay.counters
        values: dict[str, float] = {
            "env_steps": counters.env_steps,
            "real_rows": len(replay.real),
            "synthetic_rows": len(replay.synthetic),
            "pending": replay.pending,
            "expected_length": replay.expected_length,
            "requests": counters.requests,
            "requests_dropped": counters.requests_dropped,
            "trajectories": counters.trajectories,
            "sampled_synthetic": counters.sampled_synthetic,
        }
        if self.server is not None and len(replay.synthetic) > 0:
            values |= self._synthetic_age(self.server.generator.version)
        for name, value in values.items():
            self.metrics.log_value(("replay", name), value, window=1)

    def _synthetic_age(self, newest_version: int) -> dict[str, float]:
        """Mean age of the stored synthetic rows, in generator versions and in env steps."""
        ring = self.replay.synthetic
        rows = slice(0, len(ring))
        return {
            "synthetic_age_versions": newest_version - float(ring["generator_version"][rows].mean()),
            "synthetic_age_steps": self.replay.counters.env_steps - float(ring["created_at"][rows].mean()),
        }
