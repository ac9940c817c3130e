"""Pictures of learning curves, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atradiff.report.curves import RunCurve, align
from atradiff.report.stats import curve_interval
from atradiff.staging import staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#666666",
    "legend.frameon": False,
    "figure.dpi": 150,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, off screen and outside pyplot's global list. Call within the :data:`STYLE`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` whole or not at all, in the format that the name's suffix says (PNG where it has none)."""
    with staged_file(path) as stage:
        figure.savefig(stage, format=path.suffix.removeprefix(".") or "png")


def save_learning_curves(
    curves: Mapping[str, Sequence[RunCurve]],
    path: Path,
    *,
    threshold: float | None = None,
    title: str = "",
    seed: int = 0,
) -> None:
    """Return against environment steps for each named arm: interquartile mean, 95 % interval, single runs behind."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = new_figure(7.0, 4.3)
        ax = figure.add_subplot()
        for index, (name, runs) in enumerate(curves.items()):
            _draw_arm(ax, name, runs, PALETTE[index % len(PALETTE)], seed)
        if threshold is not None:
            ax.axhline(threshold, color="#666666", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.set(xlabel="environment steps", ylabel="evaluation return", title=title)
        ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        ax.margins(x=0.01)
        ax.legend(loc="best")
        save(figure, path)


def _draw_arm(ax: Axes, name: str, runs: Sequence[RunCurve], color: str, seed: int) -> None:
    for run in runs:
        ax.plot(run.steps, run.returns, color=color, linewidth=0.7, alpha=0.35, zorder=2)
    grid, returns = align(runs)
    middle, low, high = curve_interval(returns, seed=seed)
    label = f"{name} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
    ax.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0, zorder=3)
    ax.plot(grid, middle, color=color, linewidth=2.0, label=label, zorder=4)
