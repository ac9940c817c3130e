"""Quality against speed, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atradiff.report.plots import PALETTE, STYLE, new_figure, save

MARKERS = {"raw": "o", "cut": "s", "dynamics": "^", "project": "D", "paper": "P"}


def save_plot(methods: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """One point per method, window length and variant; lower and further right is better. Both axes are logarithmic.

    ``methods`` are entries of the document that ``benchmarks.generator`` writes.
    """
    import matplotlib as mpl

    drawn = [m for m in methods if m["relative_dynamics_error"]]
    names = list(dict.fromkeys(m["name"] for m in drawn))
    with mpl.rc_context(STYLE):
        figure = new_figure(8.0, 5.0)
        ax = figure.add_subplot()
        for m in drawn:
            color = PALETTE[names.index(m["name"]) % len(PALETTE)]
            at = m["transitions_per_cpu_second"], m["relative_dynamics_error"]
            ax.plot(*at, MARKERS[m["variant"]], color=color, markersize=6 if m["length"] <= 10 else 9, alpha=0.8)
            ax.annotate(f"{m['calls']}", at, xytext=(4, 4), textcoords="offset points", fontsize=7, color="#444444")
        for i, name in enumerate(names):
            ax.plot([], [], "o", color=PALETTE[i % len(PALETTE)], label=name)
        for variant, marker in MARKERS.items():
            ax.plot([], [], marker, color="#888888", label=variant, linestyle="none")
        ax.set(xscale="log", yscale="log", title=title)
        ax.set(xlabel="transitions per CPU second", ylabel="relative dynamics error (numbers: network calls)")
        ax.legend(loc="best", fontsize=8)
        save(figure, path)
