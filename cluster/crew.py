"""The actors that a run's driver holds: replay, generators, adapter. They outlive a trainer that dies."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray import ObjectRef
from ray.actor import ActorHandle

from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.report import AdaptationReport
from atradiff.branches import OwnActions, snapshots
from atradiff.errors import RunFailed
from atradiff.ports import ServiceOrder
from atradiff.replay.memory import ReplayMemory
from atradiff.types import Spaces
from cluster.checkpoint import Checkpoint
from cluster.checkpoint_files import FileEntry, Part
from cluster.cluster_config import ClusterConfig
from cluster.config import RunConfig
from cluster.placement import Placement
from cluster.policy_snapshots import PolicySnapshots
from cluster.prepare import Imagination, Supplies
from cluster.progress import Progress
from cluster.ray_runtime import answer_of
from cluster.replay_actor import ReplayActorConfig, RowsLostError
from cluster.replay_client import RemoteReplay
from cluster.rescoring import Rescoring
from cluster.starting import ActorPlan, AdaptationPlan, start_actors
from cluster.stop_signal import Stopped
from cluster.storage import Location
from rllib_ext.columns import ActionScale

REPLAY_PART = "replay"
ADAPTER_PART = "adaptation"
_SIGHT_SECONDS = 60.0


class AttachedReplay(RemoteReplay):
    """The replay actor as a trainer sees it that did not start it. Its rows are a part of the checkpoint of their own,
    written by the actor: nothing of them is saved with the algorithm."""

    def __init__(
        self,
        actor: ActorHandle,
        config: ReplayActorConfig,
        rescoring: Rescoring,
        snapshots: PolicySnapshots | None = None,
    ) -> None:
        """``snapshots`` None: the generators need no policy."""
        super().__init__(actor, config)
        self._rescoring, self._snapshots = rescoring, snapshots

    def serve(self) -> None:
        """Score what the next update of the diffuser is picked from, where one is due."""
        super().serve()
        self._rescoring.step(self.env_steps)

    def take_own(self) -> OwnActions | None:
        """A new snapshot of the policy, where one is due, for the driver, who has the generators: ask between two
        iterations."""
        return None if self._snapshots is None else self._snapshots.step(self.env_steps)

    def save(self, folder: Path) -> None:  # noqa: ARG002 - see the class
        """Write nothing (see the class), but wait until all reports of TD errors are with the actor."""
        self.settle()

    def load(self, folder: Path) -> None:  # noqa: ARG002 - see the class
        """Read nothing (see the class), but drop the batches that were sampled ahead from the rows as they were."""
        self.forget()
        if self._snapshots is not None:
            self._snapshots.forget()


@dataclass(frozen=True)
class AttachedServices:
    """Gives a trainer the replay actor of its driver; an :class:`atradiff.ports.ReplayServices`."""

    replay: ActorHandle
    config: ReplayActorConfig
    adaptation: AdaptationConfig | None = None
    needs_policy: bool = False
    """Whether the driver's generators are to make own rows."""

    def start(self, order: ServiceOrder) -> AttachedReplay:
        """Of the order only its scores and its policy are used: the driver has placed the rest."""
        rescoring = Rescoring(self.replay, self.adaptation, order)
        taken = PolicySnapshots(snapshots(order), order.serving) if self.needs_policy else None
        return AttachedReplay(self.replay, self.config, rescoring, taken)


@dataclass(frozen=True)
class KeptIn:
    """Where a run lies: its ``folder`` on this machine, the ``place`` (a folder or a URI) that keeps it, and the name
    of its states in its adapter's folder."""

    folder: Path
    place: str
    adapter_states: str = ""


