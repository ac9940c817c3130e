from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from atradiff.generator import Calibration, TrajectoryDiffuser
from atradiff.types import Spaces
from tests.toys import TINY, random_data, tiny_diffuser

STATES = np.array([[0.1, 0.0], [-0.4, 0.02]], np.float32)
UNBOUNDED = Spaces(2, "continuous", (-math.inf, 0.0), (math.inf, 1.0))


@pytest.fixture
def folder(tmp_path):
    tiny_diffuser().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("rows", ["differences", "both", "residuals"])
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


@pytest.mark.parametrize("name", ["model", "lengths", "dynamics"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named_with_their_file(folder, name, value):
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    first = next(tensor for tensor in tensors.values() if tensor.is_floating_point())
    first.view(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors holds weights that are not finite.*fit the model"):
        TrajectoryDiffuser.from_pretrained(folder)


def test_a_model_of_weights_that_are_not_finite_is_not_written(tmp_path):
    model = tiny_diffuser()
    model.networks.lengths.net[0].bias.data[0] = math.nan
    with pytest.raises(FloatingPointError, match=r"'lengths\.net\.0\.bias'.*Lower learning_rate"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def plain_json(path):
    """As a strict reader has it: JSON knows neither NaN nor infinity."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_what_was_not_measured_is_null_and_comes_back_as_it_was(tmp_path):
    model = tiny_diffuser(random_data([9] * 4, [False] * 4, spaces=UNBOUNDED))
    model.provenance = replace(model.provenance, held_out_loss=math.nan, env_id=None)
    model.calibration = Calibration(noise=0.25)
    model.save_pretrained(tmp_path / "model")
    description = plain_json(tmp_path / "model" / "config.json")
    assert description["provenance"]["held_out_loss"] is None
    assert description["calibration"] == {"noise": 0.25, "residual_limit": None, "disagreement_limit": None}
    assert description["spaces"]["action_low"] == [None, 0.0]
    loaded = TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu")
    assert math.isnan(loaded.provenance.held_out_loss)
    assert loaded.provenance.data_hash == model.provenance.data_hash
    assert (loaded.calibration, loaded.spaces) == (model.calibration, UNBOUNDED)


def test_folders_that_hold_nan_and_infinity_are_still_read(folder):
    path = folder / "config.json"
    description = plain_json(path)
    description["provenance"]["held_out_loss"] = math.nan
    description["calibration"]["residual_limit"] = math.inf
    path.write_text(json.dumps(description))
    loaded = TrajectoryDiffuser.from_pretrained(folder, device="cpu")
    assert math.isnan(loaded.provenance.held_out_loss)
    assert loaded.calibration.residual_limit == math.inf


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
    with pytest.raises(FileNotFoundError, match=r"there is no model folder .*gone: .*On several nodes"):
        TrajectoryDiffuser.from_pretrained(tmp_path / "gone")
