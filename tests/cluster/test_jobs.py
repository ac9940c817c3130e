"""Following a job over a connection that breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import requests
from ray.job_submission import JobStatus

from cluster import jobs
from cluster.jobs import JobClient

LOG = "10 steps\n20 steps\n30 steps\n"


class Dashboard:
    """Of a job that succeeds; every other call, and the log in its midst, finds the line dead."""

    def __init__(self) -> None:
        self.calls = 0
        self.statuses = [JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED]

    def get_job_status(self, _: str) -> JobStatus:
        self._break()
        return self.statuses.pop(0)

    def get_job_logs(self, _: str) -> str:
        self._break()
        return LOG

    def get_job_info(self, _: str) -> Any:
        self._break()
        return SimpleNamespace(status=JobStatus.SUCCEEDED)

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        yield LOG[:12]
        raise aiohttp.ServerDisconnectedError

    def _break(self) -> None:
        self.calls += 1
        if self.calls % 2:
            raise requests.ConnectionError("the tunnel is down")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> JobClient:
    monkeypatch.setattr(jobs, "_connect", lambda _: Dashboard())
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # the client sets it
    return JobClient("http://127.0.0.1:8265")


def test_a_lost_connection_is_taken_up_again_where_it_broke_off(
    client: JobClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.attend("job") == 0
    told = capsys.readouterr()
    assert told.out == LOG
    assert "lost http://127.0.0.1:8265, trying again" in told.err


def test_a_dashboard_that_is_gone_for_good_is_given_up(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_UNREACHABLE_SECONDS", 0.0)
    with pytest.raises(ValueError, match="has not answered for 0 s"):
        client.attend("job")
