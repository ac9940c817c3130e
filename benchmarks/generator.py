"""Generators side by side: how right their rows are, and how many a CPU second makes.

``python -m benchmarks.generator --json F [--data STORE] [--plot F.png] [--cpu-minutes 2]``. SynthER (its own sampler
and 20-step DPM-Solver++), the paper's bank, a bank of our transformers, and one transformer for all lengths, with rows
of differences (ours) and of residuals, each fitted for the same CPU minutes on the same episodes, and S4RL, which is
not fitted: rows of the training episodes, perturbed. Without ``--data``: random episodes of Hopper-v5. Quality is
measured against the environment and held-out episodes as `atradiff fidelity` does; speed in turns, one torch thread,
best of the rounds. ``--only synther`` fits SynthER alone, and so on. ``--device cuda`` fits and samples on a GPU, with
its larger networks: seconds are those of the clock then. ``--tiny`` is the same in seconds, to see that it runs: its
figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atradiff.allocator import keep_freed_memory
from atradiff.augment.s4rl import KINDS, S4RLConfig, S4RLGenerator, StateAugmentation
from atradiff.augment.synther import SyntherDiffuser
from atradiff.augment.synther_fit import fit_synther
from atradiff.config import PROJECTION_STEPS, DiffuserConfig, FitConfig, Prune, Refine, SyntherConfig, SyntherFit
from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import TrajectoryGenerator
from atradiff.report.fidelity_windows import VARIANTS, ends_at_termination, real_windows
from atradiff.report.judge import Judge
from atradiff.report.tables import aligned
from atradiff.staging import write_text
from atradiff.types import FloatArray, SyntheticTrajectories
from benchmarks.generator_plot import save_plot

YARDSTICK = "synther_1024"
"""The method that speeds are given over: width 1024, its own sampler."""

MODELS = ("synther", "s4rl", "paper_bank", "bank", "ours", "residuals")
"""What there is; SynthER always, since speeds are given over its own."""

OF_WINDOWS = frozenset(("paper_bank", "bank", "ours", "residuals"))
"""Those of them whose windows have the lengths asked for."""

S4RL_KINDS = tuple(kind for kind in KINDS if kind != "adversarial")
"""Those that need no learner's critic."""

PAPER = DiffuserConfig(
    generator="bank",
    network="residual_mlp",
    rows="absolute",
    process="edm",
    solver="stochastic",
    calls=255,
    prune="paper",
    refine="none",
    ends="networks",
)

