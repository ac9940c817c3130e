"""A distributed run under fire: one of its processes after the other is killed, and the books must balance.

``python -m benchmarks.soak --minutes 20 --every 30 --json F``: env runners, a learner, generators, an adapter and the
replay train together; every so many seconds one process, drawn at random, gets SIGKILL. The driver is spared: what it
does is resume (``tests/cluster/test_distributed.py``). The run is ``configs/tiny/halfcheetah_cluster.yaml``, endless,
with two env runners and two generators.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.figures import show
from benchmarks.ray_processes import TITLES, processes
from cluster.config import RunConfig, load_run_config
from cluster.progress import Progress
from cluster.run import Stopped, train
from cluster.run_store import RunStore

CONFIG = Path(__file__).parents[1] / "configs" / "tiny" / "halfcheetah_cluster.yaml"
_ENDLESS = 10**9
_AIM_SECONDS = 0.2


@dataclass
class Kill:
    """What was killed, when (seconds since the first step), and the env steps that had been told by then."""

    role: str
    second: float
    env_steps: int


@dataclass
class SoakReport:
    """``books`` are counters that must be equal, pair by pair; ``balanced`` says whether they are."""

    kills_planned: int = 0
    kills: list[Kill] = field(default_factory=list)
    env_steps: int = 0
    seconds: float = 0.0
    steps_after_last_kill: int = 0
    longest_pause_seconds: float = 0.0
    went_back: int = 0
    books: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        return all(one == other for one, other in self.books.values())

    @property
    def passed(self) -> bool:
        """Whether the books balance after all of the kills."""
        return self.balanced and len(self.kills) == self.kills_planned


class _Sniper:
    """Kills by the clock, from a thread; watches the run's progress and ends it."""

    def __init__(self, seconds: float, every: float, seed: int, roles: list[str]) -> None:
        self._seconds, self._every, self._rng = seconds, every, random.Random(seed)
        self._roles = roles
        self._began = self._last_step = 0.0
        self._thread = threading.Thread(target=self._shoot, daemon=True)
        # The last kill leaves time to recover: the end is a checkpoint of a whole run.
        self.report = SoakReport(kills_planned=max(int((seconds - every / 2) // every), 0))

    def watch(self, progress: Progress) -> None:
        """Take note of how far the run is, and of its pauses; the killer begins with the first call."""
        now, report = time.monotonic(), self.report
        if not self._began:
            self._began = self._last_step = now
            self._thread.start()
        if progress.env_steps > report.env_steps:
            report.longest_pause_seconds = max(report.longest_pause_seconds, now - self._last_step)
            self._last_step = now
        report.went_back += progress.env_steps < report.env_steps
        report.env_steps, report.seconds = progress.env_steps, now - self._began
        if report.seconds >= self._seconds:
            os.kill(os.getpid(), signal.SIGINT)

    def _shoot(self) -> None:
        for turn in range(self.report.kills_planned):
            time.sleep(max(self._began + (turn + 1) * self._every - time.monotonic(), 0))
            while not self._hit():  # nobody is there at the moment, or the victim has just ended by itself
                time.sleep(_AIM_SECONDS)

    def _hit(self) -> bool:
        alive = {role: pids for role in self._roles if (pids := processes(role, os.getpid()))}
        if not alive:
            return False
        role = self._rng.choice(sorted(alive))
        try:
            os.kill(self._rng.choice(alive[role]), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.report.kills.append(Kill(role, time.monotonic() - self._began, self.report.env_steps))
        return True


def soak(run: RunConfig, seconds: float, every: float, seed: int = 0, roles: list[str] | None = None) -> SoakReport:
    """Train ``run`` for ``seconds`` with a kill each ``every`` seconds, stop it, and balance the books.

    Must be called in the main thread, in a process whose Ray is this run's own.
    """
    sniper = _Sniper(seconds, every, seed, roles or sorted(TITLES))
    run = replace(run, env_steps=_ENDLESS)
    with suppress(Stopped):
        train(run, sniper.watch)
    report = sniper.report
    report.steps_after_last_kill = report.env_steps - max((kill.env_steps for kill in report.kills), default=0)
    report.books = balance(run)
    return report


def balance(run: RunConfig) -> dict[str, tuple[int, int]]:
    """What the replay's part of the newest checkpoint counts, twice over."""
    checkpoint = RunStore.of(run.folder).checkpoints.newest_whole()
    if checkpoint is None:
        raise ValueError(f"{run.folder} has no checkpoint.")
    with checkpoint.part("replay").open() as folder:
        state: dict[str, Any] = json.loads((folder / "replay.json").read_text())
        real: dict[str, Any] = json.loads((folder / "real" / "ring.json").read_text())
        queued = _queued(folder)
    counters = state["counters"]
    settled = counters["trajectories"] + counters["requests_dropped"] + queued
    return {
        "env steps = rows ever stored": (counters["env_steps"], real["total_added"]),
        "requests = answered + dropped + queued": (counters["requests"], settled),
    }


def _queued(folder: Path) -> int:
    import numpy as np

    with np.load(folder / "queue.npz", allow_pickle=False) as arrays:
        return len(arrays["request_id"])


def main() -> int:
    """Exit status: 0 where the books balance after all kills that were planned, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0, help="of the victims")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--learners", type=int, default=1, help="remote learners; 0: one in the trainer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        places = [f"--output={scratch}/runs", f"--data.cache={scratch}/data", f"--generator.cache={scratch}/models"]
        learners = [f"--cluster.learners.learners={args.learners}", "--cluster.learners.resources.num_cpus=0.2"]
        actors = ["--cluster.rollouts.env_runners=2", "--cluster.pool.generators=2"]
        run = load_run_config(args.config, [*places, *learners, *actors])
        report = soak(run, 60 * args.minutes, args.every, args.seed)
    kills = Counter(kill.role for kill in report.kills)
    figures = asdict(report) | {"kills_by_role": dict(kills), "balanced": report.balanced, "passed": report.passed}
    show(figures, args.json)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
