"""The folder of a fit: the finished model, ``training/`` with what resuming needs, ``tensorboard/``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.fingerprint import data_fingerprint
from atradiff.data.trajectories import Trajectories
from atradiff.locking import LOCK_FILE, locked
from atradiff.staging import write_text
from atradiff.types import FloatArray

_PARTS: dict[str, type[DiffuserConfig | FitConfig]] = {"config": DiffuserConfig, "fit": FitConfig}


class FitFolder:
    """Decides whether a fit starts, resumes, is already there, or must not touch what it finds."""

    def __init__(
        self,
        path: Path,
        config: DiffuserConfig,
        settings: FitConfig,
        data: Trajectories,
        relevance: FloatArray | None = None,
    ) -> None:
        self.path = path
        self.state = path / "training" / "state.safetensors"
        self.scales = path / "training" / "scales.safetensors"
        self.tensorboard = path / "tensorboard"
        self._settings = path / "training" / "settings.json"
        self._wanted = {"config": config.to_json(), "fit": settings.to_json(), "data": data_fingerprint(data)}
        if relevance is not None:
            self._wanted["relevance"] = sha256(np.ascontiguousarray(relevance).tobytes()).hexdigest()

    def finished(self, overwrite: bool) -> bool:
        """Whether it holds the finished model that was asked for, and that may stay.

        Raises ``FileExistsError`` where it holds another fit that may not go.
        """
        found = self._found()
        if found == self._wanted:
            return not overwrite and (self.path / "config.json").is_file()
        if found is not None and not overwrite:
            raise FileExistsError(_in_the_way(self.path, found, self._wanted))
        return False

    @contextmanager
    def alone(self, quiet: bool) -> Iterator[None]:
        """Keep other processes out of the folder; while another one fits there, wait, and say so unless ``quiet``."""

        def say(_: str) -> None:
            if not quiet:
                print(f"waiting for another fit in {self.path}", file=sys.stderr, flush=True)

        with locked(self.path / LOCK_FILE, say):
            yield

    def prepare(self, overwrite: bool) -> bool:
        """Make the folder ready to fit into, once it is :meth:`alone`; true where the model is :meth:`finished`."""
        if self.finished(overwrite):
            return True
        there = [path for path in self.path.rglob("*") if path.is_file() and path.name != LOCK_FILE]
        begun = [path for path in there if path.parent == self._settings.parent and path.suffix == ".partial"]
        if len(there) > len(begun) and self._found() is None:
            raise FileExistsError(_in_the_way(self.path, None, self._wanted))
        training = self._settings.parent
        training.mkdir(parents=True, exist_ok=True)
        if overwrite:
            (self.path / "config.json").unlink(missing_ok=True)  # what is left, if this is killed, is an unfinished fit
            for path in [*self.path.iterdir(), *training.iterdir()]:
                if path.name != LOCK_FILE and path not in (training, self._settings):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_text(self._settings, json.dumps(self._wanted, indent=2))
        return False

    def _found(self) -> dict[str, Any] | None:
        if not self._settings.is_file():
            return None
        try:
            found = json.loads(self._settings.read_text(encoding="utf-8"))
            return found | {name: _with_later_settings(found[name], kind) for name, kind in _PARTS.items()}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self._settings} is damaged ({error}): remove {self.path} and fit anew.") from error


def _with_later_settings(found: dict[str, Any], kind: type[DiffuserConfig | FitConfig]) -> dict[str, Any]:
    """Those that a fit of an earlier version did not know, by their defaults: what it did without them."""
    known = {field.name for field in fields(kind)}
    return kind.from_json(found).to_json() if set(found) <= known else found


def _in_the_way(path: Path, found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    if found is None:
        return f"{path} is not empty and no fit made it: choose another folder."
    named = {"config": "model settings", "fit": "fit settings", "data": "data", "relevance": "relevance"}
    parts = [what for name, what in named.items() if found.get(name) != wanted.get(name)]
    other = f"of other {' and '.join(parts)}" if parts else "of the same settings and data"
    return f"{path} holds a fit {other}: choose another folder, or replace it with --overwrite true."
