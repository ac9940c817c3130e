from __future__ import annotations

import json

import pytest

from atradiff.config import DiffuserConfig, FitConfig


@pytest.mark.parametrize("config", [DiffuserConfig(lengths=(5, 9), process="edm"), FitConfig(cpu_minutes=1.5)])
def test_round_trip_through_json(config):
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({"steps": 100}, 500),
        ({"steps": 100_000}, 20_000),
        ({"cpu_minutes": 5.0}, 6000),
        ({"cpu_minutes": 1e-9}, 1),
        ({"steps": 100, "expectation_updates": 7}, 7),
    ],
)
def test_what_is_expected_takes_its_share_of_the_budget(settings, updates):
    assert FitConfig(**settings).updates_of_expectation == updates


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lengths": (5, 5)}, r"lengths must rise.*\(5, 5\)"),
        ({"process": "ddpm"}, "process must be one of shortcut, edm, got 'ddpm'"),
        ({"refine": "magic"}, "refine must be one of none, cut, project, dynamics"),
        ({"width": 130, "heads": 4}, "width must be a multiple of heads, got 130"),
        ({"width": 15, "heads": 3}, "width must be even.*got 15"),
        ({"length_quantile": 1.0}, "length_quantile must lie between 0 and 1, got 1.0"),
    ],
)
def test_wrong_model_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        DiffuserConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "one at a time"),
        ({"steps": 5, "cpu_minutes": 1.0}, "one at a time"),
        ({"cpu_minutes": -1.0}, "cpu_minutes must be positive, got -1.0"),
        ({"steps": 5, "expectation_updates": 0}, "expectation_updates must be at least 1, or null, got 0"),
        ({"steps": 5, "held_out": 1.5}, "held_out must lie between 0 and 1, got 1.5"),
    ],
)
def test_wrong_fit_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**values)


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="withd"):
        DiffuserConfig.from_json({"withd": 3})
