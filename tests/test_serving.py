"""The in-process server: what it asks, when, and what becomes of the answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atradiff.config import ServingConfig
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.serving import LocalServer
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories, Transitions

SPACES = Spaces(1, "continuous", (-1.0,), (1.0,))


class Stairs:
    """From state s: s, s + 1, s + 2, ...; the i-th trajectory of a batch has i % 3 + 1 rows."""

    spaces, version = SPACES, 4

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.batches: list[list[float]] = []
        self.fails = False

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        if self.fails:
            raise ConnectionError("no generator")
        self.seeds.append(generator_seed)
        self.batches.append(states[:, 0].tolist())
        b = len(states)
        return SyntheticTrajectories(
            states[:, None] + np.arange(4, dtype=np.float32)[None, :, None],
            np.ones((b, 3, 1), np.float32),
            np.zeros((b, 3), np.float32),
            np.zeros((b, 3), bool),
            np.arange(b) % 3 + 1,
            self.version,
        )


def _halve(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions / 2)


def _server(batch_size: int = 4, max_wait: int = 1000, seed: int = 0) -> tuple[LocalServer, Stairs]:
    generator = Stairs()
    replay = MixedReplay(SPACES, ReplayConfig(capacity=500, rho=0.5, expected_length=1.0), seed)  # a request per row
    return LocalServer(replay, generator, ServingConfig(batch_size, max_wait), seed, _halve), generator


def _step(server: LocalServer, n: int = 1) -> None:
    at = server.replay.counters.env_steps
    s = 10 * np.arange(at, at + n, dtype=np.float32)[:, None]
    flags = np.zeros(n, bool)
    server.replay.store(Transitions(s, s * 0, s[:, 0], s, flags, flags))


def test_answers_go_in_row_by_row_in_the_learners_scale() -> None:
    server, generator = _server(batch_size=4)
    _step(server, 4)
    assert server.serve() == 1 + 2 + 3 + 1
    ring = server.replay.synthetic
    assert generator.batches == [[0, 10, 20, 30]]
    assert ring["observations"][:7, 0].tolist() == [0, 10, 11, 20, 21, 22, 30]
    assert ring["next_observations"][:7, 0].tolist() == [1, 11, 12, 21, 22, 23, 31]
    assert ring["truncated"][:7].tolist() == [True, False, True, False, False, True, True]
    assert (ring["actions"][:7] == 0.5).all()
    assert (ring["generator_version"][:7] == 4).all()


def test_waits_for_a_full_batch() -> None:
    server, generator = _server(batch_size=4)
    _step(server, 3)
    assert server.serve() == 0
    _step(server, 6)
    server.serve()
    assert [len(batch) for batch in generator.batches] == [4, 4]
    assert server.replay.pending == 1


def test_but_not_for_ever() -> None:
    server, generator = _server(batch_size=100, max_wait=5)
    _step(server)
    for _ in range(4):
        _step(server)
        assert server.serve() == 0
    _step(server)  # the first request has now waited five steps
    assert server.serve() > 0
    assert [len(batch) for batch in generator.batches] == [6]


def test_requests_that_are_all_too_old_end_nothing() -> None:
    generator = Stairs()
    replay = MixedReplay(SPACES, ReplayConfig(capacity=500, rho=0.5, expected_length=1.0, max_request_age=3), 0)
    server = LocalServer(replay, generator, ServingConfig(100, 6), 0, _halve)
    _step(server)
    replay.config = replace(replay.config, rho=0.0)  # nobody asks any more
    _step(server, 9)
    assert server.serve() == 0
    assert (replay.counters.requests_dropped, replay.pending) == (1, 0)


def test_seeds_follow_from_the_run_and_the_request() -> None:
    runs = []
    for seed in (0, 0, 1):
        server, generator = _server(batch_size=2, seed=seed)
        _step(server, 6)
        server.serve()
        runs.append(generator.seeds)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert len(set(runs[0])) == 3


def test_a_failed_generation_loses_no_request() -> None:
    server, generator = _server(batch_size=4)
    _step(server, 4)
    generator.fails = True
    with pytest.raises(ConnectionError):
        server.serve()
    generator.fails = False
    server.serve()
    assert generator.batches == [[0, 10, 20, 30]]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="got 0 and 200"):
        ServingConfig(requests_per_batch=0)
    with pytest.raises(ValueError, match="got 64 and -1"):
        ServingConfig(max_wait=-1)
