"""``python -m benchmarks.pickup --json F``: what the TD-error index costs, in CPU milliseconds and megabytes.

An index of 50,000 entries over a full ring of a million rows. Each update scores 256 rows drawn from the whole ring, as
a learner does: nearly all are new to the index, so that nearly as many are evicted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.td_index import TdErrorPickUp
from atradiff.types import Transitions
from benchmarks.figures import cpu_ms, show

ROWS = 1_000_000
BATCH = 256
CHUNK = 50
NO_COLUMNS = np.empty((0, 1), np.float32)
NO_ROWS = Transitions(NO_COLUMNS, NO_COLUMNS, NO_COLUMNS, NO_COLUMNS, NO_COLUMNS > 0, NO_COLUMNS > 0)
"""The index reads ids only."""


def full_index(rows: int, config: PickUpConfig) -> TdErrorPickUp:
    """An index with every entry taken."""
    index, rng = TdErrorPickUp(config, rows, seed=0), np.random.default_rng(0)
    index.stored(np.arange(rows), NO_ROWS, np.empty(0, np.int64))
    while len(index) < index.size:
        score(index, rng)
    return index


def score(index: TdErrorPickUp, rng: np.random.Generator) -> None:
    """One update of the learner."""
    rows = index.ring.oldest + rng.integers(index.ring.capacity, size=BATCH)
    index.scored(rows, rng.exponential(size=BATCH).astype(np.float32))


def measure(rows: int, config: PickUpConfig) -> dict[str, float]:
    """CPU milliseconds of an update's scores, of a stored chunk and of a pick, and megabytes, of a full index over
    ``rows`` rows.
    """
    index, rng = full_index(rows, config), np.random.default_rng(1)

    def store() -> None:
        index.stored(index.ring.total + np.arange(CHUNK), NO_ROWS, np.empty(0, np.int64))

    drawing = cpu_ms(lambda: (rng.integers(rows, size=BATCH), rng.exponential(size=BATCH).astype(np.float32)), 500)
    return {
        "entries": len(index),
        "rows": rows,
        "update_ms": cpu_ms(lambda: score(index, rng), 500) - drawing,
        "store_ms": cpu_ms(store, 500),
        "pick_ms": cpu_ms(lambda: index.pick(config.picked), 20),
        "memory_mb": index.nbytes / 1e6,
    }


def main() -> None:
    """Print the figures of :func:`measure` with the default settings; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the ring")
    args = parser.parse_args()
    show(measure(args.rows, PickUpConfig()), args.json)


if __name__ == "__main__":
    main()
