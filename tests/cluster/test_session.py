"""What a session does after its learner was lost, on a stand-in for the algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cluster.config import CheckpointConfig, RunConfig
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


@dataclass
class Unreliable:
    """A store whose checkpoints fail as is written: one character for each, ``x`` fails."""

    fate: str
    written: list[int] = field(default_factory=list)

    def write_checkpoint(self, env_steps: int, *_: Any, **__: Any) -> None:
        fails, self.fate = self.fate[0] == "x", self.fate[1:]
        if fails:
            raise OSError("503 Slow Down")
        self.written.append(env_steps)


def session_with(store: Unreliable, tiny_run: RunConfig, steps: int) -> Session:
    run = replace(tiny_run, env_steps=steps, checkpoint=CheckpointConfig(every=50))
    run = replace(run, evaluation=replace(run.evaluation, every=10**6))
    log = SimpleNamespace(iteration=lambda *_: None, evaluation=lambda *_: None)
    return Session(run, cast("Any", store), cast("Any", Algorithm(0)), cast("Any", log))


def test_three_failed_checkpoints_in_a_row_are_forgiven(tiny_run: RunConfig) -> None:
    store = Unreliable("xxx.xxxx")
    session = session_with(store, tiny_run, steps=10_000)
    for _ in range(7):
        session.advance()
    assert store.written == [200]
    with pytest.raises(OSError, match="503"):
        session.advance()


def test_the_last_checkpoint_is_tried_again_and_then_missed(tiny_run: RunConfig, monkeypatch: Any) -> None:
    monkeypatch.setattr("cluster.session.evaluate", lambda *_, **__: np.ones(1))
    store = Unreliable("..xx.")
    session = session_with(store, tiny_run, steps=150)
    for _ in range(3):
        session.advance()
    assert session.finished
    with pytest.raises(OSError, match="503"):
        session.checkpoint()
    session.checkpoint()
    assert store.written == [50, 100, 150]
