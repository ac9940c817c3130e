"""The fidelity report as text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import numpy as np

from atradiff.report.fidelity import FidelityReport, VariantFidelity
from atradiff.report.fidelity_chains import ChainFidelity, LinkFigures
from atradiff.report.fidelity_stages import OneStepFigures, StageFidelity, StageVariant
from atradiff.report.tables import aligned

_SHOWN_LINKS = 10
_WIDTH = 120


def fidelity_table(report: FidelityReport) -> str:
    """The main figures, with the reasons for those that could not be had, and warnings."""
    parts = [_windows(report), *_copies(report)]
    if report.chains:
        parts.append(_chains(report.chains))
    if report.stages:
        parts.append(_stages(report.stages))
    return "\n\n".join([*parts, *(_wrapped(f"WARNING: {sentence}") for sentence in report.warnings)])


def _windows(report: FidelityReport) -> str:
    header = ["K  variant", "dynamics", "reward", "terminal", "KS", "corr", "step ratio", "novelty"]
    header += ["ended", "pruned", "cut", "length", "rows/CPU s"]
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
        "ended: share of windows that end in a terminal row; as real, where terminals are calibrated.",
        *(f"No {reason}" for reason in sorted(reasons)),
    ]
    return "\n".join([aligned([header, *lines]), *notes])


def _line(label: str, figures: VariantFidelity) -> list[str]:
    rows = figures.rows
    ratios = [rows.relative_dynamics_error, rows.relative_reward_error, rows.terminal_accuracy, rows.ks]
    ratios += [rows.correlation, rows.step_size_ratio, rows.novelty]
    shares = [figures.share_terminated, figures.share_pruned, figures.share_cut]
    cells = [label, *(_cell(value, ".3f") for value in ratios), *(_cell(value, ".0%") for value in shares)]
    return [*cells, _cell(figures.mean_length, ".1f"), _cell(figures.transitions_per_cpu_second, ",.0f")]


def _copies(report: FidelityReport) -> Iterator[str]:
    """One sentence: whether generations are copies of training data; where they are, a warning says it."""
    if not report.copies:
        yield "Copies of training data: not looked for, since the data that the model learned from is not known."
    elif not report.warnings:
        length, name, nearest = report.copies[0]
        told = f"Nearest come {name} windows of {length} rows. {nearest.sentence}"
        yield _wrapped(f"Copies of training data: no sign of them. {told}")


def _chains(chains: Mapping[str, ChainFidelity]) -> str:
    first = next(iter(chains.values()))
    header = [
        "chains",
        "length",
        "terminal",
        "disagreed",
        "left data",
        "residual",
        "still",
        "estimate",
        "full",
        "reward/row",
        "real",
        "return",
        "real",
        "rows/CPU s",
    ]
    lines = [[name, *_chain_cells(chain)] for name, chain in chains.items()]
    links = ["link", "rows", "running", "data", "dynamics", "reward", "step ratio", "distance"]
    drift = [
        [f"{name} {number + 1}", *_link_cells(chain.links[number])]
        for name, chain in chains.items()
        for number in _some(len(chain.links))
    ]
    notes = [
        _wrapped(f"Chains of at most {first.horizon} rows, by what ended them. {_data_end(first)}"),
        f"return: of {first.compared} chains, from states after which no time-out cuts the data short;",
        "real: of the data from the same states.",
        "",
        aligned([links, *drift]),
        "running: share of the chains that come so far; data: of the training data. distance: of the chains' states",
        "from training states, 1 is as far as held-out states lie.",
    ]
    return "\n".join([aligned([header, *lines]), *notes])


def _data_end(chain: ChainFidelity) -> str:
    if chain.real_ended_terminal is None:
        return "No episode of the data has room for as many rows."
    real = f"Of the data {chain.real_ended_terminal:.0%} end in a terminal row within as many"
    learned = chain.learned_ended_terminal
    told = "" if learned is None else f"; {learned:.0%} of those that the model learned from"
    return f"{real} ({chain.real_episodes} held-out episodes{told})."


def _chain_cells(chain: ChainFidelity) -> list[str]:
    refined = [chain.ended_disagreement, chain.ended_range, chain.ended_residual]
    shares = [chain.ended_terminal, *refined, chain.ended_still, chain.ended_estimate]
    return [
        f"{chain.mean_length:.1f}",
        *(f"{share:.0%}" for share in (*shares, chain.full_length)),
        *(f"{value:.3f}" for value in (chain.reward_per_row, chain.real_reward_per_row)),
        *(_cell(value, ".1f") for value in (chain.mean_return, chain.real_mean_return)),
        _cell(chain.transitions_per_cpu_second, ",.0f"),
    ]


def _link_cells(link: LinkFigures) -> list[str]:
    ratios = [link.relative_dynamics_error, link.relative_reward_error, link.step_size, link.state_distance]
    running = [f"{link.running:.0%}", _cell(link.learned_running, ".0%")]
    return [f"{link.start}-{link.stop - 1}", *running, *(_cell(value, ".3f") for value in ratios)]


def _some(count: int) -> list[int]:
    """At most :data:`_SHOWN_LINKS` of ``count``, from first to last."""
    return sorted(set(np.linspace(0, count - 1, min(count, _SHOWN_LINKS)).round().astype(int).tolist()))


def _stages(stages: Mapping[str, StageFidelity]) -> str:
    header = ["states of  K  variant", "dynamics", "reward", "terminal", "length", "cut", "disagreed", "left data"]
    lines = [
        [f"{stage:<9}  {length:<2} {name}", *_stage_cells(figures)]
        for stage, found in stages.items()
        for length, variants in found.by_length.items()
        for name, figures in variants.items()
    ]
    model = ["one-step model", "env steps", "distance", "error", "rank corr", "beyond", "error within", "error beyond"]
    known = [[name, *_one_step_cells(found)] for name, found in stages.items()]
    notes = [
        "",
        aligned([model, *known]),
        "The one-step model on diffused rows. rank corr: of its disagreement with its true error. beyond: rows whose",
        "disagreement would end a trajectory. distance: of the states from training states; held-out ones: 1.",
    ]
    return "\n".join([aligned([header, *lines]), *notes])


def _stage_cells(figures: StageVariant) -> list[str]:
    rows = figures.rows
    ratios = [rows.relative_dynamics_error, rows.relative_reward_error, rows.terminal_accuracy]
    shares = [figures.share_cut, figures.share_disagreed - figures.share_left_data, figures.share_left_data]
    return [
        *(_cell(value, ".3f") for value in ratios),
        f"{figures.mean_length:.1f}",
        *(f"{share:.0%}" for share in shares),
    ]


def _one_step_cells(found: StageFidelity) -> list[str]:
    steps = "-" if found.first is None else f"{found.first}-{found.last}"
    figures = found.one_step or OneStepFigures(None, None, 0.0, None, None)
    beyond = "-" if found.one_step is None else f"{figures.share_beyond:.1%}"
    ratios = [_cell(value, ".3f") for value in (found.state_distance, figures.relative_error)]
    rest = [_cell(value, ".3f") for value in (figures.error_within, figures.error_beyond)]
    return [steps, *ratios, _cell(figures.rank_correlation, ".2f"), beyond, *rest]


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, _WIDTH)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
