"""How often pruning finds the end of a window, and how often it leaves a whole window alone.

``python -m benchmarks.pruning [--data STORE] --json F``. Real windows with the paper's padding get noise on every state
but the first, in units of each dimension's spread: what a diffuser's imperfection looks like to the rule. The gate is
told how large the steps of other, equally noisy windows are where they should stand still, as a fitted model is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from atradiff.config import Prune
from atradiff.data.normalize import Normalizer
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows, WindowSampler
from atradiff.pruning import kept_rows, step_similarity
from atradiff.staging import write_text
from atradiff.types import FloatArray, IntArray

NOISES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
METHODS: tuple[Prune, ...] = ("gated", "paper")


@dataclass(frozen=True)
class PruningShares:
    """Shares of windows, in 0..1."""

    exact_end: float  # of the padded windows: exactly the real rows are kept
    within_one: float  # of the padded windows: off by at most one row
    whole_kept: float  # of the windows without padding: kept whole
    standing_step: float  # mean size of a step that should be zero, in units of a real step's spread


def measure(
    data: Trajectories, *, length: int = 25, windows: int = 2000, seed: int = 0
) -> dict[str, dict[str, PruningShares]]:
    """Shares by method, then by noise level, over ``windows`` padded and as many whole windows of ``length`` rows.

    Raises ``ValueError`` where no episode of the data terminates: nothing is padded then.
    """
    if not np.any(data.columns.terminated):
        raise ValueError("no episode of the data terminates, so no window is padded and there is nothing to find.")
    scales, rng = Normalizer.fit(data), np.random.default_rng(seed)
    padded, others, whole = _draw(data, length, windows, rng)
    shares: dict[str, dict[str, PruningShares]] = {method: {} for method in METHODS}
    for noise in NOISES:
        ends, calm, full = (_noisy(w, noise * scales.state_scale, rng) for w in (padded, others, whole))
        standing = float(np.abs(step_similarity(calm, scales.delta_scale)[others.padding]).mean())
        for method in METHODS:
            all_rows = np.full(windows, length)
            off = kept_rows(method, ends, all_rows, scales.delta_scale, standing) - (~padded.padding).sum(axis=1)
            kept = kept_rows(method, full, all_rows, scales.delta_scale, standing)
            shares[method][str(noise)] = PruningShares(
                float(np.mean(off == 0)), float(np.mean(np.abs(off) <= 1)), float(np.mean(kept == length)), standing
            )
    return shares


def _draw(data: Trajectories, length: int, windows: int, rng: np.random.Generator) -> tuple[Windows, Windows, Windows]:
    """Padded windows, further padded ones to estimate noise on, and whole ones."""
    sampler = WindowSampler(data, (length,))
    starts = sampler.starts(length)
    is_padded = sampler.at(starts, length).padding.any(axis=1)

    def some(pool: IntArray) -> Windows:
        return sampler.at(rng.choice(pool, windows), length)

    return some(starts[is_padded]), some(starts[is_padded]), some(starts[~is_padded])


def _noisy(windows: Windows, spread: FloatArray, rng: np.random.Generator) -> FloatArray:
    states = windows.states.copy()
    states[:, 1:] += rng.normal(size=states[:, 1:].shape).astype(np.float32) * spread
    return states


def _random_hopper(folder: Path) -> Trajectories:
    from atradiff.data.collect import collect

    collect("Hopper-v5", "random", 400, folder / "hopper", progress=False)
    return open_trajectories(folder / "hopper")


def main() -> None:
    """Print the shares of each rule by noise; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="trajectory store; default: 400 random episodes of Hopper-v5")
    parser.add_argument("--json", type=Path, help="file to write the shares to")
    parser.add_argument("--length", type=int, default=25)
    parser.add_argument("--windows", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = open_trajectories(options.data) if options.data else _random_hopper(Path(folder))
        shares = measure(data, length=options.length, windows=options.windows)
    if options.json:
        document = {m: {noise: asdict(s) for noise, s in by_noise.items()} for m, by_noise in shares.items()}
        write_text(options.json, json.dumps(document, indent=1) + "\n")
    print("method  noise  standing step  exact end  within one  whole kept")
    for method, by_noise in shares.items():
        for noise, s in by_noise.items():
            print(f"{method:6}  {float(noise):5.2f}  {s.standing_step:13.3f}", end="")
            print(f"  {s.exact_end:9.1%}  {s.within_one:10.1%}  {s.whole_kept:10.1%}")


if __name__ == "__main__":
    main()
