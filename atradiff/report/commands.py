"""What the command line calls: typed functions whose arguments are the options."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atradiff.report.fidelity import FidelityReport, VariantFidelity, fidelity
from atradiff.report.fidelity_picture import save_fidelity_picture
from atradiff.report.tables import aligned
from atradiff.staging import write_text

PICTURED = ("raw", "dynamics")


def fidelity_command(
    model: Path,
    data: Path,
    env: str | None = None,
    lengths: Sequence[int] = (10, 25),
    json: Path | None = None,
    picture: Path | None = None,
    windows: int = 512,
    simulated_rows: int = 4000,
    seed: int = 0,
    device: str = "auto",
) -> FidelityReport:
    """Judge a diffuser against data it has not seen and against the real environment, and print a table.

    Args:
        model: folder (or hub id) of a fitted diffuser.
        data: folder of a trajectory store. If the model was fitted on it, the episodes held out then are used.
        env: environment to step; by default the one the data names.
        lengths: window lengths K in rows.
        json: file to write all figures to.
        picture: PNG file to draw imagined against real trajectories into.
        windows: held-out states per length.
        simulated_rows: at most so many rows per variant are stepped in the environment.
        seed: of starts, draws and generation.
        device: where the model runs: auto, cpu or cuda.
    """
    from atradiff.data.store import open_trajectories
    from atradiff.generator import TrajectoryDiffuser

    diffuser = TrajectoryDiffuser.from_pretrained(model, device=device)
    everything = open_trajectories(data)
    everything.spaces.require_equal(diffuser.spaces, "the data", "the model")
    origin = diffuser.provenance
    train, held_out = None, everything
    if origin.data_hash == everything.content_hash:
        train, held_out = everything.split(origin.fit["held_out"], origin.fit["seed"])
    report = fidelity(
        diffuser,
        held_out,
        train,
        env or everything.env_id or origin.env_id,
        lengths=lengths,
        windows=windows,
        simulated_rows=simulated_rows,
        seed=seed,
    )
    report = replace(report, data_hash=everything.content_hash)
    if json is not None:
        write_text(json, json_format.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    if picture is not None:
        longest = max(lengths)
        bars = {name: report.by_length[longest][name].rows.ks_by_column for name in PICTURED}
        save_fidelity_picture(diffuser, held_out, picture, length=longest, ks_by_column=bars, seed=seed)
    print(fidelity_table(report))
    return report


def fidelity_table(report: FidelityReport) -> str:
    """The main figures as a table for the terminal, with the reasons for those that could not be had."""
    header = ["K  variant", "dynamics", "reward", "terminal", "KS", "corr", "step ratio", "novelty"]
    header += ["pruned", "cut", "length", "rows/CPU s"]
    lines = [
        _line(f"{length:<2} {name}", figures)
        for length, variants in report.by_length.items()
        for name, figures in variants.items()
    ]
    reasons = {
        f"{name}: {reason}"
        for variants in report.by_length.values()
        for figures in variants.values()
        for name, reason in figures.rows.reasons.items()
    }
    notes = [
        "",
        "dynamics, reward: one-step error against the environment, relative to standing still and to the mean reward.",
        "KS: 1 is alike. corr: 0 is alike. step ratio, novelty: 1 is like held-out data. real: the data itself.",
        *(f"No {reason}" for reason in sorted(reasons)),
    ]
    return "\n".join([aligned([header, *lines]), *notes])


def _line(label: str, figures: VariantFidelity) -> list[str]:
    rows = figures.rows
    ratios = [rows.relative_dynamics_error, rows.relative_reward_error, rows.terminal_accuracy, rows.ks]
    ratios += [rows.correlation, rows.step_size_ratio, rows.novelty]
    cells = [label, *(_cell(value, ".3f") for value in ratios)]
    cells += [_cell(value, ".0%") for value in (figures.share_pruned, figures.share_cut)]
    return [*cells, _cell(figures.mean_length, ".1f"), _cell(figures.transitions_per_cpu_second, ",.0f")]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
