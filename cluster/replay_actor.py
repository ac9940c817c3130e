"""The replay of a run as a Ray actor: env runners store in it, learners sample from it, generators answer it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from atradiff.config import ServingConfig
from atradiff.errors import RunFailed
from atradiff.ports import EpisodeRows
from atradiff.replay.batch import OriginArray, ReplayBatch
from atradiff.replay.config import ReplayConfig
from atradiff.replay.journal import Journal
from atradiff.replay.journal_folder import JournalDamaged, generation_of, set_aside
from atradiff.replay.memory import ReplayMemory, require_memory
from atradiff.replay.mixed import MixedReplay
from atradiff.replay.offline import OfflineRows
from atradiff.replay.requests import GenerationRequest
from atradiff.replay.shared import SharedReplay
from atradiff.replay.watcher import Watcher
from atradiff.types import FloatArray, IntArray, Spaces, SyntheticRows
from cluster.checkpoint_files import FileEntry, StoredPart, write_part
from cluster.placement import Resources
from cluster.ray_runtime import answer_of
from cluster.storage import Location

_KEY_SPACE = b"atradiff"
_NO_JOURNAL = "none"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayActorConfig:
    """How the replay keeps its journal, where it has one, and how learners fetch batches from it.

    Args:
        snapshot_every: Rows after which the whole replay is saved and the journal starts again, as it does with every
            checkpoint. While that is written (a second for a million rows) nobody is answered.
        sync: Wait for the disk with every chunk (fsync): rows survive the machine, too, if the journal's folder does.
        prefetch: Batches that are on their way to a learner while it learns; 0: each is asked for when it is needed.
        batches_per_call: Batches that one answer of the actor carries.
        unacknowledged: Reports of TD errors that may be on their way before the learner waits for one.
        resources: What Ray keeps free for the actor.
    """

    snapshot_every: int = 100_000
    sync: bool = False
    prefetch: int = 32
    batches_per_call: int = 8
    unacknowledged: int = 32
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        for name, least in (("snapshot_every", 1), ("prefetch", 0), ("batches_per_call", 1), ("unacknowledged", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"cluster.replay.{name} must be at least {least}, got {getattr(self, name)}.")


class RowsLostError(RunFailed):
    """The actor was restarted where nothing was left of its rows; all calls raise this until a checkpoint is loaded."""


# A thread for each kind of caller: a dispatcher that waits for requests keeps nobody else waiting. One is enough for
# each, since the replay has one lock, and answers come in the order in which they were asked for.
@ray.remote(
    concurrency_groups={"rows": 1, "samples": 1, "scores": 1, "waiting": 1, "answers": 1, "adaptation": 1, "files": 1}
)
class ReplayActor:
    """A :class:`SharedReplay` in a process of its own. Restarted by Ray, it recovers from its journal."""

    def __init__(
        self,
        spaces: Spaces,
        replay: ReplayConfig,
        serving: ServingConfig,
        seed: int,
        config: ReplayActorConfig,
        journal: Path | None,
        watcher: Watcher | None,
        offline: OfflineRows | None,
    ) -> None:
        self._open = partial(_open, spaces, replay, serving, seed, config, journal, watcher, offline)
        # Ray wraps what a constructor raises into pages of traces and repeats calls for ever: each call says it.
        self._opened: SharedReplay | Exception
        try:
            self._become_this(recovered(self._open, journal, _claimed()))
        except (ValueError, OSError, RowsLostError) as error:
            self._opened = error

    @property
    def _shared(self) -> SharedReplay:
        if isinstance(self._opened, Exception):
            raise self._opened
        return self._opened

    def ping(self) -> None:
        """Return once the actor lives and has recovered; raise what kept it from that."""
        self._shared  # noqa: B018

    def generation(self) -> str | None:
        """See :attr:`SharedReplay.generation`."""
        return self._shared.generation

    def env_steps(self) -> int:
        return self._shared.env_steps

    def sees(self, file: Path) -> bool:
        """Whether there is such a file where this process runs."""
        return file.is_file()

    def status(self) -> dict[str, float]:
        """See :meth:`SharedReplay.status`; ``process`` is the actor's, another one after a restart."""
        return self._shared.status() | {"process": os.getpid()}

    @ray.method(concurrency_group="rows")
    def store(self, chunk: EpisodeRows) -> int:
        return self._shared.store(chunk)

    @ray.method(concurrency_group="samples")
    def sample(self, count: int, batch_size: int) -> ReplayBatch:
        return self._shared.sample(count, batch_size)

    @ray.method(concurrency_group="scores")
    def report_td_errors(self, row_ids: IntArray, origins: OriginArray, td_errors: FloatArray) -> None:
        self._shared.report_td_errors(row_ids, origins, td_errors)

    @ray.method(concurrency_group="waiting")
    def wait_for_requests(self, limit: int, timeout_s: float, question: str = "") -> list[GenerationRequest]:
        return self._shared.wait_for_requests(limit, timeout_s, question)

    @ray.method(concurrency_group="answers")
    def put_back(self, requests: list[GenerationRequest]) -> int:
        return self._shared.put_back(requests)

    @ray.method(concurrency_group="answers")
    def store_synthetic(self, requests: list[GenerationRequest], answer: SyntheticRows) -> int:
        return self._shared.store_synthetic(requests, answer)

    @ray.method(concurrency_group="adaptation")
    def consult(self, question: Callable[[MixedReplay], Any]) -> Any:
        return self._shared.consult(question)

    @ray.method(concurrency_group="files")
    def write(self, target: Location) -> list[FileEntry]:
        """Put everything that is needed to go on into a checkpoint; see :func:`write_part`."""
        return write_part(target, self._shared.save)

    @ray.method(concurrency_group="files")
    def read(self, part: StoredPart) -> None:
        """Become what :meth:`write` put there."""
        with part.open() as folder:
            self._become(folder)

    @ray.method(concurrency_group="files")
    def begin_anew(self) -> None:
        """After lost rows: go on with an empty replay, for a run that has no checkpoint yet."""
        if isinstance(self._opened, RowsLostError):
            self._become_this(self._open(anew=True))

    def _become(self, folder: Path) -> None:
        """Load what was saved in ``folder``; with that, lost rows are forgotten."""
        if not isinstance(self._opened, RowsLostError):
            self._shared.load(folder)
            self._become_this(self._shared)
            return
        shared = self._open(anew=True)
        try:
            shared.load(folder)
        except BaseException:
            shared.close()
            raise
        self._become_this(shared)

    def _become_this(self, shared: SharedReplay) -> None:
        _claim(shared.generation or _NO_JOURNAL)
        self._opened = shared


