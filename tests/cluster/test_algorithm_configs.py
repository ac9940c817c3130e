"""The configs of REDQ and RLPD say what their papers say, and an arm differs from its plain twin in that arm alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.config import RunConfig, load_run_config
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
