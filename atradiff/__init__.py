"""Imaginary trajectories for off-policy reinforcement learning: the science, without ray.

Names are imported when first asked for, so that ``import atradiff`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atradiff.config import DiffuserConfig, FitConfig, SamplingConfig
    from atradiff.data.store import open_trajectories
    from atradiff.data.trajectories import Trajectories
    from atradiff.generator import TrajectoryDiffuser

_HOMES = {
    "DiffuserConfig": "atradiff.config",
    "FitConfig": "atradiff.config",
    "SamplingConfig": "atradiff.config",
    "Trajectories": "atradiff.data.trajectories",
    "TrajectoryDiffuser": "atradiff.generator",
    "open_trajectories": "atradiff.data.store",
}

__all__ = ["DiffuserConfig", "FitConfig", "SamplingConfig", "Trajectories", "TrajectoryDiffuser", "open_trajectories"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