WAYS = {**VARIANTS, "paper": ("none", "paper")}
"""What is judged, by name: (refine, prune); the paper's bank prunes as the paper does."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    cpu_minutes: float | None = 2.0
    steps: int | None = None
    synther_widths: tuple[int, ...] = (1024,)
    network: tuple[tuple[str, int], ...] = ()  # settings of ours, where not the defaults
    paper_network: tuple[tuple[str, int], ...] = ()
    synther_calls: tuple[tuple[str, int | None], ...] = (("stochastic", None), ("dpm++", None))
    windows: int = 512
    slice_seconds: float = 0.5
    rounds: int = 5
    models: tuple[str, ...] = MODELS
    s4rl_kinds: tuple[str, ...] = ("gaussian",)
    device: str = "cpu"
    projection_steps: int = PROJECTION_STEPS


TINY = Scale(
    cpu_minutes=None,
    steps=4,
    synther_widths=(1024,),
    network=(("width", 16), ("depth", 1), ("dynamics_models", 2), ("dynamics_width", 16)),
    paper_network=(("width", 16), ("depth", 1), ("calls", 3), ("dynamics_models", 1), ("dynamics_width", 16)),
    synther_calls=(("stochastic", 3), ("dpm++", 2)),
    windows=12,
    slice_seconds=0.0,
    rounds=1,
)


@dataclass(frozen=True)
class Method:
    """One way to imagine rows; ``imagine`` takes states (B, S) and a seed."""

    name: str
    calls: int
    length: int  # rows of a window; 1 for single transitions
    variant: str  # of WAYS
    imagine: Callable[[FloatArray, int], SyntheticTrajectories]


@dataclass(frozen=True)
class Figures:
    """What one method was found to be. Errors are relative to standing still and to the mean reward; KS 1 is alike."""

    name: str
    calls: int
    length: int
    variant: str
    relative_dynamics_error: float | None
    relative_reward_error: float | None
    ks: float | None
    step_size_ratio: float | None
    mean_length: float
    transitions_per_cpu_second: float


def fitted_methods(data: Trajectories, scale: Scale, lengths: Sequence[int], seed: int) -> Iterator[Method]:
    """Fit one model after the other and yield the ways to sample it."""
    for width in scale.synther_widths:
        yield from _synther_methods(data, width, scale, seed)
    if "s4rl" in scale.models:
        yield from _s4rl_methods(data, scale, seed)
    ours = DiffuserConfig(**dict(scale.network))  # type: ignore[arg-type]
    paper = replace(PAPER, **dict(scale.paper_network))  # type: ignore[arg-type]
    configs = {
        "paper_bank": paper,
        "bank": replace(ours, generator="bank"),
        "ours": ours,
        "residuals": replace(ours, rows="residuals"),
    }
    for name in (name for name in configs if name in scale.models):
        config = configs[name]
        model = fit(data, config=config, settings=_fit_settings(scale, seed), device=scale.device, quiet=True)
        for calls in (1, 2, 4) if config.process == "shortcut" else (config.calls or 0,):
            for length in (k for k in lengths if k in model.config.lengths):
                for variant in _variants(name, calls):
                    yield Method(name, calls, length, variant, _windows_of(model, calls, length, *WAYS[variant], scale))


def _variants(name: str, calls: int) -> tuple[str, ...]:
    if name == "paper_bank":
        return ("paper",)
    return ("raw", "cut", "dynamics", "project") if name == "ours" and calls > 1 else ("raw", "cut", "dynamics")


def _fit_settings(scale: Scale, seed: int) -> FitConfig:
    return FitConfig(steps=scale.steps, cpu_minutes=scale.cpu_minutes, seed=seed)


def _synther_methods(data: Trajectories, width: int, scale: Scale, seed: int) -> Iterator[Method]:
    train, _ = _split(data, seed)
    settings = SyntherFit(steps=scale.steps, cpu_minutes=scale.cpu_minutes, seed=seed)
    model = fit_synther(
        data.spaces, train.columns, SyntherConfig(width=width), settings, device=scale.device, quiet=True
    )
    names = {"stochastic": f"synther_{width}", "dpm++": f"synther_{width}_dpm"}
    for solver, calls in scale.synther_calls:
        config = SyntherConfig(width=width, solver=solver, calls=calls)  # type: ignore[arg-type]
        sampled = SyntherDiffuser(config, model.codec, model.network, device=scale.device)
        yield Method(names[solver], config.network_calls, 1, "raw", _transitions_of(sampled))


def _s4rl_methods(data: Trajectories, scale: Scale, seed: int) -> Iterator[Method]:
    """No network is called: calls are 0."""
    train, _ = _split(data, seed)
    for kind in scale.s4rl_kinds:
        augmentation = StateAugmentation(S4RLConfig(kind=kind))  # type: ignore[arg-type]
        generator = S4RLGenerator(data.spaces, train.columns, augmentation)
        yield Method(f"s4rl_{kind}", 0, 1, "raw", _transitions_of(generator))


def _transitions_of(model: TrajectoryGenerator) -> Callable[[FloatArray, int], SyntheticTrajectories]:
    return lambda states, seed: model.generate(states, generator_seed=seed)


def _windows_of(
    model: TrajectoryDiffuser, calls: int, length: int, refine: Refine, prune: Prune, scale: Scale
) -> Callable[[FloatArray, int], SyntheticTrajectories]:
    return lambda states, seed: model.generate(
        states,
        generator_seed=seed,
        calls=calls,
        length=length,
        refine=refine,
        prune=prune,
        projection_steps=scale.projection_steps,
    )


def _split(data: Trajectories, seed: int) -> tuple[Trajectories, Trajectories]:
    """(training, held-out), as a fit splits them."""
    return data.split(FitConfig(steps=1).held_out, seed)


def measure(data: Trajectories, scale: Scale, lengths: Sequence[int], seed: int) -> list[Figures]:
    """Fit all, judge all, then time all in turns.

    Raises ``ValueError``, before any fit, where the data name no environment or have no windows of ``lengths``.
    """
    if data.env_id is None:
        raise ValueError("the data name no environment, so nothing can be held against it: import them with --env.")
    train, held_out = _split(data, seed)
    if OF_WINDOWS & set(scale.models):
        for part in (train, held_out):
            _require_windows(part, lengths)
    judge = Judge.over(held_out, train, data.env_id, simulated_rows=4000, seed=seed)
    methods = list(fitted_methods(data, scale, lengths, seed))
    quality = [_judged(method, held_out, judge, scale, seed) for method in methods]
    speeds = _timed(methods, held_out.columns.observations, scale)
    return [replace(f, transitions_per_cpu_second=speed) for f, speed in zip(quality, speeds, strict=True)]


def _require_windows(data: Trajectories, lengths: Sequence[int]) -> None:
    """A fit leaves out lengths that no training episode serves, and no held-out one serves to judge others by."""
    served = WindowSampler(data, DiffuserConfig().lengths).lengths
    missing = [length for length in lengths if length not in served]
    if missing:
        raise ValueError(f"these data have windows of {served} rows, not of {missing}: leave them out.")


def _judged(method: Method, held_out: Trajectories, judge: Judge, scale: Scale, seed: int) -> Figures:
    truth = real_windows(held_out, method.length, scale.windows * (4 if method.length == 1 else 1), seed)
    imagined = ends_at_termination(method.imagine(truth.observations[:, 0], seed))
    rows = judge.figures(imagined.to_transitions(), truth.to_transitions())
    return Figures(
        method.name,
        method.calls,
        method.length,
        method.variant,
        rows.relative_dynamics_error,
        rows.relative_reward_error,
        rows.ks,
        rows.step_size_ratio,
        float(imagined.lengths.mean()),
        0.0,
    )


def _timed(methods: Sequence[Method], pool: FloatArray, scale: Scale) -> list[float]:
    """Transitions per CPU second of each method, on a GPU per second: the best of the turns, in which all take part."""
    rng = np.random.default_rng(0)
    clock = time.process_time if scale.device == "cpu" else time.perf_counter
    best = [0.0] * len(methods)
    for turn in range(scale.rounds):
        for i, method in enumerate(methods):
            states = pool[rng.integers(len(pool), size=_requests(method, scale.device))]
            best[i] = max(best[i], _rate(method, states, scale.slice_seconds, turn, clock))
    return best


def _requests(method: Method, device: str) -> int:
    """States per call. On a GPU all make as many rows in one: with fewer, the time is that of starting kernels."""
    return 256 if device == "cpu" else 16_384 // method.length


def _rate(
    method: Method, states: FloatArray, seconds: float, seed: int, clock: Callable[[], float] = time.process_time
) -> float:
    """Whole batches until ``seconds`` of ``clock`` are spent, at least one."""
    started, rows, spent = clock(), 0, 0.0
    while rows == 0 or spent < seconds:
        rows += int(method.imagine(states, seed).lengths.sum())
        spent = clock() - started
    return rows / max(spent, 1e-9)


def report(data: Trajectories, figures: Sequence[Figures], scale: Scale) -> dict[str, Any]:
    """The document that ``--json`` writes."""
    longest = max(f.length for f in figures)
    base = next(f for f in figures if f.name == YARDSTICK)

    def ratios(variant: str, name: str = "ours") -> dict[str, float]:
        ours = (f for f in figures if (f.name, f.length, f.variant) == (name, longest, variant))
        return {str(f.calls): f.transitions_per_cpu_second / base.transitions_per_cpu_second for f in ours}

    return {
        "env": data.env_id,
        "transitions": data.n_transitions,
        "cpu_minutes": scale.cpu_minutes,
        "device": scale.device,
        "projection_steps": scale.projection_steps,
        "speed_over_synther_1024": ratios("raw"),
        "refined_speed_over_synther_1024": ratios("dynamics"),
        "projected_speed_over_synther_1024": ratios("project"),
        "residuals_speed_over_synther_1024": ratios("raw", "residuals"),
        "methods": [asdict(f) for f in figures],
    }


def table(figures: Sequence[Figures]) -> str:
    """The figures as lines of text, with speeds over SynthER's."""
    base = next(f for f in figures if f.name == YARDSTICK).transitions_per_cpu_second
    header = ["method", "calls", "K", "variant", "dynamics", "reward", "KS", "steps", "length", "rows/CPU s", "speed"]
    return aligned([header, *(_line(f, base) for f in figures)])


