"""Does an adapter follow the agent to a task that moved, and what does it forget?

``python -m benchmarks.following --model MODEL --data STORE --new NEW [--updates 2] --json F``. MODEL was fitted to
STORE; NEW is a store of episodes of the task that moved (``atradiff data collect``). A third of its episodes is kept
aside; the others arrive in as many parts as there are updates, as an agent's rows would. After each update the loss is
measured on windows of the episodes aside and on held-out windows of STORE.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atradiff.adaptation.adapt import Adapter
from atradiff.adaptation.config import AdaptationConfig, PickUpConfig
from atradiff.adaptation.feed import LocalFeed
from atradiff.adaptation.pickup import make_pick_up
from atradiff.allocator import keep_freed_memory
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.replay.config import ReplayConfig
from atradiff.replay.mixed import MixedReplay
from atradiff.types import Transitions
from benchmarks.figures import show

ASIDE = 1 / 3
CONFIG = AdaptationConfig(PickUpConfig("uniform"), max_forgetting=None)
"""The defaults, but that all rows are alike, since nobody learns from them, and that nothing is taken back."""


def follow(adapter: Adapter, new: Trajectories, updates: int, seed: int) -> dict[str, Any]:
    """Losses before the first update and after each, and by which share they changed in all."""
    lived, aside = new.split(ASIDE, seed)
    fresh = WindowSampler(aside, adapter.lengths)
    watcher = make_pick_up(adapter.config.pick_up, len(lived.columns), seed)
    replay = MixedReplay(new.spaces, ReplayConfig(capacity=len(lived.columns)), seed, watcher=watcher)
    feed = LocalFeed(replay, _as_they_are)
    losses: dict[str, list[float]] = {"new": [adapter.loss(fresh)], "held_out": []}
    seconds = 0.0
    for rows, episodes in _parts(lived, updates):
        replay.store(rows, episodes)
        report = adapter.update(feed, len(replay))
        if report.windows == 0:
            raise ValueError(f"{len(rows)} new rows were not enough for an update ({report.outcome}): ask for fewer.")
        losses["new"].append(adapter.loss(fresh))
        losses["held_out"] = losses["held_out"] or [report.held_out_before]
        losses["held_out"].append(report.held_out_after)
        seconds += report.cpu_seconds
    changes = {f"{name}_change": values[-1] / values[0] - 1 for name, values in losses.items()}
    return {"rows": len(replay), **losses, **changes, "cpu_seconds_per_update": seconds / updates}


def _parts(data: Trajectories, count: int) -> Sequence[tuple[Transitions, np.ndarray[Any, np.dtype[np.int64]]]]:
    """Rows and the keys of their episodes, in ``count`` parts of equal size but for a rest."""
    keys = np.repeat(np.arange(len(data)), data.lengths)
    return [(data.columns[rows], keys[rows]) for rows in np.array_split(np.arange(len(keys)), count)]


def _as_they_are(rows: Transitions) -> Transitions:
    return rows


def main() -> None:
    """Print the losses update by update; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a fitted diffuser")
    parser.add_argument("--data", type=Path, required=True, help="the store it was fitted to")
    parser.add_argument("--new", type=Path, required=True, help="store of episodes of the task that moved")
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--picked", type=int, default=1000, help="rows per update")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    config = replace(CONFIG, pick_up=replace(CONFIG.pick_up, picked=options.picked))
    adapter = Adapter.open(options.model, open_trajectories(options.data), config, options.seed)
    show(follow(adapter, open_trajectories(options.new), options.updates, options.seed), options.json)


if __name__ == "__main__":
    main()
