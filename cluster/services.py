"""Replay, generators and adapter as actors of an algorithm that anybody builds: no run config, no driver.

One argument more on one's own RLlib config::

    config.callbacks(ATraDiffCallback.using("models/demos", rho=0.5, services=ActorServices(generators=4)))
    EnsembleSACConfig().augmentation(generator="models/demos", services=ActorServices(generators=4))
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray
from ray.actor import ActorHandle

from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.original import WithOriginal
from atradiff.adaptation.pickup import make_pick_up
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import ServiceOrder, TrajectoryGenerator
from atradiff.replay.offline import OfflineRows
from cluster.actor_replay import ActorReplay
from cluster.adapter_actor import AdapterClient, AdapterOrder, start_adapter_actor
from cluster.generator_pool import GeneratorPool
from cluster.placement import Bundle, NoPlaceError, Placement, PlacementConfig, Resources, place
from cluster.pool_config import PoolConfig
from cluster.replay_actor import ReplayActorConfig, start_replay_actor
from cluster.rescoring import Rescoring


@dataclass(frozen=True)
class RemoteAdaptation:
    """Lets the diffuser follow the agent, in an actor of its own.

    Args:
        data: Trajectory store that the diffuser was fitted on, for rehearsal; opened where the algorithm is built.
        config: When it is updated, and on what.
        training_state: Optimisers of the fit, a file of the model's folder; None: the updates begin with new ones.
        resources: What Ray keeps free for the actor; with a GPU it learns there.
    """

    data: str | Path
    config: AdaptationConfig = field(default_factory=AdaptationConfig)
    training_state: str | Path | None = None
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class ActorServices:
    """Starts the actors from the process that builds the algorithm; an :class:`atradiff.ports.ReplayServices`.

    They get a placement group of their own, beside what the algorithm and its env runners have. Tune does not count it:
    with ``max_concurrent_trials`` leave room for the actors of all trials that run at a time. They end with
    ``algorithm.stop()``, and at the latest with the process.

    Checkpoints are written by the replay's process: where Ray has several machines, into a folder that all share.

    Args:
        generators: How many there are.
        num_cpus: CPUs for each.
        num_gpus: GPUs for each; a fraction lets several share one. None: one where the cluster has GPUs, else none.
        compile: ``torch.compile`` the diffuser network, on GPUs.
        replay: The replay's actor. Its ``journal`` is a folder in which each algorithm has one for as long as it lives.
        adaptation: None: the diffuser stays as it is.
        placement: How the actors are spread, and how long to wait for their places.
    """

    generators: int = 1
    num_cpus: float = 1.0
    num_gpus: float | None = None
    compile: bool = False
    replay: ReplayActorConfig = field(default_factory=ReplayActorConfig)
    adaptation: RemoteAdaptation | None = None
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    def __post_init__(self) -> None:
        self.pool  # noqa: B018 - its checks are what is wanted

    @property
    def pool(self) -> PoolConfig:
        """What these settings make of a pool; raises ``ValueError`` for what cannot be."""
        return PoolConfig(self.generators, num_cpus=self.num_cpus, num_gpus=self.num_gpus, compile=self.compile)

    def start(self, order: ServiceOrder) -> ActorReplay:
        """Start what ``order`` needs; without a generator in it that is the replay alone.

        Raises :class:`cluster.placement.NoPlaceError` where the cluster has no room, ``ValueError`` where data,
        diffuser and order do not fit.
        """
        if not ray.is_initialized():
            ray.init()
        with ExitStack() as begun:
            service = _Starter(self, order, begun).start()
            service.ends_with(begun.pop_all())
        return service


class _Starter:
    """Starts the actors of one algorithm; ``begun`` ends them."""

    def __init__(self, services: ActorServices, order: ServiceOrder, begun: ExitStack) -> None:
        self._order, self._begun, self._config = order, begun, services.replay
        self._pool, self._adaptation = services.pool, None
        if order.generator is not None:
            self._pool = services.pool.decided(ray.cluster_resources())
            self._adaptation = None if services.adaptation is None else _Adaptation.of(services.adaptation, order)
        self._placement = begun.enter_context(_places(self._bundles(), services.placement))

    def start(self) -> ActorReplay:
        replay = self._start_replay()
        if self._order.generator is None:
            return ActorReplay(replay, self._config)
        pool = self._start_pool(replay, self._order.generator)
        if self._adaptation is None:
            return ActorReplay(replay, self._config, pool)
        adapter = self._start_adapter(replay, pool, self._adaptation)
        rescoring = Rescoring(replay, self._adaptation.asked.config, self._order)
        return ActorReplay(replay, self._config, pool, adapter, rescoring)

    def _bundles(self) -> list[Bundle]:
        generator = Resources(self._pool.num_cpus, self._pool.num_gpus or 0.0)
        bundles = [Bundle("replay", self._config.resources)]
        if self._order.generator is not None:
            bundles += [Bundle("generator", generator)] * self._pool.generators
        if self._adaptation is not None:
            bundles.append(Bundle("adapter", self._adaptation.asked.resources))
        return bundles

    def _start_replay(self) -> ActorHandle:
        order, config, watcher = self._order, self._config, None
        rows = order.replay if order.generator is not None else order.replay.plain()
        if config.journal is not None:
            config = replace(config, journal=str(self._begun.enter_context(_own_folder(Path(config.journal)))))
        if self._adaptation is not None:
            watcher = make_pick_up(self._adaptation.asked.config.pick_up, order.replay.capacity, order.seed)
        offline = _put_offline(order)
        place = self._placement.strategy("replay")
        actor = start_replay_actor(
            order.spaces, rows, order.serving, order.seed, config, watcher=watcher, offline=offline, place=place
        )
        self._begun.callback(_end, actor, offline)
        return actor

    def _start_pool(self, replay: ActorHandle, generator: TrajectoryGenerator) -> GeneratorPool:
        order = self._order
        if self._adaptation is not None:
            generator = WithOriginal(self._adaptation.diffuser, self._adaptation.asked.config.original_share)
        places = self._placement.strategies("generator")
        pool = GeneratorPool(generator, replay, self._pool, order.serving, order.seed, order.to_learner, places)
        return self._begun.enter_context(pool)

    def _start_adapter(self, replay: ActorHandle, pool: GeneratorPool, adaptation: _Adaptation) -> AdapterClient:
        asked, order = adaptation.asked, self._order
        folder = self._begun.enter_context(_own_folder(Path(tempfile.gettempdir())))
        state = None if asked.training_state is None else str(asked.training_state)
        todo = AdapterOrder(asked.config, order.seed, order.to_environment, str(folder), state)
        place = self._placement.strategy("adapter")
        started = start_adapter_actor(adaptation.diffuser, adaptation.data, todo, asked.resources, place=place)
        self._begun.callback(ray.kill, started.actor)
        return AdapterClient(started, replay, asked.config.every, pool.publish)


@dataclass(frozen=True)
class _Adaptation:
    """A :class:`RemoteAdaptation` with what it works on."""

    asked: RemoteAdaptation
    diffuser: TrajectoryDiffuser
    data: Trajectories

    @classmethod
    def of(cls, asked: RemoteAdaptation, order: ServiceOrder) -> _Adaptation:
        """Raises ``ValueError`` for a generator that cannot be adapted and for data of another environment."""
        if not isinstance(order.generator, TrajectoryDiffuser):
            raise ValueError(
                f"ActorServices.adaptation adapts a TrajectoryDiffuser, not a {type(order.generator).__name__}: leave "
                "it at None."
            )
        data = open_trajectories(asked.data)
        data.spaces.require_equal(order.spaces, f"the data in {asked.data}", "the environment")
        return cls(asked, order.generator, data)


def _put_offline(order: ServiceOrder) -> ray.ObjectRef[OfflineRows] | None:
    if order.offline is None or order.replay.offline_share == 0:
        return None
    return ray.put(OfflineRows.of(order.offline, order.to_learner))


def _end(actor: ActorHandle, made_of: ray.ObjectRef[OfflineRows] | None) -> None:  # noqa: ARG001 - see below
    """``made_of`` is held until now: Ray drops what nobody holds, and a restarted actor needs it."""
    ray.kill(actor)


@contextmanager
def _places(bundles: list[Bundle], config: PlacementConfig) -> Iterator[Placement]:
    try:
        placement = place(bundles, config)
    except NoPlaceError as error:
        raise NoPlaceError(
            f"{error} (Here these are generators, num_cpus, num_gpus, replay.resources and placement of "
            "ActorServices.) What the algorithm, its env runners and, under Tune, all trials have taken is no longer "
            "free: lower max_concurrent_trials there."
        ) from None
    with placement:
        yield placement


@contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A name for one algorithm, made by the actor that uses it; what is there at the end is removed, if it is here."""
    folder = parent.absolute() / f"atradiff-{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
