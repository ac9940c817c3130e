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

import torch

from atradiff.config import require
from atradiff.data.alive_box import unbounded
from atradiff.data.store import open_trajectories
from atradiff.dynamics import DynamicsEnsemble
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import BoolArray, Transitions
from benchmarks.figures import show


@dataclass(frozen=True)
class EndsTold:
    """Of ``ends`` among the rows, the share that was told; of what was told to be an end, the share that is one."""

    ends: int
    precision: float
    recall: float


def measure(model: TrajectoryDiffuser, rows: Transitions) -> dict[str, EndsTold]:
    """By ``bounds`` and by ``net``; raises ``ValueError`` for a model without bounds and for rows without ends."""
    require(model.dynamics.seen.tells_ends, "the model", "no bounds", "must have read bounds off its data")
    require(bool(rows.terminated.any()), "the data", "no ends", "must hold terminal rows")
    return {"bounds": _told(model.dynamics, rows), "net": _told(_without_bounds(model.dynamics), rows)}


def _without_bounds(model: DynamicsEnsemble) -> DynamicsEnsemble:
    plain = copy.deepcopy(model)
    low, high = unbounded(plain.spaces.observation_size)
    plain.seen.alive_low.copy_(torch.from_numpy(low))
    plain.seen.alive_high.copy_(torch.from_numpy(high))
    return plain


def _told(model: DynamicsEnsemble, rows: Transitions) -> EndsTold:
    device = model.state_mean.device
    step = model.predict(*(torch.tensor(x, device=device) for x in (rows.observations, rows.actions)))
    said: BoolArray = step.terminated.cpu().numpy()
    both = float((said & rows.terminated).sum())
    ends = int(rows.terminated.sum())
    return EndsTold(ends, precision=both / max(int(said.sum()), 1), recall=both / ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="trajectory store that the model was not fitted to")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    model = TrajectoryDiffuser.from_pretrained(options.model)
    told = measure(model, open_trajectories(options.data).columns)
    show({way: asdict(figures) for way, figures in told.items()}, options.json)


if __name__ == "__main__":
    main()
