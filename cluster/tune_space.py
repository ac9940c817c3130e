"""The search space of ``atradiff tune``: dotted settings of a run, each with how Ray Tune shall draw it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ray import tune

from atradiff.config import DiffuserConfig
from atradiff.model_folder import read_description
from cluster.config import RunConfig

Space = dict[str, dict[str, list[Any]]]
"""``{"replay.rho": {"uniform": [0.1, 0.7]}}``: setting -> one of :data:`DISTRIBUTIONS` -> its arguments."""

DISTRIBUTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "uniform": lambda bounds: tune.uniform(*bounds),
    "loguniform": lambda bounds: tune.loguniform(*bounds),
    "choice": lambda values: tune.choice(values),
}


def default_space(run: RunConfig) -> Space:
    """What decides most about imagined trajectories: how many, how long, and how often their generator is adapted.

    Raises ``ValueError`` for a run without any.
    """
    if run.augmentation != "atradiff":
        raise ValueError(
            f"a run with augmentation: {run.augmentation} has no imagined trajectories to tune: give --space, as in "
            f"{_EXAMPLE}, or augmentation: atradiff."
        )
    path = run.generator.path
    config = run.generator.model
    if path is not None and Path(path).is_dir():
        config = DiffuserConfig.from_json(read_description(Path(path))["config"])
    lengths = list(config.lengths)
    horizon = run.generator.sampling.horizon
    horizons = [None, 2 * lengths[-1], 4 * lengths[-1]] if horizon is None else [horizon // 2, horizon, 2 * horizon]
    space: Space = {
        "replay.rho": {"uniform": [0.1, 0.75]},
        "replay.expected_length": {"choice": [None, *lengths]},
        "generator.sampling.length": {"choice": [None, *lengths]},
        "generator.sampling.horizon": {"choice": horizons},
    }
    if run.adapting is None:
        return space
    every = run.adapting.every
    return space | {"adaptation.every": {"choice": [every // 4, every // 2, every]}}


def read_space(text: str) -> Space:
    """A space from a YAML file, or from YAML itself; raises ``ValueError`` where an entry is none."""
    given = yaml.safe_load(Path(text).read_text() if Path(text).is_file() else text)
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"--space must map settings to distributions, as in {_EXAMPLE}, got {text!r}.")
    for name, entry in given.items():
        _require_distribution(str(name), entry)
    return {str(name): dict(entry) for name, entry in given.items()}


_EXAMPLE = "'{replay.rho: {uniform: [0.1, 0.7]}, generator.sampling.horizon: {choice: [50, 100]}}'"


def _require_distribution(name: str, entry: Any) -> None:
    kinds = list(entry) if isinstance(entry, Mapping) else []
    if len(kinds) != 1 or kinds[0] not in DISTRIBUTIONS or not isinstance(entry[kinds[0]], list):
        raise ValueError(f"--space: {name} must have one of {sorted(DISTRIBUTIONS)} with a list, got {entry!r}.")
    values = entry[kinds[0]]
    if kinds[0] == "choice":
        sound = len(values) > 0
    else:
        numbers = len(values) == 2 and all(isinstance(v, int | float) for v in values)
        sound = numbers and values[0] < values[1] and (kinds[0] == "uniform" or values[0] > 0)
    if not sound:
        raise ValueError(
            f"--space: {name} has {values}: choice needs values, uniform a lower and a higher number, loguniform both "
            "above 0."
        )


def to_tune(space: Space) -> dict[str, Any]:
    """The space as Ray Tune draws from it."""
    return {name: DISTRIBUTIONS[kind](values) for name, entry in space.items() for kind, values in entry.items()}


def corners(space: Space) -> list[dict[str, Any]]:
    """Each value, or end of a range, once, with the first value of all other settings: to check them beforehand."""
    first = {name: next(iter(entry.values()))[0] for name, entry in space.items()}
    return [first | {name: value} for name, entry in space.items() for value in next(iter(entry.values()))]


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Drawn values as flags of a run: ``["--replay.rho=0.3"]``."""
    return [f"--{name}={_flow(value)}" for name, value in settings.items()]


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).splitlines()[0]
