"""What share of trajectories the frozen original really made, in process and on a cluster."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from atradiff.staging import write_text


@dataclass
class ServedCount:
    """How many trajectories were made, and how many of them by the model as it was fitted.

    Counts from the first update on: until then there is only one model.
    """

    fitted: int
    """The version of the model as it was fitted."""
    trajectories: int = 0
    by_original: int = 0

    def add(self, serving: int, made_by: int, trajectories: int) -> None:
        """Trajectories of version ``made_by``, at a moment at which version ``serving`` was the newest."""
        if serving != self.fitted:
            self.trajectories += trajectories
            self.by_original += trajectories * (made_by == self.fitted)

    def metrics(self) -> dict[str, float]:
        """``original_share``; empty while nothing was counted."""
        return {"original_share": self.by_original / self.trajectories} if self.trajectories else {}

    def write(self, file: Path) -> None:
        """As JSON."""
        write_text(file, json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> ServedCount:
        """What :meth:`write` wrote; ``ValueError`` where that is damaged."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}): take another checkpoint.") from error
