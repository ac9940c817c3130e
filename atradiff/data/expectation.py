"""What is expected of a step before a diffuser is trained: a small network, fitted on its own and then left alone.

Rows of ``rows: residuals`` hold what it leaves of each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atradiff.progress_bar import ProgressBar
from atradiff.schedule import learning_rate_share
from atradiff.types import FloatArray

_WIDTH, _BATCH, _RATE, _WARMUP = 128, 512, 5e-3, 100
"""Of the network and of its fit by AdamW: six CPU seconds for two thousand updates."""

_JUDGED = 10
"""Every tenth run of rows is kept from the fit, to tell how much it leaves of rows that it has not seen."""

_RUN = 50
"""Rows side by side are alike: they are kept from the fit in runs of so many."""

_LEAST_SPREAD = 0.01
"""Of what is left, in units of what is expected: a column that is told exactly has no scale of its own."""


@dataclass(frozen=True)
class Expectation:
    """y = W3 silu(W2 silu(W1 x)), each with a bias, for inputs x (..., X) and values y (..., Y)."""

    first: FloatArray  # (X + 1, H), the bias in the last row
    second: FloatArray  # (H + 1, H)
    last: FloatArray  # (H + 1, Y)
    spread: FloatArray  # (Y,) root mean square of what is left of rows that were kept from the fit

    @classmethod
    def fit(cls, inputs: FloatArray, values: FloatArray, updates: int, seed: int, quiet: bool = True) -> Expectation:
        """Of ``inputs`` (N, X), standardised, and ``values`` (N, Y), of order one. The same seed gives the same."""
        kept = np.arange(len(inputs)) // _RUN % _JUDGED == _JUDGED // 2
        x, y = torch.from_numpy(inputs[~kept]), torch.from_numpy(values[~kept])
        generator = torch.Generator().manual_seed(seed)
        sizes = (inputs.shape[1], _WIDTH, _WIDTH, values.shape[1])
        layers = [_layer(*size, generator) for size in pairwise(sizes)]
        optimizer = torch.optim.AdamW(layers, lr=_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        for update in ProgressBar(iterable=range(updates), desc="expectation", unit="update", disable=quiet):
            optimizer.param_groups[0]["lr"] = _RATE * learning_rate_share(update, update / updates, _WARMUP)
            rows = torch.randint(len(x), (_BATCH,), generator=generator)
            loss = F.mse_loss(expected(layers, x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        first, second, last = (layer.detach().numpy() for layer in layers)
        fitted = cls(first, second, last, np.zeros_like(values[0]))
        judged = kept if kept.any() else ~kept
        left = values[judged] - fitted(inputs[judged])
        spread = np.sqrt(np.square(left).mean(0, dtype=np.float64)).astype(np.float32)
        return cls(first, second, last, np.maximum(spread, _LEAST_SPREAD))

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """(..., Y) that is expected of ``inputs`` (..., X)."""
        layers = [torch.from_numpy(layer) for layer in (self.first, self.second, self.last)]
        with torch.inference_mode():
            found: FloatArray = expected(layers, torch.from_numpy(inputs.reshape(-1, inputs.shape[-1]))).numpy()
        return found.reshape(*inputs.shape[:-1], -1)


def expected(layers: list[Tensor], inputs: Tensor) -> Tensor:
    """(B, Y) of ``inputs`` (B, X), in float32 whatever autocast says: eight bits are too few for states and rewards."""
    *inner, last = layers
    with torch.autocast(inputs.device.type, enabled=False):
        found = inputs.float()
        for layer in inner:
            found = F.silu(torch.addmm(layer[-1], found, layer[:-1]))
        return torch.addmm(last[-1], found, last[:-1])


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    """Weights as torch's linear layers start, the bias in the last row."""
    bound = inputs**-0.5
    return (bound * (2 * torch.rand(inputs + 1, outputs, generator=generator) - 1)).requires_grad_()
