"""The benchmark of ends, with ends that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atradiff.data.trajectories import Trajectories
from atradiff.types import Spaces
from benchmarks.ends import measure
from tests.toys import TINY, chain_data, random_data, tiny_diffuser


def test_bounds_are_right_as_far_as_the_step_is_and_the_net_is_asked_without_them() -> None:
    falls = falling()
    model = tiny_diffuser(falls)
    untrained = measure(model, falls)["net"]
    model.update_dynamics(falls.columns, 400, seed=0)
    told = measure(model, falls)
    assert told["bounds"].ends == told["net"].ends == falls.columns.terminated.sum() == 30
    assert min(told["bounds"].recall, told["bounds"].precision) > 0.7
    assert untrained.precision < 0.5  # nets that learned next to nothing


def test_data_that_are_not_the_models_are_refused() -> None:
    model, tasks = tiny_diffuser(falling()), np.tile(np.float32([[0, 1], [1, 0]]), (15, 1))
    with pytest.raises(ValueError, match="no ends"):
        measure(model, random_data([9], [False]))
    with pytest.raises(ValueError, match="no bounds"):
        measure(tiny_diffuser(), chain_data(3))
    wide = Spaces(3, "continuous", action_low=(-1.0,), action_high=(1.0,))
    with pytest.raises(ValueError, match="observation_size is 3 in the data and 2 in the model"):
        measure(model, random_data([9], [True], spaces=wide))
    told = replace(falling(), tasks=tasks)
    assert measure(model, told) == measure(model, falling())
    of_tasks = tiny_diffuser(told, replace(TINY, task_size=2))
    assert measure(of_tasks, told)["net"].ends == 30
    with pytest.raises(ValueError, match="task_size of the data must be 2, as the model was fitted with, got 0"):
        measure(of_tasks, falling())


def falling() -> Trajectories:
    """The chain, but what ends it pays nothing."""
    data = chain_data(30)
    return replace(data, columns=replace(data.columns, rewards=np.zeros(data.n_transitions, np.float32)))
