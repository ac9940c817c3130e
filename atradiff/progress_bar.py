"""The progress bar of all long work."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

_TERMINAL_SECONDS = 1.0
_FILE_SECONDS = 30.0


class ProgressBar(tqdm):
    """A `tqdm` that is drawn every second on a terminal, where a drawing takes the last one's place, and twice a minute
    into a file (``nohup``, a batch system's log), where all of them stay. First and last state are always drawn."""

    def __init__(self, **settings: Any) -> None:
        """``settings`` are tqdm's own."""
        pause = _TERMINAL_SECONDS if sys.stderr.isatty() else _FILE_SECONDS
        super().__init__(**{"mininterval": pause, "maxinterval": max(pause, 10.0)} | settings)
        self._ticked = time.monotonic()

    def tick(self) -> None:
        """Draw the time that has passed, where nothing else has happened and a drawing is due."""
        now = time.monotonic()
        if not self.disable and now - self._ticked >= self.mininterval:
            self._ticked = now  # not tqdm's own mark, which rates are reckoned from
            self.refresh()
