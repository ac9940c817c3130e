"""What is in a store, as numbers and as a page of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.schema import StoreInfo
from atradiff.data.scores import find_task, has_score, normalized_score
from atradiff.data.store import open_trajectories, read_episode_table, read_info

_BAR = 40
_BINS = 10


@dataclass(frozen=True)
class Spread:
    """Minimum, quartiles, maximum and mean of one number per episode."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    mean: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """Of at least one value, in an array of any shape."""
        low, lower, median, upper, high = (float(q) for q in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
        return cls(low, lower, median, upper, high, float(np.mean(values)))

    def __str__(self) -> str:
        return (
            f"min {self.minimum:.6g}  quartiles {self.lower_quartile:.6g} / {self.median:.6g} / "
            f"{self.upper_quartile:.6g}  max {self.maximum:.6g}  mean {self.mean:.6g}"
        )


@dataclass(frozen=True)
class StoreSummary:
    """``score`` is the D4RL-normalised score, 0-100 (None where the task has no reference returns)."""

    path: str
    info: StoreInfo
    lengths: Spread
    returns: Spread
    score: Spread | None
    successes: int | None
    """Episodes that succeeded at some step; None where the source does not say."""
    histogram: tuple[tuple[float, float, int], ...]
    """(from, to, episodes) over the returns."""


def summarize(path: str | Path) -> StoreSummary:
    """Read a store's figures; raises :class:`atradiff.data.errors.DataError` where there is none."""
    data, info = open_trajectories(path), read_info(path)
    success = read_episode_table(path).get("success")
    counts, edges = np.histogram(data.returns, bins=_BINS if np.ptp(data.returns) > 0 else 1)
    name = _score_name(info)
    return StoreSummary(
        path=str(path),
        info=info,
        lengths=Spread.of(data.lengths),
        returns=Spread.of(data.returns),
        score=Spread.of(normalized_score(name, data.returns)) if name else None,
        successes=None if success is None else int(success.sum()),
        histogram=tuple((float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)),
    )


def describe(path: str | Path) -> str:
    """The page that ``atradiff data info`` prints."""
    summary = summarize(path)
    info = summary.info
    lines = [
        f"{summary.path}",
        f"  source        {info.source} (licence: {info.licence})",
        f"  environment   {info.env_id or 'unknown'}",
        f"  spaces        {_spaces(info)}",
        f"  transitions   {info.n_transitions:,} in {info.n_episodes:,} episodes",
        f"  ends          {info.n_terminated:,} terminated, {info.n_truncated:,} truncated",
        f"  lengths       {summary.lengths}",
        f"  returns       {summary.returns}",
        *_score_lines(summary),
        *([] if summary.successes is None else [f"  success       {summary.successes} of {info.n_episodes} episodes"]),
        f"  content       {info.content_hash}",
        *(f"  note          {note}" for note in info.notes),
        "  returns, episodes per bin:",
        *_histogram_lines(summary),
    ]
    return "\n".join(lines)


def _score_name(info: StoreInfo) -> str | None:
    return next((name for name in (info.dataset_name, info.env_id) if has_score(name)), None)


def _score_lines(summary: StoreSummary) -> list[str]:
    name = _score_name(summary.info)
    if summary.score is None or name is None:
        return []
    lines = [f"  D4RL score    {summary.score}  (normalised, 0 = random, 100 = expert)"]
    task = find_task(name)
    if task is not None and not summary.info.source.startswith("D4RL "):
        lines.append("                not D4RL's own data: do not compare with its tables")
        lines.append(f"                {task.differs}")
    return lines


def _spaces(info: StoreInfo) -> str:
    spaces = info.spaces
    if spaces.discrete:
        return f"observation {spaces.observation_size}, {spaces.n_actions} discrete actions"
    low, high = min(spaces.action_low), max(spaces.action_high)
    return f"observation {spaces.observation_size}, action {spaces.action_size} in [{low:g}, {high:g}]"


def _histogram_lines(summary: StoreSummary) -> list[str]:
    most = max(n for _, _, n in summary.histogram)
    return [
        f"    {low:>10.4g} .. {high:<10.4g} {'#' * max(round(_BAR * n / most), int(n > 0)):<{_BAR}} {n}"
        for low, high, n in summary.histogram
    ]
