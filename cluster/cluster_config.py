"""The ``cluster`` section of a run's config: how many actors of which kind, with what, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.placement import Bundle, PlacementConfig, Resources
from cluster.pool_config import PoolConfig
from cluster.replay_actor import ReplayActorConfig
from cluster.storage import is_uri


@dataclass(frozen=True)
class RolloutConfig:
    """RLlib's env runners: processes of their own with ``environments`` each; 0 processes: the trainer steps them."""

    env_runners: int = 1
    environments: int = 1
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if self.env_runners < 0 or self.environments < 1:
            raise ValueError(
                f"rollouts need env_runners >= 0 and environments >= 1, got {self.env_runners} and {self.environments}."
            )


@dataclass(frozen=True)
class LearnerConfig:
    """RLlib's learners: processes that share every batch between them; 0: one, inside the trainer."""

    learners: int = 0
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if self.learners < 0:
            raise ValueError(f"learners must be at least 0, got {self.learners}.")


@dataclass(frozen=True)
class ClusterConfig:
    """A run as actors.

    ``trainer`` is the process that holds RLlib's algorithm, and the learner where ``learners.learners`` is 0: give it
    ``num_gpus`` to learn there; a fraction shares the GPU with a generator. ``journal`` is a folder, on the replay's
    node or shared, in which each run has a folder for the journal of its rows; None: in the run's own folder; ``'off'``
    (in YAML with the quotes): none.
    """

    trainer: Resources = field(default_factory=Resources)
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    learners: LearnerConfig = field(default_factory=LearnerConfig)
    replay: ReplayActorConfig = field(default_factory=ReplayActorConfig)
    journal: str | None = None
    pool: PoolConfig = field(default_factory=PoolConfig)
    adapter: Resources = field(default_factory=Resources)
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    def __post_init__(self) -> None:
        if self.journal is not None and is_uri(self.journal):
            raise ValueError(
                f"cluster.journal must be a folder: rows are appended to it all the time. Got {self.journal}."
            )

    def decided(self, there: Mapping[str, float], *, adapting: bool) -> ClusterConfig:
        """With the generators' share of GPUs decided: of those ``there`` (Ray's resource names), what others leave."""
        taken = sum(bundle.resources.num_gpus for bundle in self.bundles(generating=False, adapting=adapting))
        return replace(self, pool=self.pool.decided({**there, "GPU": there.get("GPU", 0.0) - taken}))

    def bundles(self, *, generating: bool, adapting: bool) -> list[Bundle]:
        """The places of a run, RLlib's first; with generators, ``pool.num_gpus`` must be :meth:`decided`."""
        pool = self.pool
        generator = Resources(pool.num_cpus, pool.num_gpus or 0.0, dict(pool.resources))
        return [
            Bundle("trainer", self.trainer),
            *[Bundle("env_runner", self.rollouts.resources)] * self.rollouts.env_runners,
            *[Bundle("learner", self.learners.resources)] * self.learners.learners,
            Bundle("replay", self.replay.resources),
            *[Bundle("generator", generator)] * (pool.generators if generating else 0),
            *[Bundle("adapter", self.adapter)] * adapting,
        ]
