"""Work on a GPU as CUDA graphs: a pass costs one launch rather than hundreds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork


def captured(
    function: Callable[..., Any], device: torch.device, *, dynamic: bool = False, whole: bool = True
) -> Callable[..., Any]:
    """``function`` of tensors, compiled and, on a GPU, captured; its results are overwritten by the next step.

    ``dynamic`` compiles once for all shapes; graphs are of one shape all the same. Unless it is ``whole``, a function
    may look at its data, and is several graphs. Without a GPU there are no launches to save: it is traced, and run as
    it was.
    """
    if device.type == "cuda":
        return torch.compile(function, mode="reduce-overhead", dynamic=dynamic, fullgraph=whole)
    return torch.compile(function, backend="eager", dynamic=dynamic, fullgraph=whole)


class CapturedNetwork(RowNetwork):
    """``network``, whose weights it shares, with each call as one CUDA graph (a bank, which is not ``whole``: a few).

    A graph is captured for each new shape. So that requests of all sizes share some, batches are filled up to the next
    power of two with rows of their own.
    """

    def __init__(self, network: RowNetwork, device: torch.device, *, whole: bool = True) -> None:
        super().__init__()
        self.network, self.row_size = network, network.row_size
        self._captured = captured(network.forward, device, dynamic=True, whole=whole)

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`; the result is the caller's own."""
        count = len(rows)
        filled = torch.arange(1 << (count - 1).bit_length(), device=rows.device) % count
        torch.compiler.cudagraph_mark_step_begin()
        predicted: Tensor = self._captured(rows[filled], noise[filled], step[filled], condition[filled])
        return predicted[:count].clone()

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()