def _line(f: Figures, base: float) -> list[str]:
    ratios = (f.relative_dynamics_error, f.relative_reward_error, f.ks, f.step_size_ratio)
    cells = ["-" if value is None else f"{value:.3f}" for value in ratios]
    speed = f.transitions_per_cpu_second
    head = [f.name, str(f.calls), str(f.length), f.variant]
    return [*head, *cells, f"{f.mean_length:.1f}", f"{speed:,.0f}", f"{speed / base:,.0f}x"]


def main() -> None:
    """Fit, judge and time all methods, print the table; ``--json`` and ``--plot`` write files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    parser.add_argument("--plot", type=Path, help="file to draw quality against speed into")
    parser.add_argument("--data", type=Path, help="trajectory store; default: 400 random episodes of Hopper-v5")
    parser.add_argument("--cpu-minutes", type=float, default=2.0, help="for each fit")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, help="synther must be among them")
    parser.add_argument("--s4rl-kinds", nargs="+", choices=S4RL_KINDS, default=["gaussian"], help="of s4rl")
    parser.add_argument("--synther-widths", type=int, nargs="+", default=[1024], help="1024 must be among them")
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 25], help="window lengths K in rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--projection-steps", type=int, default=PROJECTION_STEPS, help="of ours, as `project`")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="everything small: seconds, and figures that say nothing")
    options = parser.parse_args()
    if 1024 not in options.synther_widths:
        parser.error(f"--synther-widths must hold 1024, what speeds are given over, got {options.synther_widths}")
    if "synther" not in options.only:
        parser.error(f"--only must hold synther, what speeds are given over, got {', '.join(options.only)}")
    known = DiffuserConfig().lengths
    if not set(options.lengths) <= set(known):
        parser.error(f"--lengths must be some of those that models are fitted for, {known}, got {options.lengths}")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device must be cpu: torch sees no GPU here, got {options.device}")
    torch.set_num_threads(1)
    keep_freed_memory()
    widths = tuple(options.synther_widths)
    full = Scale(cpu_minutes=options.cpu_minutes, rounds=options.rounds, synther_widths=widths)
    chosen = TINY if options.tiny else full
    models, kinds = tuple(options.only), tuple(options.s4rl_kinds)
    steps = options.projection_steps
    scale = replace(chosen, models=models, s4rl_kinds=kinds, device=options.device, projection_steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        data = open_trajectories(options.data or _random_hopper(Path(folder) / "data", 40 if options.tiny else 400))
        figures = measure(data, scale, options.lengths, options.seed)
        document = report(data, figures, scale)
    print(table(figures))
    if options.json:
        write_text(options.json, json.dumps(document, indent=1) + "\n")
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        save_plot(document["methods"], options.plot, title=f"{data.env_id}, {scale.cpu_minutes} CPU minutes per fit")


def _random_hopper(folder: Path, episodes: int) -> Path:
    collect("Hopper-v5", "random", episodes, folder, progress=False)
    return folder


if __name__ == "__main__":
    main()
