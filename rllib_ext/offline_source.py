"""Where the offline rows of a batch come from, in a form that may travel inside an RLlib config."""

from __future__ import annotations

import uuid
import weakref
from pathlib import Path
from typing import Any

from atradiff.data.trajectories import Trajectories
from atradiff.replay.config import ReplayConfig

_LIVE: weakref.WeakValueDictionary[str, OfflineSource] = weakref.WeakValueDictionary()
"""Sources of this process by token, so that unpickling one here gives the original back, data included."""


def require_share(offline: object | None, replay: ReplayConfig) -> None:
    """Raise ``ValueError`` where offline data are given, and no batch would hold any of them."""
    if offline is not None and replay.offline_share == 0:
        raise ValueError(
            "offline data are given and offline_share is 0: no batch would hold any of them. Set it (0.5 is RLPD's), "
            "or leave offline out."
        )


class OfflineSource:
    """A trajectory store, or trajectories in memory that stay in the process that made them.

    RLlib pickles a config into every env runner and every checkpoint. None of these needs the data, so that they are
    left behind and only a token travels; see :class:`rllib_ext.diffuser_source.DiffuserSource`.
    """

    def __init__(self, data: str | Path | Trajectories | None, token: str | None = None) -> None:
        self._path = str(data) if isinstance(data, str | Path) else None
        self._data = data if isinstance(data, Trajectories) else None
        self._token = token or uuid.uuid4().hex
        _LIVE[self._token] = self

    def load(self) -> Trajectories:
        """The data; raises ``RuntimeError`` for those that were left behind in another process."""
        if self._data is not None:
            return self._data
        if self._path is None:
            raise RuntimeError(
                "this run was configured with offline data in memory, which stay in the process that made them, and "
                "this is another process. Write them (atradiff.data.store.write_trajectories) and pass the folder."
            )
        from atradiff.data.store import open_trajectories  # pyarrow, and env runners never need it

        return open_trajectories(self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_or_make, (self._path, self._token)


def _find_or_make(path: str | None, token: str) -> OfflineSource:
    # cloudpickle restores a class's attributes onto the very class it finds alive: a copy would replace the original.
    return _LIVE.get(token) or OfflineSource(path, token)
