"""The adapter of a run as a Ray actor; whose other end is :mod:`cluster.adapter_client`."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import ray
from ray.actor import ActorHandle

from atradiff.adaptation.adapt import Adapter, Weights
from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.feed import NewestQuestion, PickedWindows, PickQuestion, WindowFeed
from atradiff.adaptation.report import AdaptationReport
from atradiff.adaptation.windows import WindowPool
from atradiff.allocator import keep_freed_memory
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.staging import staged_folder, sync_folder, sync_tree
from atradiff.types import Transitions
from cluster.checkpoint_files import FileEntry, StoredPart, write_part
from cluster.placement import Resources
from cluster.ray_runtime import answer_of
from cluster.storage import Location

_logger = logging.getLogger(__name__)

ToEnvironment = Callable[[Transitions], Transitions]


@dataclass(frozen=True)
class AdapterOrder:
    """What an adapter is made of. ``training_state`` may name a file that only some nodes have: where it is missing,
    the adaptation starts from the model's weights. ``folder`` keeps the adapter's own state, on its node.
    """

    config: AdaptationConfig
    seed: int
    to_environment: ToEnvironment
    folder: str
    training_state: str | None = None


@dataclass(frozen=True)
class MadeOf:
    """What an adapter works on, in Ray's object store. It comes with each call: so an actor that Ray has just restarted
    finds it again, wherever it is. (Ray would not keep what a constructor's arguments refer to.)
    """

    model: ray.ObjectRef[TrajectoryDiffuser]
    data: ray.ObjectRef[Trajectories]


@dataclass(frozen=True)
class StartedAdapter:
    """The actor, and what it was made of, which lasts as long as somebody holds this; ``version`` is the model's."""

    actor: ActorHandle
    made_of: MadeOf
    version: int


@dataclass(frozen=True)
class Attempt:
    """What the actor says of an update; ``process`` is another one than before where Ray restarted it."""

    report: AdaptationReport
    process: int


class RemoteFeed:
    """A :class:`WindowFeed` over a replay actor: windows are picked where the rows are."""

    def __init__(self, replay: ActorHandle, to_environment: ToEnvironment) -> None:
        self._replay: Any = replay
        self._to_environment = to_environment

    def picked(self, count: int, lengths: tuple[int, ...]) -> PickedWindows:
        """As :class:`atradiff.adaptation.feed.WindowFeed`, asked where the rows are: windows travel, not rings."""
        answer: PickedWindows = ray.get(self._replay.consult.remote(PickQuestion(count, lengths, self._to_environment)))
        return answer

    def newest(self, count: int, lengths: tuple[int, ...]) -> WindowPool:
        """As :class:`atradiff.adaptation.feed.WindowFeed`."""
        answer: WindowPool = ray.get(self._replay.consult.remote(NewestQuestion(count, lengths, self._to_environment)))
        return answer


class AdapterWorker:
    """An :class:`Adapter` that outlives its process: its state is written after each attempt, and found again."""

    def __init__(self, adapter: Adapter, folder: Path) -> None:
        self.adapter, self._folder = adapter, folder
        self._deleting = Lock()
        if not self._load_newest():
            self.keep()

    def update(self, feed: WindowFeed, env_steps: int, version: int, fetch: Callable[[], Weights]) -> AdaptationReport:
        """One attempt. Where the state was lost with its node, it goes on from the published ``version``."""
        if self.adapter.version < version:
            self.adapter.adopt(version, fetch())
        report = self.adapter.update(feed, env_steps)
        self.keep()
        return report

    def go_back(self, folder: Path, served: int, untouched: bool) -> None:
        """Become what was saved in ``folder``. Generators know weights by their version: below ``served``, which they
        have, the weights get the next number, and at ``served``, too, unless those are the model's own, ``untouched``.
        """
        self.adapter.load(folder)
        version = self.adapter.version
        if version < served or (version == served and not untouched):
            self.adapter.renumber(served + 1)
        self.keep()

    def keep(self) -> None:
        """Write the state beside the one before, which is removed once the disk holds the new one."""
        earlier = self._states()
        number = int(earlier[-1].name) + 1 if earlier else 0
        with staged_folder(self._folder / f"{number:08d}") as stage:
            self.adapter.save(stage)
            sync_tree(stage)
        sync_folder(self._folder)
        with self._deleting:
            for state in earlier:
                shutil.rmtree(state)

    def copy_kept(self, folder: Path) -> None:
        """Put the state that :meth:`keep` wrote last into ``folder``; meanwhile another thread may be updating."""
        with self._deleting:
            shutil.copytree(self._states()[-1], folder, dirs_exist_ok=True)

    def _load_newest(self) -> bool:
        """Go on from the newest state that can be read; False where there is none."""
        for state in reversed(self._states()):
            try:
                self.adapter.load(state)
            except ValueError as error:
                if isinstance(error.__cause__, RuntimeError):  # it can be read: it is of another model
                    raise
                _logger.warning("%s is passed over: %s", state, error)
            else:
                return True
        return False

    def _states(self) -> list[Path]:
        """Whole states, the newest last: those under a temporary name were never finished."""
        return sorted(path for path in self._folder.glob("*") if path.name.isdigit())


class AdapterActor:
    """An :class:`AdapterWorker` in a process of its own, on the device that Ray gave to it."""

    def __init__(self, order: AdapterOrder, device: str) -> None:
        self._order, self._device = order, device
        self._opened: AdapterWorker | None = None
        self._opening = Lock()

    def ready(self, made_of: MadeOf | None = None) -> int:
        """The id of the process, once the adapter is in place; raises what kept it from that."""
        self._worker(made_of)
        return os.getpid()

    def sees(self, file: Path) -> bool:
        """Whether there is such a file where this process runs."""
        return file.is_file()

    @ray.method(num_returns=2)
    def update(
        self,
        replay: ActorHandle,
        env_steps: int,
        version: int,
        published: list[ray.ObjectRef],
        made_of: MadeOf | None = None,
    ) -> tuple[Attempt, Weights | None]:
        """One attempt; weights are None unless it was accepted. ``published`` holds those of ``version``, if any."""
        worker, feed = self._worker(made_of), RemoteFeed(replay, self._order.to_environment)
        report = worker.update(feed, env_steps, version, lambda: ray.get(published[0]))
        return Attempt(report, os.getpid()), worker.adapter.weights() if report.accepted else None

    @ray.method(num_returns=2)
    def current(self, made_of: MadeOf | None = None) -> tuple[tuple[tuple[int, int], tuple[int, int]], Weights]:
        """(((version, env steps of the last attempt), (updates, rollbacks) so far), weights)."""
        adapter = self._worker(made_of).adapter
        return ((adapter.version, adapter.env_steps), (adapter.updates, adapter.rollbacks)), adapter.weights()

    @ray.method(concurrency_group="files")
    def write(self, target: Location, made_of: MadeOf | None = None) -> list[FileEntry]:
        """Put everything that is needed to go on into a checkpoint; see :func:`write_part`.

        Of an update that is under way it has nothing, and does not wait for it.
        """
        return write_part(target, self._worker(made_of).copy_kept)

    def read(self, part: StoredPart, served: int, untouched: bool, made_of: MadeOf | None = None) -> None:
        """Become what :meth:`write` put there, under a version that generators can tell from those they have had."""
        worker = self._worker(made_of)
        with part.open() as folder:
            worker.go_back(folder, served, untouched)

    def _worker(self, made_of: MadeOf | None) -> AdapterWorker:
        """Without ``made_of`` only for calls that follow another one in the same process."""
        with self._opening:
            if self._opened is None:
                if made_of is None:
                    raise ValueError("the adapter's process has just been started: say what it is made of.")
                model, data = ray.get([made_of.model, made_of.data])
                self._opened = _open_worker(model, data, self._order, self._device)
            return self._opened


def start_adapter_actor(
    model: TrajectoryDiffuser,
    data: Trajectories,
    order: AdapterOrder,
    resources: Resources | None = None,
    *,
    place: object | None = None,
) -> StartedAdapter:
    """Start the actor and return once it has its model and, where there is one, its earlier state.

    Ray restarts it when its process dies and repeats the update that was under way. Raises ``ValueError`` for data or
    states that do not fit the model.
    """
    resources = resources or Resources()
    made_of = MadeOf(ray.put(model.on("cpu")), ray.put(data))
    actor: Any = (
        ray.remote(concurrency_groups={"files": 1})(AdapterActor)
        .options(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            resources=resources.custom,
            scheduling_strategy=place or "DEFAULT",
            max_restarts=-1,
            max_task_retries=-1,
        )
        .remote(order, "cuda" if resources.num_gpus else "cpu")
    )
    try:
        answer_of(actor.ready.remote(made_of))
    except BaseException:
        ray.kill(actor)
        raise
    return StartedAdapter(actor, made_of, model.version)


def _open_worker(model: TrajectoryDiffuser, data: Trajectories, order: AdapterOrder, device: str) -> AdapterWorker:
    import torch  # not needed by the driver's end

    torch.set_num_threads(order.config.threads)
    keep_freed_memory()
    state = None if order.training_state is None else Path(order.training_state)
    found = state if state is not None and state.is_file() else None
    return AdapterWorker(Adapter(model.on(device), data, order.config, order.seed, found), Path(order.folder))
