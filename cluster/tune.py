"""``atradiff tune``: search settings of a run with Ray Tune, stopping trials early that fall behind (ASHA)."""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from atradiff.progress_bar import ProgressBar
from atradiff.report.tables import aligned, markdown
from atradiff.staging import staged_file, write_text
from cluster.config import RunConfig, load_run_config
from cluster.prepare import check_environment, prepare
from cluster.ray_runtime import start_ray
from cluster.storage import is_uri
from cluster.tune_space import Space, corners, default_space, overrides, read_space, to_tune
from cluster.tune_trial import METRIC, TIME, TrialPlan, cpus_of_trial, run_trial, trial_resources

_OF_THE_GENERATOR = ("generator.model", "generator.fit", "synther.", "data.")
"""Settings that ask for another diffuser or SynthER: each trial then fits its own."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    ``concurrent`` trials at once at most (None: as many as there are CPUs and GPUs); no trial is stopped before
    ``grace`` env steps (None: a quarter of the run); ``gpus`` of a trial that is one process.
    """

    samples: int
    concurrent: int | None
    grace: int | None
    gpus: float
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"--samples must be at least 1, got {self.samples}.")
        if self.concurrent is not None and self.concurrent < 1:
            raise ValueError(f"--max-concurrent must be at least 1, got {self.concurrent}.")


@dataclass(frozen=True)
class TrialResult:
    """What a trial came to; ``final_return`` None where it never evaluated."""

    trial: str
    settings: dict[str, Any]
    env_steps: int
    final_return: float | None
    error: str | None


@dataclass(frozen=True)
class SearchResult:
    """The trials, best first, and the files they are written to; ``best`` None where no trial evaluated."""

    trials: list[TrialResult]
    table: str
    folder: Path
    best: Path | None


def tune(arguments: list[str]) -> None:
    """Search settings: ``atradiff tune CONFIG --samples N [--max-concurrent M] [--setting VALUE ...]``.

    Draws rho, L, lengths and, where the run adapts its diffuser, the update period; --space names other settings. Each
    trial is a run; the worse ones are stopped early (ASHA). The same command with --resume goes on with a search.
    """
    given, words = _parser().parse_known_args(arguments)
    if not words or words[0].startswith("-"):
        raise ValueError("give a config file before its settings: configs/quickstart.yaml is one; --help says more.")
    run = load_run_config(Path(words[0]), words[1:])
    space = default_space(run) if given.space is None else read_space(given.space)
    settings = SearchSettings(given.samples, given.max_concurrent, given.grace, given.gpus, run.seed)
    try:
        result = search(run, space, settings, resume=given.resume)
    except KeyboardInterrupt:
        print("\nstopped; the same command with --resume goes on", file=sys.stderr)
        sys.exit(130)
    print(f"\n{result.table}\n\ntable      {result.folder / 'trials.md'}")
    if result.best is None:
        raise ValueError(f"no trial came to an evaluation; {result.folder / 'trials.csv'} has their errors.")
    print(f"best       atradiff train {shlex.quote(str(result.best))}")


def search(run: RunConfig, space: Space, settings: SearchSettings, *, resume: bool = False) -> SearchResult:
    """Run the trials and write ``trials.csv``, ``trials.md`` and ``best.yaml`` into OUTPUT/NAME/tune.

    Raises ``ValueError`` for settings that no run may have, before any trial begins; and where the folder holds a
    search and ``resume`` is not asked for, or the other way round.
    """
    if is_uri(run.output):
        raise ValueError(f"atradiff tune writes to a folder that all nodes share, not to {run.output}: set --output.")
    if run.cluster is not None and settings.gpus > 0:
        raise ValueError("--gpus is for runs in one process; this one's cluster section says who gets which GPU.")
    run = run.absolute()
    folder = Path(run.output) / run.name / "tune"
    plan = TrialPlan(str(folder / "base.yaml"), str(folder / "runs"))
    if resume != ray_tune.Tuner.can_restore(str(folder / "search")):
        raise ValueError(
            f"{folder} holds no search to resume: leave --resume away."
            if resume
            else f"{folder} already holds a search: go on with --resume, or choose another --name or --output."
        )
    check_environment(run)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        _prepare(run, space, plan)
    start_ray(at_least=cpus_of_trial(run))
    tuner = _restored(plan, folder, settings) if resume else _tuner(plan, folder, settings, run, space)
    return _write(folder, _results(tuner.fit()), plan)


def _prepare(run: RunConfig, space: Space, plan: TrialPlan) -> None:
    """Write the base config, check all values of the space against it, and make data and diffuser that trials share."""
    write_text(Path(plan.base), run.to_yaml())
    for settings in corners(space):
        plan.run(settings, "check")
    if any(name.startswith(_OF_THE_GENERATOR) for name in space):
        return
    run.require_data()
    model = prepare(run)
    if model is not None:
        shared = replace(run, generator=replace(run.generator, path=str(model)))
        write_text(Path(plan.base), shared.to_yaml())


def _trainable(plan: TrialPlan, settings: SearchSettings) -> Any:
    def resources(drawn: dict[str, Any]) -> ray_tune.PlacementGroupFactory:
        return trial_resources(plan.run(drawn, "any"), settings.gpus)

    return ray_tune.with_resources(partial(run_trial, plan=plan), resources)


