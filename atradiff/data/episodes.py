"""From flat rows and flags to whole episodes: where each ends, and what its last next observation is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.raw import RawColumns
from atradiff.types import ActionArray, BoolArray, FloatArray, IntArray, Transitions


@dataclass(frozen=True)
class Episodes:
    """Transitions cut into finished episodes, the source rows they came from, and what had to be done to get them."""

    columns: Transitions
    offsets: IntArray
    rows: IntArray  # (N,) row of the source that each transition was
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Ends:
    terminated: BoolArray
    truncated: BoolArray
    notes: tuple[str, ...]

    @property
    def last(self) -> BoolArray:
        return self.terminated | self.truncated


def cut_episodes(raw: RawColumns, actions: ActionArray, horizon: int | None) -> Episodes:
    """Cut checked columns into episodes.

    An episode ends where the file says terminated or truncated, else after ``horizon`` rows (also where its column of
    time-outs marks nothing), else where the file keeps episodes apart. The tail after the last end is kept as a
    truncated episode. Where the file has no next observations they are the following row's; a truncated episode's last
    row then has none and is dropped, a terminated one's repeats the observation, so that its reward and flag are not
    lost.

    Raises :class:`DataError` when no episode is finished at all.
    """
    ends = _close_tail(raw, _ends(raw, horizon))
    if raw.next_observations is not None:
        return _assemble(raw, actions, raw.next_observations, ends, np.arange(len(raw)))
    following, ends, rows = _follow(raw, ends)
    return _assemble(raw, actions, following, ends, rows)


def marks_ends(raw: RawColumns) -> bool:
    """Whether the file says itself where episodes end that do not terminate, so that no horizon is needed."""
    return raw.starts is not None or (raw.truncated is not None and bool(raw.truncated.any()))


def ended_at_reward(episodes: Episodes, reward: float, starts: IntArray | None = None) -> Episodes:
    """Episodes that terminate with the first row that is paid at least ``reward``; what came after it is left out.

    For data of a goal that were recorded on after it was reached, where the task itself ends there. Episodes of a
    single row that is paid right after a terminal one that was are left out, too, unless a recorded episode begins
    there: ``starts`` (E,) are the source rows where those do. Raises ``ValueError`` where no row is paid so much.
    """
    columns, reached = episodes.columns, episodes.columns.rewards >= reward
    if not reached.any():
        highest = float(columns.rewards.max())
        raise ValueError(
            f"end_at_reward must be a reward that some row is paid: got {reward}, the highest is {highest}."
        )
    episode = np.repeat(np.arange(len(episodes.offsets) - 1), np.diff(episodes.offsets))
    before: IntArray = np.cumsum(reached) - reached  # rows that were paid so much before each row, in all episodes
    keep: BoolArray = before == before[episodes.offsets[:-1]][episode]
    keep &= ~_paid_again(episodes, reached, starts)[episode]
    cut = replace(
        columns[keep], terminated=(columns.terminated | reached)[keep], truncated=(columns.truncated & ~reached)[keep]
    )
    lengths = np.bincount(episode[keep])
    lengths = lengths[lengths > 0]  # episodes that are nothing but a row paid again are gone
    ended, dropped = int((reached & keep).sum()), int((~keep).sum())
    note = f"{ended} episodes end with a reward of {reward:g} or more; {dropped} rows after it were left out"
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Episodes(cut, offsets, episodes.rows[keep], (*episodes.notes, note))


def _paid_again(episodes: Episodes, reached: BoolArray, starts: IntArray | None) -> BoolArray:
    """(E,) true where an episode is a single row, and it and the terminal row just before it in the file are paid.

    Where each row at the goal is marked terminal, an agent that stays there begins no new episode.
    """
    first, rows = episodes.offsets[:-1], episodes.rows
    again = (np.diff(episodes.offsets) == 1) & reached[first]
    again[0] = False  # nothing comes before it
    again[1:] &= (reached & episodes.columns.terminated)[first[1:] - 1] & (np.diff(rows)[first[1:] - 1] == 1)
    return again if starts is None else again & ~np.isin(rows[first], starts)


def _ends(raw: RawColumns, horizon: int | None) -> _Ends:
    terminated: BoolArray = raw.terminated
    truncated: BoolArray = np.zeros(len(raw), bool) if raw.truncated is None else raw.truncated
    if raw.starts is not None:
        unmarked = _recorded_ends(raw.starts, len(raw)) & ~(terminated | truncated)
        note = f"{int(unmarked.sum())} recorded episodes have no end marked and are kept as truncated"
        return _Ends(terminated, truncated | unmarked, (note,) if unmarked.any() else ())
    if horizon is None or marks_ends(raw):
        return _Ends(terminated, truncated, ())
    truncated = _horizon_ends(terminated, horizon)
    note = f"the file marks no time-outs: episodes were cut after {horizon} steps"
    return _Ends(terminated, truncated, (note,) if truncated.any() else ())


def _recorded_ends(starts: IntArray, n: int) -> BoolArray:
    """True on the last row of each recorded episode."""
    ends = np.zeros(n, bool)
    ends[np.append(starts[1:], n) - 1] = True
    return ends


def _horizon_ends(terminated: BoolArray, horizon: int) -> BoolArray:
    """Time-outs every ``horizon`` rows since the last end."""
    truncated = np.zeros(len(terminated), bool)
    bounds = np.concatenate([[0], np.flatnonzero(terminated) + 1, [len(terminated)]])
    for start, stop in itertools.pairwise(bounds):
        truncated[start + horizon - 1 : stop : horizon] = True
    return truncated & ~terminated


def _close_tail(raw: RawColumns, ends: _Ends) -> _Ends:
    if not ends.last.any():
        raise raw.error(
            f"no episode is finished: none of the {len(raw)} rows is terminated"
            + (", and the file marks no time-outs." if raw.truncated is None else " or timed out."),
            "Mark the end of each episode, name the environment with --env, or give the episode length with --horizon.",
            "terminated",
            row=len(raw) - 1,
        )
    if ends.last[-1]:
        return ends
    tail = len(raw) - 1 - int(np.flatnonzero(ends.last)[-1])
    truncated = ends.truncated.copy()
    truncated[-1] = True
    note = f"the last episode has no end in the file: its {tail} rows are kept as a truncated episode"
    return _Ends(ends.terminated, truncated, (*ends.notes, note))


def _follow(raw: RawColumns, ends: _Ends) -> tuple[NDArray[Any], _Ends, IntArray]:
    """(next observations, ends, kept rows) from the rows' own order."""
    observations = raw.observations
    following = np.concatenate([observations[1:], observations[-1:]])
    following[ends.terminated] = observations[ends.terminated]
    dropped = ends.truncated & ~ends.terminated
    truncated = ends.truncated & ends.terminated
    truncated[:-1] |= dropped[1:] & ~ends.last[:-1]
    keep = np.flatnonzero(~dropped)
    if len(keep) == 0:
        raise raw.error(
            "every episode is a single row without a next observation, so no transition is left.",
            "Write next_observations.",
            "next_observations",
            row=0,
        )
    notes = list(ends.notes)
    if dropped.any():
        notes.append(f"{int(dropped.sum())} last rows of truncated episodes had no next observation and were dropped")
    if ends.terminated.any():
        notes.append(
            f"{int(ends.terminated.sum())} terminal rows had no next observation and repeat their own observation"
        )
    return following[keep], _Ends(ends.terminated[keep], truncated[keep], tuple(notes)), keep


def _assemble(raw: RawColumns, actions: ActionArray, following: NDArray[Any], ends: _Ends, rows: IntArray) -> Episodes:
    def narrow(column: NDArray[Any]) -> FloatArray:
        return np.ascontiguousarray(column, dtype=np.float32)

    columns = Transitions(
        observations=narrow(raw.observations[rows]),
        actions=np.ascontiguousarray(actions[rows]),
        rewards=narrow(raw.rewards[rows]),
        next_observations=narrow(following),
        terminated=ends.terminated,
        truncated=ends.truncated,
    )
    offsets = np.concatenate([[0], np.flatnonzero(ends.last) + 1]).astype(np.int64)
    return Episodes(columns, offsets, rows, ends.notes)
