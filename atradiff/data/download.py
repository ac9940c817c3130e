"""Fetch a published file once: progress, resume, size check, cache."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from atradiff.data.errors import DataError
from atradiff.locking import making
from atradiff.progress_bar import ProgressBar

ATTEMPTS = 5
TIMEOUT_S = 30.0
_BLOCK = 1 << 20


def cache_folder() -> Path:
    """``$ATRADIFF_CACHE``, or ``~/.cache/atradiff``."""
    return Path(os.environ.get("ATRADIFF_CACHE") or Path.home() / ".cache" / "atradiff")


def fetch(url: str, *, name: str | None = None, progress: bool = True) -> Path:
    """The cached file of ``url``, downloaded if need be; a download that broke off goes on where it stopped.

    ``name`` is the file's path inside the cache (default: the last part of ``url``). Raises :class:`DataError` when
    the server cannot be reached or sends less than it announced; the message says where to put the file by hand.
    """
    target = cache_folder() / (name or url.rsplit("/", 1)[-1])
    if target.is_file():
        return target
    with making(target):  # two processes would write into one unfinished file
        return target if target.is_file() else _download(url, target, progress)


def _download(url: str, target: Path, progress: bool) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    problem = "the connection broke off"
    for _ in range(ATTEMPTS):
        had = _size(part)
        try:
            total = _receive(url, part, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416 and had:
                part.unlink()
                continue
            raise _unreachable(url, target, f"the server answered {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
            if _size(part) == had:
                break
            continue
        if total is None or _size(part) == total:
            os.replace(part, target)
            return target
        problem = f"only {_size(part)} of {total} bytes came"
    raise _unreachable(url, target, problem)


def _receive(url: str, part: Path, progress: bool) -> int | None:
    """Append to ``part`` what is missing; returns the whole file's size as the server tells it."""
    had = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={had}-"} if had else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = response.status == 206
        start = had if resumed else 0
        total = _total(response, start)
        bar = ProgressBar(
            total=total, initial=start, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1], disable=not progress
        )
        with bar, part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def _total(response: Any, start: int) -> int | None:
    content_range = response.headers.get("Content-Range", "")
    if "/" in content_range and content_range.rsplit("/", 1)[-1].isdigit():
        return int(content_range.rsplit("/", 1)[-1])
    length = response.headers.get("Content-Length")
    return None if length is None else start + int(length)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(url: str, target: Path, problem: str) -> DataError:
    return DataError(
        f"could not be downloaded ({problem}).",
        f"Fetch it on a machine that can reach it and put it at {target}, or name another server that holds the same "
        "files with --mirror; what has arrived so far is kept and resumed.",
        file=url,
    )