def _tuner(plan: TrialPlan, folder: Path, settings: SearchSettings, run: RunConfig, space: Space) -> ray_tune.Tuner:
    grace = settings.grace or max(1, run.env_steps // 4)
    scheduler = ASHAScheduler(time_attr=TIME, max_t=run.env_steps, grace_period=min(grace, run.env_steps))
    return ray_tune.Tuner(
        _trainable(plan, settings),
        param_space=to_tune(space),
        tune_config=ray_tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=settings.samples,
            max_concurrent_trials=settings.concurrent,
            scheduler=scheduler,
            search_alg=ray_tune.search.BasicVariantGenerator(random_state=settings.seed),
        ),
        run_config=ray_tune.RunConfig(
            name="search", storage_path=str(folder), verbose=0, callbacks=[_SearchBar(settings.samples)]
        ),
    )


def _restored(plan: TrialPlan, folder: Path, settings: SearchSettings) -> ray_tune.Tuner:
    """The search as it stands: trials that were cut off or failed go on from their checkpoints."""
    return ray_tune.Tuner.restore(
        str(folder / "search"), _trainable(plan, settings), resume_unfinished=True, resume_errored=True
    )


class _SearchBar(ray_tune.Callback):
    """Trials done, and the best return so far.

    Ray Tune hears Ctrl-C itself, keeps the search and returns as if all trials had had their time: told apart here.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._open = False
        self._best = -math.inf
        self._bar: ProgressBar | None = None

    def on_trial_result(self, *, trials: list[Trial], result: dict[str, Any], **_: Any) -> None:
        self._best = max(self._best, result[METRIC])
        self._show(trials)

    def on_trial_complete(self, *, trials: list[Trial], **_: Any) -> None:
        self._show(trials)

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:  # noqa: ARG002
        """The last look before Tune ends the trials that are left, which then pass for finished."""
        self._open = len(trials) < self._samples or any(not trial.is_finished() for trial in trials)

    def on_experiment_end(self, trials: list[Trial], **_: Any) -> None:
        """Close the bar; ``KeyboardInterrupt`` where trials were still to have their time, and no error ended them."""
        self._show(trials)
        if self._bar is not None:
            self._bar.close()
        if self._open and sys.exception() is None:
            raise KeyboardInterrupt

    def _show(self, trials: list[Trial]) -> None:
        if self._bar is None:
            self._bar = ProgressBar(desc="search", total=self._samples, unit="trial")
        self._bar.set_postfix_str(f"best return {self._best:.4g}", refresh=False)
        self._bar.update(sum(trial.is_finished() for trial in trials) - self._bar.n)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is of this process: Ray Tune stores its callbacks with the search."""
        return self.__dict__ | {"_bar": None, "_open": False}


def _results(grid: ray_tune.ResultGrid) -> list[TrialResult]:
    """The trials, best first, those without an evaluation last."""
    results = [
        TrialResult(
            Path(result.path).name.split("_")[2] if result.metrics is None else result.metrics.get("trial_id", ""),
            dict(result.config or {}),
            int((result.metrics or {}).get(TIME, 0)),
            (result.metrics or {}).get(METRIC),
            None if result.error is None else str(result.error).strip().splitlines()[-1],
        )
        for result in grid
    ]
    return sorted(results, key=lambda r: -math.inf if r.final_return is None else r.final_return, reverse=True)


def _write(folder: Path, trials: list[TrialResult], plan: TrialPlan) -> SearchResult:
    names = next((list(trial.settings) for trial in trials if trial.settings), [])
    cells = [["trial", *names, "env steps", "return", "error"], *(_row(trial, names) for trial in trials)]
    write_text(folder / "trials.md", markdown(cells) + "\n")
    with staged_file(folder / "trials.csv") as staging, staging.open("w", newline="") as file:
        csv.writer(file).writerows(cells)
    best = None
    if trials[0].final_return is not None:
        best = folder / "best.yaml"
        base = load_run_config(Path(plan.base), overrides(trials[0].settings))
        write_text(best, replace(base, name=f"{base.name}-best").to_yaml())
    return SearchResult(trials, aligned(cells), folder, best)


def _row(trial: TrialResult, names: Sequence[str]) -> list[str]:
    final = "" if trial.final_return is None else f"{trial.final_return:.4g}"
    values = [_text(trial.settings.get(name, "")) for name in names]
    return [trial.trial, *values, str(trial.env_steps), final, trial.error or ""]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atradiff tune",
        usage="atradiff tune CONFIG [options] [--setting.of.the.run VALUE ...]",
        description=tune.__doc__,
        epilog="Everything else is a setting of the run; `atradiff train CONFIG --help` lists them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--samples", type=int, default=16, help="trials (default 16)")
    add("--max_concurrent", type=int, help="trials at once (default: as many as fit)")
    add("--grace", type=int, help="env steps before a trial may be stopped (default: a quarter of the run)")
    add("--gpus", type=float, default=0.0, help="GPUs of a trial that is one process; fractions share one")
    add("--space", help="a YAML file, or YAML, of dotted settings and how to draw them: uniform, loguniform or choice")
    add("--resume", action="store_true", help="go on with the search in OUTPUT/NAME/tune")
    return parser
