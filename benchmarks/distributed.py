"""What imagination costs a run as actors: env steps per second with generators and adapter, over those without.

Used by :mod:`benchmarks.overhead`. Both arms are whole runs of ``atradiff train`` (two env runners, a learner in the
trainer, the replay actor; in the one arm also a generator and the adapter, with its default period or half the run,
whichever is shorter), one after the other, in turns. Rates are taken from the first update of the learner to the last
env step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray

from atradiff.adaptation.config import AdaptationConfig
from cluster.cluster_config import ClusterConfig, RolloutConfig
from cluster.config import CheckpointConfig, EvaluationConfig, RunConfig
from cluster.placement import Resources
from cluster.pool_config import PoolConfig
from cluster.progress import Progress
from cluster.replay_actor import ReplayActorConfig
from cluster.run import train
from rllib_ext.ensemble_sac.settings import SACSettings

LEARNING_STARTS = 500
_SHARE = Resources(num_cpus=0.3)  # of the two cores that all actors share


def distributed_run(env_id: str, model: Path, scratch: Path, env_steps: int) -> RunConfig:
    """The augmented arm, with the offline data in ``scratch/data``; see :func:`plain` for the other one."""
    base = RunConfig(
        env=env_id, name="overhead", env_steps=env_steps, algorithm=SACSettings(learning_starts=LEARNING_STARTS)
    )
    return replace(
        base,
        output=str(scratch / "runs"),
        data=replace(base.data, path=str(scratch / "data")),
        generator=replace(base.generator, path=str(model)),
        replay=replace(base.replay, capacity=100_000),
        adaptation=AdaptationConfig(every=min(AdaptationConfig().every, env_steps // 2)),
        evaluation=EvaluationConfig(every=env_steps, episodes=1),
        checkpoint=CheckpointConfig(every=env_steps),
        cluster=ClusterConfig(
            trainer=_SHARE,
            rollouts=RolloutConfig(env_runners=2, resources=_SHARE),
            replay=ReplayActorConfig(resources=_SHARE),
            pool=PoolConfig(num_cpus=_SHARE.num_cpus),
            adapter=_SHARE,
        ),
    )


def plain(run: RunConfig) -> RunConfig:
    """The same run without imagined rows."""
    return replace(run, augmentation="none", adaptation=None)


@dataclass
class _Clock:
    """Env steps and the time at which they were told."""

    first: tuple[int, float] | None = None
    last: tuple[int, float] | None = None

    def watch(self, progress: Progress) -> None:
        """Note a report; the clock begins with the first one after the learner's start."""
        told = (progress.env_steps, time.perf_counter())
        if self.first is None and progress.env_steps > LEARNING_STARTS:
            self.first = told
        self.last = told

    @property
    def steps_per_second(self) -> float:
        if self.first is None or self.last is None or self.first == self.last:
            raise ValueError("the run was over before anything could be measured: give it more env steps.")
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def measure_rates(run: RunConfig, rounds: int) -> dict[str, list[float]]:
    """Env steps per second of each arm in each round; who begins changes from round to round."""
    rates: dict[str, list[float]] = {"augmented": [], "plain": []}
    for turn in range(rounds):
        arms = {"augmented": run, "plain": plain(run)}
        for name in sorted(arms, reverse=bool(turn % 2)):
            clock = _Clock()
            train(replace(arms[name], seed=turn), clock.watch)
            rates[name].append(clock.steps_per_second)
            ray.shutdown()  # the next arm begins on a machine of its own
    return rates


def augmented_over_plain(rates: dict[str, list[float]]) -> float:
    """The median over rounds of the ratio of the two rates."""
    return float(np.median(np.array(rates["augmented"]) / np.array(rates["plain"])))
