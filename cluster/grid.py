"""A grid of runs as YAML: tasks x algorithms x augmentations x seeds (docs/comparing.md shows one)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atradiff.report.study import ScoreRange

Settings = Mapping[str, Any]
"""Settings of a run as nested plain values, as they stand in a config file."""

PLAIN = "none"
"""The augmentation with this label leaves an algorithm's name as it is: ``SAC`` and not ``SAC + none``."""


@dataclass(frozen=True)
class GridTask:
    """Settings of the task, with its base file's and the common ones, and its own score range if it gives one.

    ``algorithms`` holds what some algorithms have otherwise on this task, by their labels.
    """

    settings: Settings
    scores: ScoreRange | None
    algorithms: Mapping[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Exclusion:
    """Leaves out the cells that have all of these labels; None stands for any."""

    task: str | None = None
    algorithm: str | None = None
    augmentation: str | None = None

    def __contains__(self, labels: tuple[str, str, str]) -> bool:
        wanted = (self.task, self.algorithm, self.augmentation)
        return all(want in (None, label) for want, label in zip(wanted, labels, strict=True))


@dataclass(frozen=True)
class Grid:
    """What is compared. Labels keep the order of the file: it is the order of tables, colours and legends.

    ``baseline`` is an augmentation (each algorithm is held against itself with that one), an arm as it is named in the
    tables (all others are held against it), or an algorithm (all others are held against it, augmentation by
    augmentation); where a label is several of these, the first counts.
    ``gpus_per_cell`` is what Ray reserves for each run, may be a fraction.
    """

    name: str
    seeds: tuple[int, ...]
    tasks: Mapping[str, GridTask]
    algorithms: Mapping[str, Settings]
    augmentations: Mapping[str, Settings]
    baseline: str
    output: str = "runs"
    title: str = ""
    final_evaluations: int = 3
    gpus_per_cell: float = 0.0
    exclude: tuple[Exclusion, ...] = field(default=())

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"name becomes a folder: letters, digits, '_', '-' and '.' only, got {self.name!r}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers from 0 on, at least one, got {list(self.seeds)}.")
        if self.final_evaluations < 1 or self.gpus_per_cell < 0:
            raise ValueError(
                f"final_evaluations must be at least 1 and gpus_per_cell at least 0, got {self.final_evaluations} and "
                f"{self.gpus_per_cell}."
            )
        self._check_labels()

    def _check_labels(self) -> None:
        for labels in (self.tasks, self.algorithms, self.augmentations):
            if len({slug(label) for label in labels}) < len(labels):
                raise ValueError(f"labels must differ in letters and digits, not in signs alone, got {list(labels)}.")
        known = [*self.augmentations, *self.algorithms, *self.arms()]
        if self.baseline not in known:
            raise ValueError(f"baseline {self.baseline!r} is none of the labels; choose one of {', '.join(known)}.")
        for label, task in self.tasks.items():
            if unknown := [name for name in task.algorithms if name not in self.algorithms]:
                raise ValueError(
                    f"tasks.{label}.algorithms: there is no algorithm {', '.join(map(repr, unknown))}; choose among "
                    f"{', '.join(self.algorithms)}."
                )
        for rule in self.exclude:
            for kind, label in vars(rule).items():
                if label is not None and label not in getattr(self, f"{kind}s"):
                    raise ValueError(
                        f"exclude: there is no {kind} {label!r}; choose one of {', '.join(getattr(self, f'{kind}s'))}."
                    )

    def arms(self) -> dict[str, tuple[str, str]]:
        """Algorithm and augmentation of each arm, by the arm's name."""
        return {arm_name(a, b): (a, b) for a in self.algorithms for b in self.augmentations}

    def baseline_of(self, arm: str) -> str | None:
        """The arm that ``arm`` is held against; None for a baseline."""
        algorithm, augmentation = self.arms()[arm]
        if self.baseline in self.augmentations:
            other = arm_name(algorithm, self.baseline)
        elif self.baseline in self.arms():
            other = self.baseline
        else:
            other = arm_name(self.baseline, augmentation)
        return None if other == arm else other

    def excluded(self, task: str, algorithm: str, augmentation: str) -> bool:
        """Whether a rule of ``exclude`` names these labels, or a part of them and no others."""
        return any((task, algorithm, augmentation) in rule for rule in self.exclude)


def arm_name(algorithm: str, augmentation: str) -> str:
    """What tables call an algorithm with an augmentation: the plain one has the name of the algorithm."""
    return algorithm if augmentation == PLAIN else f"{algorithm} + {augmentation}"


def slug(label: str) -> str:
    """A label as a folder's name."""
    return re.sub(r"[^A-Za-z0-9.=_-]+", "-", label).strip("-.")
