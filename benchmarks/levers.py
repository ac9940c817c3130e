"""What each setting of the generator is worth: models that differ in one thing, fitted for the same CPU minutes.

``python -m benchmarks.levers --out FOLDER --data STORE [STORE ...] [--cpu-minutes 2] [--only NAME ...]``. Every lever
of :data:`LEVERS` is fitted on every data set and judged as `atradiff fidelity` does, as diffused and refined. A cell
(one lever on one data set) is written to ``FOLDER/LEVER__DATA.json`` as soon as it is known, its model to
``FOLDER/models``; called again, the command goes on where it was ended, and makes the tables of all cells that are
there. ``--horizon 100`` judges chained trajectories, too. ``--list`` names the levers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from atradiff.allocator import keep_freed_memory
from atradiff.config import DiffuserConfig, FitConfig, SamplingConfig
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.report.fidelity import FidelityReport, fidelity
from atradiff.report.fidelity_chains import chain_fidelity
from atradiff.report.judge import Judge
from atradiff.staging import write_text
from benchmarks.levers_probes import OF_SAMPLING, PROBES, probing
from benchmarks.levers_table import tables

VARIANTS = ("raw", "cut", "project", "dynamics")
"""The four refinements, ``none``, ``cut``, ``project`` and ``dynamics``, of each fit."""


@dataclass(frozen=True)
class Lever:
    """Settings that differ from the defaults."""

    model: Mapping[str, Any] = field(default_factory=dict)  # of DiffuserConfig
    fit: Mapping[str, Any] = field(default_factory=dict)  # of FitConfig
    sampling: Mapping[str, Any] = field(default_factory=dict)  # of SamplingConfig
    probe: str = ""  # of PROBES: a part that is not the library's


LEVERS: dict[str, Lever] = {
    "base": Lever(),
    "two_heads": Lever(model={"rows": "both"}),
    "absolute_rows": Lever(model={"rows": "absolute"}),
    "residual_rows": Lever(model={"rows": "residuals"}),
    "edm_16": Lever(model={"process": "edm", "calls": 16}),
    "64x3": Lever(model={"width": 64, "depth": 3}),
    "128x4": Lever(model={"width": 128, "depth": 4}),
    "192x4": Lever(model={"width": 192, "depth": 4}),
    "ema_0.99": Lever(fit={"ema_decay": 0.99}),
    "ema_0.995": Lever(fit={"ema_decay": 0.995}),
    "tokens_640": Lever(fit={"tokens_per_step": 640}),
    "tokens_1280": Lever(fit={"tokens_per_step": 1280}),
    "dynamics_1": Lever(fit={"dynamics_updates": 1}),
    "dynamics_64_wide": Lever(model={"dynamics_width": 64}),
    "dynamics_256_wide": Lever(model={"dynamics_width": 256}),
    "bank": Lever(model={"generator": "bank"}),
    "calls_1": Lever(sampling={"calls": 1}),
    "calls_2": Lever(sampling={"calls": 2}),
    "temperature_0.5": Lever(sampling={"temperature": 0.5}),
    "inner_roll_0.8": Lever(sampling={"inner_roll": 0.8}),
    "guide_return": Lever(model={"guide": "return"}),
    "guidance_1": Lever(model={"guide": "return"}, sampling={"guidance_scale": 1.0}),
    "straight_2": Lever(sampling={"calls": 2}, probe="straight"),
} | {name: Lever(probe=name) for name in PROBES if name}


@dataclass(frozen=True)
class Plan:
    """How every cell is made; cells of other plans are not mixed with these."""

    cpu_minutes: float | None = 2.0
    steps: int | None = None  # instead of CPU minutes: bit-reproducible
    lengths: tuple[int, ...] = (5, 10, 25)
    windows: int = 512
    simulated_rows: int = 4000
    horizon: int | None = None  # of chained trajectories; None: none are made
    seed: int = 0
    network: tuple[tuple[str, Any], ...] = ()  # settings of all models, where not the defaults


TINY = Plan(
    cpu_minutes=None,
    steps=2,
    lengths=(5, 10),
    windows=12,
    simulated_rows=40,
    network=(("width", 16), ("depth", 1), ("dynamics_models", 1), ("dynamics_width", 16), ("lengths", (5, 10))),
)


def cell(out: Path, name: str, lever: Lever, store: Path, plan: Plan) -> Path:
    """The file of one cell, made unless it is there.

    Raises ``ValueError`` where it is there, but of other settings.
    """
    file = out / f"{name}__{store.name}.json"
    settings = _settings(lever, plan)
    if file.is_file():
        _require_same(_read(file)["settings"], settings, file)
        return file
    data = open_trajectories(store)
    with probing(lever.probe):
        model = _fitted(data, out / "models" / f"{_first_alike(name, lever)}__{store.name}", lever, plan)
        report = _judged(model, data, plan)
    source = model.provenance
    document = {
        "name": name,
        "data": store.name,
        "settings": settings,
        "steps": source.steps,
        "cpu_seconds": source.cpu_seconds,
        "held_out_loss": source.held_out_loss,
        "fidelity": report.to_json(),
    }
    write_text(file, json.dumps(document, indent=1) + "\n")
    return file


def _settings(lever: Lever, plan: Plan) -> dict[str, dict[str, Any]]:
    """All that a cell hangs on, defaults included, as plain types of JSON."""
    parts = (_config(lever, plan), _fit_config(lever, plan), SamplingConfig(**lever.sampling))
    named = dict(zip(("model", "fit", "sampling"), (part.to_json() for part in parts), strict=True))
    plain: dict[str, dict[str, Any]] = json.loads(
        json.dumps(named | {"plan": asdict(plan), "probe": {"name": lever.probe}})
    )
    return plain


def _require_same(found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]], file: Path) -> None:
    """Raise ``ValueError`` where a setting of the cell in ``file`` is another one now; new settings do not matter."""
    for part, settings in found.items():
        for name, value in settings.items():
            if wanted[part].get(name) != value:
                raise ValueError(
                    f"{file} was made with {part}.{name} = {value!r}, now {wanted[part].get(name)!r} is asked for: "
                    "choose another --out, or remove that file and its model."
                )


def _config(lever: Lever, plan: Plan) -> DiffuserConfig:
    return DiffuserConfig(**(dict(lever.model) | dict(plan.network)))


def _fit_config(lever: Lever, plan: Plan) -> FitConfig:
    budget = {"steps": plan.steps, "cpu_minutes": plan.cpu_minutes, "seed": plan.seed}
    return FitConfig(**(budget | dict(lever.fit)))


def _first_alike(name: str, lever: Lever) -> str:
    """The first lever with the same fit, whose model is taken: levers may differ in sampling only."""
    return next((other for other, it in LEVERS.items() if _fitting(it) == _fitting(lever)), name)


def _fitting(lever: Lever) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    return lever.model, lever.fit, "" if lever.probe in OF_SAMPLING else lever.probe


def _fitted(data: Trajectories, folder: Path, lever: Lever, plan: Plan) -> TrajectoryDiffuser:
    config, settings = _config(lever, plan), _fit_config(lever, plan)
    model = fit(data, folder, config=config, settings=settings, device="cpu", quiet=True)
    model.sampling = SamplingConfig(**lever.sampling)
    return model


def _judged(model: TrajectoryDiffuser, data: Trajectories, plan: Plan) -> FidelityReport:
    train, held_out = model.provenance.split(data)
    judge = Judge.over(held_out, train, data.env_id, simulated_rows=plan.simulated_rows, seed=plan.seed)
    lengths = [length for length in plan.lengths if length <= model.config.longest]
    report = fidelity(
        model,
        held_out,
        train,
        data.env_id,
        lengths=lengths,
        windows=plan.windows,
        variants=VARIANTS,
        seed=plan.seed,
        judge=judge,
    )
    if plan.horizon is None:
        return report
    chains = chain_fidelity(model, held_out, judge, train, horizon=plan.horizon, length=5, variants=VARIANTS)
    return replace(report, chains=chains)


def _cells(out: Path) -> list[Path]:
    return sorted(out.glob("*__*.json"))


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def run(out: Path, stores: Sequence[Path], names: Sequence[str], plan: Plan) -> str:
    """Make all cells, then the tables of all that are in ``out``, which are written to ``levers.md`` and returned.

    Raises ``ValueError`` where one of them is of another plan.
    """
    for file in _cells(out):
        _require_same({"plan": _read(file)["settings"]["plan"]}, _settings(Lever(), plan), file)
    for store in stores:
        for name in names:
            file = cell(out, name, LEVERS[name], store, plan)
            print(f"{file} is there.", flush=True)
    cells = [_read(file) for file in _cells(out)]
    order = list(LEVERS)
    cells.sort(key=lambda found: order.index(found["name"]) if found["name"] in LEVERS else len(order))
    text = tables(cells)
    write_text(out / "levers.md", text + "\n")
    return text


def main() -> None:
    """Make the cells that are asked for, then ``levers.md`` of all that are there; ``--list`` names the levers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for cells, models and levers.md")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="trajectory stores")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--cpu-minutes", type=float, default=2.0, help="of each fit")
    budget.add_argument(
        "--steps", type=int, help="of each fit, in place of CPU minutes: for a machine that is not quiet"
    )
    parser.add_argument("--only", nargs="+", default=list(LEVERS), help="levers; default: all")
    parser.add_argument("--horizon", type=int, help="rows of chained trajectories")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="everything small: seconds, and figures that say nothing")
    parser.add_argument("--list", action="store_true", help="name the levers and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}: {lever}" for name, lever in LEVERS.items()))
        return
    unknown = sorted(set(options.only) - set(LEVERS))
    if unknown:
        parser.error(f"--only must be among {', '.join(LEVERS)}, got {', '.join(unknown)}")
    if options.out is None or not options.data:
        parser.error("--out and --data are needed")
    torch.set_num_threads(1)
    keep_freed_memory()
    by_steps = options.steps is not None
    plan = TINY if options.tiny else Plan(cpu_minutes=None if by_steps else options.cpu_minutes, steps=options.steps)
    print(run(options.out, options.data, options.only, replace(plan, horizon=options.horizon, seed=options.seed)))


if __name__ == "__main__":
    main()
