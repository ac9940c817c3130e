"""When a new snapshot of the policy is taken."""

from __future__ import annotations

import pytest
from pool_world import Steady, doubled

from atradiff.branches import OwnActions
from atradiff.config import ServingConfig
from cluster.policy_snapshots import PolicySnapshots

STEPS = (0, 50, 100, 200, 399, 450, 800, 800)


def _take() -> OwnActions:
    return OwnActions(Steady(0.0), 1.0, 5, doubled)


@pytest.mark.parametrize(("max_wait", "due"), [(200, [0, 200, 450, 800]), (0, [0, 50, 100, 200, 399, 450, 800])])
def test_one_at_first_and_one_where_a_multiple_was_passed(max_wait: int, due: list[int]) -> None:
    snapshots = PolicySnapshots(_take, ServingConfig(max_wait=max_wait))
    assert [steps for steps in STEPS if snapshots.step(steps) is not None] == due


def test_one_after_going_back() -> None:
    snapshots = PolicySnapshots(_take, ServingConfig(max_wait=200))
    assert snapshots.step(450) is not None
    assert snapshots.step(410) is None
    snapshots.forget()
    assert snapshots.step(410) is not None
