"""What is uploaded and run, and what is refused before anything is: no cluster needed."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from cluster.cli import main
from cluster.config import load_run_config
from cluster.jobs import JobOrder
from cluster.submit import _parser, job_order
from cluster.upload import Upload, find_working_dir

ROOT = Path(__file__).parents[2]
HERE, THERE = "http://127.0.0.1:8265", "http://head.example:8265"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder with a config, code, and what must stay at home."""
    folder = tmp_path / "project"
    for name, size in {
        "configs/mine.yaml": 0,
        "package/data/code.py": 10,
        "package/__pycache__/code.pyc": 10,
        "data/demos/rows": 1000,
        "runs/old/checkpoint": 1000,
        "models/demos/model.safetensors": 1000,
        ".venv/lib/torch": 1000,
        ".git/objects/pack": 1000,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    (folder / "configs" / "mine.yaml").write_text(yaml.safe_dump({"env": "Pendulum-v1", "name": "mine"} | STEPS))
    monkeypatch.chdir(folder)
    return folder


STEPS = {"env_steps": 10_000}


def order(*words: str) -> JobOrder:
    given, settings = _parser().parse_known_args(words)
    return job_order(given, settings)


def run_in_job(made: JobOrder, folder: Path) -> dict[str, str]:
    """What the entry point's settings come to for the job: dotted names and values, read by the run's own parser."""
    python, _, module, config, *settings = shlex.split(made.entrypoint)
    assert (python, module) == ("python", "cluster.run")
    run = load_run_config(folder / config, settings)
    return {
        "output": run.output,
        "data": run.data.cache,
        "models": run.generator.cache,
        "path": str(run.generator.path),
    }


def test_code_and_configs_travel_and_nothing_large_does(project: Path) -> None:
    upload = Upload(project)
    assert sorted(str(path) for path in upload._files()) == ["configs/mine.yaml", "package/data/code.py"]
    assert upload.require_size() == (project / "configs" / "mine.yaml").stat().st_size + 10
    assert not upload.takes(project / "models" / "demos")
    assert upload.takes(project / "package" / "data" / "code.py")
    assert not Upload(project, ("package/data",)).takes(project / "package" / "data" / "code.py")


def test_ray_packs_what_is_counted(project: Path, tmp_path: Path) -> None:
    """Ray's own packaging, given our exclusions, against our list of files."""
    from ray._private.runtime_env.packaging import create_package

    upload = Upload(project, ("configs/*.txt",))
    (project / "configs" / "notes.txt").write_text("left out")
    package = tmp_path / "package.zip"
    create_package(str(project), package, include_gitignore=True, excludes=upload.patterns)
    listed = subprocess.run(["python3", "-m", "zipfile", "-l", str(package)], capture_output=True, text=True).stdout
    packed = {line.split()[0] for line in listed.splitlines()[1:]}
    assert {name for name in packed if not name.endswith("/")} == {str(path) for path in upload._files()}


def test_what_git_ignores_is_not_counted(project: Path) -> None:
    subprocess.run(["rm", "-rf", ".git"], cwd=project, check=True)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".gitignore").write_text("*.mp4\n")
    (project / "video.mp4").write_bytes(b"x" * 5000)
    assert "video.mp4" not in {str(path) for path in Upload(project)._files()}


