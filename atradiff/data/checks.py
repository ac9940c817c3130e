"""Refusals: a column that is wrong stops the import with its file, field, row and the remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.raw import RawColumns
from atradiff.types import Spaces

ACTION_TOLERANCE = 1e-4
"""How far outside its bounds an action may lie, as a share of the range: float32 files hold rounded bounds."""


def check_columns(raw: RawColumns) -> RawColumns:
    """Return ``raw`` with (N, 1) rewards and flags as (N,) and flags as bool, or raise :class:`DataError`.

    Checks lengths, axes, dtypes and that every number is finite, also as float32.
    """
    _check_lengths(raw)
    raw = _squeeze(raw)
    _check_axes(raw)
    for name in ("observations", "next_observations"):
        if getattr(raw, name) is not None:
            _check_kind(raw, name, "f", "floats", "Convert it to float32 when writing the file.")
    _check_kind(raw, "actions", "fiu", "floats (continuous) or integers (discrete)", "Convert it to float32 or int64.")
    _check_kind(raw, "rewards", "fiub", "numbers", "Convert it to float32 when writing the file.")
    for name in ("observations", "actions", "rewards", "next_observations"):
        _check_finite(raw, name)
    truncated = None if raw.truncated is None else _flags(raw, "truncated")
    return replace(raw, terminated=_flags(raw, "terminated"), truncated=truncated)


def check_actions(raw: RawColumns, spaces: Spaces, *, clip: bool) -> tuple[NDArray[Any], int]:
    """(actions as stored, number of clipped rows); raises :class:`DataError` for actions outside ``spaces``."""
    return _discrete_actions(raw, spaces) if spaces.discrete else _continuous_actions(raw, spaces, clip=clip)


def check_observation_size(raw: RawColumns, spaces: Spaces) -> None:
    """Raise :class:`DataError` unless observations are as wide as ``spaces`` has them."""
    width = raw.observations.shape[1]
    if width != spaces.observation_size:
        raise raw.error(
            f"is {width} wide, but the environment's flattened observation has {spaces.observation_size} entries.",
            "Name the environment that the data come from with --env, or leave --env out.",
            "observations",
        )


def _check_lengths(raw: RawColumns) -> None:
    lengths = {raw.names.get(name, name): len(np.atleast_1d(c)) for name, c in raw.present().items()}
    if lengths and max(lengths.values()) == 0:
        raise raw.error("holds no rows.", "Give a file with at least one finished episode.")
    for name, column in raw.present().items():
        if len(np.atleast_1d(column)) != len(raw):
            raise raw.error(
                f"has {len(np.atleast_1d(column))} rows, but observations have {len(raw)} (all: {lengths}).",
                "Write all columns with one row per transition.",
                name,
                row=min(len(np.atleast_1d(column)), len(raw)),
            )


def _squeeze(raw: RawColumns) -> RawColumns:
    narrow = {}
    for name in ("rewards", "terminated", "truncated"):
        column = getattr(raw, name)
        if column is not None and column.ndim == 2 and column.shape[1] == 1:
            narrow[name] = column[:, 0]
    if np.issubdtype(raw.actions.dtype, np.integer) and raw.actions.ndim == 2 and raw.actions.shape[1] == 1:
        narrow["actions"] = raw.actions[:, 0]
    return replace(raw, **narrow) if narrow else raw


def _check_axes(raw: RawColumns) -> None:
    expected = {"observations": (2,), "next_observations": (2,), "actions": (1, 2)}
    for name, column in raw.present().items():
        if column.ndim not in expected.get(name, (1,)):
            raise raw.error(
                f"has shape {column.shape}; it must have {' or '.join(map(str, expected.get(name, (1,))))} axes.",
                "Flatten each row to a vector (rewards and flags: to one number).",
                name,
            )
    if raw.next_observations is not None and raw.next_observations.shape != raw.observations.shape:
        raise raw.error(
            f"has shape {raw.next_observations.shape}, observations have {raw.observations.shape}.",
            "Write next_observations with the same width as observations, or leave them out.",
            "next_observations",
        )


def _check_kind(raw: RawColumns, name: str, kinds: str, what: str, remedy: str) -> None:
    dtype = getattr(raw, name).dtype
    if dtype.kind not in kinds:
        raise raw.error(f"has dtype {dtype}; it must hold {what}.", remedy, name)


def _check_finite(raw: RawColumns, name: str) -> None:
    column = getattr(raw, name)
    if column is None or column.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        good = np.isfinite(column.astype(np.float32, copy=False))
    if good.all():
        return
    where = tuple(int(i) for i in np.argwhere(~good)[0])
    entry = f" in column {where[1]}" if len(where) > 1 else ""
    raise raw.error(
        f"holds {column[where]}{entry} ({int((~good).sum())} such values; as float32 it must be finite).",
        "Drop or repair the episodes that hold it: a model fitted on it would be worthless.",
        name,
        row=where[0],
    )


def _flags(raw: RawColumns, name: str) -> NDArray[np.bool_]:
    column = getattr(raw, name)
    if column.dtype.kind not in "biuf":
        raise raw.error(f"has dtype {column.dtype}; it must hold booleans.", "Convert it to bool.", name)
    odd = ~((column == 0) | (column == 1))
    if odd.any():
        row = int(np.argmax(odd))
        raise raw.error(f"holds {column[row]}; flags must be 0 or 1.", "Convert it to bool.", name, row=row)
    return column.astype(np.bool_)


def _discrete_actions(raw: RawColumns, spaces: Spaces) -> tuple[NDArray[Any], int]:
    actions = raw.actions
    if actions.dtype.kind not in "iu" or actions.ndim != 1:
        raise raw.error(
            f"has dtype {actions.dtype} and shape {actions.shape}, but the space is Discrete({spaces.n_actions}).",
            "Write one integer per row, or name the right environment with --env.",
            "actions",
        )
    outside = (actions < 0) | (actions >= spaces.n_actions)
    if outside.any():
        row = int(np.argmax(outside))
        raise raw.error(
            f"holds action {actions[row]}, outside the space 0..{spaces.n_actions - 1}.",
            "Name the right environment with --env, or drop these episodes.",
            "actions",
            row=row,
        )
    return actions.astype(np.int64), 0


def _continuous_actions(raw: RawColumns, spaces: Spaces, *, clip: bool) -> tuple[NDArray[Any], int]:
    actions = raw.actions
    if actions.dtype.kind != "f" or actions.ndim != 2 or actions.shape[1] != spaces.action_size:
        raise raw.error(
            f"has dtype {actions.dtype} and shape {actions.shape}, but the action space is a box of "
            f"{spaces.action_size} floats.",
            f"Write float actions of shape (N, {spaces.action_size}), or name the right environment with --env.",
            "actions",
        )
    low, high = np.array(spaces.action_low, np.float32), np.array(spaces.action_high, np.float32)
    slack = ACTION_TOLERANCE * np.where(np.isfinite(high - low), high - low, 1.0)
    outside = ((actions < low - slack) | (actions > high + slack)).any(axis=1)
    if outside.any() and not clip:
        row = int(np.argmax(outside))
        dimension = int(np.argmax((actions[row] < low - slack) | (actions[row] > high + slack)))
        raise raw.error(
            f"holds {actions[row, dimension]:g} in column {dimension}, outside the space "
            f"[{low[dimension]:g}, {high[dimension]:g}] ({int(outside.sum())} such rows).",
            "Name the right environment with --env, scale the actions, or clip them with --clip-actions true.",
            "actions",
            row=row,
        )
    stored = np.clip(actions, low, high) if clip else actions
    return stored.astype(np.float32), int(outside.sum())
