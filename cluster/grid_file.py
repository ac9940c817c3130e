"""Reading a grid: every key is known, every value has its type, or the message says where and what to write instead."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atradiff.report.study import ScoreRange
from cluster.grid import Exclusion, Grid, GridTask, Settings
from cluster.layers import merged

_REQUIRED = ("name", "seeds", "tasks", "algorithms", "augmentations", "baseline")
_OPTIONAL = ("output", "title", "settings", "final_evaluations", "gpus_per_cell", "exclude")
_GIVEN = {"name": "name", "seed": "seeds", "output": "output"}
"""Settings of a run that the grid's own keys decide; those of a base file are passed over."""


def is_grid(path: str) -> bool:
    """Whether ``path`` is a file with a line ``tasks:``: a grid, be it right or wrong, and not the config of a run."""
    file = Path(path)
    return file.is_file() and any(line.startswith("tasks:") for line in file.read_text(encoding="utf-8").splitlines())


def load_grid(path: Path, **changes: Any) -> Grid:
    """Read a grid, some of its keys with other values; paths in it count from the current folder.

    Raises ``ValueError`` naming file, place and remedy.
    """
    try:
        content = _mapping(yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys), "the file")
        return _grid({**content, **changes})
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def _grid(content: Mapping[str, Any]) -> Grid:
    _known_keys(content, "the grid", (*_REQUIRED, *_OPTIONAL))
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise ValueError(f"the grid lacks {', '.join(missing)}.")
    plain = {key: content[key] for key in ("name", "baseline", "output", "title") if key in content}
    for key, value in plain.items():
        if not isinstance(value, str):
            raise ValueError(f"{key} must be text, got {value!r}: put quotes around it.")
    numbers = {key: content[key] for key in ("final_evaluations", "gpus_per_cell") if key in content}
    for key, value in numbers.items():
        _require_number(value, key, whole=key == "final_evaluations")
    common = _settings(content.get("settings", {}), "settings")
    return Grid(
        **plain,
        **numbers,
        seeds=_seeds(content["seeds"]),
        tasks={label: _task(item, f"tasks.{label}", common) for label, item in _labelled(content, "tasks").items()},
        algorithms={k: merged(_settings(v, f"algorithms.{k}")) for k, v in _labelled(content, "algorithms").items()},
        augmentations={
            k: merged(_settings(v, f"augmentations.{k}")) for k, v in _labelled(content, "augmentations").items()
        },
        exclude=tuple(_exclusion(item) for item in _list(content.get("exclude", []), "exclude")),
    )


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = _list(value, "seeds")
    for seed in seeds:
        _require_number(seed, "a seed", whole=True)
    return tuple(seeds)


def _task(value: Any, where: str, common: Settings) -> GridTask:
    """Settings of the base file, then those common to all tasks, then the task's own."""
    own = dict(_settings(value, where))
    base, score = own.pop("base", None), own.pop("score", None)
    algorithms = _own_algorithms(own.pop("algorithms", {}), f"{where}.algorithms")
    settings = merged({} if base is None else _base(base, where), common, own)
    return GridTask(settings, None if score is None else _score(score, f"{where}.score"), algorithms)


def _own_algorithms(value: Any, where: str) -> dict[str, Settings]:
    """What algorithms have otherwise on one task."""
    return {label: merged(_settings(own, f"{where}.{label}")) for label, own in _mapping(value, where).items()}


def _settings(value: Any, where: str) -> dict[Any, Any]:
    """A layer of settings, of which none is what the grid gives each of its runs itself."""
    content = _mapping(value, where)
    if taken := [key for key in _GIVEN if key in content]:
        instead = ", ".join(_GIVEN[key] for key in taken)
        raise ValueError(
            f"{where} sets {', '.join(taken)}, which the grid gives every run itself: leave that out here, and set "
            f"{instead} at the top of the grid."
        )
    return content


def _base(value: Any, where: str) -> Settings:
    path = Path(str(value))
    if not path.is_file():
        raise ValueError(f"{where}.base: {path.absolute()} does not exist; paths count from the current folder.")
    return _mapping(yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys), f"{where}.base: {path}")


def _score(value: Any, where: str) -> ScoreRange:
    content = _mapping(value, where)
    if set(content) != {"random", "reference"}:
        raise ValueError(f"{where} must be {{random: RETURN, reference: RETURN}}, got {dict(content)}.")
    for key, number in content.items():
        _require_number(number, f"{where}.{key}")
    return ScoreRange(float(content["random"]), float(content["reference"]))


def _exclusion(value: Any) -> Exclusion:
    content = _mapping(value, "exclude")
    _known_keys(content, "exclude", ("task", "algorithm", "augmentation"))
    if not content:
        raise ValueError("exclude holds a rule without labels, which would leave nothing.")
    for kind, label in content.items():
        if not isinstance(label, str):
            raise ValueError(f"exclude: {kind} must be one label, got {label!r}: write a rule for each.")
    return Exclusion(**content)


def _labelled(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The entries under ``key``; an entry without settings (``SAC:``) is an empty mapping."""
    entries = _mapping(content[key], key)
    if not entries:
        raise ValueError(f"{key} is empty: give at least one label.")
    for label in entries:
        if not isinstance(label, str):
            raise ValueError(f"{key}: the label {label!r} is not text: put quotes around it.")
    return {label: {} if item is None else item for label, item in entries.items()}


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a mapping of names to values, got {value!r}.")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {value!r}.")
    return value


def _known_keys(content: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ValueError(f"{where} does not know {', '.join(unknown)}; it may hold {', '.join(known)}.")


def _require_number(value: Any, where: str, *, whole: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{where} must be a {'whole ' if whole else ''}number, got {value!r}.")


_MERGE = "tag:yaml.org,2002:merge"  # the key <<: its entries are defaults, which may come again


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML readers take the last of."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As YAML's own, but ``ValueError`` for a key that is given twice; what a merge brings may be overruled."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(twice)} is given twice.")
        return super().construct_mapping(node, deep=deep)
