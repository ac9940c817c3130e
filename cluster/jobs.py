"""Jobs of a Ray cluster through Ray's SDK: submit one, show its log, stop it, know how it ended."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.upload import Upload

_STOPPED = 130
_POLL_SECONDS = 0.5
_NO_AGENT_YET = "No available agent"
_YOUNG_CLUSTER_SECONDS = 60.0
_UNREACHABLE_SECONDS = 600.0
_LostConnection = (requests.ConnectionError, requests.Timeout)

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class JobOrder:
    """``entrypoint`` is run by a shell in a copy of ``upload``, on a node of the cluster.

    ``environment`` reaches all processes of the job; ``pip`` is a requirements file to install first; a stopped job
    has ``stop_seconds`` to write its checkpoint.
    """

    upload: Upload
    entrypoint: str
    environment: dict[str, str]
    pip: str | None
    stop_seconds: int

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's name for it: what is uploaded, installed and set before the entrypoint starts."""
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(self.stop_seconds), **self.environment}
        env: dict[str, Any] = {
            "working_dir": str(self.upload.folder),
            "excludes": self.upload.patterns,
            "env_vars": environment,
        }
        return env if self.pip is None else env | {"pip": self.pip}


class JobClient:
    """The jobs of the cluster whose dashboard is at ``address``."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"--address {address} must be the cluster's dashboard, as in http://127.0.0.1:8265.")
        self._address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # else Ray's SDK prefers a RAY_ADDRESS to what was asked for
        self._client = _connect(address)

    def submit(self, order: JobOrder) -> str:
        """Upload and start; returns the job's id. A cluster that has only just started is waited for."""
        deadline = time.monotonic() + _YOUNG_CLUSTER_SECONDS
        while True:
            try:
                job: str = self._client.submit_job(entrypoint=order.entrypoint, runtime_env=order.runtime_env)
                return job
            except RuntimeError as error:
                if _NO_AGENT_YET not in str(error) or time.monotonic() > deadline:
                    raise ValueError(f"{self._address} did not take the job: {error}") from error
            time.sleep(_POLL_SECONDS)

    def attend(self, job: str, ask: Callable[[str], str] = input) -> int:
        """Show the log until the job ends and return its exit status; Ctrl-C asks whether to stop it."""
        try:
            self._follow(job)
        except KeyboardInterrupt:
            if not _wants_to_stop(ask):
                print(f"\n{job} goes on.\n{self.commands(job)}")
                return _STOPPED
            print("stopping; the job writes a checkpoint first", flush=True)
            self._client.stop_job(job)
            self._wait(job)
        return self._exit_status(job)

    def commands(self, job: str) -> str:
        """How to follow and to stop it from any terminal."""
        logs, stop = f"ray job logs --address {self._address} --follow", f"ray job stop --address {self._address}"
        return f"follow     {logs} {job}\nstop       {stop} {job}"

    def _follow(self, job: str) -> None:
        """Print the log as it grows; a lost connection is taken up again where it broke off."""
        shown = 0
        while not self._status(job).is_terminal():
            shown = asyncio.run(_show_log(self._client, job, shown))
        log = self._patiently(lambda: self._client.get_job_logs(job))  # what came between the last look and the end
        print(log[shown:], end="", flush=True)

    def _wait(self, job: str) -> None:
        while not self._status(job).is_terminal():
            time.sleep(_POLL_SECONDS)

    def _status(self, job: str) -> JobStatus:
        return self._patiently(lambda: self._client.get_job_status(job))

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """The answer, also where the dashboard cannot be reached for some minutes (a tunnel that broke, say)."""
        lost_at: float | None = None
        while True:
            try:
                return ask()
            except _LostConnection as error:
                now = time.monotonic()
                if lost_at is None:
                    lost_at = now
                    print(f"\nlost {self._address}, trying again", file=sys.stderr)
                if now - lost_at >= _UNREACHABLE_SECONDS:
                    raise ValueError(
                        f"{self._address} has not answered for {_UNREACHABLE_SECONDS:g} s. The job may go on: look "
                        "again once the dashboard is reached."
                    ) from error
            time.sleep(_POLL_SECONDS)

    def _exit_status(self, job: str) -> int:
        """Of the entry point, as far as Ray knows it; 130 for a job that was stopped, as after Ctrl-C."""
        info = self._patiently(lambda: self._client.get_job_info(job))
        print(f"{job}: {info.status}", file=sys.stderr)
        if info.status == JobStatus.SUCCEEDED:
            return 0
        if info.status == JobStatus.STOPPED:
            return _STOPPED
        if info.driver_exit_code is None:
            print(info.message, file=sys.stderr)
        return info.driver_exit_code or 1


async def _show_log(client: JobSubmissionClient, job: str, shown: int) -> int:
    """Print the log from its character ``shown`` on until the connection or the job ends; how far it came."""
    position = 0
    try:
        async for text in client.tail_job_logs(job):
            print(text[max(shown - position, 0) :], end="", flush=True)
            position += len(text)
            shown = max(shown, position)
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        print(f"\nlost the log ({error}), looking again", file=sys.stderr)
        await asyncio.sleep(_POLL_SECONDS)
    return shown


def _wants_to_stop(ask: Callable[[str], str]) -> bool:
    """A second Ctrl-C, or nobody there to answer, leaves the job alone."""
    try:
        return ask("\nstop the job, too? [y/N] ").strip().lower().startswith("y")
    except (EOFError, KeyboardInterrupt):
        return False


def _connect(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ValueError(
            f"{address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` "
            "prints on the head node."
        ) from error
    except ConnectionError as error:
        raise ValueError(
            f"nothing answers at {address}. Is the cluster up (`ray start --head` on its head node), and does its "
            "dashboard listen there? From another machine: ssh -L 8265:127.0.0.1:8265 HEAD."
        ) from error
    except (RuntimeError, requests.RequestException, KeyError) as error:
        raise ValueError(
            f"{address} answers, but not as a Ray dashboard ({error}): give the port that `ray start --head` names for "
            "it (8265 unless chosen), and install ray[default] on the head node."
        ) from error
