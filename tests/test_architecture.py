"""The rules of the house: who may import whom, where actors live, and how light ``import atradiff`` is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("atradiff", "rllib_ext", "cluster")
MAY_IMPORT = {
    "atradiff": {"atradiff"},
    "rllib_ext": {"atradiff", "rllib_ext"},
    "cluster": {"atradiff", "rllib_ext", "cluster"},
}
HEAVY = ("ray", "diffusers", "matplotlib", "minari", "metaworld", "h5py", "mujoco", "gymnasium_robotics")
MAX_IMPORT_CPU_SECONDS = 3.0


def _modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in PACKAGES for name, path in _modules(package).items()}


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def _imported(name: str, nodes: list[ast.AST]) -> set[str]:
    """Names that these import statements ask for; ``from a import b`` counts as ``a`` and as ``a.b``."""
    asked: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            asked |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return asked


def _at_import_time(tree: ast.Module) -> list[ast.AST]:
    """Statements that run when the module is imported: neither inside functions nor under TYPE_CHECKING."""
    out: list[ast.AST] = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        out.append(node)
        waiting.extend(ast.iter_child_nodes(node))
    return out


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    """cluster -> rllib_ext -> atradiff, anywhere in a file: a late import is an import."""
    tops = {asked.split(".")[0] for asked in _imported(name, list(ast.walk(_tree(name))))}
    package = name.split(".")[0]
    assert tops & set(PACKAGES) <= MAY_IMPORT[package]
    assert not tops & {"tests", "benchmarks"}
    if package == "atradiff":
        assert "ray" not in tops


def test_no_module_needs_itself() -> None:
    """No circle among the imports that run at import time."""
    needs = {name: (_imported(name, _at_import_time(_tree(name))) & MODULES.keys()) - {name} for name in MODULES}
    # `from package.module import x` in a package's own __init__ is how names are exported, no circle by itself.
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name in done:
            return
        for needed in sorted(needs[name]):
            visit(needed, (*way, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cluster")])
def test_actors_live_in_cluster_only(name: str) -> None:
    """Outside ``cluster`` nothing calls, decorates with, or starts remote things."""
    banned = {"ray.remote", "ray.get", "ray.put", "ray.wait", "ray.init", "ray.get_actor"}
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in banned, f"{name}:{node.lineno}"
            assert node.attr != "remote", f"{name}:{node.lineno}"


def test_import_of_atradiff_is_light() -> None:
    """The one limit on time of the suite: CPU seconds of a fresh process, so that busy neighbours do not count."""
    code = (
        "import json, sys, time\n"
        "before = time.process_time()\n"
        "import atradiff\n"
        "print(json.dumps([time.process_time() - before, sorted(sys.modules)]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, loaded = json.loads(out.stdout)
    assert not set(HEAVY) & set(loaded)
    assert seconds < MAX_IMPORT_CPU_SECONDS


def test_public_names_are_lazy() -> None:
    code = "import sys, rllib_ext, cluster; print('ray' in sys.modules, dir(rllib_ext), dir(cluster))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "False ['ATraDiffCallback', 'EnsembleSACConfig'] ['ActorServices', 'RemoteAdaptation']"


def test_actors_load_what_they_need() -> None:
    """A replay holds arrays, generators and adapters torch; RLlib, which takes seconds and 100 MB, none of them."""
    code = (
        "import sys\n"
        "import cluster.config, cluster.replay_actor, cluster.generator_actor, atradiff.adaptation.feed\n"
        "import rllib_ext.columns\n"
        "arrays = 'torch' in sys.modules\n"
        "import cluster.adapter_actor, cluster.prepare, rllib_ext.ensemble_sac.snapshot\n"
        "print(arrays, 'ray.rllib' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "False False"
