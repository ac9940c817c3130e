"""The comparison with a public SAC: equal steps and episodes for both, figures that are the runs' own."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks import public_sac
from benchmarks.public_sac import OURS, Run, Task, report, stable_baselines, table

STAND_IN = """
import json, sys
asked = json.loads(sys.argv[1])
print("chatter of a library")
returns = [[asked["seed"] * 10.0 + k] * asked["episodes"] for k in range(asked["env_steps"] // asked["every"])]
print(json.dumps({"name": "Stand-in 1.0", "seconds": 2.5, "returns": returns}))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    script = tmp_path / "theirs.py"
    script.write_text(STAND_IN)
    return script


def test_both_are_asked_the_same_and_answer_in_one_table(
    local_ray: None,  # noqa: ARG001
    tmp_path: Path,
    stand_in: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "public.json"
    monkeypatch.setattr(public_sac, "ray_session", nullcontext)
    monkeypatch.setattr(public_sac, "stable_baselines", lambda python: stable_baselines(python, stand_in))
    words = "public --env Pendulum-v1 --env-steps 120 --every 60 --episodes 2 --learning-starts 50 --seeds 3 4"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--json", str(out), "--python", sys.executable])
    public_sac.main()
    figures = json.loads(out.read_text())
    assert figures["steps"] == [60, 120]
    assert figures["curves"]["Stand-in 1.0"] == [[30, 31], [40, 41]]
    ours = np.array(figures["curves"][OURS])
    assert ours.shape == (2, 2)
    assert ((ours > -2000) & (ours < 0)).all()
    assert figures["ours_better"] == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"| env steps | {OURS}: IQM [95 %] (seeds 3, 4) | Stand-in 1.0: IQM")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["60", "120"]
    assert "(31, 41)" in lines[3]


def test_a_file_of_runs_is_gone_on_with(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, made = tmp_path / "public.json", []

    def ours(task: Task) -> Run:
        made.append(task.seed)
        return Run(OURS, 1.0, [[-float(task.seed)] * task.episodes] * len(task.steps))

    monkeypatch.setattr(public_sac, "ray_session", nullcontext)
    monkeypatch.setattr(public_sac, "ensemble_sac", ours)
    monkeypatch.setattr(public_sac, "stable_baselines", lambda python: stable_baselines(python, stand_in))
    words = f"public --env-steps 120 --every 60 --learning-starts 50 --python {sys.executable} --json {out}".split()

    def ask(*more: str) -> None:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        public_sac.main()

    ask("--seeds", "4")
    ask("--seeds", "5", "3", "4")
    assert made == [4, 5, 3]
    figures = json.loads(out.read_text())
    assert figures["seeds"] == [3, 4, 5]
    assert figures["curves"] == {OURS: [[-s, -s] for s in (3, 4, 5)], "Stand-in 1.0": [[30, 31], [40, 41], [50, 51]]}
    assert "(seeds 3, 4, 5)" in capsys.readouterr().out.splitlines()[-4]
    before = out.read_text()
    with pytest.raises(ValueError, match="runs of another task"):
        ask("--seeds", "6", "--fragment", "1")
    stand_in.write_text("import a_library_that_is_missing")
    with pytest.raises(RuntimeError, match="a_library_that_is_missing"):
        ask("--seeds", "6")
    assert made == [4, 5, 3]
    assert out.read_text() == before


def test_figures_are_means_over_episodes_and_iqms_over_seeds() -> None:
    task = Task("Pendulum-v1", 20, 10, episodes=2, learning_starts=5)
    runs = {
        seed: [Run(OURS, 1.0, [[0, 2], [seed, seed]]), Run("theirs", 2.0, [[5, 5], [2.5, 2.5]])] for seed in range(4)
    }
    figures = report(task, range(4), runs)
    assert figures["curves"][OURS] == [[1, seed] for seed in range(4)]
    assert figures["iqm_final"][OURS]["value"] == 1.5  # of 0, 1, 2, 3 the two in the middle
    assert figures["ours_better"] == 0.25  # 3 alone is above 2.5
    assert table(figures).splitlines()[3].startswith("| 20 | 1.500 [")


def test_what_cannot_be_compared_is_said(tmp_path: Path, stand_in: Path) -> None:
    with pytest.raises(ValueError, match="--env-steps 25 must be a multiple of --every 10"):
        Task("Pendulum-v1", 25, 10)
    with pytest.raises(ValueError, match="must exceed --learning-starts 1000"):
        Task("Pendulum-v1", 100, 10)
    task = Task("Pendulum-v1", 20, 10, learning_starts=5)
    broken = tmp_path / "broken.py"
    broken.write_text("import a_library_that_is_missing")
    with pytest.raises(RuntimeError, match="No module named 'a_library_that_is_missing'"):
        stable_baselines(Path(sys.executable), broken)(task)
    stand_in.write_text(STAND_IN.replace('asked["episodes"]', "1"))
    with pytest.raises(RuntimeError, match=r"evaluations of shape \(2, 1\)"):
        stable_baselines(Path(sys.executable), stand_in)(task)
