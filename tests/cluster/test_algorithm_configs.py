"""The configs of REDQ and RLPD say what their papers say, and an arm differs from its plain twin in that arm alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.config import RunConfig, load_run_config
from cluster.grid_cells import grid_cells
from cluster.grid_file import load_grid
from cluster.prepare import check_environment
from rllib_ext.ensemble_sac.settings import SACSettings

CONFIGS = Path(__file__).parents[2] / "configs"
REDQ = {"n_critics": 10, "target_subset": 2, "utd": 20, "actor_every": 20, "actor_reduce": "mean"}
"""Chen et al. 2021, table 1 and algorithm 1: N, M, G; the policy learns once in G updates from the critics' mean."""
RLPD = {**REDQ, "layer_norm": True, "target_entropy": -3.0}
"""Ball et al. 2023, table 1 of the appendix; the entropy is that of its code: half the number of action dimensions."""
SPARSE = {
    **RLPD,
    "target_subset": 1,
    "backup_entropy": False,
    "hidden_sizes": (256, 256, 256),
    "reward_shift": -1.0,
    "target_entropy": -4.0,
}
"""Ball et al. 2023, AntMaze."""
SHARED = {"gamma": 0.99, "tau": 0.005, "actor_lr": 3e-4, "critic_lr": 3e-4, "alpha_lr": 3e-4, "batch_size": 256}


def read(name: str) -> RunConfig:
    return load_run_config(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("redq_halfcheetah", {**REDQ, "target_entropy": -3.0}),
        ("rlpd_halfcheetah", RLPD),
        ("rlpd_antmaze", SPARSE),
    ],
)
def test_settings_are_the_papers(name: str, wanted: dict) -> None:
    settings = asdict(read(name).algorithm)
    changed = {key for key, value in asdict(SACSettings()).items() if settings[key] != value}
    assert {key: settings[key] for key in wanted} == wanted
    assert {key: settings[key] for key in SHARED} == SHARED
    assert changed - wanted.keys() == {"learning_starts"}
    assert settings["learning_starts"] == 5000
    assert settings["initial_alpha"] == 1


ACTIONS = {
    "HalfCheetah-v5": 6,
    "Hopper-v5": 3,
    "Walker2d-v5": 6,
    "AntMaze": 8,
    "FrankaKitchen-v1": 9,
    "metaworld:": 4,
}
"""Dimensions, by how the environment's id begins."""


def grid_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, RunConfig]]:
    """Algorithm and run of each cell of the first seed."""
    monkeypatch.chdir(CONFIGS.parent)
    grid = load_grid(CONFIGS / "grids" / f"{name}.yaml")
    return [(grid.arms()[cell.arm][0], cell.run) for cell in grid_cells(grid) if cell.run.seed == grid.seeds[0]]


def half_of_the_actions(env: str) -> float:
    (actions,) = (number for start, number in ACTIONS.items() if env.startswith(start))
    assert check_environment(RunConfig(env=env, name="x", env_steps=2000)).action_size == actions
    return -actions / 2


@pytest.mark.parametrize("name", ["paper_figure4", "paper_figure8", "paper_table5"])
def test_rlpd_in_the_papers_grids_is_that_of_its_config(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    single, runs = read("rlpd_halfcheetah"), grid_runs(name, monkeypatch)
    entropies = {env: half_of_the_actions(env) for env in {run.env for _, run in runs}}
    for algorithm, run in runs:
        assert algorithm == "RLPD"
        wanted = SPARSE if run.env.startswith("AntMaze") else RLPD
        wanted = {**wanted, "target_entropy": entropies[run.env], "learning_starts": 5000, "initial_alpha": 1}
        settings = asdict(run.algorithm)
        assert {key: settings[key] for key in wanted} == wanted
        assert {key: settings[key] for key in SHARED} == SHARED
        assert run.rollout_fragment_length == single.rollout_fragment_length
        assert run.replay.offline_share == single.replay.offline_share


def test_redq_in_figure_3_is_that_of_its_config_but_for_what_docs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/comparing.md: LayerNorm and standardised states. Target entropies are of its code, robot by robot."""
    single = read("redq_halfcheetah")
    runs = grid_runs("paper_figure3", monkeypatch)
    for run in (run for algorithm, run in runs if algorithm == "REDQ"):
        ours, wanted = asdict(run.algorithm), asdict(single.algorithm)
        differing = {key for key in wanted if ours[key] != wanted[key]}
        assert differing - {"standardise_states", "target_entropy"} == {"layer_norm"}
        assert run.algorithm.target_entropy == (-1 if run.env.startswith("Hopper") else -3)
        assert run.rollout_fragment_length == single.rollout_fragment_length
    sac = [run for algorithm, run in runs if algorithm == "SAC"]
    assert {(run.algorithm.initial_alpha, run.rollout_fragment_length) for run in sac} == {(0.1, 50)}
    assert {run.algorithm.target_entropy for run in sac} == {None}


@pytest.mark.parametrize("name", ["paper_figure4", "paper_table5"])
def test_ant_mazes_data_end_at_the_goal_as_their_task_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mazes = [run for _, run in grid_runs(name, monkeypatch) if run.env.startswith("AntMaze")]
    assert {run.data.end_at_reward for run in mazes} == {1} == {read("rlpd_antmaze").data.end_at_reward}


def test_kitchens_of_figure_4_are_those_of_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """59 numbers of the robot and the objects, and twice those of four tasks, as in the data of Minari."""
    envs = {run.data.source: run for _, run in grid_runs("paper_figure4", monkeypatch) if "Kitchen" in run.env}
    sizes = {source.rpartition("/")[2]: check_environment(run).observation_size for source, run in envs.items()}
    assert sizes == {"complete-v2": 81, "partial-v2": 81, "mixed-v2": 83}


@pytest.mark.parametrize("name", ["paper_figure4", "paper_figure8", "paper_table5"])
def test_the_tiny_grids_have_the_entropies_of_their_twins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, run in grid_runs(f"tiny/{name}", monkeypatch):
        assert run.algorithm.target_entropy == half_of_the_actions(run.env)


def test_rlpd_is_redq_with_layer_norm_and_half_of_its_batches_from_the_data() -> None:
    redq, rlpd = (asdict(read(name)) for name in ("redq_halfcheetah", "rlpd_halfcheetah"))
    assert {key for key in redq if redq[key] != rlpd[key]} == {"name", "data", "algorithm", "replay"}
    assert {k for k, v in redq["algorithm"].items() if v != rlpd["algorithm"][k]} == {"layer_norm"}
    assert {k for k, v in redq["replay"].items() if v != rlpd["replay"][k]} == {"offline_share"}
    assert rlpd["replay"]["offline_share"] == 0.5


# What only one that imagines reads: data, where they are no part of the batches, and whose actions imagined rows have.
@pytest.mark.parametrize(("name", "unread"), [("redq_halfcheetah", "data"), ("rlpd_halfcheetah", "serving")])
def test_an_augmented_run_differs_from_its_plain_twin_in_the_augmentation_alone(name: str, unread: str) -> None:
    plain, augmented = asdict(read(name)), asdict(read(f"{name}_atradiff"))
    assert {key for key in plain if plain[key] != augmented[key]} == {"augmentation", "generator", unread}
