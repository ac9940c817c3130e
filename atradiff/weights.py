"""A model's weights as they travel: arrays by name, checked before one of them is put in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atradiff.config import require

_REMEDY = "must be those of a model with the same settings"


def weights_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """The network's state as arrays of their own, whatever device it is on."""
    return {name: value.detach().to("cpu", copy=True).numpy() for name, value in network.state_dict().items()}


def require_finite_weights(network: nn.Module, rates: str) -> None:
    """Raise ``FloatingPointError`` where the training of ``network`` diverged; ``rates`` are the settings to lower.

    Losses alone do not tell: those of the last step were taken before its update.
    """
    name = first_not_finite(network.state_dict())
    if name is not None:
        raise FloatingPointError(
            f"the fit diverged: its weights {name!r} hold NaN or infinity. Lower {rates}, or look for extreme values "
            "in the data (atradiff data info)."
        )


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None: all are finite."""
    return next((name for name, value in tensors.items() if not bool(torch.isfinite(value).all())), None)


def check_weights(network: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise ``ValueError``, with a name and the reason, unless ``weights`` could be this network's."""
    mine = network.state_dict()
    unmatched = sorted(mine.keys() ^ weights.keys())
    require(not unmatched, "names of weights", unmatched[:3], f"{_REMEDY}: these are in only one of the two")
    for name, value in mine.items():
        shape, wanted = tuple(np.shape(weights[name])), tuple(value.shape)
        require(shape == wanted, f"weights {name!r}", shape, f"{_REMEDY}, of shape {wanted}")
        finite = bool(np.isfinite(weights[name]).all())
        require(finite, f"weights {name!r}", "NaN or infinity", "must be finite: the training that made them failed")


def copy_weights(network: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Check ``weights``, then copy them in place: compiled forms of the network keep reading the same memory."""
    check_weights(network, weights)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(torch.tensor(weights[name]))