def test_too_large_a_folder_is_refused_with_what_is_large(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.upload.LIMIT_BYTES", 50_000)
    (project / "package" / "videos").mkdir()
    (project / "package" / "videos" / "a.mp4").write_bytes(b"x" * 90_000)
    with pytest.raises(ValueError, match=r"0\.1 MB to upload, .*: package/videos 0\.1 MB.*--exclude"):
        Upload(project).require_size()
    assert Upload(project, ("package/videos",)).require_size() < 50_000


def test_the_checkout_is_uploaded_from_anywhere_within() -> None:
    assert find_working_dir(ROOT / "docs") == ROOT
    assert find_working_dir(Path("/tmp")) == Path("/tmp")


def test_on_this_machine_paths_mean_what_they_mean_without_submit(project: Path) -> None:
    made = order("configs/mine.yaml", "--address", HERE, "--seed", "3", "--generator.path", "models/demos")
    assert run_in_job(made, project) == {
        "output": str(project / "runs"),
        "data": str(project / "data"),
        "models": str(project / "models"),
        "path": str(project / "models" / "demos"),
    }
    assert load_run_config(project / "configs" / "mine.yaml", shlex.split(made.entrypoint)[4:]).seed == 3


@pytest.mark.parametrize("address", [THERE, HERE])  # HERE: a tunnel may begin there
def test_on_a_cluster_all_that_lasts_lies_beside_the_output(project: Path, address: str) -> None:
    made = order("configs/mine.yaml", "--address", address, "--output", "/shared/runs")
    assert run_in_job(made, project) == {
        "output": "/shared/runs",
        "data": "/shared/runs/data",
        "models": "/shared/runs/models",
        "path": "None",
    }
    assert run_in_job(order("configs/mine.yaml", "--address", THERE, "--output", "s3://bucket/runs"), project) == {
        "output": "s3://bucket/runs",
        "data": "data",
        "models": "models",
        "path": "None",
    }


def test_a_model_of_the_upload_is_found_by_the_job(project: Path) -> None:
    (project / "assets" / "model").mkdir(parents=True)
    words = ("configs/mine.yaml", "--address", THERE, "--output", "/shared", "--generator.path", "assets/model")
    assert run_in_job(order(*words), project)["path"] == "assets/model"


@pytest.mark.usefixtures("project")
def test_a_job_resumes_what_the_cluster_can_see() -> None:
    made = order("--address", THERE, "--resume", "s3://bucket/runs/mine", "--env_steps", "20000")
    assert made.entrypoint == "python -m cluster.run --resume s3://bucket/runs/mine --env_steps 20000"
    with pytest.raises(ValueError, match="--resume runs/old is relative"):
        order("--address", THERE, "--resume", "runs/old")


def test_the_jobs_environment(project: Path) -> None:
    env = order("configs/mine.yaml", "--env", "HF_TOKEN=a=b", "--exclude", "docs", "--pip", "more.txt").runtime_env
    assert env["env_vars"] == {"OMP_NUM_THREADS": "1", "HF_TOKEN": "a=b", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
    assert env["pip"] == "more.txt"
    assert {"/docs", "/runs", ".venv"} <= set(env["excludes"])
    assert env["working_dir"] == str(project)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a config file"),
        (("--seed", "1", "configs/mine.yaml"), "before its settings"),
        (("configs/other.yaml",), "configs/other.yaml is not there"),
        (("../outside.yaml",), "does not lie under .*--working-dir"),
        (("configs/mine.yaml", "--address", THERE), "--output runs is relative.*s3://"),
        (
            ("configs/mine.yaml", "--address", THERE, "--output", "/x", "--generator.path", "models/demos"),
            "generator.path=models/demos is not uploaded",
        ),
        (
            ("configs/mine.yaml", "--address", THERE, "--output", "/x", "--data.collect.policy", "models/demos"),
            "data.collect.policy=models/demos is not uploaded",
        ),
        (("configs/mine.yaml", "--env", "HF_TOKEN"), "NAME=VALUE for .*, got 'HF_TOKEN'"),
        (("configs/mine.yaml", "--env", "Maze-v3?continuing_task=false"), "environment stands in its config"),
        (
            ("configs/mine.yaml", "--address", THERE, "--output", "/x", "--cluster.journal", "rows"),
            "cluster.journal=rows is relative",
        ),
        (("configs/mine.yaml", "--seed", "-1"), "seed must not be negative"),
    ],
)
def test_what_could_not_work_is_refused_here(project: Path, words: tuple[str, ...], message: str) -> None:
    (project.parent / "outside.yaml").write_text("env: Pendulum-v1")
    with pytest.raises(ValueError, match=message):
        order(*words)


@pytest.fixture
def other_service() -> Iterator[str]:
    """Something that speaks HTTP and is no dashboard."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refusal(capsys: pytest.CaptureFixture[str], address: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["submit", "configs/mine.yaml", "--address", address, "--output", "/x"])
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_an_address_without_a_dashboard_is_told_apart(
    capsys: pytest.CaptureFixture[str], other_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # restored afterwards: the command sets it
    assert "nothing answers at" in refusal(capsys, f"http://127.0.0.1:{closed_port()}")
    assert "not as a Ray dashboard" in refusal(capsys, other_service)
    assert "must be the cluster's dashboard" in refusal(capsys, "127.0.0.1:6379")
