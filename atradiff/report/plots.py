"""Pictures of learning curves, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atradiff.report.aggregate import runs_curve
from atradiff.report.curves import RunCurve, align
from atradiff.staging import staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

_LINES = (("-", ""), ("--", "///"), (":", "..."), ("-.", "xxx"))
"""Line styles and the hatches of bars that go with them."""

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


@dataclass(frozen=True)
class Look:
    """A colour, and matplotlib's line style and hatch of a bar."""

    color: str
    line: str
    hatch: str

    @classmethod
    def of(cls, index: int) -> Look:
        """Of arm number ``index``: after the palette its colours come again dashed, dotted, dash-dotted; 28 differ."""
        line, hatch = _LINES[index // len(PALETTE) % len(_LINES)]
        return cls(PALETTE[index % len(PALETTE)], line, hatch)

    def stroke(self) -> dict[str, Any]:
        """What a matplotlib line takes."""
        return {"color": self.color, "linestyle": self.line}


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
            _draw_arm(ax, name, runs, Look.of(index), seed)
        if threshold is not None:
            ax.axhline(threshold, color="#666666", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.set(xlabel="environment steps", ylabel="evaluation return", title=title)
        ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        ax.margins(x=0.01)
        ax.legend(loc="best")
        save(figure, path)


def _draw_arm(ax: Axes, name: str, runs: Sequence[RunCurve], look: Look, seed: int) -> None:
    for run in runs:
        ax.plot(run.steps, run.returns, **look.stroke(), linewidth=0.7, alpha=0.35, zorder=2)
    grid, returns = align(runs)
    middle, low, high = runs_curve(returns, seed=seed)
    label = f"{name} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
    ax.fill_between(grid, low, high, color=look.color, alpha=0.15, linewidth=0, zorder=3)
    ax.plot(grid, middle, **look.stroke(), linewidth=2.0, label=label, zorder=4)
