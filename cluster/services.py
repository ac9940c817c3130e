"""Replay, generators and adapter as actors of an algorithm that anybody builds: no run config, no driver.

One argument more on one's own RLlib config::

    config.callbacks(ATraDiffCallback.using("models/demos", rho=0.5, services=ActorServices(generators=4)))
    EnsembleSACConfig().augmentation(generator="models/demos", services=ActorServices(generators=4))
"""

from __future__ import annotations

import math
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray

from atradiff.adaptation.config import AdaptationConfig
from atradiff.branches import own_actions
from atradiff.data.store import open_trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import ServiceOrder
from cluster.owned_replay import OwnedReplay
from cluster.placement import Bundle, NoPlaceError, Placement, PlacementConfig, Resources, place
from cluster.policy_snapshots import PolicySnapshots
from cluster.pool_config import PoolConfig
from cluster.replay_actor import ReplayActorConfig
from cluster.rescoring import Rescoring
from cluster.starting import ActorPlan, AdaptationPlan, start_actors


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
        num_cpus: CPUs for each. None: one, or, where fewer are free than there are generators, as much as there is for
            each.
        num_gpus: GPUs for each; a fraction lets several share one. None: one, or, where the cluster has fewer GPUs than
            generators, as much as there is for each; else none.
        compile: ``torch.compile`` the diffuser network, on GPUs.
        replay: The replay's actor.
        journals: Folder, on the replay's node or shared, in which each algorithm has a journal of its own while it
            lives, so that its rows outlive their process. None: they do not.
        adaptation: None: the diffuser stays as it is.
        placement: How the actors are spread, and how long to wait for their places.
    """

    generators: int = 1
    num_cpus: float | None = None
    num_gpus: float | None = None
    compile: bool = False
    replay: ReplayActorConfig = field(default_factory=ReplayActorConfig)
    journals: str | Path | None = None
    adaptation: RemoteAdaptation | None = None
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    def __post_init__(self) -> None:
        self.pool  # noqa: B018 - its checks are what is wanted

    @property
    def pool(self) -> PoolConfig:
        """What these settings make of a pool; raises ``ValueError`` for what cannot be."""
        cpus = 1.0 if self.num_cpus is None else self.num_cpus
        return PoolConfig(self.generators, num_cpus=cpus, num_gpus=self.num_gpus, compile=self.compile)

    def start(self, order: ServiceOrder) -> OwnedReplay:
        """Start what ``order`` needs; without a generator in it that is the replay alone.

        Raises :class:`cluster.placement.NoPlaceError` where the cluster has no room, ``ValueError`` where data,
        diffuser and order do not fit.
        """
        own = own_actions(order)
        snapshots = None if own is None else PolicySnapshots(own, order.serving)
        if not ray.is_initialized():
            ray.init()
        with ExitStack() as begun:
            plan = _plan(self, order, begun)
            placement = begun.enter_context(_places(_bundles(plan, order), self.placement))
            actors = start_actors(order, plan, placement, begun)
            rescoring = Rescoring(actors.replay, None if plan.adaptation is None else plan.adaptation.config, order)
            service = OwnedReplay(actors, plan.replay, rescoring, snapshots)
            service.ends_with(begun.pop_all())
        return service


def _plan(services: ActorServices, order: ServiceOrder, begun: ExitStack) -> ActorPlan:
    """What is to be started; the folders that it needs are removed by ``begun``."""
    parent = services.journals
    journal = None if parent is None else begun.enter_context(_own_folder(Path(parent)))
    if order.generator is None:
        return ActorPlan(services.replay, services.pool, journal)
    asked = services.adaptation
    others = [services.replay.resources, *([] if asked is None else [asked.resources])]
    there = ray.available_resources()  # RLlib's learners have theirs by now
    free = {name: there.get(name, 0.0) - sum(each.bundle[name] for each in others) for name in ("CPU", "GPU")}
    pool = services.pool.decided(free)
    if services.num_cpus is None and 0 < free["CPU"] < pool.generators:  # else an autoscaler may bring them
        pool = replace(pool, num_cpus=math.floor(1e4 * free["CPU"] / pool.generators) / 1e4)
    adaptation = None if asked is None else _adaptation(asked, order, begun)
    return ActorPlan(services.replay, pool, journal, adaptation)


def _adaptation(asked: RemoteAdaptation, order: ServiceOrder, begun: ExitStack) -> AdaptationPlan:
    """Raises ``ValueError`` for a generator that cannot be adapted and for data of another environment."""
    if not isinstance(order.generator, TrajectoryDiffuser):
        raise ValueError(
            f"ActorServices.adaptation adapts a TrajectoryDiffuser, not a {type(order.generator).__name__}: leave "
            "it at None."
        )
    data = open_trajectories(asked.data)
    data.spaces.require_equal(order.spaces, f"the data in {asked.data}", "the environment")
    folder = begun.enter_context(_own_folder(Path(tempfile.gettempdir())))
    return AdaptationPlan(asked.config, order.generator, data, folder, asked.training_state, asked.resources)


def _bundles(plan: ActorPlan, order: ServiceOrder) -> list[Bundle]:
    generator = Resources(plan.pool.num_cpus, plan.pool.num_gpus or 0.0)
    return [
        Bundle("replay", plan.replay.resources),
        *[Bundle("generator", generator)] * (plan.pool.generators if order.generator is not None else 0),
        *([] if plan.adaptation is None else [Bundle("adapter", plan.adaptation.resources)]),
    ]


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
