"""The paper's ablations: each config file differs from its own generator in one setting, and can be fitted."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cluster.config import load_run_config
from tests.toys import chain_data, tiny_diffuser

FOLDER = Path(__file__).parents[2] / "configs" / "ablations"
CHANGES = {
    "fixed_length_25": {"lengths": (25,)},
    "no_pruning": {"prune": "none"},
    "transition": {"lengths": (1,)},
    "no_condition": {"condition": "none"},
}


def settings(name: str) -> dict:
    return asdict(load_run_config(FOLDER / f"{name}.yaml").generator.model)


def test_the_folder_holds_the_papers_generator_and_its_ablations() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"paper_generator", "guided_return", *CHANGES}
    paper = settings("paper_generator")
    assert (paper["generator"], paper["lengths"], paper["prune"]) == ("bank", (5, 10, 15, 20, 25), "paper")
    assert (paper["network"], paper["rows"], paper["condition"]) == ("residual_mlp", "absolute", "state")


@pytest.mark.parametrize("name", CHANGES)
def test_an_ablation_changes_one_setting(name: str) -> None:
    paper, ablation = settings("paper_generator"), settings(name)
    assert {key: ablation[key] for key in ablation if ablation[key] != paper[key]} == CHANGES[name]


@pytest.mark.parametrize("name", ["paper_generator", *CHANGES])
def test_an_ablations_learner_is_that_of_hopper(name: str) -> None:
    hopper = load_run_config(FOLDER.parent / "hopper.yaml").algorithm
    assert load_run_config(FOLDER / f"{name}.yaml").algorithm == hopper


def test_guidance_is_all_that_a_guided_run_changes() -> None:
    ours, run = (
        load_run_config(path) for path in (FOLDER.parent / "hopper_atradiff.yaml", FOLDER / "guided_return.yaml")
    )
    assert (run.generator.model.guide, run.generator.sampling.guidance_scale) == ("return", 1)
    sampling = replace(run.generator.sampling, guidance_scale=0.0, target=ours.generator.sampling.target)
    generator = replace(run.generator, model=replace(run.generator.model, guide="none"), sampling=sampling)
    assert replace(run, name=ours.name, generator=generator) == ours


@pytest.mark.parametrize("name", ["paper_generator", "guided_return", *CHANGES])
def test_an_ablation_fits_and_generates(name: str) -> None:
    run = load_run_config(FOLDER / f"{name}.yaml")
    small = replace(run.generator.model, width=16, depth=1, calls=3, dynamics_models=1, dynamics_width=16)
    diffuser = tiny_diffuser(chain_data(10), config=small)
    states = np.zeros((5, 2), np.float32)
    imagined = diffuser.generate(states, generator_seed=0)
    assert imagined.lengths.max() <= small.longest
    if name == "transition":
        assert (imagined.lengths == 1).all()
    elsewhere = diffuser.generate(states + 1, generator_seed=0)
    same = np.array_equal(imagined.observations[:, 0], elsewhere.observations[:, 0])
    assert same == (name == "no_condition")  # it begins where it likes
