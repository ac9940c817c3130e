"""One run on disk: its config, curve, TensorBoard events and checkpoints.

RUN/config.yaml      every value that was in force; `atradiff train RUN/config.yaml` repeats the run
RUN/manifest.json    git commit, versions, data and model hashes, when it began
RUN/metrics.csv      one row per evaluation
RUN/tensorboard/     the same and more, as it happens
RUN/checkpoints/step_000000012000/    staged, renamed when whole
RUN/summary.json     written last: the run is complete
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atradiff.staging import staged_file, staged_folder, write_text

_PREFIX = "step_"
_COMPLETE = "checkpoint.json"


class RunFolder:
    """Reads and writes the files above; nothing that is whole is ever overwritten in place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.metrics = path / "metrics.csv"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.summary = path / "summary.json"

    @classmethod
    def of(cls, path: Path) -> RunFolder:
        """The run that ``path`` is, or that it is a checkpoint of; raises ``ValueError`` where it is neither."""
        for candidate in (path, path.parent.parent):
            if (candidate / "config.yaml").is_file():
                return cls(candidate)
        raise ValueError(f"{path} is neither a run folder nor a checkpoint of one: there is no config.yaml.")

    @property
    def started(self) -> bool:
        return self.config.exists()

    @property
    def complete(self) -> bool:
        return self.summary.exists()

    def tell_progress(self, env_steps: int) -> None:
        """Leave word of how far the run is, for a watcher in another process."""
        write_text(self.path / ".progress", str(env_steps))

    def progress(self) -> int:
        """The last word of :meth:`tell_progress`, 0 where there is none."""
        file = self.path / ".progress"
        return int(file.read_text()) if file.exists() else 0

    def latest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, None where there is none. Unfinished ones are not looked at."""
        whole = sorted(p.parent for p in self.checkpoints.glob(f"{_PREFIX}*/{_COMPLETE}"))
        return whole[-1] if whole else None

    def drop_checkpoints_after(self, env_steps: int) -> None:
        """Delete newer checkpoints: who resumes an older one abandons the future that they hold."""
        for checkpoint in self.checkpoints.glob(f"{_PREFIX}*"):
            if int(checkpoint.name.removeprefix(_PREFIX)) > env_steps:
                shutil.rmtree(checkpoint)

    def write_checkpoint(
        self, env_steps: int, write: Callable[[Path], None], state: Mapping[str, Any], keep: int
    ) -> Path:
        """Let ``write`` fill a staging folder, add ``state`` as JSON, rename it; delete all but the newest ``keep``."""
        target = self.checkpoints / f"{_PREFIX}{env_steps:012d}"
        with staged_folder(target) as staging:
            write(staging)
            (staging / _COMPLETE).write_text(json.dumps(dict(state), indent=2))
        for old in sorted(self.checkpoints.glob(f"{_PREFIX}*"))[:-keep]:
            shutil.rmtree(old)
        return target

    @staticmethod
    def checkpoint_state(checkpoint: Path) -> dict[str, Any]:
        """The JSON state of a checkpoint; raises ``ValueError`` where the checkpoint is not whole, or damaged."""
        file = checkpoint / _COMPLETE
        if not file.is_file():
            raise ValueError(f"{checkpoint} is not a whole checkpoint: it has no {_COMPLETE}.")
        try:
            state: dict[str, Any] = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is damaged ({error}): resume from another checkpoint.") from error
        return state


class MetricsFile:
    """``metrics.csv``: appended row by row, and cut back to the checkpoint when a run is resumed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row; the first row decides the columns, and every later row must have the same."""
        columns = self._columns()
        if columns and list(row) != columns:
            raise ValueError(f"{self._path} has columns {columns}, a row has {list(row)}.")
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if not columns:
                writer.writerow(row)
            writer.writerow("" if value is None else value for value in row.values())

    def keep_until(self, env_steps: int) -> None:
        """Drop the rows after ``env_steps``: they belong to a future that a resumed run has yet to live."""
        if not self._path.exists():
            return
        with self._path.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        kept = [row for row in rows if int(row[header.index("env_steps")]) <= env_steps]
        with staged_file(self._path) as staging, staging.open("w", newline="") as file:
            csv.writer(file).writerows([header, *kept])

    def _columns(self) -> list[str]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return next(csv.reader(file), [])
