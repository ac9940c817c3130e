"""What benchmarks share: CPU time of a call, and where figures go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from atradiff.staging import write_text


def cpu_ms(call: Callable[[], object], repeats: int) -> float:
    """Median CPU milliseconds of one call over five rounds of ``repeats``."""
    rounds = []
    for _ in range(5):
        before = time.process_time()
        for _ in range(repeats):
            call()
        rounds.append((time.process_time() - before) / repeats * 1e3)
    return float(np.median(rounds))


def show(figures: Mapping[str, object], file: Path | None) -> None:
    """Print figures as JSON, and write them to ``file`` where one is given."""
    text = json.dumps(figures, indent=2)
    print(text)
    if file is not None:
        write_text(file, text + "\n")
