"""What imagined trajectories cost: EnsembleSAC with and without a diffuser, in one process and as actors.

``python -m benchmarks.overhead --json F [--env ID --model FOLDER]``. Without ``--model`` a diffuser of the default
size is fitted on the spot to random episodes of ``--env``: what generation costs does not depend on how good it is,
but for the lengths of the trajectories, which are reported. In process nothing is adapted; ``augmented_over_plain``
(see :mod:`benchmarks.distributed`) includes the adapter. A quarter of an hour on two cores; torch has one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from atradiff.allocator import keep_freed_memory
from atradiff.config import FitConfig, SamplingConfig
from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.replay.config import ReplayConfig
from benchmarks.distributed import augmented_over_plain, distributed_run, measure_rates
from benchmarks.figures import show
from benchmarks.ray_session import ray_session
from rllib_ext import EnsembleSACConfig
from rllib_ext.ensemble_sac import EnsembleSAC

LEARNING_STARTS = 500


def small_diffuser(env_id: str, steps: int, folder: Path) -> Path:
    """The folder of a diffuser fitted for ``steps`` steps to ten random episodes, which are beside it in ``data``."""
    collect(env_id, "random", 10, folder / "data", progress=False)
    data, settings = open_trajectories(folder / "data"), FitConfig(steps=steps)
    fit(data, folder / "model", settings=settings, device="cpu", quiet=True)
    return folder / "model"


def build(env_id: str, diffuser: TrajectoryDiffuser | None, rho: float) -> EnsembleSAC:
    """EnsembleSAC past its random steps, with a diffuser or (None) without."""
    config = EnsembleSACConfig().environment(env_id).training(learning_starts=LEARNING_STARTS).debugging(seed=0)
    config.augmentation(generator=diffuser, replay=ReplayConfig(capacity=100_000, rho=rho))
    algorithm = config.build_algo()
    while algorithm.env_steps <= LEARNING_STARTS:
        algorithm.train()
    return algorithm


def seconds_per_step(algorithm: EnsembleSAC, iterations: int) -> tuple[float, float]:
    """Wall and CPU seconds per env step over ``iterations`` iterations."""
    steps, wall, cpu = algorithm.env_steps, time.perf_counter(), time.process_time()
    for _ in range(iterations):
        algorithm.train()
    n = algorithm.env_steps - steps
    return (time.perf_counter() - wall) / n, (time.process_time() - cpu) / n


def measure(arms: dict[str, EnsembleSAC], rounds: int, iterations: int) -> dict[str, np.ndarray]:
    """(rounds, 2) wall and CPU seconds per env step of each arm; who begins changes from round to round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name in sorted(arms, reverse=bool(turn % 2)):
            times[name].append(seconds_per_step(arms[name], iterations))
    return {name: np.array(values) for name, values in times.items()}


def main() -> None:
    """Print what augmentation costs, in process and as actors; ``--json`` writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--model", type=Path, help="a fitted diffuser of that environment")
    parser.add_argument("--fit-steps", type=int, default=200)
    parser.add_argument("--horizon", type=int, help="most rows of a trajectory, as in generator.sampling")
    parser.add_argument("--length", type=int, help="rows of a window, as in generator.sampling")
    parser.add_argument("--rho", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=8, help="of 50 env steps, per arm and round")
    parser.add_argument("--env-steps", type=int, default=12_000, help="of each run as actors")
    parser.add_argument("--run-rounds", type=int, default=2, help="pairs of runs as actors; 0: in process only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    sampling = SamplingConfig(horizon=args.horizon, length=args.length)
    with tempfile.TemporaryDirectory() as scratch:
        model = small_diffuser(args.env, args.fit_steps, Path(scratch))
        figures = in_process(args.env, args.model or model, sampling, args.rho, args.rounds, args.iterations)
        if args.run_rounds:
            run = distributed_run(args.env, args.model or model, Path(scratch), args.env_steps)
            run = replace(
                run,
                generator=replace(run.generator, sampling=sampling),
                replay=replace(run.replay, rho=args.rho),
            )
            rates = measure_rates(run, args.run_rounds)
            figures |= {"augmented_over_plain": augmented_over_plain(rates), "env_steps_per_second_as_actors": rates}
    show(figures, args.json)


def in_process(
    env_id: str, model: Path, sampling: SamplingConfig, rho: float, rounds: int, iterations: int
) -> dict[str, object]:
    """Both arms in one process, their iterations in turns."""
    diffuser = TrajectoryDiffuser.from_pretrained(model, device="cpu")
    diffuser.sampling = sampling
    with ray_session():
        arms = {"with": build(env_id, diffuser, rho), "without": build(env_id, None, rho)}
        times = measure(arms, rounds, iterations)
        figures = report(env_id, arms["with"], times)
        for arm in arms.values():
            arm.stop()
    return figures


def report(env_id: str, augmented: EnsembleSAC, times: dict[str, np.ndarray]) -> dict[str, object]:
    """Medians over rounds of ``times`` (rounds, 2: wall and CPU seconds per env step) of the two arms, and their
    ratios.
    """
    ratio = np.median(times["with"] / times["without"], axis=0)
    replay = augmented.service.metrics()
    return {
        "env": env_id,
        "seconds_per_1000_env_steps": {name: 1000 * float(np.median(values[:, 0])) for name, values in times.items()},
        "ratio": float(ratio[0]),
        "cpu_ratio": float(ratio[1]),
        "synthetic_rows_per_env_step": replay["synthetic_rows"] / augmented.env_steps,
        "mean_trajectory_length": replay["expected_length"],
        "rounds": len(times["with"]),
    }


if __name__ == "__main__":
    main()
