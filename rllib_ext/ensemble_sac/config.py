"""The fluent configuration of EnsembleSAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from atradiff.config import SamplingConfig, ServingConfig
from atradiff.data.trajectories import Trajectories
from atradiff.ports import ReplayServices, TrajectoryGenerator
from atradiff.replay.config import ReplayConfig
from atradiff.replay.local import LocalServices
from rllib_ext.diffuser_source import DiffuserSource
from rllib_ext.ensemble_sac.settings import OWN_SETTINGS, SHARED_WITH_RLLIB, SACSettings
from rllib_ext.env_runner import DirectEnvRunner
from rllib_ext.offline_source import OfflineSource, require_share


class EnsembleSACConfig(AlgorithmConfig):
    """SAC with N critics as the ATraDiff paper runs it, fed with columns, with or without imagined trajectories.

    Example::

        config = (
            EnsembleSACConfig()
            .environment("HalfCheetah-v5")
            .training(n_critics=2, utd=1, layer_norm=True)
            .augmentation(generator="models/halfcheetah", replay=ReplayConfig(rho=0.5))
        )
        algo = config.build_algo()
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_ext.ensemble_sac.algorithm import EnsembleSAC

        super().__init__(algo_class=algo_class or EnsembleSAC)
        for name, default in OWN_SETTINGS.items():
            setattr(self, name, default)
        self.gamma = 0.99
        self.lr = None
        self.env_runner_cls = DirectEnvRunner
        self.rollout_fragment_length = 50
        self.num_env_runners = 0
        # Asking remote runners for their connectors' states waits for the end of their fragments: no overlap.
        self.merge_env_runner_states = False
        self.broadcast_env_runner_states = False
        self.max_requests_in_flight_per_env_runner = 2  # with 1, RLlib drops new weights while it waits for an answer
        self.env_runner_health_probe_timeout_s = 0.5  # a runner that restarts takes seconds: the others go on
        self.delay_between_env_runner_restarts_s = 1.0
        self.generator: DiffuserSource | None = None
        self.offline: OfflineSource | None = None
        self.replay = ReplayConfig()
        self.serving = ServingConfig()
        self.services: ReplayServices = LocalServices()

    def training(self, **settings: Any) -> Self:
        """Set any field of :class:`SACSettings`, or what RLlib's own ``training`` takes.

        ``batch_size`` counts the rows of an update over all learners: more of them change its speed, not its result.
        """
        if "train_batch_size_per_learner" in settings:
            self.train_batch_size_per_learner = settings.pop("train_batch_size_per_learner")
        for name in OWN_SETTINGS.keys() & settings.keys():
            setattr(self, name, settings.pop(name))
        super().training(**settings)
        return self

    def augmentation(
        self,
        *,
        generator: TrajectoryGenerator | str | Path | None = NotProvided,
        sampling: SamplingConfig | None = None,
        replay: ReplayConfig = NotProvided,
        serving: ServingConfig = NotProvided,
        services: ReplayServices = NotProvided,
        offline: Trajectories | str | Path | None = NotProvided,
    ) -> Self:
        """Who imagines trajectories (None: nobody, plain SAC), how they are mixed in and how they are served.

        ``offline`` is a trajectory store, or trajectories, whose rows are ``replay.offline_share`` of each batch.

        ``sampling`` is set on a generator that is given as a folder, in the same call; an object carries its own.
        ``services`` makes the replay and what answers its requests; by default both are in the algorithm's process,
        with ``cluster.ActorServices`` they are actors.
        Raises ``ValueError`` for ``sampling`` without a folder to set it on.
        """
        if sampling is not None and (generator is NotProvided or generator is None):
            raise ValueError("sampling is set on a generator: give generator=FOLDER in the same call of augmentation.")
        if generator is not NotProvided:
            self.generator = None if generator is None else DiffuserSource(generator, sampling=sampling)
        if replay is not NotProvided:
            self.replay = replay
        if serving is not NotProvided:
            self.serving = serving
        if services is not NotProvided:
            self.services = services
        if offline is not NotProvided:
            self.offline = None if offline is None else OfflineSource(offline)
        return self

    @property
    def settings(self) -> SACSettings:
        """The learner's settings, checked; raises ``ValueError`` for what cannot be."""
        own = {name: getattr(self, name) for name in OWN_SETTINGS}
        own["hidden_sizes"] = tuple(own["hidden_sizes"])
        return SACSettings(**own, **{name: getattr(self, name) for name in SHARED_WITH_RLLIB})

    @property
    def train_batch_size_per_learner(self) -> int:
        """Each learner's share of ``batch_size``."""
        return int(self.batch_size) // max(self.num_learners, 1)

    @train_batch_size_per_learner.setter
    def train_batch_size_per_learner(self, value: int) -> None:
        """Refused: ``ValueError`` that says what to set instead."""
        raise ValueError(
            f"EnsembleSAC counts the rows of an update over all learners: give batch_size in place of "
            f"train_batch_size_per_learner={value}."
        )

    def validate(self) -> None:
        """Raise ``ValueError``, with the remedy, for what EnsembleSAC cannot run."""
        super().validate()
        self.settings  # noqa: B018 - its checks are what is wanted
        require_share(self.offline, self.replay)
        if self.is_multi_agent:
            self._value_error("EnsembleSAC trains one agent: train one algorithm for each agent.")
        if self.batch_size % max(self.num_learners, 1):
            self._value_error(
                f"batch_size={self.batch_size} cannot be shared equally by num_learners={self.num_learners}: choose a "
                "multiple."
            )
        if not issubclass(self.env_runner_cls, DirectEnvRunner):
            self._value_error(
                f"EnsembleSAC samples with DirectEnvRunner, got env_runner_cls={self.env_runner_cls.__name__}: derive "
                "yours from rllib_ext.env_runner.DirectEnvRunner."
            )
        if not self.normalize_actions:
            self._value_error("EnsembleSAC acts in [-1, 1]: leave .environment(normalize_actions=True) as it is.")
        if self.lr is not None or self.grad_clip is not None:
            self._value_error(
                f"EnsembleSAC has actor_lr, critic_lr and alpha_lr and no gradient clipping, got lr={self.lr} and "
                f"grad_clip={self.grad_clip}: leave both at None."
            )

    def get_rollout_fragment_length(self, worker_index: int = 0) -> int:  # noqa: ARG002
        """The number that was set, for every worker: it says how many env steps lie between two rounds of updates."""
        return int(self.rollout_fragment_length)

    def get_default_learner_class(self) -> type:
        """Asked for by RLlib when it builds the learners."""
        from rllib_ext.ensemble_sac.learner import EnsembleSACLearner

        return EnsembleSACLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The networks of :class:`EnsembleSACModule`; spaces are filled in by RLlib."""
        from rllib_ext.ensemble_sac.rl_module import EnsembleSACModule

        return RLModuleSpec(module_class=EnsembleSACModule)

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        s = self.settings
        return super()._model_config_auto_includes | {
            "n_critics": s.n_critics,
            "hidden_sizes": s.hidden_sizes,
            "layer_norm": s.layer_norm,
            "standardise_states": s.standardise_states,
            "initial_alpha": s.initial_alpha,
        }
