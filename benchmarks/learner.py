"""Env steps per second of stock RLlib SAC, of EnsembleSAC and of a hand-written loop, one update per step each.

``python -m benchmarks.learner --json F``. All three take turns in short rounds in one process, one torch thread each,
so that whatever else the machine does falls on all of them. The figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.sac import SACConfig

from benchmarks.figures import show
from benchmarks.ray_session import ray_session
from benchmarks.tight_sac import TightSAC
from rllib_ext import EnsembleSACConfig

WARM_UP = 512
SLICE = 200
"""Env steps per turn, but for stock SAC, whose iteration has 100."""
Contender = Callable[[], int]
"""Runs a slice of training and returns its env steps."""


def stock_sac(env_id: str) -> Contender:
    """RLlib's SAC as it comes, with the uniform episode buffer (the cheaper of its two)."""
    config = (
        SACConfig()
        .environment(env_id)
        .env_runners(num_env_runners=0)
        .training(
            train_batch_size_per_learner=256,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 100_000},
            num_steps_sampled_before_learning_starts=WARM_UP,
        )
        .debugging(seed=0)
    )
    return trained(config.build_algo(), iterations=1)


def ensemble_sac(env_id: str) -> Contender:
    """Ours, past its random steps; each call trains for ``SLICE`` env steps."""
    config = EnsembleSACConfig().environment(env_id).training(learning_starts=WARM_UP).debugging(seed=0)
    return trained(config.build_algo(), iterations=SLICE // 50)


def tight_loop(env_id: str) -> Contender:
    """The hand-written SAC, past its random steps; each call acts and learns for ``SLICE`` steps."""
    sac = TightSAC(env_id, seed=0)
    sac.steps(WARM_UP, learn=False)

    def slice_() -> int:
        sac.steps(SLICE, learn=True)
        return SLICE

    return slice_


def trained(algo: Algorithm, iterations: int, warm_up: int = WARM_UP) -> Contender:
    """``iterations`` calls of ``algo.train()`` per slice, after ``warm_up`` env steps, from which on it learns."""
    done = 0
    while done <= warm_up:
        done = _train(algo)

    def slice_() -> int:
        """Train for a while; returns how many env steps it was."""
        nonlocal done
        before = done
        for _ in range(iterations):
            done = _train(algo)
        return done - before

    return slice_


def _train(algo: Algorithm) -> int:
    return int(algo.train()["num_env_steps_sampled_lifetime"])


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(env steps per wall second, per CPU second) of each contender in each round; the first round is not counted."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            steps = contender()
            if turn > 0:
                speeds[name].append((steps / (time.perf_counter() - wall), steps / (time.process_time() - cpu)))
    return speeds


def report(speeds: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """From rounds of (env steps per second, per CPU second) by contender: medians, and medians of ratios per round."""
    wall = {name: np.array([s[0] for s in rounds]) for name, rounds in speeds.items()}
    cpu = {name: float(np.median([s[1] for s in rounds])) for name, rounds in speeds.items()}
    return {
        "env_steps_per_second": {name: float(np.median(values)) for name, values in wall.items()},
        "env_steps_per_cpu_second": cpu,
        "ours_over_stock": float(np.median(wall["ours"] / wall["stock"])),
        "ours_over_tight": float(np.median(wall["ours"] / wall["tight"])),
        "rounds": len(wall["ours"]),
    }


def main() -> None:
    """Print the speeds and their ratios, one thread each; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with ray_session():
        contenders = {
            "stock": stock_sac(args.env),
            "ours": ensemble_sac(args.env),
            "tight": tight_loop(args.env),
        }
        figures = {"env": args.env, **report(measure(contenders, args.rounds))}
    show(figures, args.json)


if __name__ == "__main__":
    main()
