"""``atradiff submit``: a run as a job of a Ray cluster, from a laptop or from the cluster itself."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from atradiff.data.policies import NAMED
from cluster.config import RunConfig, load_run_config
from cluster.jobs import JobClient, JobOrder
from cluster.storage import is_uri
from cluster.upload import Upload, find_working_dir, inside, words_of

_DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOP_SECONDS = 120
"""How long Ray waits for a stopped job to write its checkpoint, before it kills it."""


def submit(arguments: list[str]) -> None:
    """Train on a Ray cluster: ``atradiff submit CONFIG [--address http://HEAD:8265] [--setting VALUE ...]``.

    Uploads the checkout (or the current folder), runs ``python -m cluster.run CONFIG ...`` there and shows its log.
    Ctrl-C asks whether to stop the job. The exit status is the job's.
    """
    given, words = _parser().parse_known_args(arguments)
    order = job_order(given, words)
    logging.getLogger("ray").setLevel(logging.WARNING)  # not a line for each ignore file
    client = JobClient(given.address)
    size = order.upload.require_size()
    print(f"uploading  {order.upload.folder} ({size / 1000**2:.1f} MB)\nrunning    {order.entrypoint}", flush=True)
    job = client.submit(order)
    print(f"job        {job}\n{client.commands(job)}", flush=True)
    sys.exit(0 if given.detach else client.attend(job))


def job_order(given: argparse.Namespace, words: Sequence[str]) -> JobOrder:
    """What is to run and with what: ``words`` are the config file and settings of the run.

    Raises ``ValueError`` for whatever could not work on the cluster.
    """
    folder = find_working_dir(Path.cwd()) if given.working_dir is None else Path(given.working_dir).absolute()
    upload = Upload(folder, tuple(given.exclude))
    if given.resume is not None:
        run_words = ["--resume", _reachable(given.resume, given.address, "--resume"), *words]
    else:
        run_words = _words_of_run(given, words, upload)
    environment = {"OMP_NUM_THREADS": "1", **dict(_pair(text) for text in given.env)}
    entrypoint = shlex.join(["python", "-m", "cluster.run", *run_words])
    return JobOrder(upload, entrypoint, environment, given.pip, stop_seconds=STOP_SECONDS)


def _words_of_run(given: argparse.Namespace, words: Sequence[str], upload: Upload) -> list[str]:
    """``CONFIG --setting VALUE ...`` for the job: the user's words, and paths as the job finds them."""
    if not words or words[0].startswith("-"):
        raise ValueError("give a config file before its settings: configs/quickstart.yaml is one; --help says more.")
    path, *settings = words
    config = inside(upload.folder, path, "config")
    run = load_run_config(Path(path), [*settings, *words_of([("output", given.output)])])
    return [config, *settings, *words_of(_Places(run, upload, given.address).settings())]


@dataclass(frozen=True)
class _Places:
    """The paths of a run as the cluster's nodes are to see them: a job's own folder is deleted behind it.

    A relative output means a cluster on this machine, where all paths mean the same. An absolute one or a URI may be
    anywhere: a loopback address can be the end of a tunnel.
    """

    run: RunConfig
    upload: Upload
    address: str

    @property
    def _here(self) -> bool:
        return not is_uri(self.run.output) and not Path(self.run.output).is_absolute()

    @property
    def _policy(self) -> str | None:
        """The run whose policy collects the data; None where it has a name, or nothing is collected."""
        collect = self.run.data.collect
        return None if collect is None or collect.policy in NAMED else collect.policy

    def settings(self) -> list[tuple[str, str | None]]:
        """Names and values of the run's settings as they are there; ``ValueError`` for what is not to be reached."""
        output = _reachable(self.run.output, self.address, "--output")
        return [
            ("output", output),
            ("data.path", self._input(self.run.data.path, "data.path")),
            ("data.source", self._input(self.run.data.source, "data.source")),
            ("data.collect.policy", self._input(self._policy, "data.collect.policy")),
            ("generator.path", self._input(self.run.generator.path, "generator.path")),
            ("data.cache", self._cache(self.run.data.cache, output)),
            ("generator.cache", self._cache(self.run.generator.cache, output)),
            *self._journal(),
        ]

    def _journal(self) -> list[tuple[str, str | None]]:
        """A relative one lies in the job's own folder, which is deleted behind it."""
        asked = None if self.run.cluster is None else self.run.cluster.journal
        if asked is None or asked == "off" or Path(asked).is_absolute():
            return []
        if self._here:
            return [("cluster.journal", str(Path(asked).absolute()))]
        raise ValueError(
            f"cluster.journal={asked} is relative, and a job's own folder is deleted behind it: give an absolute path, "
            "on the replay's node or on a disk that the nodes share."
        )

    def _input(self, path: str | None, name: str) -> str | None:
        """A path as the job finds it; None where it means the same there as here (a hub id, ``d4rl:...``)."""
        if path is None or Path(path).is_absolute() or not Path(path).exists():
            return None
        if self._here:
            return str(Path(path).absolute())
        if self.upload.takes(Path(path)):
            return Path(path).absolute().relative_to(self.upload.folder).as_posix()
        raise ValueError(
            f"{name}={path} is not uploaded with the job: put it where the cluster's nodes can read it, and give that "
            "absolute path."
        )

    def _cache(self, path: str, output: str) -> str | None:
        """Beside the output, so that the next job finds it; None on object stores: made anew by each job."""
        if Path(path).is_absolute():
            return None
        if self._here:
            return str(Path(path).absolute())
        return None if is_uri(output) else str(Path(output) / path)


def _reachable(path: str, address: str, flag: str) -> str:
    """``path`` as a path or URI that means the same in the job; raises ``ValueError`` where there is none."""
    if is_uri(path) or Path(path).is_absolute():
        return path
    if urlparse(address).hostname in _LOOPBACK:
        return str(Path(path).absolute())
    raise ValueError(
        f"{flag} {path} is relative, and a job's own folder is deleted behind it: give an absolute path that the "
        "cluster's nodes share, or a URI (s3://..., gs://...)."
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(
            f"--env takes NAME=VALUE for the job's processes, got {text!r}. A run's environment stands in its config."
        )
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atradiff submit",
        usage="atradiff submit CONFIG [options] [--setting.of.the.run VALUE ...]",
        description=submit.__doc__,
        epilog="Everything else is a setting of the run; `atradiff train CONFIG --help` lists them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    address = os.environ.get("RAY_API_SERVER_ADDRESS", _DEFAULT_ADDRESS)
    add = parser.add_argument
    add("--address", default=address, help=f"the cluster's dashboard (default {address})")
    add("--output", help="where runs are written: an absolute path that the nodes share, or a URI")
    add("--resume", help="go on with this run or checkpoint (path or URI) instead of a config")
    add("--working_dir", help="what to upload (default: the checkout round the current folder, else that folder)")
    add("--exclude", action="append", default=[], help="leave this out of the upload; may be repeated")
    add("--env", action="append", default=[], help="NAME=VALUE for the job's processes; may be repeated")
    add("--pip", help="a requirements file that the job's nodes install first")
    add("--detach", action="store_true", help="do not wait for the job")
    return parser
