"""Does plain EnsembleSAC learn as well as a public SAC, at equal env steps? Against Stable-Baselines3.

``python -m benchmarks.public_sac --env Pendulum-v1 --env-steps 10000 --seeds 0 1 2 --python sb3/bin/python --json F``.
Stable-Baselines3 wants other versions than this project: it runs under the interpreter ``--python``, with the same
settings (256x256, one update for each env step, batches of 256, rates of 3e-4, learned temperature) and the same
evaluation: deterministic episodes from the same seeds. Both take turns, seed by seed, one torch thread each. Where the
file that ``--json`` names holds runs of the same task, only seeds that it lacks are run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from atradiff.report.aggregate import runs_interval
from atradiff.report.stats import Interval, probability_of_improvement
from atradiff.report.tables import markdown
from atradiff.staging import write_text
from benchmarks.ray_session import ray_session
from rllib_ext import EnsembleSACConfig
from rllib_ext.evaluation import evaluate

SCRIPT = Path(__file__).with_name("public_sac_sb3.py")
OURS = "EnsembleSAC"


@dataclass(frozen=True)
class Task:
    """What both are asked for. Evaluations come every ``every`` env steps, the last one at ``env_steps``.

    ``fragment``: env steps between two calls of our learner, for as many updates; 50 is the default of a run. Theirs
    learns after each step.
    """

    env: str
    env_steps: int
    every: int
    episodes: int = 10
    learning_starts: int = 1_000
    fragment: int = 50
    seed: int = 0
    evaluation_seed: int = 1_000_000

    def __post_init__(self) -> None:
        if self.every < 1 or self.env_steps % self.every:
            raise ValueError(f"--env-steps {self.env_steps} must be a multiple of --every {self.every}.")
        if self.learning_starts >= self.env_steps:
            raise ValueError(f"--env-steps {self.env_steps} must exceed --learning-starts {self.learning_starts}.")

    def with_seed(self, seed: int) -> Task:
        """The same for another run."""
        return Task(**(asdict(self) | {"seed": seed}))

    @property
    def steps(self) -> list[int]:
        """Env steps of the evaluations (E,)."""
        return list(range(self.every, self.env_steps + 1, self.every))


@dataclass(frozen=True)
class Run:
    """One seed of one library: wall clock in seconds, evaluations included, and returns (E, episodes)."""

    name: str
    seconds: float
    returns: list[list[float]]


Contender = Callable[[Task], Run]


def ensemble_sac(task: Task) -> Run:
    """Ours, with its default settings."""
    config = (
        EnsembleSACConfig()
        .environment(task.env)
        .env_runners(rollout_fragment_length=math.gcd(task.fragment, task.every))
        .training(learning_starts=task.learning_starts)
        .debugging(seed=task.seed, log_level="ERROR")
    )
    began, returns, done = time.perf_counter(), [], 0
    algorithm = config.build_algo()
    try:
        for steps in task.steps:
            while done < steps:
                done = int(algorithm.train()["num_env_steps_sampled_lifetime"])
            scores = evaluate(algorithm, lambda: gym.make(task.env), task.episodes, task.evaluation_seed)
            returns.append(scores.tolist())
    finally:
        algorithm.stop()
    return Run(OURS, time.perf_counter() - began, returns)


def stable_baselines(python: Path, script: Path = SCRIPT) -> Contender:
    """Theirs, under the interpreter ``python``; raises ``RuntimeError`` with what it says where it fails."""

    def run(task: Task) -> Run:
        """In a process of ``python``; ``RuntimeError`` with what it said where it fails or answers something else."""
        command = [str(python), str(script), json.dumps(asdict(task))]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise RuntimeError(f"{python} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        answer = Run(**json.loads(done.stdout.strip().splitlines()[-1]))
        if np.shape(answer.returns) != (len(task.steps), task.episodes):
            raise RuntimeError(f"{python} made evaluations of shape {np.shape(answer.returns)}, not as {task} asks.")
        return answer

    return run


def report(task: Task, seeds: Sequence[int], runs: dict[int, list[Run]]) -> dict[str, Any]:
    """Figures by library: ``curves`` (seeds, E) of mean returns; ``ours_better`` is P(a run of ours ends higher)."""
    names = [run.name for run in runs[seeds[0]]]
    curves = {name: [np.mean(runs[seed][i].returns, axis=1).tolist() for seed in seeds] for i, name in enumerate(names)}
    final = [[curve[-1] for curve in curves[name]] for name in names]
    return {
        "task": asdict(task),
        "seeds": list(seeds),
        "runs": {str(seed): [asdict(run) for run in runs[seed]] for seed in seeds},
        "steps": task.steps,
        "curves": curves,
        "iqm_final": {name: asdict(_iqm(scores)) for name, scores in zip(names, final, strict=True)},
        "ours_better": probability_of_improvement(final[0], final[1]),
        "seconds": {name: [runs[seed][i].seconds for seed in seeds] for i, name in enumerate(names)},
    }


def runs_of(file: Path, task: Task) -> dict[int, list[Run]]:
    """Runs by seed that ``file`` holds, none where there is no file; ``ValueError`` where they are of another task."""
    if not file.exists():
        return {}
    figures = json.loads(file.read_text())
    if figures.get("task") != asdict(task):
        raise ValueError(
            f"{file} holds runs of another task: {figures.get('task')}, not {asdict(task)}. Choose another file."
        )
    return {int(seed): [Run(**run) for run in runs] for seed, runs in figures["runs"].items()}


def table(figures: dict[str, Any]) -> str:
    """Markdown: a row for each evaluation, for each library the IQM over seeds with its interval and each seed."""
    curves, seeds = figures["curves"], ", ".join(map(str, figures["seeds"]))
    head = ["env steps", *(f"{name}: IQM [95 %] (seeds {seeds})" for name in curves)]
    rows = [
        [f"{steps:,}", *(_cell([curve[i] for curve in runs]) for runs in curves.values())]
        for i, steps in enumerate(figures["steps"])
    ]
    return markdown([head, *rows])


def _cell(scores: Sequence[float]) -> str:
    return f"{_iqm(scores)} ({', '.join(f'{score:.0f}' for score in scores)})"


def _iqm(scores: Sequence[float]) -> Interval:
    return runs_interval(scores, seed=0)


def main() -> None:
    """Print returns at equal env steps, seed by seed; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--env-steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, help="env steps between evaluations; a tenth of all")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--learning-starts", type=int, default=1_000)
    parser.add_argument("--fragment", type=int, default=50, help="env steps between two calls of our learner")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has stable-baselines3")
    parser.add_argument("--json", type=Path, help="write the figures into this file, after each seed")
    args = parser.parse_args()
    every = args.every or max(args.env_steps // 10, 1)
    task = Task(args.env, args.env_steps, every, args.episodes, args.learning_starts, args.fragment)
    runs = runs_of(args.json, task) if args.json else {}
    torch.set_num_threads(1)
    with ray_session():
        stable = stable_baselines(args.python)
        for seed in [seed for seed in args.seeds if seed not in runs]:
            theirs = stable(task.with_seed(seed))  # first: an interpreter that lacks something says so at once
            runs[seed] = [ensemble_sac(task.with_seed(seed)), theirs]
            if args.json:  # hours may be left: what is known so far is not lost with them
                write_text(args.json, json.dumps(report(task, sorted(runs), runs), indent=2) + "\n")
    figures = report(task, sorted(runs), runs)
    print(table(figures))


if __name__ == "__main__":
    main()
