"""Settings of the generator pool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.dispatch import ScaleRule


@dataclass(frozen=True)
class PoolConfig:
    """How many generators there are, and what each of them gets.

    Args:
        generators: How many to begin with.
        num_cpus: CPUs that Ray keeps free for each.
        num_gpus: GPUs for each; a fraction lets several share one, or a learner and a generator. None: one, or, where
            the cluster has fewer GPUs than generators, as much as there is for each; else none.
        resources: Amounts of the cluster's own resource names for each.
        in_flight: Batches that one generator holds at a time, the one it works on included.
        minimum: Fewest generators when ``grow_at_age`` is set.
        maximum: Most generators then; None: as many as there were to begin with.
        grow_at_age: Env steps. One generator more while the oldest waiting request is older than this, one less while
            generators idle. None: the number changes only when asked.
        grow_after: Seconds for which that has to hold before a generator is added.
        shrink_after: Seconds for which a generator has to idle before one is taken away.
        patience: Seconds after which a batch without an answer goes back to the queue (its node may be gone).
        compile: Compile the diffuser network and, on GPUs, replay its calls as CUDA graphs.
    """

    generators: int = 1
    num_cpus: float = 1.0
    num_gpus: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    in_flight: int = 2
    minimum: int = 1
    maximum: int | None = None
    grow_at_age: int | None = None
    grow_after: float = 2.0
    shrink_after: float = 30.0
    patience: float = 60.0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.generators < 1:
            raise ValueError(f"the pool needs at least 1 generator, got generators={self.generators}.")
        if self.in_flight < 1:
            raise ValueError(f"in_flight must be at least 1 batch, got {self.in_flight}.")
        if self.patience <= 0:
            raise ValueError(f"patience must be more than 0 seconds, got {self.patience}.")
        amounts = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus or 0.0, **self.resources}
        negative = {name: amount for name, amount in amounts.items() if amount < 0}
        if negative:
            raise ValueError(f"a generator cannot take less than nothing of a resource, got {negative}.")
        if self.num_gpus is not None and self.num_gpus > 1:
            raise ValueError(
                f"a generator uses one GPU at most, got num_gpus={self.num_gpus}: raise generators instead."
            )
        if self.grow_at_age is None and (self.minimum != 1 or self.maximum is not None):
            raise ValueError(
                f"minimum={self.minimum} and maximum={self.maximum} do nothing without grow_at_age: set it (env steps; "
                "2000, say), or leave both out."
            )
        rule = self.rule
        if rule is not None and not rule.minimum <= self.generators <= rule.maximum:
            raise ValueError(
                f"generators={self.generators} must lie between minimum={rule.minimum} and maximum={rule.maximum}."
            )

    @property
    def rule(self) -> ScaleRule | None:
        """When to grow and shrink; None: never by itself."""
        if self.grow_at_age is None:
            return None
        most = self.generators if self.maximum is None else self.maximum
        return ScaleRule(self.minimum, most, self.grow_at_age, self.grow_after, self.shrink_after)

    def grown(self) -> PoolConfig:
        """With as many generators as there may come to be."""
        return self if self.rule is None else replace(self, generators=self.rule.maximum)

    def decided(self, cluster: Mapping[str, float]) -> PoolConfig:
        """These settings with ``num_gpus`` decided, on a cluster that has ``cluster`` (Ray's resource names) in all.

        What was asked for stays, even where there is none of it: an autoscaler may bring it.
        """
        if self.num_gpus is not None:
            return self
        return replace(self, num_gpus=share_of_gpus(cluster.get("GPU", 0.0), self.grown().generators))

    def on(self, cluster: Mapping[str, float]) -> PoolConfig:
        """As :meth:`decided`; raises ``ValueError`` where the cluster lacks what a generator asks for."""
        decided = self.decided(cluster)
        asked = {"CPU": self.num_cpus, "GPU": decided.num_gpus or 0.0, **self.resources}
        lacking = {name: amount for name, amount in asked.items() if amount > cluster.get(name, 0)}
        if lacking:
            wants = ", ".join(f"{amount:g} {name}" for name, amount in lacking.items())
            has = ", ".join(f"{cluster.get(name, 0):g} {name}" for name in lacking)
            raise ValueError(
                f"each generator asks for {wants}, but the whole cluster has {has}. Lower num_cpus, num_gpus or "
                "resources of the generators (num_gpus: 0 generates on CPUs), or add such nodes."
            )
        return decided


def share_of_gpus(gpus: float, generators: int) -> float:
    """What each of so many generators gets: a whole GPU, or a share that fits as many on one as must be; 0 without any.

    No generator lies across two GPUs. Less than one GPU is taken for what others leave of a single one: where they
    leave parts of several, say what each gets. Rounded down to Ray's digits.
    """
    share = 1.0 / math.ceil(generators / int(gpus)) if gpus >= 1 else max(gpus, 0.0) / generators
    return math.floor(1e4 * share) / 1e4
