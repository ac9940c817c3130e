"""ATraDiff in one line on an unmodified RLlib config of SAC, TQC or DQN."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback

from atradiff.config import SamplingConfig, ServingConfig
from atradiff.data.trajectories import Trajectories
from atradiff.ports import ReplayService, ReplayServices, ServiceOrder, TrajectoryGenerator
from atradiff.replay.config import ReplayConfig
from atradiff.replay.local import LocalServices
from atradiff.types import Spaces
from rllib_ext.checkpoint import add_to_checkpoints, close_with, replay_component
from rllib_ext.columns import ActionScale
from rllib_ext.compatibility import UnsupportedConfigError, require_supported
from rllib_ext.diffuser_source import DiffuserSource
from rllib_ext.offline_source import OfflineSource, require_share
from rllib_ext.replay_facade import ReplayFacade
from rllib_ext.stock_learners import feed_columns
from rllib_ext.stock_policy import StockPolicy
from rllib_ext.stock_scoring import StockScorer

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AugmentationSettings:
    """What :meth:`ATraDiffCallback.using` was given. ``capacity`` and ``seed`` None: take the algorithm config's."""

    source: DiffuserSource
    replay: ReplayConfig
    serving: ServingConfig
    capacity: int | None
    seed: int | None
    services: ReplayServices
    offline: OfflineSource | None


class ATraDiffCallback(RLlibCallback):
    """Puts Algorithm 1's replay with its diffuser in the place of RLlib's replay buffer::

        config.callbacks(ATraDiffCallback.using(diffuser="models/hopper", rho=0.5))

    Sampling is uniform within the real and within the synthetic rows: the ``alpha`` and ``beta`` of a prioritised
    ``replay_buffer_config`` (RLlib's default) have no effect, and a warning says so. Its ``capacity`` counts.

    Checkpoints of the algorithm gain the buffers, the request queue, SAC's log alpha and the random state of replay and
    torch. Environments are not part of RLlib's checkpoints: a restored run begins with fresh episodes.
    """

    settings: ClassVar[AugmentationSettings | None] = None

    @classmethod
    def using(
        cls,
        diffuser: str | Path | TrajectoryGenerator,
        rho: float = 0.5,
        *,
        seed: int | None = None,
        services: ReplayServices | None = None,
        offline: str | Path | Trajectories | None = None,
        **options: Any,
    ) -> type[ATraDiffCallback]:
        """A callback class for ``config.callbacks``, with these settings.

        ``diffuser`` is a folder that ``TrajectoryDiffuser.save_pretrained`` wrote, or a generator object (which then
        stays in this process: runs under Tune need the folder). ``rho`` is the synthetic share of each batch.
        ``options`` are those of :class:`ReplayConfig`, :class:`ServingConfig` and, for a folder, of
        :class:`SamplingConfig` (``horizon=200`` chains windows to long trajectories). ``seed`` None takes the config's.
        ``services`` makes the replay and what answers its requests; None: both in this process. With
        ``cluster.ActorServices(generators=4)`` they are actors, on as many GPUs as the cluster has.
        ``offline``, a trajectory store or trajectories, give ``offline_share`` of each batch.
        Raises ``ValueError`` for values out of range and ``TypeError`` for options that do not exist.
        """
        known = {f.name: owner for owner in (SamplingConfig, ServingConfig, ReplayConfig) for f in fields(owner)}
        unknown = sorted(options.keys() - known.keys())
        if unknown:
            raise TypeError(f"ATraDiffCallback.using has no option {unknown}; there are {sorted(known)}.")
        given = {owner: {k: v for k, v in options.items() if known[k] is owner} for owner in known.values()}
        sampling = SamplingConfig(**given[SamplingConfig]) if given[SamplingConfig] else None
        replay = ReplayConfig(rho=rho, **given[ReplayConfig])
        require_share(offline, replay)
        settings = AugmentationSettings(
            DiffuserSource(diffuser, sampling=sampling),
            replay,
            ServingConfig(**given[ServingConfig]),
            options.get("capacity"),
            seed,
            services or LocalServices(),
            None if offline is None else OfflineSource(offline),
        )
        return type(cls.__name__, (cls,), {"settings": settings, "__module__": cls.__module__, "__doc__": cls.__doc__})

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """Check that the config can work, load the diffuser, and take the replay buffer's place.

        Raises :class:`UnsupportedConfigError` (a ``ValueError``), before any environment step is taken.
        """
        settings = self._settings()
        spaces = require_supported(algorithm)
        generator = settings.source.load()
        try:
            generator.spaces.require_equal(spaces, "the diffuser", "the environment")
        except ValueError as error:
            raise UnsupportedConfigError(f"{error} Fit a diffuser on data of this environment.") from error
        _warn_of_priorities(algorithm)
        order = _order(algorithm, settings, generator, spaces)
        service: ReplayService = settings.services.start(order)
        close_with(algorithm, service)
        feed_columns(algorithm.learner_group)
        algorithm.local_replay_buffer = ReplayFacade(service, spaces, order.replay.capacity)
        add_to_checkpoints(algorithm, replay_component(service, algorithm.learner_group))

    def on_train_result(self, *, algorithm: Algorithm, result: dict[str, Any], **_: Any) -> None:
        """Put the replay's figures into ``result["atradiff"]``, by group."""
        result["atradiff"] = _by_group(algorithm.local_replay_buffer.service.metrics())

    def _settings(self) -> AugmentationSettings:
        if self.settings is None:
            raise UnsupportedConfigError(
                "ATraDiffCallback was given to config.callbacks as it is: give it "
                "ATraDiffCallback.using(diffuser=...) instead."
            )
        return self.settings


