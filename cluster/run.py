"""Where the parts are put together: one training run, from its config to its curve.

``python -m cluster.run configs/X.yaml`` is the same as ``atradiff train configs/X.yaml``.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from atradiff.environments import make_env
from atradiff.generator import TrajectoryDiffuser
from cluster.algorithm import build_algorithm
from cluster.config import RunConfig
from cluster.logging import RunLog
from cluster.manifest import run_manifest
from cluster.prepare import prepare_diffuser
from cluster.ray_runtime import start_ray
from cluster.run_folder import RunFolder
from rllib_ext.ensemble_sac import EnsembleSAC
from rllib_ext.evaluation import evaluate

_EVALUATION_SEED = 10_000
"""Added to the run's seed: evaluation meets starts that training does not."""


@dataclass(frozen=True)
class Progress:
    """What a watcher of a run is told after each iteration."""

    env_steps: int
    last_return: float | None


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM), wrote a checkpoint and did."""


def train(run: RunConfig, watch: Callable[[Progress], None] = lambda _: None, *, resume: Path | None = None) -> Path:
    """Train as ``run`` says and return the run folder, which then holds ``summary.json``.

    ``resume`` is a run folder or one of its checkpoints. Raises :class:`Stopped` after a stop signal, ``ValueError``
    where the run folder already holds another run.
    """
    folder = RunFolder(run.folder)
    checkpoint = _checkpoint_to_resume(folder, resume)
    diffuser = _load_diffuser(run) if run.augmentation == "atradiff" else None
    _begin(folder, run, diffuser)
    start_ray()
    algorithm = build_algorithm(run, diffuser)
    try:
        with RunLog(folder) as log, _stop_signal() as stop:
            session = _Session(run, folder, algorithm, log)
            if checkpoint is not None:
                session.restore(checkpoint)
            session.run(watch, stop)
    finally:
        algorithm.stop()
    return folder.path


class _Session:
    """The loop of one run: train an iteration, evaluate and checkpoint when due."""

    def __init__(self, run: RunConfig, folder: RunFolder, algorithm: EnsembleSAC, log: RunLog) -> None:
        self._run = run
        self._folder = folder
        self._algorithm = algorithm
        self._log = log
        self._make_env = partial(make_env, run.env)
        self._env_steps = 0
        self._wall_before = 0.0
        self._began = time.perf_counter()
        self._last_return: float | None = None

    def restore(self, checkpoint: Path) -> None:
        state = RunFolder.checkpoint_state(checkpoint)
        self._algorithm.load_state(checkpoint / "algorithm")
        self._env_steps, self._wall_before = state["env_steps"], state["wall_seconds"]
        self._last_return = state["last_return"]
        self._log.keep_until(self._env_steps)

    def run(self, watch: Callable[[Progress], None], stop: threading.Event) -> None:
        run = self._run
        while self._env_steps < run.env_steps:
            before = self._env_steps
            result = self._algorithm.train()
            self._env_steps = self._algorithm.replay.counters.env_steps
            finished = self._env_steps >= run.env_steps
            if _passed(run.evaluation.every, before, self._env_steps) or finished:
                self._evaluate(result)
            stopping = stop.is_set()  # asked once: a signal that comes later waits for the next iteration's checkpoint
            if stopping or finished or _passed(run.checkpoint.every, before, self._env_steps):
                self._checkpoint()
            watch(Progress(self._env_steps, self._last_return))
            if stopping and not finished:
                raise Stopped(f"stopped at {self._env_steps} env steps; go on with --resume {self._folder.path}")
        self._finish()

    def _evaluate(self, result: dict[str, Any]) -> None:
        """Evaluation seeds depend on the run's seed alone, so that arms and moments meet the same starts."""
        returns = evaluate(
            self._algorithm, self._make_env, self._run.evaluation.episodes, seed=_EVALUATION_SEED + self._run.seed
        )
        self._last_return = float(returns.mean())
        self._log.evaluation(self._env_steps, self._wall_seconds, returns, result)

    def _checkpoint(self) -> None:
        state = {
            "env_steps": self._env_steps,
            "wall_seconds": self._wall_seconds,
            "last_return": self._last_return,
        }
        self._folder.write_checkpoint(
            self._env_steps,
            lambda staging: self._algorithm.save_state(staging / "algorithm"),
            state,
            keep=self._run.checkpoint.keep,
        )

    def _finish(self) -> None:
        summary = {
            "env_steps": self._env_steps,
            "wall_seconds": self._wall_seconds,
            "final_return": self._last_return,
        }
        staging = self._folder.summary.with_suffix(".partial")
        staging.write_text(json.dumps(summary, indent=2))
        staging.replace(self._folder.summary)

    @property
    def _wall_seconds(self) -> float:
        return self._wall_before + time.perf_counter() - self._began


def _checkpoint_to_resume(folder: RunFolder, resume: Path | None) -> Path | None:
    if resume is None:
        if folder.started:
            raise ValueError(
                f"{folder.path} already holds a run: go on with --resume {folder.path}, or choose another --name or "
                "--output."
            )
        return None
    if folder.complete:
        raise ValueError(
            f"{folder.path} is complete; there is nothing to resume. Give a larger --env_steps to go further."
        )
    if resume.resolve() != folder.path.resolve():
        RunFolder.checkpoint_state(resume)  # raises where it is not whole
        return resume
    return folder.latest_checkpoint()


def _load_diffuser(run: RunConfig) -> TrajectoryDiffuser:
    run.require_data()
    diffuser = TrajectoryDiffuser.from_pretrained(prepare_diffuser(run))
    diffuser.sampling = run.generator.sampling
    return diffuser


def _begin(folder: RunFolder, run: RunConfig, diffuser: TrajectoryDiffuser | None) -> None:
    if folder.started:
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.manifest.write_text(json.dumps(run_manifest(diffuser), indent=2))
    folder.config.write_text(run.to_yaml())


def _passed(every: int, before: int, now: int) -> bool:
    return now // every > before // every


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the loop ends at its next iteration with a checkpoint."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only; whoever runs us elsewhere stops us otherwise
        return
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    from cluster.commands import train as command

    command(sys.argv[1:])


if __name__ == "__main__":
    main()
