"""A picture of imagined against real trajectories from the same starts, and of how well each column's spread is met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atradiff.data.trajectories import Trajectories
from atradiff.report.fidelity_chains import ChainFidelity
from atradiff.report.fidelity_windows import FidelityModel, imagine_variant, real_windows
from atradiff.report.plots import PALETTE, STYLE, new_figure, save
from atradiff.types import IntArray, SyntheticTrajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

STARTS, DIMENSIONS, SAMPLES = 3, 4, 6
DRIFT = {
    "relative_dynamics_error": "dynamics error of chains",
    "running": "share still running",
    "state_distance": "distance from the data, held-out: 1",
}
"""Figures of a link that are drawn, with their titles."""

COLORS = {"raw": PALETTE[0], "dynamics": PALETTE[1], "cut": PALETTE[2], "pruned": PALETTE[3], "project": PALETTE[4]}


def save_fidelity_picture(
    model: FidelityModel,
    held_out: Trajectories,
    path: Path,
    *,
    length: int,
    ks_by_column: Mapping[str, tuple[float, ...]],
    chains: Mapping[str, ChainFidelity] | None = None,
    title: str = "",
    seed: int = 0,
) -> None:
    """Draw the dimensions that move most over time, real and imagined, and the marginal similarity of each column.

    The variants drawn are the keys of ``ks_by_column``; their values are the bars. ``chains`` add a row of plots: what
    becomes of them, link by link.
    """
    import matplotlib as mpl

    real = real_windows(held_out, length, 200, seed)
    chosen = _evenly(np.flatnonzero(real.lengths == real.lengths.max()), STARTS)
    starts = np.repeat(real.observations[chosen, 0], SAMPLES, axis=0)
    imagined = {name: imagine_variant(model, name, starts, seed=seed, length=length)[0] for name in ks_by_column}
    dimensions = shown_dimensions(real)
    with mpl.rc_context(STYLE):
        figure, paths, bars, drift = _layout(len(chosen), len(dimensions), bool(chains))
        for row, window in enumerate(chosen):
            for column, dimension in enumerate(dimensions):
                _draw_path(paths[row][column], real, int(window), imagined, row, int(dimension))
                paths[row][column].set_title(f"observation {dimension}" if row == 0 else "", fontsize=10)
        for axes in paths[-1]:
            axes.set_xlabel("step")
        _draw_bars(bars, ks_by_column, held_out.spaces.observation_size)
        _draw_chains(drift, chains or {})
        figure.suptitle(title or f"Imagined and real trajectories from the same held-out states, K = {length}")
        lines = {
            label: line
            for axes in (paths[0][0], *drift[:1])
            for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines))
        save(figure, path)


def shown_dimensions(windows: SyntheticTrajectories) -> IntArray:
    """Up to :data:`DIMENSIONS` observation dimensions, evenly spread over those that move at all."""
    moving = np.flatnonzero(np.ptp(windows.observations, axis=1).max(axis=0) > 1e-6)
    return _evenly(moving if len(moving) else np.arange(1), DIMENSIONS)


def _evenly(values: IntArray, count: int) -> IntArray:
    """``count`` of ``values`` from first to last, or all of them where there are fewer."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))]


def _layout(rows: int, columns: int, chains: bool) -> tuple[Figure, list[list[Axes]], Axes, list[Axes]]:
    """Paths above, bars below them, and at the bottom one plot for each of :data:`DRIFT` where there are chains."""
    total = rows + 1 + chains
    figure = new_figure(2.7 * max(columns, 3), 2.05 * total)
    grid = figure.add_gridspec(total, 1)
    paths = [_plots(figure, grid[row], columns) for row in range(rows)]
    drift = _plots(figure, grid[total - 1], len(DRIFT)) if chains else []
    return figure, paths, figure.add_subplot(grid[rows]), drift


def _draw_path(
    axes: Axes,
    real: SyntheticTrajectories,
    window: int,
    imagined: Mapping[str, SyntheticTrajectories],
    row: int,
    dimension: int,
) -> None:
    for name, trajectories in imagined.items():
        for sample in range(row * SAMPLES, (row + 1) * SAMPLES):
            line = trajectories.observations[sample, : trajectories.lengths[sample] + 1, dimension]
            label = f"imagined, {name}" if sample == row * SAMPLES else None
            axes.plot(line, color=COLORS[name], linewidth=0.9, alpha=0.65, label=label)
    truth = real.observations[window, : real.lengths[window] + 1, dimension]
    axes.plot(truth, color="black", linewidth=1.8, label="real")
    axes.plot(0, truth[0], "o", color="black", markersize=4)
    axes.margins(x=0.02)


def _plots(figure: Figure, place: SubplotSpec, count: int) -> list[Axes]:
    grid = place.subgridspec(1, count)
    return [figure.add_subplot(grid[0, column]) for column in range(count)]


def _draw_chains(drift: list[Axes], chains: Mapping[str, ChainFidelity]) -> None:
    """One line per variant, with a point for each link at its first row."""
    for axes, (what, title) in zip(drift, DRIFT.items(), strict=False):
        for name, chain in chains.items():
            known = [link for link in chain.links if getattr(link, what) is not None]
            values = [getattr(link, what) for link in known]
            axes.plot([link.start for link in known], values, color=COLORS[name], label=f"imagined, {name}")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("row of the chain")
        axes.set_ylim(bottom=0)


def _draw_bars(axes: Axes, ks_by_column: Mapping[str, tuple[float, ...]], states: int) -> None:
    width = 0.8 / len(ks_by_column)
    for index, (name, values) in enumerate(ks_by_column.items()):
        places = np.arange(len(values)) + (index + 0.5) * width - 0.4
        axes.bar(places, values, width, color=COLORS[name], label=name, alpha=0.85)
    n = len(next(iter(ks_by_column.values())))
    actions = range(n - 1 - states)
    labels = [*(f"s{i}" for i in range(states)), *(f"a{i}" for i in actions), "r"]
    axes.axhline(0.95, color="#666666", linewidth=0.9, linestyle=(0, (4, 3)))
    every = max(1, n // 40)
    ticks: Any = {"ticks": range(0, n, every), "labels": labels[::every]}
    axes.set_xticks(**ticks, fontsize=8)
    low = min(min(values) for values in ks_by_column.values())
    axes.set(ylim=(max(0.0, min(0.8, low - 0.05)), 1.0), xlim=(-0.6, n - 0.4))
    axes.set_ylabel("1 - KS")
    axes.set_title("marginal similarity of next states (s), actions (a) and reward (r); dashed: 0.95", fontsize=10)
    axes.grid(axis="x", visible=False)
