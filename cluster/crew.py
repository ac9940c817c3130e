"""The actors that a run's driver holds: replay and generators. They outlive a trainer that dies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.actor import ActorHandle

from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import ServiceOrder
from atradiff.types import Spaces
from cluster.checkpoint import Checkpoint
from cluster.checkpoint_files import FileEntry, Part
from cluster.cluster_config import ClusterConfig
from cluster.config import RunConfig
from cluster.generator_pool import GeneratorPool
from cluster.placement import Placement
from cluster.replay_actor import ReplayActorConfig, start_replay_actor
from cluster.replay_client import RemoteReplay
from cluster.session import Progress
from cluster.storage import Location
from rllib_ext.columns import ActionScale

REPLAY_PART = "replay"


class AttachedReplay(RemoteReplay):
    """The replay actor as a trainer sees it that did not start it. Its rows are a part of the checkpoint of their own,
    written by the actor: nothing of them is saved with the algorithm."""

    def save(self, folder: Path) -> None:  # noqa: ARG002 - see the class
        self.settle()

    def load(self, folder: Path) -> None:  # noqa: ARG002 - see the class
        self.forget()


@dataclass(frozen=True)
class AttachedServices:
    """Gives a trainer the replay actor of its driver; an :class:`atradiff.ports.ReplayServices`."""

    replay: ActorHandle
    config: ReplayActorConfig

    def start(self, order: ServiceOrder) -> AttachedReplay:  # noqa: ARG002 - the driver has placed the order
        return AttachedReplay(self.replay, self.config)


class Crew:
    """Starts the actors in their places, looks after them, and ends them; a context manager."""

    def __init__(
        self,
        run: RunConfig,
        cluster: ClusterConfig,
        spaces: Spaces,
        diffuser: TrajectoryDiffuser | None,
        placement: Placement,
        journal: Path,
    ) -> None:
        rows = run.replay if diffuser is not None else replace(run.replay, rho=0.0, rho_end=None)
        config = replace(cluster.replay, journal=_journal(cluster.replay.journal, journal))
        self.replay: Any = start_replay_actor(
            spaces, rows, run.serving, run.seed, config, place=placement.strategy("replay")
        )
        self.services = AttachedServices(self.replay, config)
        self.pool: GeneratorPool | None = None
        if diffuser is not None:
            self.pool = GeneratorPool(
                diffuser,
                self.replay,
                cluster.pool,
                run.serving,
                run.seed,
                ActionScale.of(spaces, normalize_actions=True).to_learner,
                placement.strategies("generator"),
            )

    @property
    def env_steps(self) -> int:
        """Real rows that the replay holds or has held: more than 0 where its journal knew the run already."""
        return int(ray.get(self.replay.env_steps.remote()))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to ``checkpoint``, before the trainer does."""
        ray.get(self.replay.read.remote(checkpoint.part(REPLAY_PART)))

    def parts(self) -> dict[str, Part]:
        """What the crew adds to a checkpoint; each part is written by the actor that owns it. May be pickled."""
        return {REPLAY_PART: _ReplayPart(self.replay)}

    def tend(self, progress: Progress) -> None:  # noqa: ARG002 - see Tended
        """Raise what ended the pool."""
        if self.pool is not None:
            self.pool.check()

    def gauges(self) -> Mapping[str, Mapping[str, float]]:
        """What the log shall say of the actors, by group and name."""
        return {} if self.pool is None else {"pool": self.pool.metrics()}

    def __enter__(self) -> Self:
        if self.pool is not None:
            self.pool.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pool is not None:
            self.pool.stop()
        ray.kill(self.replay)


@dataclass(frozen=True)
class _ReplayPart:
    """Makes the replay actor write its rings and requests."""

    actor: Any

    def __call__(self, target: Location) -> list[FileEntry]:
        written: list[FileEntry] = ray.get(self.actor.write.remote(target))
        return written


def _journal(asked: str | None, default: Path) -> str | None:
    if asked == "off":
        return None
    return asked or str(default)
