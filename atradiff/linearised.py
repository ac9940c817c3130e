"""A multi-layer perceptron and its derivative at some inputs, without a graph: what least squares over them ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Linearised:
    """An MLP with SiLU between its layers, at ``inputs`` (..., in); ``outputs`` (..., out) is what it says there.

    ``weights`` are (in, out), ``biases`` (out,). Under autocast inner layers and derivatives run in bfloat16.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], inputs: Tensor) -> None:
        self._weights = list(weights)
        self._slopes: list[Tensor] = []
        hidden, (*inner, last) = inputs, zip(weights, biases, strict=True)
        for i, layer in enumerate(inner):
            before = _exactly(hidden, *layer) if i == 0 else hidden @ layer[0] + layer[1]
            gate = before.sigmoid()
            hidden = before * gate
            self._slopes.append(gate + hidden * (1 - gate))
        self.outputs = _exactly(hidden, *last)

    @property
    def width(self) -> int:
        """Columns of the inputs."""
        return self._weights[0].shape[0]

    def push(self, tangent: Tensor) -> Tensor:
        """(..., out): how the outputs move with the inputs along ``tangent`` (..., in)."""
        for weight, slope in zip(self._weights, self._slopes, strict=False):
            tangent = (tangent @ weight) * slope
        return (tangent @ self._weights[-1]).float()

    def pull(self, cotangent: Tensor) -> Tensor:
        """(..., in): the gradient with respect to the inputs of the outputs' product with ``cotangent`` (..., out)."""
        for weight, slope in zip(self._weights[:0:-1], self._slopes[::-1], strict=True):
            cotangent = (cotangent @ weight.T) * slope
        return (cotangent @ self._weights[0].T).float()


def _exactly(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer in float32 whatever autocast says: eight bits are too few for states and differences."""
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden.float() @ weight + bias