def _order(
    algorithm: Algorithm, settings: AugmentationSettings, generator: TrajectoryGenerator, spaces: Spaces
) -> ServiceOrder:
    config = algorithm.config
    capacity = settings.capacity or int(config.replay_buffer_config.get("capacity", settings.replay.capacity))
    scale = ActionScale.of(spaces, config.normalize_actions)
    seed = _first_given(settings.seed, config.seed)
    return ServiceOrder(
        spaces=spaces,
        replay=replace(settings.replay, capacity=capacity),
        serving=settings.serving,
        seed=seed,
        generator=generator,
        to_learner=scale.to_learner,
        to_environment=scale.rows_to_environment,
        score=StockScorer(algorithm.learner_group, config.gamma, seed),
        offline=_offline(settings, spaces),
        policy=StockPolicy(algorithm.learner_group),
    )


def _by_group(figures: dict[str, float]) -> dict[str, Any]:
    """``pool/size`` becomes ``["pool"]["size"]``, as Tune writes groups; figures of the replay have none."""
    nested: dict[str, Any] = {}
    for name, value in figures.items():
        group, _, figure = name.rpartition("/")
        (nested.setdefault(group, {}) if group else nested)[figure] = value
    return nested


def _offline(settings: AugmentationSettings, spaces: Spaces) -> Trajectories | None:
    if settings.offline is None or settings.replay.offline_share == 0:
        return None
    data = settings.offline.load()
    data.spaces.require_equal(spaces, "the offline data", "the environment")
    return data


def _first_given(*seeds: int | None) -> int:
    given = next((seed for seed in seeds if seed is not None), None)
    return int(np.random.default_rng().integers(2**31)) if given is None else int(given)


def _warn_of_priorities(algorithm: Algorithm) -> None:
    kind = str(algorithm.config.replay_buffer_config.get("type", ""))
    if "Prioritized" in kind:
        _logger.warning(
            "replay_buffer_config asks for %s; under ATraDiff sampling is uniform and all importance weights are 1. "
            'Set replay_buffer_config={"type": "EpisodeReplayBuffer"} to silence this.',
            kind,
        )
