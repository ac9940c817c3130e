"""How n learners do the arithmetic of one: equal parts of every batch, and the mean of their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Share:
    """The ``index``-th of ``of`` equal parts of every batch, in row order. With ``of=1`` nothing is ever sent.

    All learners draw the noise of the whole batch from generators in the same state and use their own part of it: the
    mean of their gradients is the gradient that one learner of the whole batch would have had.
    """

    index: int = 0
    of: int = 1

    def normal(self, own: torch.Size, generator: torch.Generator) -> Tensor:
        """Standard normal noise of the shape ``own`` (b, ...): this part of the noise of all ``of`` b rows."""
        rows = own[0]
        noise = torch.randn((rows * self.of, *own[1:]), generator=generator, device=generator.device)
        return noise[rows * self.index : rows * (self.index + 1)]

    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Put the mean over the learners into each tensor, by one message for all of them; None is passed over."""
        if self.of == 1:
            return
        given = [tensor for tensor in tensors if tensor is not None]
        flat = torch.cat([tensor.flatten() for tensor in given])
        distributed.all_reduce(flat)
        parts = (flat / self.of).split([tensor.numel() for tensor in given])
        for tensor, part in zip(given, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Put the first learner's values into the tensors of all."""
        if self.of == 1:
            return
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)


WHOLE = Share()
"""The share of a learner that is alone."""
