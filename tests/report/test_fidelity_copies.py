"""Copies of training data are warned about; honest variation is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from known_generators import Copy, Fake, Perfect, Retrace, collect

from atradiff.data.trajectories import Trajectories
from atradiff.report.fidelity import FidelityReport, fidelity
from atradiff.report.fidelity_copies import CopyFigures
from atradiff.report.fidelity_table import fidelity_table
from atradiff.report.metrics import nearest_windows
from atradiff.types import FloatArray, SyntheticTrajectories


@pytest.fixture(scope="module")
def hopper() -> tuple[Trajectories, Trajectories]:
    return collect("Hopper-v5", 100).split(0.4, seed=0)


def judged(model: Fake, data: tuple[Trajectories, Trajectories]) -> FidelityReport:
    train, held_out = data
    return fidelity(model, held_out, train, None, lengths=(8,), windows=150, variants=("raw",))


@pytest.mark.parametrize("kind", [Copy, Retrace])
def test_a_generator_that_recites_is_warned_about(kind: type[Fake], hopper: tuple[Trajectories, Trajectories]) -> None:
    report = judged(kind(hopper[0]), hopper)
    (warning,) = report.warnings
    assert "The generations are copies of training data: K = 8 (raw)." in warning
    assert json.loads(json.dumps(report.to_json()))["warnings"] == [warning]
    assert f"WARNING: {warning}" in fidelity_table(report).replace("\n", " ")
    raw = report.by_length[8]["raw"].copies
    assert raw.window_novelty < 0.1
    assert raw.near_copies > 0.9
    assert raw.held_out_near_copies < 0.1


def test_one_warning_names_all_lengths_and_variants(hopper: tuple[Trajectories, Trajectories]) -> None:
    train, held_out = hopper
    report = fidelity(Copy(train), held_out, train, None, lengths=(4, 8), windows=60, variants=("raw", "dynamics"))
    (warning,) = report.warnings
    assert "copies of training data: K = 4 (raw, dynamics), K = 8 (raw, dynamics)." in warning
    assert fidelity_table(report).count("of training data:") == 1


def test_honest_variation_is_not(hopper: tuple[Trajectories, Trajectories]) -> None:
    report = judged(Perfect(hopper[0]), hopper)
    assert report.warnings == []
    raw = report.by_length[8]["raw"].copies
    assert raw.window_novelty == pytest.approx(1, abs=0.2)
    assert raw.near_copies < 0.1
    assert "Copies of training data: no sign of them." in fidelity_table(report)


def test_all_windows_have_their_turn(
    hopper: tuple[Trajectories, Trajectories], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are in the order of the data: those of the last episodes are not left out where there are too many."""
    monkeypatch.setattr("atradiff.report.fidelity_copies.QUERIES", 40)

    class Forgetful(Perfect):
        """Recites, but only behind the later half of the states."""

        def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:
            made, recited = super().imagine(states, length, rng), Copy(self.data).imagine(states, length, rng)
            half = len(states) // 2
            for name in ("observations", "actions", "rewards", "terminated"):
                getattr(made, name)[half:] = getattr(recited, name)[half:]
            made.lengths[half:] = recited.lengths[half:]
            return made

    raw = judged(Forgetful(hopper[0]), hopper).by_length[8]["raw"].copies
    assert raw.near_copies == pytest.approx(0.5, abs=0.15)


def test_the_data_itself_is_as_near_as_it_is(hopper: tuple[Trajectories, Trajectories]) -> None:
    real = judged(Perfect(hopper[0]), hopper).by_length[8]["real"].copies
    assert real.window_novelty == 1
    assert real.near_copies == real.held_out_near_copies


def test_data_that_repeat_themselves_excuse_repetition() -> None:
    everywhere = CopyFigures(window_novelty=None, near_copies=1.0, held_out_near_copies=0.9)
    assert not everywhere.suspicious
    assert CopyFigures(window_novelty=None, near_copies=1.0, held_out_near_copies=0.1).suspicious
    assert CopyFigures(window_novelty=0.4, near_copies=0.0, held_out_near_copies=0.0).suspicious


def test_nearest_windows_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3)).astype(np.float32)
    windows = np.arange(36)[:, None] + np.arange(4)
    origins = rng.normal(size=(36, 3)).astype(np.float32)
    queries = rng.normal(size=(5, 4, 3)).astype(np.float32)
    lengths = np.array([1, 2, 3, 4, 4])
    queries[4] = rows[windows[17]] - origins[17]
    naive = [
        min(
            np.sqrt(np.mean([(query[j] - (rows[window[j]] - origin)) ** 2 for j in range(length)]))
            for window, origin in zip(windows, origins, strict=True)
        )
        for query, length in zip(queries, lengths, strict=True)
    ]
    found = nearest_windows(queries, lengths, rows, windows, origins, chunk=7)
    np.testing.assert_allclose(found, naive, rtol=1e-4, atol=1e-6)
    assert found[4] == 0
