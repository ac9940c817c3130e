"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Two busy cores may hold up any example; `--hypothesis-profile default` looks for examples that were never tried.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

SMALL_RAYS: set[str] = set()
"""Addresses of those that :func:`local_ray` started in this process."""


_OWN_RAY = ("test_submit_to_cluster", "test_manifests_slurm", "test_logging", "test_replay_actor_benchmark")
"""Files that end the Ray which others share: they come before there is one. (Slurm's runs Rays in other processes, and
is there for each of two testers to have two of these files.)"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _OWN_RAY.index(item.path.stem) if item.path.stem in _OWN_RAY else len(_OWN_RAY))


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of comparisons name their pictures and draw none: each takes a second."""
    names = lambda _study, _arms, out: [out / "learning_curves.png"]  # noqa: E731
    monkeypatch.setattr("atradiff.report.study_files.save_study_pictures", names)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that some machines have beside the checkout; skips where it is absent."""
    folder = Path(os.environ.get("ATRADIFF_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets not found in {folder}; set ATRADIFF_SHARED_DATA to test on them")
    return folder


@pytest.fixture(scope="module")
def local_ray() -> None:
    """A small Ray that all files share, since starting it costs seconds; files that need one of their own end it.

    So each file that uses it makes sure that it is there, and not a large one, which RLlib starts where there is none.
    Its workers find the modules of ``tests/cluster``, by whose names tests there send things.
    """
    import ray

    if ray.is_initialized():
        if ray.get_runtime_context().gcs_address in SMALL_RAYS:
            return
        ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "cluster"), prepend=os.pathsep)
        for idle in ("start_log_monitor", "start_monitor"):  # nobody reads the logs here, and nothing scales
            patch.setattr(f"ray._private.node.Node.{idle}", lambda _: None)
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 1024**2,
            log_to_driver=False,
            logging_level="ERROR",
        )
    ray._private.worker._worker_logs_enabled = False  # else stdout, which tests read, gets what its raylet has to say
    SMALL_RAYS.add(ray.get_runtime_context().gcs_address)
