"""The actors that a run's driver holds: replay, generators, adapter. They outlive a trainer that dies."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.actor import ActorHandle

from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.original import WithOriginal
from atradiff.adaptation.pickup import make_pick_up
from atradiff.adaptation.report import AdaptationReport
from atradiff.data.trajectories import Trajectories
from atradiff.ports import ServiceOrder
from atradiff.replay.memory import ReplayMemory
from atradiff.replay.offline import OfflineRows
from atradiff.types import Spaces
from cluster.adapter_actor import AdapterClient, AdapterOrder, start_adapter_actor
from cluster.checkpoint import Checkpoint
from cluster.checkpoint_files import FileEntry, Part
from cluster.cluster_config import ClusterConfig
from cluster.config import RunConfig
from cluster.generator_pool import GeneratorPool
from cluster.placement import Placement
from cluster.prepare import Imagination, Supplies
from cluster.replay_actor import ReplayActorConfig, RowsLostError, start_replay_actor
from cluster.replay_client import RemoteReplay
from cluster.rescoring import Rescoring
from cluster.session import Progress
from cluster.storage import Location
from rllib_ext.columns import ActionScale

REPLAY_PART = "replay"
ADAPTER_PART = "adaptation"


class AttachedReplay(RemoteReplay):
    """The replay actor as a trainer sees it that did not start it. Its rows are a part of the checkpoint of their own,
    written by the actor: nothing of them is saved with the algorithm."""

    def __init__(self, actor: ActorHandle, config: ReplayActorConfig, rescoring: Rescoring) -> None:
        super().__init__(actor, config)
        self._rescoring = rescoring

    def serve(self) -> None:
        """Score what the next update of the diffuser is picked from, where one is due."""
        super().serve()
        self._rescoring.step(self.env_steps)

    def save(self, folder: Path) -> None:  # noqa: ARG002 - see the class
        self.settle()

    def load(self, folder: Path) -> None:  # noqa: ARG002 - see the class
        self.forget()


@dataclass(frozen=True)
class AttachedServices:
    """Gives a trainer the replay actor of its driver; an :class:`atradiff.ports.ReplayServices`."""

    replay: ActorHandle
    config: ReplayActorConfig
    adaptation: AdaptationConfig | None = None

    def start(self, order: ServiceOrder) -> AttachedReplay:
        """Of the order only its scores are used: the driver has placed the rest."""
        return AttachedReplay(self.replay, self.config, Rescoring(self.replay, self.adaptation, order))


class Crew:
    """Starts the actors in their places, looks after them, and ends them; a context manager.

    ``folder`` is the run's; hidden folders in it hold the replay's journal and the adapter's state.
    """

    def __init__(
        self,
        run: RunConfig,
        cluster: ClusterConfig,
        spaces: Spaces,
        supplies: Supplies,
        placement: Placement,
        folder: Path,
    ) -> None:
        self._run, self._cluster, self._placement, self._folder = run, cluster, placement, folder
        self._scale = ActionScale.of(spaces, normalize_actions=True)
        self._cleanup = ExitStack()
        self.pool: GeneratorPool | None = None
        self.adapter: AdapterClient | None = None
        with ExitStack() as begun:  # what was started is ended where the rest cannot be
            imagination = supplies.imagination
            self._offline = self._put_offline(supplies.offline)
            self.replay, self.services = self._start_replay(spaces, supplies)
            begun.callback(ray.kill, self.replay)
            if imagination is not None:
                self.pool = begun.enter_context(self._start_pool(imagination))
                self.adapter = self._start_adapter(imagination, self.pool, begun)
            self._cleanup = begun.pop_all()

    @property
    def env_steps(self) -> int:
        """Real rows that the replay holds or has held: more than 0 where its journal knew the run already."""
        return int(ray.get(self.replay.env_steps.remote()))

    @property
    def generation(self) -> str | None:
        """Of the replay's journal: another one whenever the replay goes back; None without a journal."""
        generation: str | None = ray.get(self.replay.generation.remote())
        return generation

    def restore_replay(self, checkpoint: Checkpoint | None) -> None:
        """Go back to ``checkpoint`` with the replay, before the trainer does; None: to the beginning."""
        if checkpoint is None:
            ray.get(self.replay.begin_anew.remote())
        else:
            ray.get(self.replay.read.remote(checkpoint.part(REPLAY_PART)))

    def restore_adapter(self, checkpoint: Checkpoint) -> None:
        """Go back to ``checkpoint`` with the adapter, and generate with its version."""
        if self.adapter is not None:
            self.adapter.restore(checkpoint.part(ADAPTER_PART))

    def parts(self) -> dict[str, Part]:
        """What the crew adds to a checkpoint; each part is written by the actor that owns it. May be pickled."""
        parts: dict[str, Part] = {REPLAY_PART: _WrittenBy(self.replay)}
        if self.adapter is not None:
            parts[ADAPTER_PART] = _WrittenBy(self.adapter.actor, (self.adapter.made_of,))
        return parts

    def tend(self, progress: Progress) -> None:
        """Raise what ended the pool; begin and collect updates of the adapter."""
        if self.pool is not None:
            self.pool.check()
        if self.adapter is not None:
            with suppress(RowsLostError):  # the trainer meets it, too, and what is lost is restored then
                self.adapter.step(progress.env_steps)

    def gauges(self) -> Mapping[str, Mapping[str, float]]:
        """What the log shall say of the actors, by group and name."""
        groups = {"pool": self.pool, "adapter": self.adapter}
        return {name: actors.metrics() for name, actors in groups.items() if actors is not None}

    def take_reports(self) -> list[AdaptationReport]:
        """Of the adapter, for the log; each once."""
        return [] if self.adapter is None else self.adapter.take_reports()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _put_offline(self, offline: Trajectories | None) -> ray.ObjectRef[OfflineRows] | None:
        """Into Ray's object store, once; the reference is held so that a replay that is restarted finds them."""
        return None if offline is None else ray.put(OfflineRows.of(offline, self._scale.to_learner))

    def _start_replay(self, spaces: Spaces, supplies: Supplies) -> tuple[Any, AttachedServices]:
        run, place, imagination = self._run, self._placement.strategy("replay"), supplies.imagination
        config = replace(self._cluster.replay, journal=_journal(self._cluster.replay.journal, self._folder))
        rows = run.replay if imagination is not None else run.replay.plain()
        offline_rows = 0 if supplies.offline is None else supplies.offline.n_transitions
        print(f"replay       {ReplayMemory.of(spaces, rows, offline_rows)}", file=sys.stderr)
        adaptation = None if imagination is None else imagination.adaptation
        watcher = None if adaptation is None else make_pick_up(adaptation.pick_up, rows.capacity, run.seed)
        actor = start_replay_actor(
            spaces, rows, run.serving, run.seed, config, watcher=watcher, offline=self._offline, place=place
        )
        return actor, AttachedServices(actor, config, adaptation)

    def _start_pool(self, imagination: Imagination) -> GeneratorPool:
        run, generator = self._run, imagination.diffuser
        adaptation = imagination.adaptation
        return GeneratorPool(
            generator if adaptation is None else WithOriginal(generator, adaptation.original_share),
            self.replay,
            self._cluster.pool,
            run.serving,
            run.seed,
            self._scale.to_learner,
            self._placement.strategies("generator"),
        )

    def _start_adapter(self, imagination: Imagination, pool: GeneratorPool, begun: ExitStack) -> AdapterClient | None:
        adaptation, state = imagination.adaptation, imagination.training_state
        if adaptation is None or imagination.offline is None:
            return None
        order = AdapterOrder(
            adaptation,
            self._run.seed,
            self._scale.rows_to_environment,
            str(self._folder / ".adapter"),
            None if state is None else str(state),
        )
        started = start_adapter_actor(
            imagination.diffuser,
            imagination.offline,
            order,
            self._cluster.adapter,
            place=self._placement.strategy("adapter"),
        )
        begun.callback(ray.kill, started.actor)
        return AdapterClient(started, self.replay, adaptation.every, pool.publish)


@dataclass(frozen=True)
class _WrittenBy:
    """The part of a checkpoint that an actor writes, by its method ``write``, which may want to know ``more``."""

    actor: Any
    more: tuple[Any, ...] = ()

    def __call__(self, target: Location) -> list[FileEntry]:
        written: list[FileEntry] = ray.get(self.actor.write.remote(target, *self.more))
        return written


def _journal(asked: str | None, folder: Path) -> str | None:
    """The run's own folder, unless another one, or none (``off``), was asked for."""
    if asked == "off":
        return None
    return asked or str(folder / ".journal")
