"""Where a window as diffused gets its dynamics error: held-out windows, noised up to a level, denoised from there on.

``python -m benchmarks.noise_levels --model MODEL --data STORE [--json F]`` for a model of ``process: shortcut`` and
data of an environment that can be simulated. Noise of level t leaves t of a window, 0 is all noise. ``one_call`` is the
network's estimate of the clean window; ``walked`` goes there in steps of 1/16; the difference between two levels is
what the steps between them add.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atradiff.config import require
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows, WindowSampler
from atradiff.diffusion.conditioning import Condition
from atradiff.generator import TrajectoryDiffuser
from atradiff.report.judge import Judge
from benchmarks.figures import show

LEVELS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)

_STEPS = 16


@torch.inference_mode()
def measure(
    model: TrajectoryDiffuser, data: Trajectories, length: int, windows: int, levels: Sequence[float] = LEVELS
) -> dict[str, dict[str, float | None]]:
    """Relative dynamics errors of ``windows`` held-out windows of ``length`` rows, by level, under fixed noise.

    Raises ``ValueError`` for a model of another process, of tasks, with a guide or told of history.
    """
    config = model.config
    require(config.process == "shortcut", "process", config.process, "must be shortcut")
    plain = config.task_size == 0 and config.guide == "none" and config.history == 0
    require(plain, "the model", "tasks, guide or history", "must be told of states alone")
    train, held_out = model.provenance.split(data)
    judge = Judge.over(held_out, train, data.env_id, simulated_rows=2000, seed=0)
    real = WindowSampler(held_out, (length,)).sample(length, windows, np.random.default_rng(0))
    rows = torch.from_numpy(model.codec.encode(real))
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    velocity = _velocity(model, real)

    def error(made: Tensor) -> float | None:
        decoded = model.decoder.decode(real.states[:, 0], made.numpy())
        shown = replace(real, states=decoded.states, actions=decoded.actions, rewards=decoded.rewards)
        return judge.simulated(shown.transitions(), {})["relative_dynamics_error"]

    figures = {}
    for level in levels:
        noisy = torch.lerp(noise, rows, level)
        figures[f"{level:g}"] = {
            "one_call": error(noisy + (1 - level) * velocity(noisy, level)),
            "walked": error(_walked(noisy, level, velocity)),
        }
    return figures


def _velocity(model: TrajectoryDiffuser, windows: Windows) -> Callable[[Tensor, float], Tensor]:
    states = torch.from_numpy(model.codec.normalizer.states(windows.states[:, 0]))
    condition = Condition(states, torch.full((len(windows),), windows.rewards.shape[1]))
    still = torch.zeros(len(windows))
    return lambda rows, time: model.denoiser(rows, still + time, still, condition)


def _walked(rows: Tensor, level: float, velocity: Callable[[Tensor, float], Tensor]) -> Tensor:
    for step in range(round(level * _STEPS), _STEPS):
        rows = rows + velocity(rows, step / _STEPS) / _STEPS
    return rows


def main() -> None:
    """Measure the model at every level, print the figures; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the trajectory store that it was fitted on")
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = TrajectoryDiffuser.from_pretrained(options.model, device="cpu", precision="float32")
    show(measure(model, open_trajectories(options.data), options.length, options.windows), options.json)


if __name__ == "__main__":
    main()