def start_replay_actor(
    spaces: Spaces,
    replay: ReplayConfig,
    serving: ServingConfig,
    seed: int,
    config: ReplayActorConfig | None = None,
    *,
    journal: Path | None = None,
    watcher: Watcher | None = None,
    offline: ObjectRef[OfflineRows] | None = None,
    place: PlacementGroupSchedulingStrategy | None = None,
) -> ActorHandle:
    """Start the actor and return its handle once it has recovered what its journal holds.

    ``journal`` is a folder, on the actor's node or shared, into which every chunk is written before it is acknowledged;
    None: the rows die with the process, and a run goes on from its checkpoint.

    The actor lives as long as its handles do. Ray restarts it when its process dies and repeats the calls that were
    under way: chunks and answers are known by name, so that nothing counts twice. ``offline`` rows are read from the
    object store of its node: hold the reference for as long as the actor shall be restarted. Raises ``ValueError``
    where its node lacks the memory or the journal is of another configuration, ``OSError`` where the journal cannot be
    opened.
    """
    config = config or ReplayActorConfig()
    _logger.info("The replay's rings take %s.", ReplayMemory.of(spaces, replay))
    remote: Any = ReplayActor  # the decorator adds methods that its annotations do not tell of
    actor = remote.options(
        num_cpus=config.resources.num_cpus,
        num_gpus=config.resources.num_gpus,
        resources=config.resources.custom,
        scheduling_strategy=place or "DEFAULT",
        max_restarts=-1,
        max_task_retries=-1,
    ).remote(spaces, replay, serving, seed, config, journal, watcher, offline)
    try:
        answer_of(actor.ping.remote())
    except BaseException:
        ray.kill(actor)
        raise
    return actor


def _open(
    spaces: Spaces,
    replay: ReplayConfig,
    serving: ServingConfig,
    seed: int,
    config: ReplayActorConfig,
    journal: Path | None,
    watcher: Watcher | None,
    offline: OfflineRows | None,
    *,
    anew: bool = False,
) -> SharedReplay:
    require_memory(spaces, replay, offline_rows=0 if offline is None else len(offline))
    kept = None if journal is None else Journal(journal, config.snapshot_every, sync=config.sync)
    return SharedReplay(MixedReplay(spaces, replay, seed, watcher=watcher, offline=offline), serving, kept, anew=anew)


def recovered(open_replay: Callable[..., SharedReplay], journal: Path | None, claimed: str | None) -> SharedReplay:
    """The replay with what its journal holds; ``claimed`` is the generation of its process before, None for the first.

    Raises :class:`RowsLostError` where the rows of the process before are not there. The first one begins with an empty
    replay where its journal is damaged: its driver goes on from a checkpoint then.
    """
    if claimed is not None:
        _require_rows(journal, claimed)
    try:
        return open_replay()
    except JournalDamaged as error:
        if journal is None:
            raise
        aside = set_aside(journal)
        lost = f"the replay's journal is damaged ({error}); what is left of it is kept in {aside}."
        if claimed is not None:
            raise RowsLostError(f"{lost} Resume the run from its newest checkpoint.") from error
        _logger.warning("%s The run goes on from its newest checkpoint, if it has one.", lost)
        return open_replay(anew=True)


def _require_rows(journal: Path | None, claimed: str) -> None:
    """Raise :class:`RowsLostError` in a restarted actor that has nothing to recover from.

    An empty replay in the midst of a run would count its env steps from 0 again, and nobody would notice; as little as
    with an older copy of the journal, from when the actor was on this node before.
    """
    if journal is None:
        raise RowsLostError(
            "the replay's process died, and with it its rows: it had no journal. Resume the run from its newest "
            "checkpoint; give it one (cluster.journal in a config) so that rows outlive the process."
        )
    found = generation_of(journal)
    if found != claimed:
        there = "is not on the node" if found is None else "is of an earlier time on the node"
        raise RowsLostError(
            f"the replay's process died, and its journal {journal} {there} where it was started again. Resume the run "
            "from its newest checkpoint; a folder that all nodes share outlives a node."
        )


def _claim(generation: str) -> None:
    """Tell the actor's next process, on whichever node, which journal is its own."""
    _internal_kv_put(_claim_key(), generation.encode(), overwrite=True, namespace=_KEY_SPACE)


def _claimed() -> str | None:
    """What this actor's process before claimed last; None for the first process."""
    claimed = _internal_kv_get(_claim_key(), namespace=_KEY_SPACE)
    return None if claimed is None else claimed.decode()


def _claim_key() -> bytes:
    # Ray's own table of small values: it outlives every node but the head, without which there is no actor either.
    return f"replay generation {ray.get_runtime_context().get_actor_id()}".encode()
