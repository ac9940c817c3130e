"""A network that is told of the rows before a window, so that chained windows keep up what the ones before began."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork


class HistoryConditioned(RowNetwork):
    """A network that reads s_1 and the H rows before it, encoded by an MLP, as further columns of its task.

    Unknown rows are zeros (known ones hold d = -1), and a condition without a history is one of unknown rows: a request
    from an agent's newest state.
    """

    def __init__(self, network: RowNetwork, history: int, state_size: int, width: int) -> None:
        """``network`` must have been made for a task that is ``width`` wider."""
        super().__init__()
        self.network, self.row_size, self.history = network, network.row_size, history
        size = state_size + history * network.row_size
        self.encode = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        past = condition.history
        if past is None:
            past = rows.new_zeros(len(rows), self.history, self.row_size)
        told = self.encode(torch.cat([condition.states, past.flatten(1)], dim=-1)).to(condition.states.dtype)
        task = told if condition.task is None else torch.cat([condition.task, told], dim=-1)
        return self.network(rows, noise, step, replace(condition, task=task, history=None))

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()
