from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from atradiff.generator import TrajectoryDiffuser
from tests.toys import TINY, tiny_diffuser

STATES = np.array([[0.1, 0.0], [-0.4, 0.02]], np.float32)


@pytest.fixture
def folder(tmp_path):
    tiny_diffuser().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("rows", ["differences", "both"])
def test_a_loaded_model_generates_the_same(tmp_path, rows):
    model = tiny_diffuser(config=replace(TINY, rows=rows))
    model.save_pretrained(tmp_path / "model")
    loaded = TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.config == model.config
    assert loaded.calibration == model.calibration
    assert loaded.spaces == model.spaces
    ours, theirs = (m.generate(STATES, generator_seed=1, horizon=20) for m in (model, loaded))
    np.testing.assert_array_equal(ours.observations, theirs.observations)
    np.testing.assert_array_equal(ours.rewards, theirs.rewards)


def test_files_and_card(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "dynamics.safetensors",
        "lengths.safetensors",
        "model.safetensors",
        "normalizer.safetensors",
    }
    card = (folder / "README.md").read_text()
    assert "10 episodes" in card
    assert "12 steps" in card


def test_nothing_is_overwritten(folder):
    with pytest.raises(FileExistsError, match="not empty"):
        tiny_diffuser().save_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "normalizer.safetensors", "dynamics.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_weights_are_named(folder, name, damage):
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        TrajectoryDiffuser.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something-else"}, "must have the format"),
        ({"spaces": {}}, "does not describe a model"),
        ({"spaces": None}, "does not describe a model"),
        ({"config": []}, "does not describe a model"),
        ({"version": None}, "does not describe a model"),
        ({"config": {"surprise": 1}}, "does not know these settings"),
    ],
)
def test_a_foreign_description_is_refused(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        TrajectoryDiffuser.from_pretrained(folder)


def test_weights_of_another_size_are_refused(folder):
    path = folder / "config.json"
    description = json.loads(path.read_text())
    description["config"]["width"] = 32
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"does not fit config\.json"):
        TrajectoryDiffuser.from_pretrained(folder)


def test_broken_json_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        TrajectoryDiffuser.from_pretrained(folder)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        TrajectoryDiffuser.from_pretrained(tmp_path)
