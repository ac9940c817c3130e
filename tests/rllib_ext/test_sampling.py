"""What a remote sampler makes of runners that fail: it goes on, tells the sink's troubles, and gives up in the end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from atradiff.ports import EpisodeRows
from rllib_ext.env_runner import DirectEnvRunner, EnvRunnerFailed, Fragment
from rllib_ext.sampling import NoStepsError, RemoteSampler


class Runners:
    """A group of one runner, with its answers in order; without them it stays silent."""

    def __init__(self, answers: list[Fragment]) -> None:
        self.answers = answers

    def healthy_env_runner_ids(self) -> list[int]:
        return [1]

    def foreach_env_runner_async(self, *_: Any, **__: Any) -> None: ...

    def fetch_ready_async_reqs(self, **_: Any) -> list[tuple[int, Fragment]]:
        return [(1, self.answers.pop(0))] if self.answers else []


def sampler(answers: list[Fragment]) -> RemoteSampler:
    return RemoteSampler(cast("Any", Runners(answers)), None, timeout_seconds=0.001, restore=lambda: None)


def failed(words: str) -> Fragment:
    return Fragment(0, None, {}, EnvRunnerFailed(words))


def test_runners_that_fail_again_and_again_end_the_run_with_the_last_words() -> None:
    asked = sampler([failed(f"joint {i} broke") for i in range(10)])
    for _ in range(9):
        asked.collect(random_actions=False, wait=True)
    with pytest.raises(NoStepsError, match=r"10 times .* no step\. joint 9 broke"):
        asked.collect(random_actions=False, wait=True)


def test_silent_runners_end_it_too_but_only_waits_count() -> None:
    asked = sampler([])
    for _ in range(50):
        asked.collect(random_actions=False, wait=False)
    for _ in range(9):
        asked.collect(random_actions=False, wait=True)
    with pytest.raises(NoStepsError, match="sample_timeout_s"):
        asked.collect(random_actions=False, wait=True)


def test_what_was_asked_for_before_another_run_was_loaded_is_dropped() -> None:
    asked = sampler([])
    asked.go_on(random_actions=False)
    asked._group.answers.append(Fragment(20, None, {}))  # type: ignore[attr-defined]
    asked.forget()
    assert asked.collect(random_actions=False, wait=False) == []
    asked._group.answers.append(Fragment(30, None, {}))  # type: ignore[attr-defined]
    assert [fragment.steps for fragment in asked.collect(random_actions=False, wait=False)] == [30]


def test_a_step_in_between_forgives() -> None:
    asked = sampler([*[failed("x")] * 9, Fragment(20, None, {}), *[failed("y")] * 9])
    told = [asked.collect(random_actions=False, wait=True) for _ in range(19)]
    assert [sum(fragment.steps for fragment in turn) for turn in told] == [0] * 9 + [20] + [0] * 9


def test_what_the_sink_met_is_raised_at_once() -> None:
    asked = sampler([Fragment(0, None, {}, OSError(28, "No space left on device"))])
    with pytest.raises(OSError, match="No space left"):
        asked.collect(random_actions=False, wait=True)


class FullDisk:
    def push(self, chunk: EpisodeRows) -> None:  # noqa: ARG002
        raise OSError(28, "No space left on device")


def runner(sample: Any) -> Any:
    """The parts of a runner that telling is made of, without RLlib's."""
    return SimpleNamespace(_failed=None, collect=sample)


def test_a_runner_tells_what_its_sink_met() -> None:
    chunk = cast("EpisodeRows", object())
    told = DirectEnvRunner.collect_or_tell(runner(lambda _: Fragment(20, chunk, {"n": 1})), False, FullDisk())
    assert (told.steps, told.chunk, told.metrics) == (0, None, {"n": 1})
    assert isinstance(told.failure, OSError)


def test_a_runner_tells_why_it_cannot_act_and_ends_when_it_is_asked_again() -> None:
    def broken(_: bool) -> Fragment:
        raise ZeroDivisionError("the world has no mass")

    it = runner(broken)
    told = DirectEnvRunner.collect_or_tell(it, False)
    assert "in broken" in str(told.failure)
    assert "the world has no mass" in str(told.failure)
    with pytest.raises(EnvRunnerFailed, match="no mass"):
        DirectEnvRunner.collect_or_tell(it, False)
