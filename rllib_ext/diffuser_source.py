"""Where a run's diffuser comes from, in a form that may travel inside an RLlib config."""

from __future__ import annotations

import uuid
import weakref
from pathlib import Path
from typing import Any

from atradiff.config import SamplingConfig
from atradiff.ports import TrajectoryGenerator

_LIVE: weakref.WeakValueDictionary[str, DiffuserSource] = weakref.WeakValueDictionary()
"""Sources of this process by token, so that unpickling one here gives the original back, object included."""


class DiffuserSource:
    """A model folder, or a generator object that stays in the process that made it.

    RLlib pickles a config into every env runner and every checkpoint. None of these needs the model's weights, so an
    object is left behind and only a token travels.
    """

    def __init__(
        self,
        diffuser: str | Path | TrajectoryGenerator | None,
        token: str | None = None,
        sampling: SamplingConfig | None = None,
    ) -> None:
        """``sampling`` is set on what is loaded from a folder; an object carries its own (``ValueError`` otherwise)."""
        self._sampling = sampling
        if sampling is not None and not isinstance(diffuser, str | Path | None):
            raise ValueError(
                f"sampling options are for a model folder: set them on the {type(diffuser).__name__} itself."
            )
        self._path = str(diffuser) if isinstance(diffuser, str | Path) else None
        self._object = None if isinstance(diffuser, str | Path) else diffuser
        self._token = token or uuid.uuid4().hex
        _LIVE[self._token] = self

    def load(self) -> TrajectoryGenerator:
        """The generator; raises ``RuntimeError`` for an object that was left behind in another process."""
        if self._object is not None:
            return self._object
        if self._path is None:
            raise RuntimeError(
                "this run was configured with a diffuser object, which stays in the process that made it, and this is "
                "another process (or the object is gone). Save the diffuser (diffuser.save_pretrained(folder)) and "
                "pass the folder in its place."
            )
        from atradiff.augment.load import load_generator  # heavy, and env runners never need it
        from atradiff.generator import TrajectoryDiffuser

        generator = load_generator(self._path)
        if self._sampling is not None:
            if not isinstance(generator, TrajectoryDiffuser):
                raise ValueError(f"{self._path} holds no trajectory diffuser: sampling options are not for it.")
            generator.sampling = self._sampling
        return generator

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_or_make, (self._path, self._token, self._sampling)


def _find_or_make(path: str | None, token: str, sampling: SamplingConfig | None) -> DiffuserSource:
    # cloudpickle restores a class's attributes onto the very class it finds alive: a copy would replace the original.
    return _LIVE.get(token) or DiffuserSource(path, token, sampling)
