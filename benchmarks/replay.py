"""``python -m benchmarks.replay --json F``: our replay against RLlib's buffers, in CPU milliseconds per call.

Ours holds a million real and a million synthetic rows of Hopper's widths (11 observations, 3 actions). RLlib's get
fewer, which favours them: filling them with a million would take longer than everything else here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer

from atradiff.replay.config import ReplayConfig
from atradiff.replay.mixed import MixedReplay
from atradiff.types import Transitions
from benchmarks.figures import cpu_ms, show
from benchmarks.rows import HOPPER, random_rows
from rllib_ext.columns import episodes_to_transitions
from rllib_ext.replay_facade import learner_columns

BATCH = 256
FRAGMENT = 50
EPISODE_STEPS = 1000
CHUNK = 10_000


def filled_replay(rows: int) -> MixedReplay:
    """Both rings full, so that nothing stays in a cache that would not in a long run."""
    rng = np.random.default_rng(0)
    replay = MixedReplay(HOPPER, ReplayConfig(capacity=rows, rho=0.5), seed=0)
    for _ in range(rows // CHUNK):
        replay.store(random_rows(CHUNK, rng))
        requests = replay.take_requests(CHUNK // 10)
        lengths = np.full(len(requests), 10)
        replay.store_synthetic(requests, random_rows(10 * len(requests), rng), lengths, 0)
    missing = rows - len(replay.synthetic)
    if missing > 0:
        replay.synthetic.add(_synthetic_columns(random_rows(missing, rng)))
    return replay


def random_episode(steps: int, rng: np.random.Generator) -> SingleAgentEpisode:
    """An episode of Hopper's spaces as RLlib's buffers take it."""
    episode = SingleAgentEpisode(
        observations=list(rng.standard_normal((steps + 1, 11), np.float32)),
        actions=list(rng.standard_normal((steps, 3), np.float32)),
        rewards=list(rng.standard_normal(steps)),
        len_lookback_buffer=0,
    )
    return episode.to_numpy()


def measure_ours(rows: int) -> dict[str, float]:
    """CPU milliseconds of samples and adds, and bytes, of both rings with ``rows`` rows each."""
    replay = filled_replay(rows)
    fragment = random_episode(FRAGMENT, np.random.default_rng(1))
    rings = (replay.real, replay.synthetic)
    return {
        "rows": len(replay.real) + len(replay.synthetic),
        "sample_ms": cpu_ms(lambda: replay.sample(BATCH), 500),
        "sample_for_learner_ms": cpu_ms(lambda: learner_columns(replay.sample(BATCH)), 500),
        "add_ms": cpu_ms(lambda: replay.store(episodes_to_transitions([fragment], HOPPER)), 200),
        "memory_bytes": sum(ring.nbytes for ring in rings),
        "columns_bytes": sum(c.row_bytes * ring.capacity for ring in rings for c in ring.columns.values()),
    }


def measure_rllib(buffer: EpisodeReplayBuffer, rows: int) -> dict[str, float]:
    """CPU milliseconds of samples and adds of one of RLlib's buffers, filled with ``rows`` rows."""
    rng = np.random.default_rng(0)
    for _ in range(rows // EPISODE_STEPS):
        buffer.add([random_episode(EPISODE_STEPS, rng)])
    fragments = iter([random_episode(FRAGMENT, rng) for _ in range(5 * 40)])
    options = {"n_step": 1, "gamma": 0.99, "sample_episodes": True, "batch_length_T": 0, "lookback": 0}
    return {
        "rows": buffer.get_num_timesteps(),
        "sample_ms": cpu_ms(lambda: buffer.sample(num_items=BATCH, beta=0.4, **options), 20),
        "add_ms": cpu_ms(lambda: buffer.add([next(fragments)]), 40),
    }


def main() -> None:
    """Print the figures of all three buffers; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in each of our rings")
    parser.add_argument("--rllib-rows", type=int, default=50_000, help="rows in RLlib's buffers")
    args = parser.parse_args()
    figures = {
        "batch": BATCH,
        "fragment": FRAGMENT,
        "ours": measure_ours(args.rows),
        "EpisodeReplayBuffer": measure_rllib(EpisodeReplayBuffer(1_000_000), args.rllib_rows),
        "PrioritizedEpisodeReplayBuffer": measure_rllib(PrioritizedEpisodeReplayBuffer(1_000_000), args.rllib_rows),
    }
    show(figures, args.json)


def _synthetic_columns(rows: Transitions) -> dict[str, Any]:
    n = len(rows)
    extra = {"generator_version": np.zeros(n, np.int32), "created_at": np.zeros(n, np.int64)}
    return {**dict(rows.items()), **extra}


if __name__ == "__main__":
    main()
