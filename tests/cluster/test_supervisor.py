"""The driver's loop: trainers that die are replaced, a stop is heard, hopeless ones are given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from counting_trainer import ENV_STEPS, CountingTrainer
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from cluster.progress import Progress
from cluster.replay_actor import RowsLostError
from cluster.supervisor import Supervisor, TrainerLost
from rllib_ext.ensemble_sac.learner import LearnerLost


class TrainerHere(CountingTrainer):
    """The same in the process of the test, with the face of an actor's handle."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return SimpleNamespace(remote=partial(partial, found)) if name in ("advance", "conclude") else found

    def die(self) -> None:
        raise ActorDiedError


@dataclass
class Idle:
    """A crew that counts how often it was tended."""

    tended: list[int] = field(default_factory=list)

    def tend(self, progress: Progress) -> None:
        self.tended.append(progress.env_steps)

    def gauges(self) -> Mapping[str, Mapping[str, float]]:
        return {"pool": {"size": 1.0}}

    def take_reports(self) -> list[Any]:
        return []


@dataclass
class Stable:
    """Starts trainers at the given steps, with the given accidents ahead; remembers what ended those before."""

    log: Path
    begins: list[int]
    accidents: list[dict[int, str]]
    make: Callable[[int, dict[int, str], Path], Any] = TrainerHere
    causes: list[Exception | None] = field(default_factory=list)
    killed: list[Any] = field(default_factory=list)

    def start(self, cause: Exception | None) -> Any:
        self.causes.append(cause)
        return self.make(self.begins.pop(0), self.accidents.pop(0), self.log)

    def supervisor(self, crew: Any) -> Supervisor:
        """Of trainers here."""
        return Supervisor(self.start, crew, get=lambda call: call(), kill=self.killed.append)


@pytest.mark.usefixtures("local_ray")
def test_a_trainer_that_dies_is_replaced(tmp_path: Path) -> None:
    """Actors of a real Ray, and a real kill."""
    actors = ray.remote(num_cpus=0, max_restarts=0)(CountingTrainer)
    stable = Stable(tmp_path / "log", [0, 20], [{50: "killed"}, {}], actors.remote)
    crew, seen = Idle(), []
    supervisor = Supervisor(stable.start, crew)
    last = supervisor.run(lambda p: seen.append(p.env_steps), threading.Event())
    assert stable.causes[0] is None
    assert isinstance(stable.causes[1], RayActorError)
    assert supervisor.restarts == 1
    assert last == Progress(ENV_STEPS, 1.0, finished=True)  # the new trainer heard of the restart
    assert seen == [*range(10, 60, 10), *range(30, ENV_STEPS + 1, 10)]
    assert crew.tended == seen[:-1]
    assert stable.log.read_text() == "concluded at 100"


@pytest.mark.parametrize(
    ("accident", "kind"),
    [("learner lost", LearnerLost), ("replay lost", RowsLostError), ("out of memory", OutOfMemoryError)],
)
def test_a_trainer_that_lost_something_is_ended_and_replaced(tmp_path: Path, accident: str, kind: type) -> None:
    """It lives, and would hold its places, which the next one needs."""
    stable = Stable(tmp_path / "log", [0, 20], [{50: accident}, {}])
    assert stable.supervisor(Idle()).run(lambda _: None, threading.Event()) == Progress(ENV_STEPS, 1.0, finished=True)
    assert isinstance(stable.causes[1], kind)
    assert [trainer.steps for trainer in stable.killed] == [50]


def test_a_stop_concludes_the_run_where_it_is(tmp_path: Path) -> None:
    stable, stop = Stable(tmp_path / "log", [0], [{}]), threading.Event()

    def watch(progress: Progress) -> None:
        if progress.env_steps == 30:
            stop.set()

    last = stable.supervisor(Idle()).run(watch, stop)
    assert last.env_steps == 30
    assert stable.log.read_text() == "concluded at 30"


def test_what_is_wrong_with_the_run_itself_is_not_tried_again(tmp_path: Path) -> None:
    stable = Stable(tmp_path / "log", [0], [{20: "diverged"}])
    with pytest.raises(FloatingPointError, match="critic loss is nan"):
        stable.supervisor(Idle()).run(lambda _: None, threading.Event())


def test_trainers_that_die_at_once_are_given_up(tmp_path: Path) -> None:
    stable = Stable(tmp_path / "log", [0] * 4, [{0: "killed"}] * 4)
    with pytest.raises(TrainerLost, match="4 times without a step"):
        stable.supervisor(Idle()).run(lambda _: None, threading.Event())
    assert len(stable.causes) == 4


def test_deaths_before_lost_steps_are_regained_are_not_fruitless(tmp_path: Path) -> None:
    """It went back from 60 steps to 0; each of the next trainers gets a little further than it began."""
    stable = Stable(tmp_path / "log", [40, *[0] * 5, 0], [{60: "replay lost"}, *[{30: "killed"}] * 5, {}])
    last = stable.supervisor(Idle()).run(lambda _: None, threading.Event())
    assert last.env_steps == ENV_STEPS
    assert len(stable.causes) == 7


@dataclass
class Broken(Idle):
    """A crew whose generators give up."""

    def tend(self, progress: Progress) -> None:
        if progress.env_steps == 30:
            raise ValueError("generator 0 failed and would fail again")


def test_what_is_wrong_with_the_crew_ends_the_run_after_a_checkpoint(tmp_path: Path) -> None:
    stable = Stable(tmp_path / "log", [0], [{}])
    with pytest.raises(ValueError, match="would fail again"):
        stable.supervisor(Broken()).run(lambda _: None, threading.Event())
    assert stable.log.read_text() == "concluded at 30"


def test_a_checkpoint_that_cannot_be_written_does_not_hide_what_was_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stable = Stable(tmp_path / "no such folder" / "log", [0], [{}])
    with pytest.raises(ValueError, match="would fail again"):
        stable.supervisor(Broken()).run(lambda _: None, threading.Event())
    assert "no checkpoint could be written before the end" in capsys.readouterr().err
