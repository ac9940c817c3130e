"""Starts replay, generators and adapter in their places: for a run's driver, and for anybody's own algorithm."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.actor import ActorHandle

from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.original import WithOriginal
from atradiff.adaptation.pickup import make_pick_up
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import ServiceOrder, TrajectoryGenerator
from atradiff.replay.offline import OfflineRows
from cluster.adapter_actor import AdapterOrder, start_adapter_actor
from cluster.adapter_client import AdapterClient
from cluster.generator_pool import GeneratorPool
from cluster.placement import Placement, Resources
from cluster.pool_config import PoolConfig
from cluster.replay_actor import ReplayActorConfig, start_replay_actor


@dataclass(frozen=True)
class AdaptationPlan:
    """What an adapter works with. ``folder`` keeps its state, on its node; ``training_state`` holds the fit's
    optimisers, None: the updates begin with new ones."""

    config: AdaptationConfig
    diffuser: TrajectoryDiffuser
    data: Trajectories
    folder: Path
    training_state: str | Path | None = None
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class ActorPlan:
    """What is started for a :class:`ServiceOrder`; without a generator in that the replay alone."""

    replay: ReplayActorConfig
    pool: PoolConfig
    journal: Path | None = None
    adaptation: AdaptationPlan | None = None


@dataclass(frozen=True)
class Actors:
    """What was started."""

    replay: ActorHandle
    pool: GeneratorPool | None = None
    adapter: AdapterClient | None = None


def start_actors(order: ServiceOrder, plan: ActorPlan, placement: Placement, begun: ExitStack) -> Actors:
    """Return once all of them are ready; ``begun`` ends them, also those that were started before one that failed.

    Raises ``ValueError`` where a node lacks the memory, or journal, data, diffuser and order do not fit.
    """
    replay = _start_replay(order, plan, placement, begun)
    if order.generator is None:
        return Actors(replay)
    pool = begun.enter_context(_pool(order, order.generator, plan, replay, placement))
    if plan.adaptation is None:
        return Actors(replay, pool)
    return Actors(replay, pool, _start_adapter(order, plan.adaptation, replay, pool, placement, begun))


def _start_replay(order: ServiceOrder, plan: ActorPlan, placement: Placement, begun: ExitStack) -> ActorHandle:
    rows = order.replay if order.generator is not None else order.replay.plain()
    watcher = None
    if plan.adaptation is not None:
        watcher = make_pick_up(plan.adaptation.config.pick_up, rows.capacity, order.seed)
    offline = _put_offline(order)
    place = placement.strategy("replay")
    actor = start_replay_actor(
        order.spaces,
        rows,
        order.serving,
        order.seed,
        plan.replay,
        journal=plan.journal,
        watcher=watcher,
        offline=offline,
        place=place,
    )
    begun.callback(_end, actor, offline)
    return actor


def _put_offline(order: ServiceOrder) -> ray.ObjectRef[OfflineRows] | None:
    if order.offline is None or order.replay.offline_share == 0:
        return None
    return ray.put(OfflineRows.of(order.offline, order.to_learner))


def _end(actor: ActorHandle, made_of: ray.ObjectRef[OfflineRows] | None) -> None:  # noqa: ARG001 - see below
    """``made_of`` is held until now: Ray drops what nobody holds, and a restarted actor needs it."""
    ray.kill(actor)


def _pool(
    order: ServiceOrder, generator: TrajectoryGenerator, plan: ActorPlan, replay: ActorHandle, placement: Placement
) -> GeneratorPool:
    if plan.adaptation is not None:
        generator = WithOriginal(plan.adaptation.diffuser, plan.adaptation.config.original_share)
    places = placement.strategies("generator")
    return GeneratorPool(generator, replay, plan.pool, order.serving, order.seed, order.to_learner, places)


def _start_adapter(
    order: ServiceOrder,
    plan: AdaptationPlan,
    replay: ActorHandle,
    pool: GeneratorPool,
    placement: Placement,
    begun: ExitStack,
) -> AdapterClient:
    state = None if plan.training_state is None else str(plan.training_state)
    made = AdapterOrder(plan.config, order.seed, order.to_environment, str(plan.folder), state)
    place = placement.strategy("adapter")
    started = start_adapter_actor(plan.diffuser, plan.data, made, plan.resources, place=place)
    begun.callback(ray.kill, started.actor)
    return AdapterClient(started, replay, plan.config.every, pool.publish, pool.share_of_original)
