"""A tiny diffuser of the chain, and agents whose chain pulls the other way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from atradiff.adaptation.config import AdaptationConfig, PickUpConfig
from atradiff.adaptation.pickup import make_pick_up
from atradiff.data.trajectories import Trajectories
from atradiff.replay.config import ReplayConfig
from atradiff.replay.mixed import MixedReplay
from atradiff.types import Transitions
from tests.toys import CHAIN, chain_data, chain_step, lay_out

QUICK = AdaptationConfig(
    PickUpConfig("newest", picked=300),
    every=300,
    steps=12,
    tokens_per_step=60,
    learning_rate=2e-3,
    dynamics_rate=2e-3,
    dynamics_updates=1,
    ema_decay=0.98,
    rehearsal=0.5,
    max_forgetting=None,
    min_windows=10,
)


def moved_data(episodes: int, seed: int = 0, limit: int = 30) -> Trajectories:
    """The chain with an agent that pushes to the left: states, steps and ends that the offline data do not have."""
    rng = np.random.default_rng(seed)
    return lay_out(CHAIN, [_leftwards(rng, limit) for _ in range(episodes)])


def filled_replay(data: Trajectories, config: PickUpConfig = QUICK.pick_up, capacity: int = 5000) -> MixedReplay:
    """A replay that saw ``data``; its learner halved all actions, and its TD errors are the row ids."""
    watcher = make_pick_up(config, capacity, seed=0)
    replay = MixedReplay(CHAIN, ReplayConfig(capacity=capacity), 0, watcher=watcher)
    keys = np.repeat(np.arange(len(data)), data.lengths)
    row_ids = replay.store(replace(data.columns, actions=data.columns.actions / 2), keys)
    replay.report_td_errors(row_ids, np.zeros(len(row_ids), bool), row_ids.astype(np.float32))
    return replay


def double_actions(rows: Transitions) -> Transitions:
    """From the learner's scale to the environment's."""
    return replace(rows, actions=rows.actions * 2)


def offline_data() -> Trajectories:
    return chain_data(10)


def _leftwards(rng: np.random.Generator, limit: int) -> Transitions:
    state = np.array([[rng.uniform(-1, 0), 0]], np.float32)
    rows = []
    for t in range(limit):
        action = np.clip(rng.normal(-0.6, 0.4, size=(1, 1)), -1, 1).astype(np.float32)
        following, reward, done = chain_step(state, action)
        rows.append((state, action, reward, following, done, np.array([t == limit - 1]) & ~done))
        if done[0]:
            break
        state = following
    return Transitions(*(np.concatenate(column) for column in zip(*rows, strict=True)))
