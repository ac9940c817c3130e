"""A run as actors: the driver places and starts them, keeps the trainer going, and ends them. It does no maths."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import ray
from ray.actor import ActorHandle

from atradiff.types import Spaces
from cluster.checkpoint import Checkpoint
from cluster.cluster_config import ClusterConfig
from cluster.config import RunConfig
from cluster.crew import Crew, KeptIn
from cluster.placement import Placement, place, total
from cluster.prepare import Supplies
from cluster.progress import Progress
from cluster.ray_runtime import start_ray
from cluster.replay_actor import RowsLostError
from cluster.run_store import RunStore
from cluster.supervisor import Supervisor
from cluster.trainer_actor import StartingPoint, TrainerActor
from cluster.waiting import Waiting

_GENERATION_NOTE = ".journal-generation"
_ADAPTER_NOTE = ".adapter-states"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterRun:
    """What the driver knows of a run before it places it."""

    run: RunConfig
    cluster: ClusterConfig
    store: RunStore
    spaces: Spaces
    supplies: Supplies
    checkpoint: Checkpoint | None
    resumed: bool


def train_on_cluster(
    it: ClusterRun, begin: Callable[[], None], watch: Callable[[Progress], None], stop: threading.Event
) -> Progress:
    """Run until all env steps are done or ``stop`` is set; a checkpoint is written in both cases.

    ``begin`` is called once everything has its place, before anything is learned. Raises
    :class:`cluster.placement.NoPlaceError` where the cluster cannot hold the run,
    :class:`cluster.supervisor.TrainerLost` where its trainer dies again and again.
    """
    imagination = it.supplies.imagination
    generating = it.supplies.model is not None
    adapting = imagination is not None and imagination.adaptation is not None
    cluster = it.cluster
    grown = replace(cluster, pool=cluster.pool.grown())
    start_ray(at_least=total(grown.bundles(generating=generating, adapting=adapting)).get("CPU", 0.0))
    if generating:
        cluster = cluster.decided(ray.cluster_resources(), adapting=adapting)
    bundles = cluster.bundles(generating=generating, adapting=adapting)
    with place(bundles, cluster.placement, ours=True, stop=stop) as placement:
        waiting, folder, states = Waiting(placement.missing, stop), it.store.folder.path, _adapter_states(it)
        kept = KeptIn(folder, it.store.location.name, states)
        with Crew(it.run, cluster, it.spaces, it.supplies, placement, kept, waiting.get) as crew:
            starter = _Starter(it, crew, placement, waiting)
            begin()
            if it.store.location.local is not None:
                crew.require_sight_of(it.store.folder.config, stop)
            return Supervisor(starter.start, crew, waiting.get).run(watch, stop)


def _adapter_states(it: ClusterRun) -> str:
    """The name under which this run's adapter keeps its states; on some node another run's may lie in the same folder.

    Empty for a run that was begun before there were such names.
    """
    note = it.store.location / _ADAPTER_NOTE
    if it.resumed:
        return note.read_text() if note.exists() else ""
    name = uuid.uuid4().hex[:8]
    note.write_text(name)
    return name


class _Starter:
    """Makes trainers, each at the point from which the run has to go on."""

    def __init__(self, it: ClusterRun, crew: Crew, placement: Placement, waiting: Waiting) -> None:
        self._it, self._crew, self._placement, self._waiting = it, crew, placement, waiting
        self._started_once = False

    def start(self, cause: Exception | None) -> ActorHandle:
        """The first trainer, or (after ``cause``) the next one; returns once it is where it has to be."""
        if cause is None:
            begin = self._first_point()
            if begin.checkpoint is not None:
                self._crew.restore_adapter(begin.checkpoint)
                if not begin.replay_lives:
                    self._crew.restore_replay(begin.checkpoint)
        else:
            begin = self._next_point(cause)
            if not begin.replay_lives:
                self._crew.restore_replay(begin.checkpoint)
        self._note_generation()
        return self._started(begin)

    def _started(self, begin: StartingPoint) -> ActorHandle:
        trainer = self._make()
        try:
            self._waiting.get(trainer.start.remote(begin))
        except BaseException:
            ray.kill(trainer)  # its places are needed by the next one
            raise
        self._started_once = True
        return trainer

    def _next_point(self, cause: Exception) -> StartingPoint:
        """After a trainer that died of ``cause``. The future of a checkpoint that was asked for by name is there until
        a trainer has gone back to it: as long as none has, it is not what a run goes on from."""
        it = self._it
        if it.store.names_checkpoint and not self._started_once:
            return StartingPoint(it.checkpoint, replay_lives=False)
        checkpoint = it.store.checkpoints.newest_whole()
        return StartingPoint(checkpoint, replay_lives=not isinstance(cause, RowsLostError))

    def _first_point(self) -> StartingPoint:
        """A journal that is ahead of the checkpoint holds real rows that cost env steps: they are not thrown away,
        unless it is that very checkpoint that was asked for, or the run went on elsewhere since they were written."""
        it, known = self._it, self._crew.env_steps
        ours = it.resumed and self._crew.generation == self._noted_generation()
        if known > 0 and not ours and (it.checkpoint is None or not it.resumed):
            raise ValueError(
                f"the replay's journal holds {known} rows of another run: delete it, or set cluster.journal to "
                "a folder of this run's own."
            )
        ahead = known > (0 if it.checkpoint is None else it.checkpoint.state["env_steps"])
        if ahead and not ours:
            _logger.warning("The replay's journal (%d rows) is not of the run's last session: it is not used.", known)
        if it.resumed and known == 0 and not ours and self._noted_generation():
            _logger.warning(
                "The journal of the run's last session is not there: what it held beyond the checkpoint is lost."
            )
        return StartingPoint(it.checkpoint, replay_lives=ahead and ours and not it.store.names_checkpoint)

    def _noted_generation(self) -> str | None:
        note = self._it.store.location / _GENERATION_NOTE
        return note.read_text() if note.exists() else None

    def _note_generation(self) -> None:
        """Where the run is kept, for those who resume it: the journal that its rows are in from now on."""
        (self._it.store.location / _GENERATION_NOTE).write_text(self._crew.generation or "")

    def _make(self) -> ActorHandle:
        trainer = self._it.cluster.trainer
        return TrainerActor.options(
            num_cpus=trainer.num_cpus,
            num_gpus=trainer.num_gpus,
            resources=trainer.custom,
            scheduling_strategy=self._placement.strategy("trainer"),
        ).remote(self._it.run, self._it.store, self._crew.services, self._crew.parts())
