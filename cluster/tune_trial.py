"""One trial of ``atradiff tune``: a usual run, in the process that Ray Tune gives it, or as actors beside that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import PlacementGroupFactory

from cluster.cluster_config import ClusterConfig
from cluster.config import RunConfig, load_run_config
from cluster.placement import Bundle, as_ray, total
from cluster.ray_runtime import hide_unreserved_gpus
from cluster.run_folder import RunFolder
from cluster.tune_space import overrides

if TYPE_CHECKING:
    from cluster.progress import Progress

METRIC, TIME = "eval_return", "env_steps"


@dataclass(frozen=True)
class TrialPlan:
    """``base`` is the config file that all trials start from; their run folders lie under ``folder``."""

    base: str
    folder: str

    def run(self, settings: Mapping[str, Any], trial: str) -> RunConfig:
        """The run of a trial; raises ``ValueError`` for settings that no run may have."""
        run = load_run_config(Path(self.base), overrides(settings))
        return replace(run, output=self.folder, name=trial)


def trial_resources(run: RunConfig, gpus: float) -> PlacementGroupFactory:
    """What Ray Tune keeps free for a trial: its process, or, for a run as actors, their places and nothing beside them.

    Call it where Ray is connected: whether generators take GPUs may depend on the cluster.
    """
    if run.cluster is None:
        return PlacementGroupFactory([{"CPU": float(run.threads), "GPU": gpus}])
    known = run.cluster
    if _generating(run):
        known = known.decided(ray.cluster_resources(), adapting=run.adapting is not None)
    return PlacementGroupFactory([{}, *as_ray(_places(run, known))], strategy=known.placement.strategy)


def cpus_of_trial(run: RunConfig) -> float:
    """CPUs that the actors of a trial take; 0 for a trial that is one process, which any machine has room for."""
    return 0.0 if run.cluster is None else total(_places(run, run.cluster)).get("CPU", 0.0)


def _places(run: RunConfig, cluster: ClusterConfig) -> list[Bundle]:
    return cluster.bundles(generating=_generating(run), adapting=run.adapting is not None)


def _generating(run: RunConfig) -> bool:
    return run.augmentation != "none"


def run_trial(settings: dict[str, Any], plan: TrialPlan) -> None:
    """Train with ``settings`` and report every evaluation; a trial that was interrupted goes on from its checkpoint.

    Of one whose run is complete, or was all but that, the search may not know yet: its last return is reported.
    """
    from ray import tune

    from cluster.run import train

    run = plan.run(settings, tune.get_context().get_trial_id())
    if run.cluster is None:  # of actors each has its own, and what they begin with is made here
        hide_unreserved_gpus()
    folder, reporter = RunFolder(run.folder), _Reporter(run, tune.report)
    # Ray Tune runs a trial once at a time, and may leave the process of one that was cut off behind: it hangs, locked.
    if not folder.complete:
        train(run, reporter.watch, resume=folder.path if folder.started else None, locked=False)
    reporter.conclude(folder)


class _Reporter:
    """Tells Ray Tune of a run's evaluations: it hears of every iteration, and not all of them evaluate."""

    def __init__(self, run: RunConfig, report: Callable[[dict[str, float]], None]) -> None:
        self._run = run
        self._report = report
        self._evaluations = 0
        self._told: dict[str, float] = {}

    def watch(self, progress: Progress) -> None:
        """Report, where an evaluation came since the last call."""
        evaluations = progress.env_steps // self._run.evaluation.every
        if progress.last_return is not None and (progress.finished or evaluations > self._evaluations):
            self._evaluations = evaluations
            self._tell(progress.env_steps, progress.last_return)

    def conclude(self, folder: RunFolder) -> None:
        """Report what the complete run in ``folder`` came to, where that was not told from here."""
        cost = folder.cost()
        if cost.final_return is not None and self._told.get(TIME) != cost.env_steps:
            self._tell(cost.env_steps, cost.final_return)

    def _tell(self, env_steps: int, final_return: float) -> None:
        self._told = {TIME: env_steps, METRIC: final_return}
        self._report(self._told)
