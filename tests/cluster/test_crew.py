"""What the crew says before it begins, without its actors: those are in test_distributed.py."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from atradiff.errors import RunFailed
from cluster.crew import Crew, KeptIn, _journal
from cluster.stop_signal import Stopped


class Elsewhere:
    """An actor on a machine with these files."""

    def __init__(self, *files: Path) -> None:
        self.sees = SimpleNamespace(remote=lambda file: file in files)


def test_a_run_folder_that_an_actor_does_not_see_ends_the_run_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.crew._SIGHT_SECONDS", 0.0)
    config = Path("/shared/runs/mine/config.yaml")

    def crew(replay: Elsewhere, adapter: Elsewhere) -> Crew:
        parts = SimpleNamespace(replay=replay, adapter=SimpleNamespace(actor=adapter), _get=lambda answer: answer)
        return cast("Crew", parts)

    stop = threading.Event()
    Crew.require_sight_of(crew(Elsewhere(config), Elsewhere(config)), config, stop)
    for replay, adapter in ((Elsewhere(), Elsewhere(config)), (Elsewhere(config), Elsewhere())):
        with pytest.raises(RunFailed, match=r"config.yaml cannot be seen .*all machines share, or to a URI"):
            Crew.require_sight_of(crew(replay, adapter), config, stop)
    stop.set()
    monkeypatch.setattr("cluster.crew._SIGHT_SECONDS", 60.0)
    with pytest.raises(Stopped):
        Crew.require_sight_of(crew(Elsewhere(), Elsewhere()), config, stop)


def test_runs_that_share_a_folder_for_journals_have_one_each(tmp_path: Path) -> None:
    def journal(asked: str | None, place: str = "/runs/mine") -> Path | None:
        return _journal(asked, KeptIn(tmp_path / "seed_0", place))

    assert journal(None) == tmp_path / "seed_0" / ".journal"
    assert journal("off") is None
    runs = [journal("/ssd", f"/shared/tune/{trial}/mine/atradiff/seed_0") for trial in "ab"]
    assert len({*runs, journal("/ssd", "s3://bucket/mine/atradiff/seed_0")}) == 3
    assert {cast("Path", folder).parent for folder in runs} == {Path("/ssd")}
    assert journal("/ssd", "/shared/tune/a/mine/atradiff/seed_0") == runs[0]
