"""The manifests hold against the schemas of those who read them, and say what the project says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from cluster.config import load_run_config

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "cluster" / "manifests"
KUBERAY = json.loads((Path(__file__).parent / "schemas" / "kuberay.json").read_text())
KUBERNETES = "1.32"
BIN = Path(sys.executable).parent


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return found


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


KUBERAY_FILES = ("raycluster.yaml", "rayjob.yaml")


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_knows_every_field(name: str) -> None:
    manifest = load(name)
    jsonschema.validate(manifest, KUBERAY[manifest["kind"]])
    manifest["spec"]["workerGroupSpec"] = []  # a slip of the pen
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(manifest, KUBERAY[manifest["kind"]])


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kubernetes_takes_every_pod(name: str) -> None:
    for group in groups(cluster_spec(name)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        pod["spec"] = {**pod["spec"], "restartPolcy": "Never"}  # a slip of the pen
        with pytest.raises(kubernetes_validate.ValidationError, match="restartPolcy"):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_gpus_are_for_generators_and_every_pod_sees_the_runs(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["rayVersion"] == version("ray")
    assert spec["enableInTreeAutoscaling"] is True
    gpus = {}
    for group in groups(spec):
        (container,) = group["template"]["spec"]["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert mounts.keys() == {"/runs", "/dev/shm"}
        assert set(mounts.values()) == volumes
        assert container["resources"]["requests"] == container["resources"]["limits"]
        gpus[group.get("groupName", "head")] = int(container["resources"]["limits"].get("nvidia.com/gpu", "0"))
        assert ("cuda" in container["image"]) == (gpus[group.get("groupName", "head")] > 0)
    assert gpus == {"head": 0, "env-runners": 0, "generators": 1}


def test_the_job_runs_the_same_cluster_and_a_config_of_this_project() -> None:
    job = load("rayjob.yaml")["spec"]
    assert job["rayClusterSpec"] == load("raycluster.yaml")["spec"]
    python, flag, module, config, *settings = job["entrypoint"].split()
    assert [python, flag, module] == ["python", "-m", "cluster.run"]
    run = load_run_config(ROOT / config, settings)
    assert (run.output, run.data.cache, run.generator.cache) == ("/runs", "/runs/data", "/runs/models")
    assert run.cluster is not None
    assert run.cluster.pool.num_gpus == 1  # the autoscaler brings what is asked for
    assert run.cluster.placement.wait_seconds >= 600
    assert yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("name", ["autoscaler-aws.yaml", "raycluster.yaml", "rayjob.yaml", "slurm.sh"])
def test_what_the_manifests_name_as_a_run_is_one_of_actors(name: str) -> None:
    configs = re.findall(r"configs/\S+\.yaml", (MANIFESTS / name).read_text())
    assert configs
    assert all(load_run_config(ROOT / config, []).cluster is not None for config in configs)


def test_rays_autoscaler_takes_its_file() -> None:
    config = load("autoscaler-aws.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(kind.get("max_workers", 0) for kind in types.values()) == config["max_workers"]
    assert "GPU" in types["generators"]["resources"]
    started = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in started


def test_the_slurm_script_is_sound_bash() -> None:
    script = MANIFESTS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    checked = subprocess.run([BIN / "shellcheck", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_slurm_script_wants_a_config() -> None:
    done = subprocess.run(["bash", str(MANIFESTS / "slurm.sh")], capture_output=True, text=True)
    assert (done.returncode, "usage: sbatch" in done.stderr) == (2, True)
