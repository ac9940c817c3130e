"""The benchmark of ends, with ends that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.ends import measure
from tests.toys import chain_data, random_data, tiny_diffuser


def test_bounds_are_right_as_far_as_the_step_is_and_the_net_is_asked_without_them() -> None:
    data = chain_data(30)
    falls = replace(data, columns=replace(data.columns, rewards=np.zeros(data.n_transitions, np.float32)))
    model = tiny_diffuser(falls)
    untrained = measure(model, falls.columns)["net"]
    model.update_dynamics(falls.columns, 400, seed=0)
    told = measure(model, falls.columns)
    assert told["bounds"].ends == told["net"].ends == data.columns.terminated.sum() == 30
    assert min(told["bounds"].recall, told["bounds"].precision) > 0.7
    assert untrained.precision < 0.5  # nets that learned next to nothing
    with pytest.raises(ValueError, match="no ends"):
        measure(model, random_data([9], [False]).columns)
    with pytest.raises(ValueError, match="no bounds"):
        measure(tiny_diffuser(), data.columns)
