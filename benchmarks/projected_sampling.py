"""Is it worth to project windows on the one-step model at each step of sampling, and not only at the end?

``python -m benchmarks.projected_sampling --model MODEL --data STORE [--json F]``, for a model of ``rows: differences``
and ``process: shortcut``. Each call's estimate of the clean windows is projected as ``refine: project`` does it, and
the step is taken towards the projected ones, so that the calls that follow may answer what was moved: actions, rewards
and terminals. Beside it, plain sampling, and ``refine: project`` after it. Quality and speed are those of
`atradiff fidelity`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.allocator import keep_freed_memory
from atradiff.config import Refine, require
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.shortcut import FINEST_CALLS
from atradiff.generator import TrajectoryDiffuser
from atradiff.projection import project
from atradiff.report.fidelity import fidelity
from atradiff.report.judge import Judge
from benchmarks.figures import show

SHOWN = ("relative_dynamics_error", "relative_reward_error", "ks", "step_size_ratio", "transitions_per_cpu_second")


@dataclass(frozen=True)
class Way:
    """How windows are sampled: network calls, projection steps inside each, and what comes after the last."""

    calls: int
    inside: int
    refine: Refine

    @property
    def name(self) -> str:
        after = "" if self.refine == "none" else f", then {self.refine}"
        return f"{self.calls} calls, {self.inside} steps in each{after}"


WAYS = tuple(
    way
    for calls in (2, 4)
    for way in (
        *(Way(calls, inside, "none") for inside in (0, 2, 4, 8)),
        Way(calls, 0, "project"),
        Way(calls, 2, "project"),
    )
)


class ProjectedNetwork(RowNetwork):
    """Steps lead to projected windows: with x the clean ones as estimated, v becomes (project(x) - x_t) / (1 - t)."""

    def __init__(self, model: TrajectoryDiffuser, steps: int) -> None:
        super().__init__()
        self.network, self.row_size = model.networks.diffuser, model.codec.row_size
        self._model, self._steps = model, steps

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        left = (1 - noise).clamp(min=1 / (2 * FINEST_CALLS))[:, None, None]
        clean = rows + left * self.network(rows, noise, step, condition)
        return (self._projected(clean, condition) - rows) / left

    def _projected(self, rows: Tensor, condition: Condition) -> Tensor:
        """Rows (B, K, R) with states and actions moved; what they say of rewards and ends stays."""
        codec, dynamics = self._model.codec, self._model.dynamics
        actions, columns = codec.spaces.action_size, codec.state_columns
        first = condition.states * torch.from_numpy(codec.normalizer.state_scale) + dynamics.state_mean
        path = first[:, None] + F.pad(torch.cumsum(rows[..., columns] * dynamics.delta_scale, 1), (0, 0, 1, 0))
        acted = rows[..., :actions] * torch.from_numpy(codec.normalizer.action_scale) + dynamics.action_mean
        acted = acted.clamp(torch.tensor(codec.spaces.action_low), torch.tensor(codec.spaces.action_high))
        real = torch.arange(rows.shape[1]) < condition.lengths[:, None]
        states, moved = project(dynamics, path, acted, real, None, self._steps)
        result = rows.clone()
        result[..., columns] = torch.diff(states, dim=1) * dynamics.delta_inverse
        result[..., :actions] += (moved - acted) * dynamics.action_inverse  # what lies beyond a bound stays there
        return result

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return []


def measure(
    model: TrajectoryDiffuser, data: Trajectories, lengths: Sequence[int], windows: int, ways: Sequence[Way] = WAYS
) -> dict[str, dict[str, Any]]:
    """Figures by way, then by window length.

    Raises ``ValueError`` for a model of another process or of other rows, of tasks, discrete actions or history.
    """
    config = model.config
    require(config.process == "shortcut", "process", config.process, "must be shortcut")
    require(config.rows == "differences", "rows", config.rows, "must be differences")
    plain = config.task_size == 0 and config.history == 0 and not model.spaces.discrete
    require(plain, "the model", "tasks, history or discrete actions", "must be told of states alone")
    train, held_out = model.provenance.split(data)
    judge = Judge.over(held_out, train, data.env_id, simulated_rows=4000, seed=0)
    denoiser, sampling, figures = model.denoiser, model.sampling, {}
    try:
        for way in ways:
            model.denoiser = ProjectedNetwork(model, way.inside) if way.inside else denoiser
            model.sampling = replace(sampling, calls=way.calls)
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
        model.denoiser, model.sampling = denoiser, sampling
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
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = TrajectoryDiffuser.from_pretrained(options.model, device="cpu", precision="float32")
    show(measure(model, open_trajectories(options.data), options.lengths, options.windows), options.json)


if __name__ == "__main__":
    main()
