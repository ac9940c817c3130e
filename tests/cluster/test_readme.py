"""The README's commands and Python run as they stand, in a folder where ``configs/`` holds the tiny twins."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Every ``atradiff`` command of the README, comments and line continuations taken out."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("atradiff ")]


PATIENCE = 540
"""Seconds before a command counts as stuck; a machine busy with other work takes minutes for what takes half of one."""

pytestmark = pytest.mark.timeout(PATIENCE + 60)

QUICK = {"--cpu-minutes": "0.02", "--seeds": "[0]"}
"""What the tiny configs cannot save, since it is a command's own word."""


def quickened(command: list[str]) -> list[str]:
    return [QUICK.get(before, word) for before, word in zip(["", *command], command, strict=False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, in which the commands follow each other as in the README."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs" / "tiny")
    return folder


@pytest.fixture(scope="module")
def environment(local_ray: None) -> dict[str, str]:  # noqa: ARG001 - commands join the Ray of this session
    """The commands use this Python and this session's Ray."""
    import ray

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_of_the_readme_runs(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        quickened(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_of_the_readme_runs(folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", "\n".join(blocks("python"))]  # each block goes on from those before it
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE)) <= targets
