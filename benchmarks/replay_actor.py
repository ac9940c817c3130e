"""``python -m benchmarks.replay_actor --json F``: rows into the replay actor and batches out of it, per second.

HalfCheetah's widths (17 observations, 6 actions). Rows come from a sender in a process of its own, which waits for each
acknowledgement, as an env runner does: chunks of 1,000 rows, through shared memory, and fragments of 50. Batches go to
one learner, which copies each column into its own memory and does nothing else; then to one that works 8 ms on each
batch, as a SAC update takes on a CPU, and says which share of its time it waits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray

from atradiff.config import ServingConfig
from atradiff.ports import EpisodeRows, RowSink
from atradiff.replay.config import ReplayConfig
from atradiff.types import Spaces, SyntheticRows
from benchmarks.figures import show
from benchmarks.ray_session import ray_session
from benchmarks.rows import random_rows
from cluster.placement import Resources
from cluster.replay_actor import ReplayActorConfig, start_replay_actor
from cluster.replay_client import ActorRowSink, RemoteReplay

HALF_CHEETAH = Spaces(17, "continuous", (-1.0,) * 6, (1.0,) * 6)
BATCH = 256
CHUNK, FRAGMENT = 1000, 50
TRAJECTORY = 10
UPDATE_SECONDS = 0.008
JOURNALS = {"": None, "_journal": False, "_journal_synced": True}
"""Suffix of the figure, and whether the journal waits for the disk."""


class Sender:
    """An env runner that has its rows already."""

    def __init__(self, sink: RowSink) -> None:
        self._sink, self._sequence = sink, 0
        self._rng = np.random.default_rng(0)

    def push(self, rows_per_chunk: int, seconds: float) -> float:
        """Transitions per second that were stored and acknowledged."""
        rows, episodes = random_rows(rows_per_chunk, self._rng, HALF_CHEETAH), np.zeros(rows_per_chunk, np.int64)
        began, pushed = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self._sink.push(EpisodeRows(rows, episodes, "sender", self._sequence))
            self._sequence += 1
            pushed += rows_per_chunk
        return pushed / (time.perf_counter() - began)


@contextmanager
def replay_actor(rows: int, config: ReplayActorConfig, journal: Path | None = None) -> Iterator[Any]:
    """A replay actor for ``rows`` real rows, killed at the end; ``journal``: a folder for its journal."""
    actor = start_replay_actor(HALF_CHEETAH, ReplayConfig(capacity=rows), ServingConfig(), 0, config, journal=journal)
    try:
        yield actor
    finally:
        ray.kill(actor)


def measure_adds(rows: int, seconds: float, folder: Path) -> dict[str, float]:
    """Transitions per second in, for each kind of journal; its snapshots are part of it."""
    figures = {}
    for suffix, sync in JOURNALS.items():
        journal = None if sync is None else folder / f"journal{suffix}"
        config = ReplayActorConfig(sync=bool(sync), resources=Resources(num_cpus=0))
        with replay_actor(rows, config, journal) as actor:
            remote: Any = ray.remote(num_cpus=0)(Sender)
            sender = remote.remote(ActorRowSink(actor))
            ray.get(sender.push.remote(CHUNK, seconds / 10))  # processes and memory warm up
            figures[f"adds_per_second{suffix}"] = ray.get(sender.push.remote(CHUNK, seconds))
            figures[f"adds_per_second{suffix}_fragments"] = ray.get(sender.push.remote(FRAGMENT, seconds / 2))
            ray.kill(sender)
    return figures


def fill(actor: Any, rows: int) -> None:
    """Both rings full, so that nothing stays in a cache that would not in a long run."""
    rng = np.random.default_rng(0)
    n = min(10_000, rows)
    real, episodes = random_rows(n, rng, HALF_CHEETAH), np.zeros(n, np.int64)
    for sequence in range(rows // n):
        ray.get(actor.store.remote(EpisodeRows(real, episodes, "filler", sequence)))
        requests = ray.get(actor.wait_for_requests.remote(n, 0.0))
        lengths = np.full(len(requests), TRAJECTORY, np.int64)
        imagined = SyntheticRows(random_rows(TRAJECTORY * len(requests), rng, HALF_CHEETAH), lengths, 0)
        ray.get(actor.store_synthetic.remote(requests, imagined))


def measure_samples(rows: int, seconds: float) -> dict[str, float]:
    """Batches per second to one learner, and how long a learner that has work to do waits for them."""
    config = ReplayActorConfig(resources=Resources(num_cpus=0))
    with replay_actor(rows, config) as actor:
        fill(actor, rows)
        eager = RemoteReplay(actor, config)
        own = {name: np.array(column) for name, column in eager.sample(1, BATCH)[0].transitions.items()}
        began, sampled = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for name, column in eager.sample(1, BATCH)[0].transitions.items():
                np.copyto(own[name], column)
            sampled += 1
        per_second = sampled / (time.perf_counter() - began)
        eager.close()
        return {"samples_per_second": per_second, "learner_wait_share": _wait_share(actor, config, seconds)}


def _wait_share(actor: Any, config: ReplayActorConfig, seconds: float) -> float:
    learner = RemoteReplay(actor, config)
    learner.sample(1, BATCH)
    waited, began = learner.metrics()["learner_wait"], time.perf_counter()
    while time.perf_counter() - began < seconds:
        learner.sample(1, BATCH)
        time.sleep(UPDATE_SECONDS)
    lived = time.perf_counter() - began
    share = (learner.metrics()["learner_wait"] - waited) / lived
    learner.close()
    return share


def main() -> None:
    """Print rates of samples and of adds, by journal; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rows", type=int, default=500_000, help="real rows in the ring; there are as many synthetic")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--folder", type=Path, help="where journals are written; default: a temporary folder")
    args = parser.parse_args()
    with ray_session(), tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures: dict[str, float] = {"batch": BATCH, "chunk": CHUNK, "fragment": FRAGMENT, "rows": args.rows}
        figures |= measure_samples(args.rows, args.seconds)
        figures |= measure_adds(args.rows, args.seconds, Path(folder))
    show(figures, args.json)


if __name__ == "__main__":
    main()
