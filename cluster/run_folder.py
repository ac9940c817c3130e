"""One run on disk: its config, curve and TensorBoard events. Where it is kept, and its checkpoints: run_store.py.

RUN/config.yaml      every value that was in force; `atradiff train RUN/config.yaml` repeats the run
RUN/manifest.json    git commit, versions, data and model hashes, when it began
RUN/metrics.csv      one row per evaluation
RUN/tensorboard/     the same and more, as it happens
RUN/checkpoints/step_000000012000/    see cluster/checkpoint.py
RUN/diffuser/        the diffuser that the run began with, where the run is kept behind a URI
RUN/summary.json     written last: the run is complete
RUN/.lock            while a process trains the run
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atradiff.staging import staged_file, write_text


@dataclass(frozen=True)
class RunCost:
    """What a complete run took and came to; runs of early versions did not count their CPU seconds."""

    env_steps: int
    wall_seconds: float
    cpu_seconds: float | None
    final_return: float | None


class RunFolder:
    """Reads and writes the files above; nothing that is whole is ever overwritten in place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.metrics = path / "metrics.csv"
        self.tensorboard = path / "tensorboard"
        self.diffuser = path / "diffuser"
        self.summary = path / "summary.json"

    def began_with(self) -> str | None:
        """What tells the fit of the diffuser, or of SynthER, that the run began with from any other; None without."""
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        fit = manifest.get("diffuser") or manifest.get("synther")
        return None if fit is None else json.dumps(fit, sort_keys=True)

    @property
    def started(self) -> bool:
        """Whether its config is written: a run began here."""
        return self.config.exists()

    @property
    def complete(self) -> bool:
        """Whether its summary is written, which comes last."""
        return self.summary.exists()

    def cost(self) -> RunCost:
        """What the summary of a complete run says it took; raises ``ValueError`` where that cannot be read."""
        try:
            told = json.loads(self.summary.read_text(encoding="utf-8"))
            given = (told.get(name) for name in ("cpu_seconds", "final_return"))
            cpu, final = (None if value is None else float(value) for value in given)
            return RunCost(int(told["env_steps"]), float(told["wall_seconds"]), cpu, final)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.summary} is damaged ({reason}): put the whole file back.") from error

    def tell_progress(self, env_steps: int) -> None:
        """Leave word of how far the run is, for a watcher in another process."""
        write_text(self.path / ".progress", str(env_steps))

    def progress(self) -> int:
        """The last word of :meth:`tell_progress`, 0 where there is none."""
        file = self.path / ".progress"
        return int(file.read_text()) if file.exists() else 0


class MetricsFile:
    """``metrics.csv``: appended row by row, and cut back to the checkpoint when a run is resumed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row; the first row decides the columns, and every later row must have the same.

        It stands in for a last row of the same ``env_steps``: a run that died after its last evaluation and before its
        last checkpoint evaluates a second time.
        """
        columns = self._columns()
        if columns and list(row) != columns:
            raise ValueError(f"{self._path} has columns {columns}, a row has {list(row)}.")
        if columns and self.newest("env_steps") == row["env_steps"]:
            self.keep_until(int(row["env_steps"] or 0) - 1, columns)
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if not columns:
                writer.writerow(row)
            writer.writerow("" if value is None else value for value in row.values())

    def keep_until(self, env_steps: int, columns: Sequence[str]) -> None:
        """Drop the rows after ``env_steps``: they belong to a future that a resumed run has yet to live.

        The file has ``columns`` from then on, empty where it knew them not: today's version may log others.
        """
        if not self._path.exists():
            return
        with self._path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if int(row["env_steps"]) <= env_steps]
        with staged_file(self._path) as staging, staging.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)

    def newest(self, column: str) -> float | None:
        """The value of ``column`` in the last row; None where there is no row, or no value in it."""
        if not self._path.exists():
            return None
        with self._path.open(newline="") as file:
            values = [row.get(column) for row in csv.DictReader(file)]
        return float(values[-1]) if values and values[-1] else None

    def _columns(self) -> list[str]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return next(csv.reader(file), [])
