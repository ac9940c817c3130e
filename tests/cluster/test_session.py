"""What a session does after its learner was lost, on a stand-in for the algorithm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cluster.config import RunConfig
from cluster.session import Session


class Algorithm:
    """50 env steps in each iteration, after those that its replay knows already."""

    service = None

    def __init__(self, env_steps: int) -> None:
        self.env_steps = env_steps

    def train(self) -> dict[str, Any]:
        self.env_steps += 50
        return {}

    def owe_at_most(self, steps: int) -> None: ...

    def save_state(self, folder: Path) -> None: ...


@pytest.mark.parametrize(("known", "iterations"), [(399, [449]), (400, [450]), (250, [300, 350, 400])])
def test_a_learner_that_rejoins_at_the_end_is_still_trained_and_evaluated(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch, known: int, iterations: list[int]
) -> None:
    evaluated: list[int] = []
    monkeypatch.setattr("cluster.session.evaluate", lambda *_, **__: np.ones(1))
    log = SimpleNamespace(iteration=lambda *_: None, evaluation=lambda steps, *_: evaluated.append(steps))
    store = SimpleNamespace(write_checkpoint=lambda *_, **__: None)
    run = replace(tiny_run, env_steps=400)
    session = Session(run, cast("Any", store), cast("Any", Algorithm(known)), cast("Any", log))
    session.rejoin(None)
    told = []
    while not session.finished:
        told.append(session.advance().env_steps)
    assert told == iterations
    assert evaluated[-1] == iterations[-1]
