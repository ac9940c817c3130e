"""Ray's side of ATraDiff: replay, generators and adapter as actors, whole runs, and the command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.services import ActorServices, RemoteAdaptation

__all__ = ["ActorServices", "RemoteAdaptation"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the command line starts without RLlib."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module("cluster.services"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
