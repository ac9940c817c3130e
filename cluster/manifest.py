"""What a run was made with: enough to make it again, or to see why it cannot be."""

from __future__ import annotations

import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atradiff.generator import TrajectoryDiffuser

_PACKAGES = ("ray", "torch", "numpy", "gymnasium", "mujoco")


def run_manifest(diffuser: TrajectoryDiffuser | None) -> dict[str, Any]:
    """Commit, versions, machine, and where the diffuser comes from, with the hash of its data."""
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "diffuser": None if diffuser is None else asdict(diffuser.provenance),
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with ``-dirty`` where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
