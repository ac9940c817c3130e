"""The paper-shaped SAC with a critic ensemble, as an RLlib algorithm."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_ext.ensemble_sac.algorithm import EnsembleSAC
    from rllib_ext.ensemble_sac.config import EnsembleSACConfig
    from rllib_ext.ensemble_sac.settings import SACSettings

_HOMES = {"EnsembleSAC": "algorithm", "EnsembleSACConfig": "config", "SACSettings": "settings"}
__all__ = ["EnsembleSAC", "EnsembleSACConfig", "SACSettings"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
