"""One trial of ``atradiff tune``: the usual training loop, in the process that Ray Tune gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.config import RunConfig, load_run_config
from cluster.run_folder import RunFolder
from cluster.tune_space import overrides

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


def run_trial(settings: dict[str, Any], plan: TrialPlan) -> None:
    """Train with ``settings`` and report every evaluation; a trial that was interrupted goes on from its checkpoint."""
    from ray import tune

    from cluster.run import train

    run = plan.run(settings, tune.get_context().get_trial_id())
    resume = run.folder if RunFolder(run.folder).started else None
    train(run, _Reporter(run, tune.report).watch, resume=resume)


class _Reporter:
    """Tells Ray Tune of a run's evaluations: it hears of every iteration, and not all of them evaluate."""

    def __init__(self, run: RunConfig, report: Callable[[dict[str, float]], None]) -> None:
        self._run = run
        self._report = report
        self._evaluations = 0

    def watch(self, progress: Any) -> None:
        """Report, where an evaluation came since the last call."""
        evaluations = progress.env_steps // self._run.evaluation.every
        finished = progress.env_steps >= self._run.env_steps
        if progress.last_return is not None and (finished or evaluations > self._evaluations):
            self._evaluations = evaluations
            self._report({TIME: progress.env_steps, METRIC: progress.last_return})
