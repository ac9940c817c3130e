"""What a run was made with: enough to make it again, or to see why it cannot be."""

from __future__ import annotations

import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atradiff.augment.s4rl import S4RLGenerator
from atradiff.augment.synther import SyntherDiffuser
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser

_PACKAGES = ("ray", "torch", "numpy", "gymnasium", "mujoco")


def run_manifest(
    model: TrajectoryDiffuser | SyntherDiffuser | None,
    offline: Trajectories | None = None,
    s4rl: S4RLGenerator | None = None,
) -> dict[str, Any]:
    """Commit, versions, machine, where the model comes from, and the hash of the offline data in the batches.

    For S4RL the hash of the data that it perturbs, and how.
    """
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "diffuser": asdict(model.provenance) if isinstance(model, TrajectoryDiffuser) else None,
        "synther": model.fit if isinstance(model, SyntherDiffuser) else None,
        "s4rl": None if s4rl is None else asdict(s4rl.config) | {"data_hash": s4rl.data_hash},
        "offline_data": None if offline is None else offline.content_hash,
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with ``-dirty`` where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
