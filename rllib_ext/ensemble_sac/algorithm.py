"""EnsembleSAC: sample, store, imagine, learn, sync. The whole flow of a training step is on this page."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from atradiff.data.trajectories import Trajectories
from atradiff.ports import Act, ReplayService, ServiceOrder, TrajectoryGenerator
from atradiff.replay.batch import ReplayBatch
from atradiff.replay.config import ReplayConfig
from atradiff.types import FloatArray, Spaces, Transitions
from rllib_ext.columns import ActionScale
from rllib_ext.ensemble_sac.config import EnsembleSACConfig
from rllib_ext.ensemble_sac.learner import LEARNER_METRICS, TD_ERROR
from rllib_ext.ensemble_sac.learners import Learners
from rllib_ext.ensemble_sac.snapshot import snapshot
from rllib_ext.ensemble_sac.state import read_state, write_state
from rllib_ext.folder_component import FolderComponent
from rllib_ext.sampling import LocalSampler, RemoteSampler, Sampler

STATE_COMPONENT = "ensemble_sac"

_logger = logging.getLogger(__name__)


class EnsembleSAC(Algorithm):
    """SAC with N critics on column replay, with or without a trajectory generator.

    ``service`` holds the replay; where it lives and who answers its requests is the configuration's affair, as is how
    many ``learners`` there are. When the process of a remote one is gone, :meth:`train`, :meth:`save_state` and
    :meth:`load_state` raise ``LearnerLost``.
    """

    config: EnsembleSACConfig

    @classmethod
    def get_default_config(cls) -> EnsembleSACConfig:
        return EnsembleSACConfig()

    def setup(self, config: EnsembleSACConfig) -> None:
        """Build env runners, learners and service; raises ``ValueError`` where generator and env do not fit."""
        super().setup(config)
        seed = self.config.seed
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.checkpoints = 0
        self.updates_forgiven = 0
        self.env_spaces = Spaces.from_gymnasium(*self.env_runner_group.get_spaces()[INPUT_ENV_SINGLE_SPACES])
        self.service: ReplayService = self.config.services.start(self._order())
        self.learners = Learners(self.learner_group)
        self._sampler = self._build_sampler()

    @property
    def env_steps(self) -> int:
        """Env steps that were stored since the first step of the run."""
        return self.service.env_steps

    def cleanup(self) -> None:
        """Stop learners and env runners, then the service that they talk to."""
        super().cleanup()
        if hasattr(self, "service"):  # absent where setup was refused
            self.service.close()

    def score(self, rows: Transitions, draws: int = 1) -> FloatArray:
        """Absolute TD errors (N,) of rows in the learner's action scale, by its networks as they are.

        ``draws`` actions of the policy are tried in s' (1: its mean action), see :class:`scoring.Scorer`.
        """
        return self.learners.score(rows, draws)

    def policy_snapshot(self) -> Act:
        """The policy of this moment, which does not follow later updates; see :data:`atradiff.ports.Act`."""
        return self.learners.first(snapshot)

    def _order(self) -> ServiceOrder:
        generator = self._load_generator()
        scale = ActionScale.of(self.env_spaces, normalize_actions=True)
        return ServiceOrder(
            spaces=self.env_spaces,
            replay=self._replay_config(generator),
            serving=self.config.serving,
            seed=self.seed,
            generator=generator,
            to_learner=scale.to_learner,
            to_environment=scale.rows_to_environment,
            offline=self._load_offline(),
            score=self.score,
            policy=self.policy_snapshot,
        )

    def _load_generator(self) -> TrajectoryGenerator | None:
        if self.config.generator is None:
            return None
        generator = self.config.generator.load()
        generator.spaces.require_equal(self.env_spaces, "the generator", f"environment {self.config.env}")
        return generator

    def _load_offline(self) -> Trajectories | None:
        """What batches hold of the offline data; raises ``ValueError`` for data of another environment."""
        if self.config.offline is None or self.config.replay.offline_share == 0:
            return None
        data = self.config.offline.load()
        data.spaces.require_equal(self.env_spaces, "the offline data", f"environment {self.config.env}")
        return data

    def _replay_config(self, generator: TrajectoryGenerator | None) -> ReplayConfig:
        """Without a generator rho is 0: nothing is requested, every row is real."""
        return self.config.replay.plain() if generator is None else self.config.replay

    def _build_sampler(self) -> Sampler:
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            return LocalSampler(group.local_env_runner)
        return RemoteSampler(
            group, self.service.sink, self.config.sample_timeout_s, lambda: self.restore_env_runners(group)
        )

    def training_step(self) -> None:
        """ATraDiff's algorithm 1 around SAC: the learner never sees whether a row was lived or imagined."""
        due = self._updates_due()
        if due <= self._most_updates:  # else the learner is behind: it catches up first
            self._act(wait=due == 0)
        with self.metrics.log_time(("time", "learn")):
            learned = self._learn()
        if learned:
            with self.metrics.log_time(("time", "sync_weights")):
                self.learners.sync(self.env_runner_group)
        self._log_service()

    @property
    def behind(self) -> bool:
        """Whether more updates are owed than one training step makes: nothing new is lived until they are made.

        Up to so many may be owed at any moment: remote env runners act while the learner learns.
        """
        return self._updates_due() > self._most_updates

    def _updates_due(self) -> int:
        return self.config.settings.updates_due(self.env_steps, self.learners.updates + self.updates_forgiven)

    def owe_at_most(self, env_steps: int) -> None:
        """Forgive the learner the updates that it owes for more than this many env steps.

        For a new learner on a replay that lived on: it makes up for what it would have owed after a checkpoint, and not
        for a whole run. ``updates_forgiven`` counts what the run then lacks of its ``utd``; checkpoints keep it.
        """
        too_many = self._updates_due() - math.ceil(env_steps * self.config.settings.utd)
        if too_many > 0:
            self.updates_forgiven += too_many
            _logger.warning("The learner begins anew without %d updates that it owed.", too_many)

    @property
    def _most_updates(self) -> int:
        """Updates of one training step: those of two rounds of all runners, so that no call is endless."""
        config = self.config
        runners = max(config.num_env_runners, 1) * config.num_envs_per_env_runner
        return max(math.ceil(2 * config.settings.utd * config.get_rollout_fragment_length() * runners), 1)

    def _act(self, wait: bool) -> None:
        """Store what the runners did, have requests answered, and send the remote runners on."""
        with self.metrics.log_time(("time", "sample")):
            fragments = self._sampler.collect(self._random_actions, wait)
        self.metrics.aggregate([f.metrics for f in fragments if f.metrics], key=ENV_RUNNER_RESULTS)
        if wait and not any(fragment.steps for fragment in fragments):
            _logger.warning("The env runners returned no steps: see above for failed or slow ones.")
        for fragment in fragments:
            if fragment.chunk is not None:
                self.service.store(fragment.chunk)
        with self.metrics.log_time(("time", "generate")):
            self.service.serve()
        if not self.behind:
            self._sampler.go_on(self._random_actions)

    @property
    def _random_actions(self) -> bool:
        return self.env_steps < self.config.settings.learning_starts

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """As RLlib's, and count those that came back."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if env_runner_group is self.env_runner_group and restored:
            self._sampler.restored(restored)
            self._start_over(self.env_steps, runners=restored)
        return restored

    def _learn(self) -> bool:
        """The updates that the new env steps owe, in one call of the learner."""
        due = min(self._updates_due(), self._most_updates)
        if due == 0:
            return False
        batches = self.service.sample(due, self.config.settings.batch_size)
        results = self.learners.update([batch.transitions for batch in batches])
        self._report(batches, [result[DEFAULT_MODULE_ID] for result in results])
        return True

    def _report(self, batches: list[ReplayBatch], results: list[dict[str, Any]]) -> None:
        """``results`` are those of each learner; each had its part of every batch."""
        td_errors = [np.asarray(result.pop(TD_ERROR).peek(compile=False)) for result in results]
        shares = [errors.reshape(len(batches), -1) for errors in td_errors]
        self.service.report_td_errors(batches, np.concatenate(shares, axis=1))
        for name in LEARNER_METRICS & results[0].keys():
            value = float(np.mean([result[name].peek() for result in results]))
            self.metrics.log_value(("learner", name), value, window=1)
        self.metrics.log_value(("learner", "updates"), self.learners.updates, reduce="max", window=1)

    def _log_service(self) -> None:
        for name, value in self.service.metrics().items():
            group, _, figure = name.rpartition("/")  # a service of several parts names them
            self.metrics.log_value((group or "replay", figure), value, window=1)
        for name, value in self._sampler.metrics().items():
            self.metrics.log_value(("sampling", name), value, reduce="max", window=1)

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
        self._start_over()  # what runners are at is over before the replay is another one
        self._sampler.forget()
        read_state(folder, self)
        self._go_on_from_here()

    def load_learner_state(self, folder: Path) -> None:
        """As :meth:`load_state`, but leave the replay as it is: it outlived the learner.

        What the learner has not learned since the checkpoint is made up for, without a step in between.
        """
        read_state(folder, self, replay=False)
        self._go_on_from_here()

    def _go_on_from_here(self) -> None:
        self._start_over()
        self.env_runner_group.foreach_env_runner(lambda runner: runner.expect_any_weights())
        self.learners.sync(self.env_runner_group)

    def go_on_elsewhere(self) -> None:
        """Have the env runners begin where no one has been: for a run whose learner is from before its last env steps.

        With seeds of the checkpoint alone they would live those steps once more.
        """
        self._start_over(self.env_steps)

    def _start_over(self, *seeds: int, runners: list[int] | None = None) -> None:
        """All env runners, or those of these numbers, drop their episodes; their seeds are ``seeds`` and the run's."""
        all_seeds = (self.seed, self.checkpoints, *seeds)
        self.env_runner_group.foreach_env_runner(
            lambda runner: runner.start_over(*all_seeds), remote_worker_ids=runners, local_env_runner=runners is None
        )

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
