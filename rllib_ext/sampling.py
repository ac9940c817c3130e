"""How an algorithm gets its env steps: from the runner in its process, or from remote ones that act while it learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

from ray.rllib.env.env_runner_group import EnvRunnerGroup

from atradiff.errors import RunFailed
from atradiff.ports import RowSink
from rllib_ext.env_runner import DirectEnvRunner, EnvRunnerFailed, Fragment

_TAG = "collect"
_POLL_SECONDS = 0.01
"""RLlib waits for all runners that were asked, or this long; the first answer is what is waited for here."""

_FRUITLESS_WAITS = 10
"""So many in a row are not bad luck: RLlib starts a failing runner anew a thousand times."""

_NO_WORDS = (
    "None of them said why: see their log (`ray logs`, or Ray's dashboard). Where a fragment takes longer, raise "
    "sample_timeout_s or lower rollout_fragment_length."
)


class NoStepsError(RunFailed):
    """The env runners give no steps any more; the message holds the last words of one of them, where there are any."""


class Sampler(Protocol):
    """Asks the env runners for fragments."""

    def collect(self, random_actions: bool, wait: bool) -> list[Fragment]:
        """The fragments that are there; with ``wait`` at least one, unless none comes in time.

        Raises :class:`NoStepsError` where that went on for long, and what runners met on the way to their sink.
        """
        ...

    def go_on(self, random_actions: bool) -> None:
        """Let the runners that have nothing to do act while the learner learns."""
        ...

    def restored(self, runners: Collection[int]) -> None:
        """These runners died and are back: what they were asked for never comes."""
        ...

    def forget(self) -> None:
        """The run becomes another one: what the runners have at hand, or give in time, is dropped."""
        ...

    def metrics(self) -> dict[str, int]:
        """What was lost since the sampler was made."""
        ...


class LocalSampler:
    """The one runner of this process: acting and learning take turns, and repeat themselves exactly."""

    def __init__(self, runner: DirectEnvRunner) -> None:
        self._runner = runner

    def collect(self, random_actions: bool, wait: bool) -> list[Fragment]:  # noqa: ARG002
        """One fragment, acted here and now."""
        return [self._runner.collect(random_actions)]

    def go_on(self, random_actions: bool) -> None:
        """Nothing: this process is about to learn."""

    def restored(self, runners: Collection[int]) -> None:
        """Nothing: this runner lives and dies with the algorithm."""

    def forget(self) -> None:
        """Nothing: what was asked for is there."""

    def metrics(self) -> dict[str, int]:
        return {}


class RemoteSampler:
    """Remote runners, each with at most one request in flight; they send their rows to ``sink``, where there is one.

    ``restore`` is called while no runner is alive: it brings back those that Ray has started again.
    """

    def __init__(
        self, group: EnvRunnerGroup, sink: RowSink | None, timeout_seconds: float, restore: Callable[[], Any]
    ) -> None:
        self._restarts = 0
        self._fragments_lost = 0
        self._group = group
        self._sink = sink
        self._timeout = timeout_seconds
        self._restore = restore
        self._asked: set[int] = set()
        self._fruitless = 0
        self._last_words = ""

    def collect(self, random_actions: bool, wait: bool) -> list[Fragment]:
        """See :class:`Sampler`; ``timeout_seconds`` is what it waits at most."""
        deadline = time.monotonic() + (self._timeout if wait else 0.0)
        self.go_on(random_actions)
        fragments = self._fetch()
        while not fragments and time.monotonic() < deadline:
            if not self._asked:
                self._restore()
                self.go_on(random_actions)
            fragments = self._fetch()
        self._judge(fragments, wait)
        return fragments

    def _judge(self, fragments: Collection[Fragment], waited: bool) -> None:
        for failure in [fragment.failure for fragment in fragments if fragment.failure is not None]:
            if not isinstance(failure, EnvRunnerFailed):
                raise failure
            self._last_words = str(failure)
        if any(fragment.steps for fragment in fragments):
            self._fruitless, self._last_words = 0, ""
        elif waited:
            self._fruitless += 1
        if self._fruitless >= _FRUITLESS_WAITS:
            raise NoStepsError(
                f"the env runners were waited for {self._fruitless} times ({self._timeout:g} s at most each) and gave "
                f"no step. {self._last_words or _NO_WORDS}"
            )

    def go_on(self, random_actions: bool) -> None:
        """Ask every healthy runner that has nothing to do for one fragment."""
        idle = [runner for runner in self._group.healthy_env_runner_ids() if runner not in self._asked]
        if not idle:
            return
        request = partial(DirectEnvRunner.collect_or_tell, random_actions=random_actions, sink=self._sink)
        self._group.foreach_env_runner_async(request, tag=_TAG, remote_worker_ids=idle)
        self._asked.update(idle)

    def restored(self, runners: Collection[int]) -> None:
        """Count the restarts, and the fragments that went with them."""
        self._restarts += len(runners)
        self._lose(self._asked.intersection(runners))

    def forget(self) -> None:
        """See :class:`Sampler`; ``timeout_seconds`` is what it waits at most."""
        deadline = time.monotonic() + self._timeout
        self._fetch()
        while self._asked and time.monotonic() < deadline:
            self._fetch()

    def metrics(self) -> dict[str, int]:
        """``env_runner_restarts`` and ``fragments_lost`` since the sampler was made."""
        return {"env_runner_restarts": self._restarts, "fragments_lost": self._fragments_lost}

    def _fetch(self) -> list[Fragment]:
        """What has arrived; a runner that RLlib has found dead was in the middle of a fragment."""
        answers = self._group.fetch_ready_async_reqs(tags=_TAG, timeout_seconds=_POLL_SECONDS)
        self._asked.difference_update(runner for runner, _ in answers)
        self._lose(self._asked.difference(self._group.healthy_env_runner_ids()))
        return [fragment for _, fragment in answers]

    def _lose(self, runners: Collection[int]) -> None:
        self._fragments_lost += len(runners)
        self._asked.difference_update(runners)
