"""The images and the compose file, as far as they can be checked where no Docker engine runs; built where one does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from cluster.upload import AT_THE_TOP

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def engine_runs() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


def instructions(dockerfile: Path, name: str) -> list[list[str]]:
    """The words of each instruction ``name``, continued lines joined."""
    text = dockerfile.read_text().replace("\\\n", " ")
    return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    done = subprocess.run([Path(sys.executable).parent / "hadolint", dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_what_there_is(dockerfile: Path) -> None:
    for *sources, _ in instructions(dockerfile, "COPY"):
        assert all((ROOT / source).exists() for source in sources)
    ((base,),) = instructions(dockerfile, "FROM")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = base.removeprefix("python:").partition("-")[0]
    assert version in SpecifierSet(project["project"]["requires-python"])
    packages = [pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    (installed,) = [" ".join(words) for words in instructions(dockerfile, "RUN") if "-e" in words]
    assert all(f"{package}/__init__.py" in installed for package in packages)
    assert "-c constraints.txt" in installed


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_login_shells_find_ray_and_the_autoscaler_its_tools(dockerfile: Path) -> None:
    """Ray's autoscaler starts everything by ``bash --login``, whose profile sets another PATH, and copies by rsync."""
    commands = [" ".join(words) for words in instructions(dockerfile, "RUN")]
    assert any("/etc/profile.d/" in command and "$PATH" in command for command in commands)
    (packages,) = [command.split() for command in commands if "apt-get" in command]
    assert {"rsync", "openssh-client"} <= set(packages)


def test_what_is_large_or_private_stays_out_of_the_images() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".venv", *AT_THE_TOP} <= ignored


def test_every_path_and_image_of_the_compose_file_is_there() -> None:
    built = {service["image"] for service in COMPOSE["services"].values() if "build" in service}
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            context = (DOCKER / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()
        else:
            assert service["image"] in built or ":" in service["image"], name
        for source in (volume.split(":")[0] for volume in service["volumes"]):
            assert source == "../runs" or (DOCKER / source).is_file(), source


def test_services_listen_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_workers_find_the_head_and_prometheus_both() -> None:
    head, worker = COMPOSE["services"]["head"]["command"], COMPOSE["services"]["worker"]["command"]
    assert "--port=6379" in head
    assert "--address=head:6379" in worker
    (job,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    (targets,) = job["dns_sd_configs"]
    assert set(targets["names"]) <= COMPOSE["services"].keys()
    assert all(f"--metrics-export-port={targets['port']}" in command for command in (head, worker))


def test_grafana_is_given_the_dashboard_of_the_list() -> None:
    volumes = [volume.split(":") for volume in COMPOSE["services"]["grafana"]["volumes"]]
    (dashboard,) = [(DOCKER / source, target) for source, target, _ in volumes if target.endswith(".json")]
    assert json.loads(dashboard[0].read_text())["uid"] == "atradiff"
    (provider,) = yaml.safe_load((DOCKER / "grafana_dashboards.yaml").read_text())["providers"]
    assert str(Path(dashboard[1]).parent) == provider["options"]["path"]
    (source,) = yaml.safe_load((DOCKER / "grafana.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_builds_and_answers(dockerfile: Path) -> None:
    if not engine_runs():
        pytest.skip("no Docker engine answers `docker info`")
    tag = f"atradiff-test:{dockerfile.suffix.removeprefix('.') or 'cpu'}"
    subprocess.run(["docker", "build", "-q", "-f", str(dockerfile), "-t", tag, str(ROOT)], check=True)
    said = subprocess.run(["docker", "run", "--rm", tag], check=True, capture_output=True, text=True).stdout
    assert "usage: atradiff" in said