class Crew:
    """Starts the actors in their places, looks after them, and ends them; a context manager.

    Hidden folders in the run's hold the replay's journal and the adapter's state.
    """

    def __init__(
        self,
        run: RunConfig,
        cluster: ClusterConfig,
        spaces: Spaces,
        supplies: Supplies,
        placement: Placement,
        kept: KeptIn,
        get: Callable[[ObjectRef[Any]], Any] = answer_of,
    ) -> None:
        """``get`` waits for the replay's answers, see :class:`cluster.waiting.Waiting`."""
        order, plan = _order(run, spaces, supplies), _plan(cluster, supplies.imagination, kept)
        self._get = get
        offline_rows = 0 if supplies.offline is None else supplies.offline.n_transitions
        print(f"replay       {ReplayMemory.of(spaces, order.replay, offline_rows)}", file=sys.stderr)
        with ExitStack() as begun:  # what was started is ended where the rest cannot be
            actors = start_actors(order, plan, placement, begun)
            self._cleanup = begun.pop_all()
        self.replay: Any = actors.replay
        self.pool, self.adapter = actors.pool, actors.adapter
        adaptation = None if plan.adaptation is None else plan.adaptation.config
        needs_policy = self.pool is not None and order.serving.own_share > 0
        self.services = AttachedServices(self.replay, plan.replay, adaptation, needs_policy)

    @property
    def env_steps(self) -> int:
        """Real rows that the replay holds or has held: more than 0 where its journal knew the run already."""
        return int(self._get(self.replay.env_steps.remote()))

    @property
    def generation(self) -> str | None:
        """Of the replay's journal: another one whenever the replay goes back; None without a journal."""
        generation: str | None = self._get(self.replay.generation.remote())
        return generation

    def restore_replay(self, checkpoint: Checkpoint | None) -> None:
        """Go back to ``checkpoint`` with the replay, before the trainer does; None: to the beginning."""
        if checkpoint is None:
            self._get(self.replay.begin_anew.remote())
        else:
            self._get(self.replay.read.remote(checkpoint.part(REPLAY_PART)))

    def restore_adapter(self, checkpoint: Checkpoint) -> None:
        """Go back to ``checkpoint`` with the adapter, and generate with its version."""
        if self.adapter is not None:
            newest = int(self._get(self.replay.status.remote())["generator_version"])
            self.adapter.restore(checkpoint.part(ADAPTER_PART), newest)

    def require_sight_of(self, file: Path, stop: threading.Event) -> None:
        """Raise :class:`RunFailed` where an actor that writes a part of each checkpoint does not see the run's file.

        The first checkpoint would tell, hours later. A network file system may show a new file late; once ``stop`` is
        set, that is not waited for, and :class:`Stopped` raised.
        """
        actors = [self.replay, *([] if self.adapter is None else [self.adapter.actor])]
        deadline = time.monotonic() + _SIGHT_SECONDS
        while not all(self._get(actor.sees.remote(file)) for actor in actors):
            if time.monotonic() >= deadline:
                raise RunFailed(
                    f"{file} cannot be seen where the replay, or the adapter, has its place: set output to a folder "
                    "that all machines share, or to a URI (s3://, gs://, hdfs://)."
                )
            if stop.wait(1):
                raise Stopped("stopped while its actors looked for its folder: nothing was learned.")

    def parts(self) -> dict[str, Part]:
        """What the crew adds to a checkpoint; each part is written by the actor that owns it. May be pickled."""
        parts: dict[str, Part] = {REPLAY_PART: _WrittenBy(self.replay)}
        if self.adapter is not None:
            parts[ADAPTER_PART] = _WrittenBy(self.adapter.actor, (self.adapter.made_of,))
        return parts

    def tend(self, progress: Progress) -> None:
        """Raise what ended the pool; hand on the trainer's policy; begin and collect updates of the adapter."""
        if self.pool is not None:
            self.pool.check()
            if progress.own is not None:
                self.pool.act_by(progress.own)
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


def _order(run: RunConfig, spaces: Spaces, supplies: Supplies) -> ServiceOrder:
    scale = ActionScale.of(spaces, normalize_actions=True)
    return ServiceOrder(
        spaces,
        run.replay if supplies.model is not None else run.replay.plain(),
        run.serving,
        run.seed,
        supplies.model,
        scale.to_learner,
        scale.rows_to_environment,
        offline=supplies.offline,
    )


def _plan(cluster: ClusterConfig, imagination: Imagination | None, kept: KeptIn) -> ActorPlan:
    journal = _journal(cluster.journal, kept)
    if imagination is None or imagination.adaptation is None or imagination.offline is None:
        return ActorPlan(cluster.replay, cluster.pool, journal)
    adaptation = AdaptationPlan(
        imagination.adaptation,
        imagination.diffuser,
        imagination.offline,
        kept.folder / ".adapter" / kept.adapter_states,
        imagination.training_state,
        cluster.adapter,
    )
    return ActorPlan(cluster.replay, cluster.pool, journal, adaptation)


@dataclass(frozen=True)
class _WrittenBy:
    """The part of a checkpoint that an actor writes, by its method ``write``, which may want to know ``more``."""

    actor: Any
    more: tuple[Any, ...] = ()

    def __call__(self, target: Location) -> list[FileEntry]:
        written: list[FileEntry] = answer_of(self.actor.write.remote(target, *self.more))
        return written


def _journal(asked: str | None, kept: KeptIn) -> Path | None:
    """In the run's own folder, or in one of its own below another that was asked for; None for ``off``."""
    if asked == "off":
        return None
    if asked is None:
        return kept.folder / ".journal"
    return Path(asked) / f"{kept.folder.name}-{sha256(kept.place.encode()).hexdigest()[:12]}"
