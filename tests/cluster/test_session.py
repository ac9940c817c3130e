"""What a session does after its learner was lost, on a stand-in for the algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cluster.checkpoint import Checkpoint
from cluster.config import CheckpointConfig, RunConfig
from cluster.run_folder import MetricsFile
from cluster.run_store import RunStore
from cluster.session import Session
from cluster.storage import Location


class Algorithm:
    """100 updates in each iteration, and 50 env steps after those that its replay knows already, unless it is behind.

    As where env runners act beside the learner, it goes on owing something.
    """

    service = None

    def __init__(self, env_steps: int, updates_due: int = 0) -> None:
        self.env_steps = env_steps
        self.updates_due = updates_due

    @property
    def behind(self) -> bool:
        return self.updates_due > 100

    def train(self) -> dict[str, Any]:
        if not self.behind:
            self.env_steps += 50
        self.updates_due = max(self.updates_due - 100, 10)
        return {}

    def owe_at_most(self, steps: int) -> None: ...

    def go_on_elsewhere(self) -> None: ...

    def save_state(self, folder: Path) -> None:
        (folder / "weights").touch()

    def load_state(self, folder: Path) -> None: ...

    def load_learner_state(self, folder: Path) -> None: ...


@dataclass
class Log:
    """Notes what it is told: steps of evaluations, seconds of all iterations."""

    evaluated: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def evaluation(self, env_steps: int, wall_seconds: float, *_: Any) -> None:
        self.evaluated.append(env_steps)
        self.seconds.append(wall_seconds)

    def iteration(self, _: int, wall_seconds: float, __: Any) -> None:
        self.seconds.append(wall_seconds)


def session_in(folder: Path, run: RunConfig, algorithm: Algorithm, log: Log | None = None) -> Session:
    """With a store and a log of its own, as a new process has."""
    return Session(run, RunStore(Location.of(folder)), cast("Any", algorithm), cast("Any", log or Log()))


def checkpoint_in(folder: Path) -> Checkpoint:
    checkpoint = RunStore(Location.of(folder)).find_checkpoint()
    assert checkpoint is not None
    return checkpoint


@pytest.fixture(autouse=True)
def evaluations_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.evaluate", lambda *_, **__: np.ones(1))


@pytest.mark.parametrize(
    ("known", "owed", "iterations"),
    [
        (399, 0, [449]),
        (400, 0, [450]),
        (250, 0, [300, 350, 400]),
        (400, 350, [400, 400, 400]),
        (250, 250, [250, 250, 300, 350, 400]),
    ],
)
def test_a_learner_that_rejoins_at_the_end_makes_up_for_what_it_owes_and_is_evaluated(
    tiny_run: RunConfig, tmp_path: Path, known: int, owed: int, iterations: list[int]
) -> None:
    log = Log()
    session = session_in(tmp_path, replace(tiny_run, env_steps=400), Algorithm(known, owed), log)
    session.rejoin(None)
    told = []
    while not session.finished:
        told.append(session.advance())
    assert [progress.env_steps for progress in told] == iterations
    # who hears of it ends the run
    assert [progress.finished for progress in told] == [False] * (len(told) - 1) + [True]
    assert log.evaluated[-1] == iterations[-1]


def test_a_learner_that_is_stopped_as_it_makes_up_for_what_it_owes_goes_on_with_that(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    run = replace(tiny_run, env_steps=400)
    stopped = session_in(tmp_path, run, Algorithm(400, 350))
    stopped.rejoin(None)
    stopped.advance()
    stopped.checkpoint()
    resumed = session_in(tmp_path, run, Algorithm(400, 250))
    resumed.restore(checkpoint_in(tmp_path))
    assert not resumed.finished
    assert [resumed.advance().finished for _ in range(2)] == [False, True]
    resumed.checkpoint()
    last = checkpoint_in(tmp_path)
    assert (last.state["env_steps"], last.state["behind"]) == (400, False)
    assert last.state["last_return"] is not None


def test_the_clock_of_a_learner_that_rejoins_goes_on_from_the_last_row(tiny_run: RunConfig, tmp_path: Path) -> None:
    first, log = session_in(tmp_path, tiny_run, Algorithm(0)), Log()
    first.checkpoint()
    checkpoint = checkpoint_in(tmp_path)
    MetricsFile(tmp_path / "metrics.csv").append({"env_steps": 200, "wall_seconds": 1234.5})
    for known in (None, checkpoint):
        session = session_in(tmp_path, tiny_run, Algorithm(250), log)
        session.rejoin(known)
        session.advance()
    assert all(1234.5 < seconds < 1300 for seconds in log.seconds)
    late = replace(checkpoint.manifest, state=checkpoint.state | {"wall_seconds": 2000.0})
    session.rejoin(replace(checkpoint, manifest=late))
    session.advance()
    assert log.seconds[-1] > 2000.0


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


def test_the_last_checkpoint_is_tried_again_and_then_missed(tiny_run: RunConfig) -> None:
    store = Unreliable("..xx.")
    session = session_with(store, tiny_run, steps=150)
    for _ in range(3):
        session.advance()
    assert session.finished
    with pytest.raises(OSError, match="503"):
        session.checkpoint()
    session.checkpoint()
    assert store.written == [50, 100, 150]
