"""Cells of :mod:`benchmarks.levers` as Markdown: a table for each data set, levers in rows, and one over all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from atradiff.report.tables import markdown

Cell = Mapping[str, Any]
"""The document of one lever on one data set."""


def _figure(length: int, variant: str, name: str) -> Callable[[Cell], float | None]:
    return lambda cell: cell["fidelity"]["K"].get(str(length), {}).get(variant, {}).get(name)


def _last_link(variant: str, name: str) -> Callable[[Cell], float | None]:
    return lambda cell: cell["fidelity"]["chains"][variant]["links"][-1][name] if cell["fidelity"]["chains"] else None


COLUMNS: dict[str, tuple[Callable[[Cell], float | None], str]] = {
    "raw K10": (_figure(10, "raw", "relative_dynamics_error"), ".3f"),
    "raw K25": (_figure(25, "raw", "relative_dynamics_error"), ".3f"),
    "cut K10": (_figure(10, "cut", "relative_dynamics_error"), ".3f"),
    "cut rows": (_figure(10, "cut", "mean_length"), ".1f"),
    "project K10": (_figure(10, "project", "relative_dynamics_error"), ".3f"),
    "project K25": (_figure(25, "project", "relative_dynamics_error"), ".3f"),
    "dynamics K10": (_figure(10, "dynamics", "relative_dynamics_error"), ".3f"),
    "dynamics K25": (_figure(25, "dynamics", "relative_dynamics_error"), ".3f"),
    "reward raw K10": (_figure(10, "raw", "relative_reward_error"), ".3f"),
    "reward raw K25": (_figure(25, "raw", "relative_reward_error"), ".3f"),
    "reward dynamics K10": (_figure(10, "dynamics", "relative_reward_error"), ".3f"),
    "KS raw K10": (_figure(10, "raw", "ks"), ".3f"),
    "KS raw K25": (_figure(25, "raw", "ks"), ".3f"),
    "steps raw K10": (_figure(10, "raw", "step_size_ratio"), ".3f"),
    "last link raw": (_last_link("raw", "relative_dynamics_error"), ".3f"),
    "last link dynamics": (_last_link("dynamics", "relative_dynamics_error"), ".3f"),
    "rows/CPU s": (_figure(25, "raw", "transitions_per_cpu_second"), ",.0f"),
    "fit steps": (lambda cell: float(cell["steps"]), ",.0f"),
}
"""What a table shows: figure and format. Errors are relative dynamics errors, where nothing else is said."""


def tables(cells: Sequence[Cell]) -> str:
    """A table for each data set, and with several of them one of geometric means over those that a lever has."""
    sets = sorted({cell["data"] for cell in cells})
    shown = [name for name, (figure, _) in COLUMNS.items() if any(figure(cell) is not None for cell in cells)]
    parts = [_table(title, [[c] for c in cells if c["data"] == title], shown) for title in sets]
    if len(sets) > 1:
        levers = list(dict.fromkeys(cell["name"] for cell in cells))
        complete = [group for name in levers if len(group := [c for c in cells if c["name"] == name]) == len(sets)]
        parts.append(_table(f"geometric mean over {len(sets)} data sets", complete, shown))
    return "\n\n".join(parts)


def _table(title: str, groups: Sequence[Sequence[Cell]], shown: Sequence[str]) -> str:
    lines = [[group[0]["name"], *(_mean(group, column) for column in shown)] for group in groups]
    return f"### {title}\n\n{markdown([['lever', *shown], *lines])}"


def _mean(group: Sequence[Cell], column: str) -> str:
    figure, form = COLUMNS[column]
    values = [value for cell in group if (value := figure(cell)) is not None]
    if len(values) < len(group):
        return "-"
    if len(values) == 1:
        return format(values[0], form)
    return format(float(np.exp(np.mean(np.log(values)))), form)
