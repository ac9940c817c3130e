"""What the processes ask of a network, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from atradiff.diffusion.conditioning import Condition


class RowNetwork(nn.Module, ABC):
    """Maps noisy rows (B, K, R) to a prediction of that shape."""

    row_size: int

    @abstractmethod
    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """``noise`` (B,) noise level in the process's own unit, ``step`` (B,) size of the step to take."""

    @abstractmethod
    def matrices(self) -> list[nn.Parameter]:
        """Weights of inner layers: those that an optimiser for matrices is meant for."""
