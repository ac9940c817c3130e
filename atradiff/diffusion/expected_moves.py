"""Where rows lead that hold what an expectation leaves of each step (:mod:`atradiff.data.expectation`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from atradiff.data.expectation import Expectation, expected
from atradiff.types import FloatArray


class ExpectedMoves(nn.Module):
    """Differences of states, row by row: what is expected of the state reached and the row's action, plus the rest."""

    first: Tensor
    second: Tensor
    last: Tensor
    spread: Tensor
    moves: Tensor
    actions: Tensor
    delta_to_state: Tensor

    def __init__(
        self, expectation: Expectation, delta_to_state: FloatArray, moves: FloatArray, actions: FloatArray
    ) -> None:
        """``moves`` (2, S), in the differences' scale, and ``actions`` (2, A), encoded, are the lowest and highest."""
        super().__init__()
        held = {name: getattr(expectation, name) for name in ("first", "second", "last", "spread")}
        held |= {"moves": moves, "actions": actions, "delta_to_state": delta_to_state}
        for name, value in held.items():
            self.register_buffer(name, torch.from_numpy(np.array(value, np.float32)), persistent=False)

    def forward(self, residuals: Tensor, actions: Tensor, states: Tensor, ended: Tensor | None = None) -> Tensor:
        """(B, K, S) differences in their own scale, held to their range.

        ``residuals`` (B, K, S) and ``actions`` (B, K, A) are columns of rows, ``states`` (B, S) s_1, standardised. Rows
        of ``ended`` (B, K) are after the end, where nothing is expected.
        """
        layers = [self.first, self.second, self.last]
        left = residuals * self.spread
        taken = torch.clamp(actions, *self.actions)
        moves, here = [], states
        for row in range(residuals.shape[1]):
            move = expected(layers, torch.cat([here.clamp(-10, 10), taken[:, row]], dim=-1))
            if ended is not None:
                move = move.masked_fill(ended[:, row, None], 0)
            move = torch.clamp(move + left[:, row], *self.moves)
            moves.append(move)
            here = torch.addcmul(here, move, self.delta_to_state)
        return torch.stack(moves, dim=1)
