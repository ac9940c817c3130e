"""How learning rates go over a fit."""

from __future__ import annotations

import math


def learning_rate_share(index: int, progress: float, warmup: int) -> float:
    """Linear warm-up over ``warmup`` steps, cosine decay to 1 % over the whole fit."""
    decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min((index + 1) / max(warmup, 1), 1.0) * decay
