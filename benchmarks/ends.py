"""Does a model know a fall that it was not fitted to? Its bounds on states against its net, on rows of other behaviour.

``python -m benchmarks.ends --model MODEL --data STORE --json F``, where STORE holds episodes of the same environment
that the model was not fitted to: of random actions (``atradiff data collect``), or of an agent. For each row the
one-step model says whether it ends the task: read off the state that it predicts, and by its net, as without bounds.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from atradiff.config import require
from atradiff.data.alive_box import unbounded
from atradiff.data.store import open_trajectories
from atradiff.data.tasks import TaskRows
from atradiff.data.trajectories import Trajectories
from atradiff.dynamics import DynamicsEnsemble
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import BoolArray
from benchmarks.figures import show


@dataclass(frozen=True)
class EndsTold:
    """Of ``ends`` among the rows, the share that was told; of what was told to be an end, the share that is one."""

    ends: int
    precision: float
    recall: float


def measure(model: TrajectoryDiffuser, data: Trajectories) -> dict[str, EndsTold]:
    """By ``bounds`` and by ``net``.

    Raises ``ValueError`` for a model without bounds, for data without ends, and for data that are not the model's: of
    other spaces, or without the task vectors that it was fitted with.
    """
    data.spaces.require_equal(model.spaces, "the data", "the model")
    wanted, there = model.config.task_size, data.task_size
    require(wanted in (0, there), "task_size of the data", there, f"must be {wanted}, as the model was fitted with")
    require(model.dynamics.seen.tells_ends, "the model", "no bounds", "must have read bounds off its data")
    require(bool(data.columns.terminated.any()), "the data", "no ends", "must hold terminal rows")
    tasks = TaskRows.of(data) if wanted else None
    models = {"bounds": model.dynamics, "net": _without_bounds(model.dynamics)}
    return {name: _told(one_step, data, tasks) for name, one_step in models.items()}


def _without_bounds(model: DynamicsEnsemble) -> DynamicsEnsemble:
    plain = copy.deepcopy(model)
    low, high = unbounded(plain.spaces.observation_size)
    plain.seen.alive_low.copy_(torch.from_numpy(low))
    plain.seen.alive_high.copy_(torch.from_numpy(high))
    return plain


def _told(model: DynamicsEnsemble, data: Trajectories, tasks: TaskRows | None) -> EndsTold:
    rows, device = data.columns, model.state_mean.device
    inputs = [rows.observations, rows.actions] + ([] if tasks is None else [tasks[np.arange(len(rows))]])
    step = model.predict(*(torch.tensor(x, device=device) for x in inputs))
    said: BoolArray = step.terminated.cpu().numpy()
    both = float((said & rows.terminated).sum())
    ends = int(rows.terminated.sum())
    return EndsTold(ends, precision=both / max(int(said.sum()), 1), recall=both / ends)


def main() -> None:
    """Print what :func:`measure` finds; ``--json`` writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="trajectory store that the model was not fitted to")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    model = TrajectoryDiffuser.from_pretrained(options.model)
    told = measure(model, open_trajectories(options.data))
    show({way: asdict(figures) for way, figures in told.items()}, options.json)


if __name__ == "__main__":
    main()
