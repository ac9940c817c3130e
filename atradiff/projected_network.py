"""Projection inside the sampler: each call's estimate of the windows is brought nearer to the one-step model.

Sampling then goes on from what was projected, so that later calls answer it: rewards and ends, which a projection
leaves alone, and states and actions once more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.config import Process
from atradiff.data.normalize import Path, RowCodec
from atradiff.diffusion import edm, shortcut
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork
from atradiff.dynamics import DynamicsEnsemble
from atradiff.projection import project


class ProjectedNetwork(RowNetwork):
    """A network round a network: with x the clean rows that its prediction speaks of, it predicts project(x) instead.

    States are decoded and encoded by ``codec``, on the CPU: on a GPU each call waits for that.
    """

    def __init__(
        self, network: RowNetwork, process: Process, codec: RowCodec, dynamics: DynamicsEnsemble, steps: int
    ) -> None:
        super().__init__()
        self.network, self.row_size = network, network.row_size
        self._codec, self._dynamics, self._steps = codec, dynamics, steps
        self._clean_estimate = edm.clean_estimate if process == "edm" else shortcut.clean_estimate

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        predicted = self.network(rows, noise, step, condition)
        kept, weight = (share[:, None, None] for share in self._clean_estimate(noise))
        return predicted + self._moved(kept * rows + weight * predicted, condition) / weight

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()

    def _moved(self, rows: Tensor, condition: Condition) -> Tensor:
        """(B, K, R) what projection adds to states and actions; nothing past a window's length or its end."""
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
        states, actions = project(self._dynamics, path, taken, real, condition.task, self._steps)
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
