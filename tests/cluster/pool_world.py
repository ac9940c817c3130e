"""A replay that keeps strict books and a generator that shows what it was given, for tests of the generator pool."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from atradiff.config import ServingConfig
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.replay.requests import GenerationRequest
from atradiff.replay.shared import SharedReplay
from atradiff.types import ActionArray, FloatArray, Spaces, SyntheticRows, SyntheticTrajectories, Transitions

SPACES = Spaces(2, "continuous", (-1.0,), (1.0,))
"""Those of the toys, which would bring torch into each actor."""


def halved(rows: Transitions) -> Transitions:
    """A change of scale that cannot be overlooked."""
    return Transitions(**(dict(rows.items()) | {"actions": rows.actions / 2}))


class Books:
    """The pool's side of the replay actor over ``n`` requests; an answer to a request that is not lent out raises.

    ``forgiving`` books ignore it, as they must where they were restarted: all requests wait again then.
    """

    def __init__(self, n: int, *, forgiving: bool = False) -> None:
        self.begin(n, forgiving=forgiving)

    def begin(self, n: int, *, forgiving: bool = False) -> None:
        """New books, for another pool."""
        states = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
        self._waiting = [GenerationRequest(i, i, state) for i, state in enumerate(states)]
        self._lent: dict[int, GenerationRequest] = {}
        self._answers: dict[int, tuple[SyntheticRows, int]] = {}
        self._returned = 0
        self._age = 0
        self._forgiving = forgiving

    def wait_for_requests(self, limit: int, timeout_s: float, question: str) -> list[GenerationRequest]:  # noqa: ARG002
        if not self._waiting:
            time.sleep(min(timeout_s, 0.05))
            return []
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        self._lent |= {request.request_id: request for request in taken}
        return taken

    def put_back(self, requests: list[GenerationRequest]) -> None:
        back = [self._lent.pop(r.request_id) for r in requests if self._counts(r)]
        self._returned += len(back)
        self._waiting = sorted([*back, *self._waiting], key=lambda r: r.request_id)

    def store_synthetic(self, requests: list[GenerationRequest], made: SyntheticRows) -> int:
        for i, request in enumerate(requests):
            if self._counts(request):
                del self._lent[request.request_id]
                self._answers[request.request_id] = (made, i)
        return len(made.rows)

    def _counts(self, request: GenerationRequest) -> bool:
        return not self._forgiving or request.request_id in self._lent

    def status(self) -> dict[str, float]:
        return {"oldest_request_age": self._age}

    def set_age(self, age: int) -> None:
        self._age = age

    def counts(self) -> dict[str, int]:
        return {
            "waiting": len(self._waiting),
            "lent": len(self._lent),
            "answered": len(self._answers),
            "returned": self._returned,
        }

    def answers(self) -> list[tuple[int, int, FloatArray, FloatArray]]:
        """(request id, version, first observations (K, 2), actions (K, 1)) of all answers."""
        out = []
        for request_id, (made, i) in sorted(self._answers.items()):
            begin = int(made.lengths[:i].sum())
            part = made.rows[begin : begin + int(made.lengths[i])]
            out.append((request_id, made.generator_version, part.observations, part.actions))
        return out

    def process(self) -> int:
        return os.getpid()


class Silent(Books):
    """Takes nothing back: like a replay whose node is gone, it does not answer. Give it a thread for that."""

    def put_back(self, requests: list[GenerationRequest]) -> None:  # noqa: ARG002
        time.sleep(3600)


def asking_replay() -> MixedReplay:
    """Asks for a trajectory for each row that it is given."""
    return MixedReplay(SPACES, ReplayConfig(capacity=1000, rho=0.5, expected_length=1.0), 3)


class AskingReplay(SharedReplay):
    """Its rings are made where it lives: what comes as an argument cannot be written to."""

    def __init__(self, serving: ServingConfig) -> None:
        super().__init__(asking_replay(), serving)


def removed(path: Path) -> bool:
    """Whether this call removed ``path``; of several processes that see it at once, one does."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


class Stamping:
    """Each trajectory has two rows from its state; its actions are the weights it was made with, read at both ends.

    With ``hang`` a file: the first process that sees it there removes it and never answers.
    """

    spaces = SPACES

    def __init__(self, seconds: float = 0.01, hang: Path | None = None) -> None:
        self.version = 0
        self._seconds, self._hang = seconds, hang
        self._weights = {"first": np.zeros(3, np.float32), "last": np.zeros(3, np.float32)}

    def weights(self) -> dict[str, np.ndarray]:
        return self._weights

    def check_weights(self, weights: dict[str, np.ndarray]) -> None:
        if weights.keys() != self._weights.keys():
            raise ValueError(f"these are no weights of mine: {sorted(weights)}")

    def load_weights(self, version: int, weights: dict[str, np.ndarray]) -> None:
        self.check_weights(weights)
        self._weights, self.version = weights, version

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        if self._hang is not None and removed(self._hang):
            time.sleep(3600)
        b = len(states)
        actions = np.zeros((b, 2, 1), np.float32)
        actions[:, 0] = self._weights["first"][0]
        time.sleep(self._seconds)
        actions[:, 1] = self._weights["last"][0]
        return SyntheticTrajectories(
            np.repeat(states[:, None], 3, axis=1),
            actions,
            np.zeros((b, 2), np.float32),
            np.zeros((b, 2), bool),
            np.full(b, 2),
            self.version,
        )


class Rolling(Stamping):
    """With a one-step model in which everything stands still."""

    def roll(
        self, states: FloatArray, act: Callable[[FloatArray, int], ActionArray], rows: int
    ) -> SyntheticTrajectories:
        b = len(states)
        nothing = np.zeros((b, rows), np.float32)
        return SyntheticTrajectories(
            np.repeat(states[:, None], rows + 1, axis=1),
            np.stack([act(states, j) for j in range(rows)], axis=1),
            nothing,
            nothing > 0,
            np.full(b, rows),
            self.version,
        )


@dataclass(frozen=True)
class Steady:
    """A policy that does the same everywhere."""

    action: float

    def __call__(self, states: FloatArray, seed: int) -> FloatArray:  # noqa: ARG002
        return np.full((len(states), 1), self.action, np.float32)


def doubled(rows: Transitions) -> Transitions:
    """The way back from :func:`halved`."""
    return replace(rows, actions=rows.actions * 2)


class WithElder(Stamping):
    """Batches with an odd seed are made by the model as it was at first."""

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:
        made = super().generate(states, task, generator_seed=generator_seed)
        return replace(made, generator_version=0) if generator_seed % 2 else made


class Failing(Stamping):
    """Fails at its first batch."""

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        raise ZeroDivisionError("this generator cannot divide")


class Homeless(Stamping):
    """Cannot be built where it is sent."""

    def on(self, device: str, *, compiled: bool = False) -> Homeless:  # noqa: ARG002
        import ray

        if ray.get_runtime_context().worker.mode != 0:
            raise FileNotFoundError("no such model on this node")
        return self


def stamp(value: float) -> dict[str, np.ndarray]:
    return {"first": np.full(3, value, np.float32), "last": np.full(3, value, np.float32)}
