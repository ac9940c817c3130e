"""One placement group for a whole run: all of its actors get their place before the first one starts, or none does.

The order of the bundles is RLlib's own: first the process of the algorithm, then a bundle for each remote env runner;
RLlib's learners take any bundle that is free. Ours follow, and are named by their role.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.stop_signal import Stopped

Role = Literal["trainer", "env_runner", "learner", "replay", "generator", "adapter"]
_TELL_AFTER_SECONDS = 30.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Resources:
    """What Ray keeps free for one actor. ``num_gpus`` may be a fraction; ``custom`` names resources of the cluster."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    custom: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, amount in self.bundle.items():
            if amount < 0:
                raise ValueError(f"an actor cannot take {amount} of {name}: give 0 or more.")
        if self.num_gpus > 1 and not float(self.num_gpus).is_integer():
            raise ValueError(f"num_gpus={self.num_gpus}: Ray gives fractions of one GPU or whole GPUs.")

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray writes it."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.custom}


@dataclass(frozen=True)
class PlacementConfig:
    """``PACK`` puts a run on as few nodes as it fits on, ``SPREAD`` on as many. A run that finds no place within
    ``wait_seconds`` is given up; raise them where an autoscaler first has to start nodes."""

    strategy: Literal["PACK", "SPREAD"] = "PACK"
    wait_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.strategy not in ("PACK", "SPREAD"):
            raise ValueError(f"placement.strategy must be PACK or SPREAD, got {self.strategy!r}.")
        if self.wait_seconds <= 0:
            raise ValueError(f"placement.wait_seconds must be above 0, got {self.wait_seconds}.")


@dataclass(frozen=True)
class Bundle:
    """A place for one actor."""

    role: Role
    resources: Resources


class NoPlaceError(ValueError):
    """The cluster cannot hold the run; the message says what was asked for and what there is."""


class Placement:
    """The placement group of a run; as a context manager it is given back at the end, unless it was ``lent``."""

    def __init__(self, bundles: Sequence[Bundle], group: PlacementGroup, *, lent: bool = False) -> None:
        self._bundles = list(bundles)
        self._group = group
        self._lent = lent

    def strategy(self, role: Role, index: int = 0) -> PlacementGroupSchedulingStrategy:
        """Where the ``index``-th actor of ``role`` goes. What the trainer starts stays in the group."""
        places = [i for i, bundle in enumerate(self._bundles) if bundle.role == role]
        return PlacementGroupSchedulingStrategy(
            self._group, places[index], placement_group_capture_child_tasks=role == "trainer"
        )

    def strategies(self, role: Role) -> list[PlacementGroupSchedulingStrategy]:
        """One for each actor of ``role``."""
        return [self.strategy(role, i) for i in range(sum(bundle.role == role for bundle in self._bundles))]

    def missing(self) -> str | None:
        """What was lost with a node and has no new place yet, and what there is; None where all have theirs."""
        if placement_group_table(self._group)["state"] == "CREATED":
            return None
        return f"A node is gone, and its actors wait for new places: {_shortage(self._bundles)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._lent:
            remove_placement_group(self._group)


def as_ray(bundles: Sequence[Bundle]) -> list[dict[str, float]]:
    """The bundles as Ray writes them. One of nothing is none to Ray; a sliver of a CPU keeps its place in the order."""
    asked = [{name: amount for name, amount in b.resources.bundle.items() if amount > 0} for b in bundles]
    return [bundle or {"CPU": 0.001} for bundle in asked]


def place(
    bundles: Sequence[Bundle],
    config: PlacementConfig,
    tell: Callable[[str], None] | None = None,
    *,
    ours: bool = False,
    stop: threading.Event | None = None,
) -> Placement:
    """Reserve ``bundles``; raises :class:`NoPlaceError` where the cluster does not have them in time.

    With ``ours`` a trial of Ray Tune that sits in just these bundles, made for it, takes them as they are. After 30
    seconds of waiting ``tell`` (by default: standard error) hears what is asked for and what there is. Once ``stop`` is
    set the waiting ends with :class:`Stopped`.
    """
    lent = get_current_placement_group() if ours else None
    if lent is not None and lent.bundle_specs == as_ray(bundles):
        return Placement(bundles, lent, lent=True)
    group = placement_group(as_ray(bundles), strategy=config.strategy)
    began, told = time.monotonic(), False
    while not group.wait(timeout_seconds=_POLL_SECONDS):
        if stop is not None and stop.is_set():
            remove_placement_group(group)
            raise Stopped("stopped while it waited for places: nothing had begun.")
        waited = time.monotonic() - began
        if waited >= config.wait_seconds:
            remove_placement_group(group)
            raise NoPlaceError(_shortage(bundles))
        if waited >= _TELL_AFTER_SECONDS and not told:
            (tell or to_stderr)(f"{_shortage(bundles)} Waiting for nodes, {config.wait_seconds:g} s in all.")
            told = True
    return Placement(bundles, group)


def total(bundles: Sequence[Bundle]) -> dict[str, float]:
    """The sum of what the bundles ask for."""
    summed: Counter[str] = Counter()
    for bundle in bundles:
        summed.update(bundle.resources.bundle)
    return {name: amount for name, amount in summed.items() if amount > 0}


def shortage(bundles: Sequence[Bundle], nodes: Sequence[Mapping[str, float]], free: Mapping[str, float]) -> str:
    """What was asked for, role by role, and what ``nodes`` have in all and ``free`` now; ends with the remedy."""
    lines = [f"  {count} x {role}: {_amounts(resources)}" for (role, resources), count in _counted(bundles).items()]
    asked = total(bundles)
    has = [f"  node {i}: {_amounts(node)}" for i, node in enumerate(nodes)]
    summed = {name: sum(node.get(name, 0.0) for node in nodes) for name in asked}
    lacking = {name: amount for name, amount in asked.items() if amount > summed[name]}
    if lacking:
        cause = "The cluster is too small: " + ", ".join(
            f"{amount:g} {name} asked for, {summed[name]:g} there" for name, amount in lacking.items()
        )
    else:
        cause = f"The cluster is in use or its nodes are too small for single actors (free now: {_amounts(free)})"
    return "\n".join(
        [
            "the run could not be placed on the cluster. It asks for",
            *lines,
            "and the cluster has",
            *has,
            f"{cause}.",
            "Ask for less (cluster.* in the config), add nodes, or wait longer (cluster.placement.wait_seconds).",
        ]
    )


def _shortage(bundles: Sequence[Bundle]) -> str:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return shortage(bundles, nodes, ray.available_resources())


def _counted(bundles: Sequence[Bundle]) -> dict[tuple[Role, tuple[tuple[str, float], ...]], int]:
    return dict(Counter((b.role, tuple(sorted(b.resources.bundle.items()))) for b in bundles))


def _amounts(resources: Mapping[str, float] | tuple[tuple[str, float], ...]) -> str:
    """``2 CPU, 1 GPU``: what counts, without memory and the names that Ray gives to nodes and groups."""
    hidden = ("memory", "object_store_memory")
    items = [
        f"{amount:g} {name}"
        for name, amount in dict(resources).items()
        if amount > 0
        and name not in hidden
        and not name.startswith(("node:", "accelerator_type:"))
        and "_group_" not in name
    ]
    return ", ".join(items) or "nothing"


def to_stderr(message: str) -> None:
    """For whoever sits before the run, beside its bar."""
    print(message, file=sys.stderr)
