"""What the crew says before it begins, without its actors: those are in test_distributed.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from atradiff.errors import RunFailed
from cluster.config import RunConfig
from cluster.crew import Crew, _journal


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

    Crew.require_sight_of(crew(Elsewhere(config), Elsewhere(config)), config)
    for replay, adapter in ((Elsewhere(), Elsewhere(config)), (Elsewhere(config), Elsewhere())):
        with pytest.raises(RunFailed, match=r"config.yaml cannot be seen .*all machines share, or to a URI"):
            Crew.require_sight_of(crew(replay, adapter), config)


def test_runs_that_share_a_folder_for_journals_have_one_each(tmp_path: Path) -> None:
    def journal(asked: str | None, **settings: Any) -> Path | None:
        return _journal(asked, RunConfig("Pendulum-v1", "mine", 2000, **settings), tmp_path / "run")

    assert journal(None) == tmp_path / "run" / ".journal"
    assert journal("off") is None
    trials = [journal("/ssd", output=f"/shared/tune/{trial}", seed=seed) for trial in "ab" for seed in (0, 1)]
    assert len(set(trials)) == 4
    assert {cast("Path", folder).parent for folder in trials} == {Path("/ssd")}
    assert journal("/ssd", output="/shared/tune/a") == trials[0]
