"""The progress bar of all long work."""

from __future__ import annotations

import sys
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
