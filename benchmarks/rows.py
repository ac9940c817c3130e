"""Random rows, which no environment made."""

from __future__ import annotations

from typing import Any

import numpy as np

from atradiff.types import Spaces, Transitions

HOPPER = Spaces(11, "continuous", (-1.0,) * 3, (1.0,) * 3)


def random_rows(n: int, rng: np.random.Generator, spaces: Spaces = HOPPER) -> Transitions:
    """``n`` rows of these spaces, none of which ends an episode."""

    def floats(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    flags = np.zeros(n, bool)
    states, actions = spaces.observation_size, spaces.action_size
    return Transitions(floats(n, states), floats(n, actions), floats(n), floats(n, states), flags, flags)
