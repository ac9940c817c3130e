"""Which journal a replay believes: after a restart on any node, and when a run is resumed. Without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from replay_actors import SPACES, chunk

from atradiff.config import ServingConfig
from atradiff.replay.config import ReplayConfig
from atradiff.replay.journal import Journal
from atradiff.replay.mixed import MixedReplay
from atradiff.replay.shared import SharedReplay
from cluster.distributed import _Starter
from cluster.replay_actor import RowsLostError, recovered
from cluster.storage import Location


def open_replay(folder: Path, *, anew: bool = False) -> SharedReplay:
    replay = MixedReplay(SPACES, ReplayConfig(capacity=100), 0)
    return SharedReplay(replay, ServingConfig(), Journal(folder, 10), anew=anew)


def claim_of(shared: SharedReplay) -> str:
    assert shared.generation is not None
    return shared.generation


@pytest.fixture
def at_a(tmp_path: Path) -> tuple[Path, str]:
    """The journal that a process left on a node, and its generation."""
    folder = tmp_path / "a" / "journal"
    shared = recovered(partial(open_replay, folder), folder, None)
    shared.store(chunk(0, 12, "runner", 0))  # a snapshot follows
    shared.store(chunk(12, 3, "runner", 1))
    shared.save(tmp_path / "checkpoint")
    shared.close()
    return folder, claim_of(shared)


def test_a_restarted_replay_believes_its_own_journal(at_a: tuple[Path, str]) -> None:
    folder, claimed = at_a
    shared = recovered(partial(open_replay, folder), folder, claimed)
    assert (shared.env_steps, shared.generation) == (15, claimed)


def test_a_journal_from_before_the_replay_was_elsewhere_is_not_believed(at_a: tuple[Path, str], tmp_path: Path) -> None:
    """From node A to B, where a checkpoint is loaded, and back to A, where the journal of the first time lies."""
    here, claimed = at_a
    there = tmp_path / "b" / "journal"
    with pytest.raises(RowsLostError, match="is not on the node where it was started again"):
        recovered(partial(open_replay, there), there, claimed)
    elsewhere = open_replay(there, anew=True)
    elsewhere.load(tmp_path / "checkpoint")
    with pytest.raises(RowsLostError, match="is of an earlier time on the node"):
        recovered(partial(open_replay, here), here, claim_of(elsewhere))
    back = open_replay(here, anew=True)
    assert back.env_steps == 0
    back.load(tmp_path / "checkpoint")
    assert back.env_steps == 15


@pytest.mark.parametrize("restarted", [True, False])
def test_a_damaged_journal_is_set_aside(at_a: tuple[Path, str], restarted: bool) -> None:
    folder, claimed = at_a
    (snapshot,) = folder.glob("snapshot-*")
    shutil.rmtree(snapshot / "real")
    recover = partial(recovered, partial(open_replay, folder), folder, claimed if restarted else None)
    if restarted:
        with pytest.raises(RowsLostError, match=r"damaged .* kept in .*journal.damaged-1"):
            recover()
    else:
        assert recover().env_steps == 0
    assert (folder.with_name("journal.damaged-1") / snapshot.name).is_dir()


Point = Callable[..., Any]


@pytest.fixture
def first_point(tmp_path: Path) -> Point:
    """Where a driver begins: ``known`` rows in a journal of generation ``found``, ``noted`` one in the run's folder."""

    def begin(known: int, found: str, noted: str | None, checkpoint: int | None, *, resumed: bool = True) -> Any:
        store = SimpleNamespace(location=Location.of(tmp_path), names_checkpoint=False)
        crew = SimpleNamespace(env_steps=known, generation=noted)
        at = None if checkpoint is None else SimpleNamespace(state={"env_steps": checkpoint})
        unused: Any = None
        it: Any = SimpleNamespace(resumed=resumed, checkpoint=at, store=store)
        starter = _Starter(it, cast(Any, crew), unused, unused)
        if noted is not None:
            starter._note_generation()
        crew.generation = found
        return starter._first_point()

    return begin


def test_a_resumed_run_believes_the_journal_of_its_last_session(first_point: Point) -> None:
    assert first_point(20, "a", "a", 10).replay_lives
    assert first_point(20, "a", "a", None).replay_lives
    assert not first_point(10, "a", "a", 10).replay_lives


@pytest.mark.parametrize("noted", [None, "b"])
def test_a_journal_of_an_abandoned_branch_is_not_believed(
    first_point: Point, noted: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert not first_point(20, "a", noted, 10).replay_lives
    assert "20 rows) is not of the run's last session" in caplog.text
    with pytest.raises(ValueError, match="holds 20 rows of another run"):
        first_point(20, "a", noted, None)
    assert not first_point(0, "a", noted, None).replay_lives


def test_a_new_run_takes_no_rows_of_another(first_point: Point) -> None:
    with pytest.raises(ValueError, match="holds 20 rows of another run"):
        first_point(20, "a", "a", None, resumed=False)


def test_a_trainer_that_dies_at_its_start_leaves_a_run_at_the_checkpoint_that_was_asked_for(tmp_path: Path) -> None:
    """Newer checkpoints are there until a trainer has gone back; after that the newest one counts."""
    asked, newest = (SimpleNamespace(state={"env_steps": steps}) for steps in (5, 10))
    checkpoints = SimpleNamespace(newest_whole=lambda: newest)
    store = SimpleNamespace(location=Location.of(tmp_path), names_checkpoint=True, checkpoints=checkpoints)
    restored: list[Any] = []
    crew = SimpleNamespace(env_steps=20, generation="a", restore_replay=restored.append, restore_adapter=lambda _: None)
    unused: Any = None
    it: Any = SimpleNamespace(resumed=True, checkpoint=asked, store=store)
    starter, begun = _Starter(it, cast(Any, crew), unused, unused), []

    def started(begin: Any) -> Any:
        begun.append((begin.checkpoint, begin.replay_lives))
        if len(begun) == 1:
            raise RuntimeError("died as it started")
        starter._started_once = True

    starter._started = started  # type: ignore[method-assign]
    starter._note_generation()
    with pytest.raises(RuntimeError, match="died"):
        starter.start(None)
    for _ in range(2):
        starter.start(RuntimeError("died"))
    assert begun == [(asked, False), (asked, False), (newest, True)]
    assert restored == [asked, asked]
