"""RLlib's side of ATraDiff: the callback for its stock algorithms, and the paper-shaped ensemble SAC."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_ext.callback import ATraDiffCallback
    from rllib_ext.ensemble_sac import EnsembleSACConfig

__all__ = ["ATraDiffCallback", "EnsembleSACConfig"]

_HOMES = {"ATraDiffCallback": "rllib_ext.callback", "EnsembleSACConfig": "rllib_ext.ensemble_sac"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: RLlib takes seconds, and most modules need only one of the two."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
