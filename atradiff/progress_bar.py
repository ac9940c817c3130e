"""The progress bar of all long work."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

_TERMINAL_SECONDS = 1.0
_FILE_SECONDS = 30.0


class ProgressBar(tqdm):
    """A `tqdm` that is drawn every second on a terminal or in a notebook, where a drawing takes the last one's place,
    and twice a minute into a file (``nohup``, a batch system's log), where all of them stay."""

    _drawn = 0.0

    def __init__(self, **settings: Any) -> None:
        """``settings`` are tqdm's own."""
        replaced = sys.stderr.isatty() or "ipykernel" in sys.modules
        pause = _TERMINAL_SECONDS if replaced else _FILE_SECONDS
        super().__init__(**{"mininterval": pause, "maxinterval": max(pause, 10.0)} | settings)

    def display(self, *where: Any, **how: Any) -> Any:
        """Draw, and remember when: tqdm's own mark, which rates are reckoned from, stays where nothing was done."""
        self._drawn = time.monotonic()
        return super().display(*where, **how)

    def tick(self) -> None:
        """Draw the time that has passed, where nothing else has happened and a drawing is due."""
        if not self.disable and time.monotonic() - self._drawn >= self.mininterval:
            self.refresh()
