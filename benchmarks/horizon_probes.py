"""Cheap questions to the data: does history tell the next action, and what are episodes of key states alone?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import row_codec
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.types import IntArray, Transitions


def every_nth(data: Trajectories, rows: int) -> Trajectories:
    """Every ``rows``-th state, from each of the first ``rows`` states on, as episodes of their own.

    s_{t+c} follows s_t; the action is that of s_t, the reward the sum of those between.

    Of an episode that was truncated, states without a whole step before them are left out.
    """
    parts = [
        _sparse(data, start, end, phase, rows)
        for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True)
        for phase in range(min(rows, end - start))
    ]
    parts = [part for part in parts if len(part)]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return Trajectories(data.spaces, Transitions.concatenate(parts), offsets, data.env_id)


def _sparse(data: Trajectories, start: int, end: int, phase: int, rows: int) -> Transitions:
    columns = data.columns
    ends = bool(columns.terminated[end - 1])
    first = np.arange(start + phase, end, rows)
    first = first if ends else first[first + rows <= end]
    last = np.minimum(first + rows, end) - 1
    sums = np.concatenate([[0.0], np.cumsum(columns.rewards[start:end], dtype=np.float64)])
    terminated = columns.terminated[last]
    return Transitions(
        observations=columns.observations[first],
        actions=columns.actions[first],
        rewards=(sums[last + 1 - start] - sums[first - start]).astype(np.float32),
        next_observations=columns.next_observations[last],
        terminated=terminated,
        truncated=(np.arange(len(first)) == len(first) - 1) & ~terminated,
    )


def unexplained_actions(
    train: Trajectories, held_out: Trajectories, histories: Sequence[int] = (0, 1, 2, 8, 16), *, updates: int = 1500
) -> dict[int, float]:
    """By rows of history, the share of held-out actions' variance that an MLP leaves unexplained.

    It is told the state and that history. What it cannot tell, no diffuser can learn to keep up.
    """
    codec = row_codec("differences", train.spaces, Normalizer.fit(train))

    def columns(data: Trajectories, history: int) -> tuple[Tensor, Tensor]:
        """(N, S + history R) what the network is told, and (N, A) the actions."""
        rows: IntArray = np.arange(data.n_transitions)
        parts = [codec.normalizer.states(data.columns.observations)]
        if history:
            past = WindowSampler(data, (1,), history=history).before(rows, np.full(len(rows), history))
            parts.append(codec.encode_history(past).reshape(len(rows), -1))
        actions = codec.encode_actions(data.columns.actions)
        return torch.as_tensor(np.concatenate(parts, axis=1)), torch.as_tensor(actions)

    found = {}
    for history in histories:
        known, actions = columns(train, history)
        unseen, truth = columns(held_out, history)
        predicted = _regressed(known, actions, unseen, updates)
        found[history] = float((predicted - truth).square().mean() / (truth - actions.mean(0)).square().mean())
    return found


def _regressed(inputs: Tensor, targets: Tensor, unseen: Tensor, updates: int, width: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(inputs.shape[1], width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        net = nn.Sequential(*layers, nn.Linear(width, targets.shape[1]))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, updates)
    for _ in range(updates):
        rows = torch.randint(len(inputs), (512,), generator=generator)
        loss = (net(inputs[rows]) - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return net(unseen)
