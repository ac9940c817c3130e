"""The soak's killer does not lose heart, and the soak says by its verdict whether it did what it was to do."""

from __future__ import annotations

import signal

import pytest

from benchmarks import soak
from benchmarks.soak import Kill, SoakReport


def test_a_victim_that_is_not_there_or_just_ended_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sights, killed = [[], [7], [8]], []

    def kill(pid: int, number: int) -> None:
        if pid == 7:
            raise ProcessLookupError(pid)
        killed.append((pid, number))

    monkeypatch.setattr(soak, "processes", lambda *_: sights.pop(0))
    monkeypatch.setattr(soak.os, "kill", kill)
    monkeypatch.setattr(soak, "_AIM_SECONDS", 0.0)
    sniper = soak._Sniper(seconds=0.0015, every=0.001, seed=0, roles=["trainer"])
    sniper._shoot()
    assert killed == [(8, signal.SIGKILL)]
    assert [kill.role for kill in sniper.report.kills] == ["trainer"]


@pytest.mark.parametrize(("planned", "books", "passed"), [(1, (3, 3), True), (2, (3, 3), False), (1, (3, 4), False)])
def test_the_verdict(planned: int, books: tuple[int, int], passed: bool) -> None:
    report = SoakReport(planned, [Kill("trainer", 1.0, 10)], books={"requests": books})
    assert report.passed is passed
