"""Refinement inside the sampler: each call's estimate of the windows is brought nearer to the one-step model.

Sampling then goes on from what was moved, so that later calls answer it: rewards and ends, which stay as they are, and
states and actions once more. Estimates are projected (:mod:`atradiff.projection`), or they follow the model row by row
(:func:`follow`), which shows later calls the states that a roll of their actions is going to reach.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.config import DiffuserConfig, Process, SamplingConfig
from atradiff.data.normalize import Path, RowCodec
from atradiff.diffusion import edm, shortcut
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.sample import calls_of
from atradiff.dynamics import DynamicsEnsemble
from atradiff.projection import project

Mover = Callable[[DynamicsEnsemble, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""States (B, K + 1, S) and actions (B, K, A), which rows are real (B, K), tasks; returns other states and actions."""


@torch.inference_mode()
def follow(
    model: DynamicsEnsemble, states: Tensor, actions: Tensor, real: Tensor, tasks: Tensor | None, share: float
) -> tuple[Tensor, Tensor]:
    """States (B, K + 1, S) between where the model leads from the one before, by ``share``, and the window's own.

    s_1 and ``actions`` stay. At 1 it is a roll; below, what the roll strays from the window is forgotten row by row, as
    in a filter with that gain. Behind rows that are not ``real`` (B, K) states keep their distance from the last one.
    """
    followed = [states[:, 0]]
    for row in range(actions.shape[1]):
        here, own = followed[-1], states[:, row + 1]
        reached = torch.lerp(own, here + model.move(here, actions[:, row], tasks).deltas, share)
        followed.append(torch.where(real[:, row, None], reached, here + own - states[:, row]))
    return torch.stack(followed, dim=1), actions


def refined_inside(
    network: RowNetwork, sampling: SamplingConfig, model: DiffuserConfig, codec: RowCodec, dynamics: DynamicsEnsemble
) -> RowNetwork:
    """``network``, whose estimates are projected or follow the one-step model, as ``sampling`` asks."""
    if steps := sampling.inner_projection_steps:
        return RefinedNetwork(network, model.process, codec, dynamics, partial(project, steps=steps))
    if share := sampling.inner_roll:
        calls = calls_of(model, sampling.calls)
        spared = edm.levels_of(model.solver, calls) if model.process == "edm" else calls
        return RefinedNetwork(network, model.process, codec, dynamics, partial(follow, share=share), spared)
    return network


class RefinedNetwork(RowNetwork):
    """A network round a network: with x the clean rows that its prediction speaks of, it predicts moved(x) instead.

    States are decoded and encoded by ``codec``, on the CPU: on a GPU each call waits for that. With ``last_of``, how
    many calls there are (of EDM, noise levels), the last one's estimate stays as it is: nothing is sampled from there
    any more.
    """

    def __init__(
        self,
        network: RowNetwork,
        process: Process,
        codec: RowCodec,
        dynamics: DynamicsEnsemble,
        move: Mover,
        last_of: int | None = None,
    ) -> None:
        super().__init__()
        self.network, self.row_size = network, network.row_size
        self._codec, self._dynamics, self._move, self._last_of = codec, dynamics, move, last_of
        self._process = edm if process == "edm" else shortcut

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        predicted = self.network(rows, noise, step, condition)
        if self._last_of is not None and self._process.is_last(noise, self._last_of):
            return predicted
        kept, weight = (share[:, None, None] for share in self._process.clean_estimate(noise))
        return predicted + self._moved(kept * rows + weight * predicted, condition) / weight

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()

    def _moved(self, rows: Tensor, condition: Condition) -> Tensor:
        """(B, K, R) what is added to states and actions; nothing past a window's length or its end."""
        device, codec, n = rows.device, self._codec, self._codec.normalizer
        decoded = codec.decode(
            condition.states.cpu().numpy() * n.state_scale + n.state_mean,
            rows.float().cpu().numpy(),
            condition.lengths.cpu().numpy(),
        )
        path, taken = (torch.as_tensor(part, device=device) for part in (decoded.states, decoded.actions))
        over = torch.as_tensor(decoded.terminated, device=device) | self._dynamics.seen.ends(path[:, 1:])
        before = F.pad(over.cumsum(1)[:, :-1], (1, 0)) == 0  # what stands still behind an end is no motion to correct
        real = before & (torch.arange(rows.shape[1], device=device) < condition.lengths[:, None])
        states, actions = self._move(self._dynamics, path, taken, real, condition.task)
        moved = self._encoded(states, actions) - self._encoded(path, taken)
        result = torch.zeros_like(rows)
        result[..., codec.state_columns] = moved
        if not codec.spaces.discrete:  # what a row has beyond a bound, it keeps
            result[..., : codec.spaces.action_size] = (actions - taken) * self._dynamics.action_inverse
        return result.masked_fill(~real[..., None], 0)

    def _encoded(self, states: Tensor, actions: Tensor) -> Tensor:
        """(B, K, heads S) columns that tell of ``states`` (B, K + 1, S), reached by ``actions``."""
        there, taken = states.cpu().numpy(), actions.cpu().numpy()
        path = Path(there, taken, np.zeros(taken.shape[:2], np.bool_))
        return torch.as_tensor(self._codec.encode_states(path, there[:, 0]), device=states.device)
