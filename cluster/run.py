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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from atradiff.environments import make_env
from atradiff.generator import TrajectoryDiffuser
from atradiff.staging import write_text
from cluster.algorithm import build_algorithm
from cluster.config import RunConfig
from cluster.logging import RunLog
from cluster.manifest import run_manifest
from cluster.prepare import check_environment, prepare_diffuser
from cluster.ray_runtime import start_ray
from cluster.run_folder import RunFolder
from rllib_ext.ensemble_sac import EnsembleSAC
from rllib_ext.evaluation import evaluate

_EVALUATION = 1
"""Sets the evaluation's stream of seeds apart from whatever else is drawn from the run's seed."""


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
    run = run.absolute()
    folder = RunFolder(run.folder) if resume is None else RunFolder.of(resume)
    checkpoint = _starting_point(folder, run, resume)
    check_environment(run)
    run, diffuser = _with_diffuser(run)
    start_ray()
    algorithm = build_algorithm(run, diffuser)
    try:
        _begin(folder, run, diffuser)
        env_steps = 0 if checkpoint is None else RunFolder.checkpoint_state(checkpoint)["env_steps"]
        with RunLog(folder, env_steps) as log, _stop_signal() as stop:
            session = _Session(run, folder, algorithm, log)
            if checkpoint is not None:
                session.restore(checkpoint)
            session.run(watch, stop)
    finally:
        algorithm.stop()
    return folder.path


def evaluation_seed(seed: int) -> int:
    """Where the seeds of a run's evaluation episodes begin: other starts than in training and in other runs."""
    return int(np.random.SeedSequence([seed, _EVALUATION]).generate_state(1)[0]) // 2


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
        self._folder.drop_checkpoints_after(self._env_steps)

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
            self._algorithm, self._make_env, self._run.evaluation.episodes, seed=evaluation_seed(self._run.seed)
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
        write_text(self._folder.summary, json.dumps(summary, indent=2))

    @property
    def _wall_seconds(self) -> float:
        return self._wall_before + time.perf_counter() - self._began


def _starting_point(folder: RunFolder, run: RunConfig, resume: Path | None) -> Path | None:
    """The checkpoint to go on from; None: from the first step, also for a run that was killed before its first one."""
    if resume is None:
        if folder.started:
            raise ValueError(
                f"{folder.path} already holds a run: go on with --resume {folder.path}, or choose another --name or "
                "--output."
            )
        return None
    named = resume.resolve() != folder.path.resolve()
    checkpoint = resume if named else folder.latest_checkpoint()
    if checkpoint is not None:
        done = RunFolder.checkpoint_state(checkpoint)["env_steps"]
        if run.env_steps < done or (run.env_steps == done and folder.complete):
            raise ValueError(
                f"{checkpoint} has {done} env steps already and --env_steps is {run.env_steps}: there is nothing to "
                "do. Give more --env_steps to go further."
            )
    return checkpoint


def _with_diffuser(run: RunConfig) -> tuple[RunConfig, TrajectoryDiffuser | None]:
    """The run with its diffuser's path filled in, so that resuming it never meets another one; and the diffuser."""
    if run.augmentation == "none":
        return run, None
    run.require_data()
    path = str(prepare_diffuser(run))
    diffuser = TrajectoryDiffuser.from_pretrained(path)
    diffuser.sampling = run.generator.sampling
    return replace(run, generator=replace(run.generator, path=path)), diffuser


def _begin(folder: RunFolder, run: RunConfig, diffuser: TrajectoryDiffuser | None) -> None:
    """Write down what is run: for a resumed run its config anew, since flags may have changed it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.summary.unlink(missing_ok=True)
    if not folder.started:
        write_text(folder.manifest, json.dumps(run_manifest(diffuser), indent=2))
    write_text(folder.config, run.to_yaml())


def _passed(every: int, before: int, now: int) -> bool:
    return now // every > before // every


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the loop ends at its next iteration with a checkpoint.

    A second signal does what it always did: it ends an iteration that hangs.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only; whoever runs us elsewhere stops us otherwise
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hear(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, hear)
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
