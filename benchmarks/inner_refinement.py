"""Is it worth to bring windows nearer to the one-step model at each step of sampling, and not only at the end?

``python -m benchmarks.inner_refinement --model MODEL --data STORE [--json F]``: ``inner_projection_steps`` and
``inner_roll`` in each call beside plain sampling, and ``refine: project`` and ``dynamics`` after it. Quality and speed
are those of `atradiff fidelity`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atradiff.allocator import keep_freed_memory
from atradiff.config import Refine
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.report.fidelity import fidelity
from atradiff.report.judge import Judge
from benchmarks.figures import show

SHOWN = ("relative_dynamics_error", "relative_reward_error", "ks", "step_size_ratio", "transitions_per_cpu_second")


@dataclass(frozen=True)
class Way:
    """How windows are sampled: network calls, projection steps or a roll's share inside, what comes after the last."""

    calls: int
    inside: int
    refine: Refine
    roll: float = 0.0

    @property
    def name(self) -> str:
        after = "" if self.refine == "none" else f", then {self.refine}"
        inside = f"rolled by {self.roll}" if self.roll else f"{self.inside} steps in each"
        return f"{self.calls} calls, {inside}{after}"


PLAIN = tuple(Way(calls, 0, refine) for calls in (2, 4) for refine in ("none", "project", "dynamics"))

INSIDE: dict[str, tuple[Way, ...]] = {
    "projection": tuple(
        way
        for calls in (2, 4)
        for way in (*(Way(calls, inside, "none") for inside in (2, 4, 8)), Way(calls, 2, "project"))
    ),
    "roll": tuple(replace(way, roll=0.8) for way in PLAIN),
}


def measure(
    model: TrajectoryDiffuser, data: Trajectories, lengths: Sequence[int], windows: int, ways: Sequence[Way]
) -> dict[str, dict[str, Any]]:
    """Figures by way, then by window length."""
    train, held_out = model.provenance.split(data)
    judge = Judge.over(held_out, train, data.env_id, simulated_rows=4000, seed=0)
    sampling, figures = model.sampling, {}
    try:
        for way in ways:
            model.sampling = replace(sampling, calls=way.calls, inner_projection_steps=way.inside, inner_roll=way.roll)
            variant = "raw" if way.refine == "none" else way.refine
            report = fidelity(
                model,
                held_out,
                train,
                data.env_id,
                lengths=lengths,
                windows=windows,
                variants=(variant,),
                judge=judge,
            )
            figures[way.name] = {str(k): _shown(found[variant].to_json()) for k, found in report.by_length.items()}
    finally:
        model.sampling = sampling
    return figures


def _shown(found: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if found[name] is None else float(np.round(found[name], 4)) for name in SHOWN}


def main() -> None:
    """Judge and time all ways to sample the model, print the figures; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the trajectory store that it was fitted on")
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--inside", choices=tuple(INSIDE), nargs="+", default=tuple(INSIDE), help="default: both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = TrajectoryDiffuser.from_pretrained(options.model, device="cpu", precision="float32")
    ways = [*PLAIN, *(way for kind in options.inside for way in INSIDE[kind])]
    show(measure(model, open_trajectories(options.data), options.lengths, options.windows, ways), options.json)


if __name__ == "__main__":
    main()
