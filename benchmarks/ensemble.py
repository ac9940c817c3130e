"""REDQ (10 critics, 20 updates per env step) as EnsembleSAC's settings against a hand-written loop.

``python -m benchmarks.ensemble --json F``. Both take turns in short rounds in one process with one torch thread, so
that whatever else the machine does falls on both. ``redq_over_tight`` is our time for an env step with its updates over
the loop's: the median over the rounds. Everything counts: acting, storing, sampling, learning, RLlib's own work.
``--compile`` adds the same with compiled losses, and ``compiled_over_plain``, its time over that of plain ones. With
``--device cuda`` ours learn on a GPU, where compiled losses are CUDA graphs; the loop stays on the CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import show
from benchmarks.learner import Contender, measure, trained
from benchmarks.ray_session import ray_session
from benchmarks.tight_redq import CRITICS, SUBSET, UTD, TightREDQ
from rllib_ext import EnsembleSACConfig

WARM_UP = 300
FRAGMENT = 10
"""Env steps between two calls of the learner; the loop alternates one and one."""


def redq(env_id: str, *, gpus: int = 0, compiled: bool = False) -> Contender:
    """EnsembleSAC with REDQ's settings, run as an algorithm of RLlib."""
    config = (
        EnsembleSACConfig()
        .environment(env_id)
        .env_runners(rollout_fragment_length=FRAGMENT)
        .training(
            n_critics=CRITICS,
            target_subset=SUBSET,
            actor_reduce="mean",
            utd=UTD,
            actor_every=UTD,
            learning_starts=WARM_UP,
            compile=compiled,
        )
        .learners(num_gpus_per_learner=gpus)
        .debugging(seed=0)
    )
    return trained(config.build_algo(), iterations=1, warm_up=WARM_UP)


def tight_loop(env_id: str) -> Contender:
    """The hand-written REDQ, past its random steps; each call of it acts and learns for ``FRAGMENT`` steps."""
    loop = TightREDQ(env_id, seed=0)
    loop.steps(WARM_UP, learn=False)

    def slice_() -> int:
        loop.steps(FRAGMENT, learn=True)
        return FRAGMENT

    return slice_


def report(speeds: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Figures from (env steps per wall second, per CPU second) of each round."""
    wall, cpu = ({name: np.array(rounds)[:, i] for name, rounds in speeds.items()} for i in (0, 1))
    ratio = np.median(wall["ours"] / wall["compiled"]) if "compiled" in wall else None
    return {
        "updates_per_second": {name: UTD * float(np.median(values)) for name, values in wall.items()},
        "redq_over_tight": float(np.median(wall["tight"] / wall["ours"])),
        "redq_over_tight_cpu": float(np.median(cpu["tight"] / cpu["ours"])),
        **({} if ratio is None else {"compiled_over_plain": float(ratio)}),
        "rounds": len(wall["ours"]),
    }


def main() -> None:
    """Print the speeds and their ratio, one thread each; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where ours learn")
    parser.add_argument("--compile", action="store_true", help="measure compiled losses, too")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be cpu: torch sees no GPU here")
    torch.set_num_threads(1)
    with ray_session():
        gpus = int(args.device == "cuda")
        contenders = {"ours": redq(args.env, gpus=gpus), "tight": tight_loop(args.env)}
        if args.compile:
            contenders["compiled"] = redq(args.env, gpus=gpus, compiled=True)
        figures = {"env": args.env, "device": args.device, **report(measure(contenders, args.rounds))}
    show(figures, args.json)


if __name__ == "__main__":
    main()
