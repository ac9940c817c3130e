# ruff: noqa: ARG005 (stand-ins keep the signature of what they stand for)
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from atradiff.commands import fit_command
from atradiff.config import FitConfig
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.trainer import Trainer, learning_rate_share
from tests.toys import TINY, chain_data, random_data, tiny_fit


def run(data, out=None, **options):
    options = {"config": TINY, "settings": tiny_fit(), "device": "cpu", "quiet": True} | options
    return fit(data, out, **options)


def weights(model):
    return model.networks.state_dict()


def assert_same_weights(first, second):
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name


class Interrupted(RuntimeError):
    pass


@pytest.mark.parametrize("process", ["shortcut", "edm"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, process):
    data, config = chain_data(8), replace(TINY, process=process)
    straight = run(data, config=config)
    step = Trainer.step

    def failing(self, index, progress):
        if index == 7:  # the last checkpoint was after step 4
            raise Interrupted
        return step(self, index, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing)
        with pytest.raises(Interrupted):
            run(data, tmp_path / "model", config=config)
    torch.manual_seed(123)  # the resumed process has another global generator
    resumed = run(data, tmp_path / "model", config=config)
    assert_same_weights(straight, resumed)
    assert resumed.calibration == straight.calibration


def test_global_generators_do_not_matter_and_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(chain_data(5))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert_same_weights(first, run(chain_data(5)))


def test_a_finished_fit_is_loaded_not_repeated(tmp_path, monkeypatch):
    data = chain_data(5)
    model = run(data, tmp_path / "model")
    monkeypatch.setattr(Trainer, "step", None)
    assert_same_weights(model, run(data, tmp_path / "model"))


def test_another_fit_is_not_overwritten_unless_told(tmp_path):
    data = chain_data(5)
    run(data, tmp_path / "model")
    other = tiny_fit(seed=5)
    with pytest.raises(FileExistsError, match="other fit settings"):
        run(data, tmp_path / "model", settings=other)
    with pytest.raises(FileExistsError, match="other data"):
        run(chain_data(6), tmp_path / "model")
    assert run(data, tmp_path / "model", settings=other, overwrite=True).provenance.fit["seed"] == 5


def test_some_episodes_of_a_data_set_are_other_data(tmp_path):
    data = replace(chain_data(5), content_hash="sha256:all")
    run(data, tmp_path / "model")
    with pytest.raises(FileExistsError, match="other data"):
        run(data.select(np.arange(2)), tmp_path / "model")


def test_damaged_settings_are_told_in_words(tmp_path):
    run(chain_data(5), tmp_path / "model")
    (tmp_path / "model" / "training" / "settings.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"settings.json is damaged.*remove"):
        run(chain_data(5), tmp_path / "model")


def test_a_model_with_tasks_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"task_size must be 0, or 0 as the task vectors of the data.*got 3"):
        run(chain_data(5), tmp_path / "model", config=replace(TINY, task_size=3))
    assert not (tmp_path / "model").exists()


def test_a_folder_of_something_else_is_never_removed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="no fit made it"):
        run(chain_data(5), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_data_too_short_for_any_window_are_refused():
    with pytest.raises(ValueError, match="no window of 3 rows fits"):
        run(random_data([2, 2, 2], [False] * 3))


def test_lengths_that_no_episode_serves_are_left_out():
    assert run(random_data([4] * 4, [False] * 4)).config.lengths == (3,)


def test_budget_in_cpu_minutes_ends(tmp_path):
    model = run(chain_data(5), tmp_path / "m", settings=tiny_fit(None, cpu_minutes=0.02))
    assert 0 < model.provenance.cpu_seconds < 5
    assert model.provenance.steps >= 1


def test_the_loss_falls_and_is_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = tiny_fit(80, learning_rate=5e-3, checkpoint_every=10, tokens_per_step=120, dynamics_updates=1)
    model = run(chain_data(20), tmp_path / "m", settings=settings)
    events = EventAccumulator(str(tmp_path / "m" / "tensorboard")).Reload()
    losses = [event.value for event in events.Scalars("fit/held_out_loss")]
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] == pytest.approx(model.provenance.held_out_loss)
    assert "fit/dynamics_loss" in events.Tags()["scalars"]


def test_one_episode_is_enough():
    assert math.isfinite(run(chain_data(1)).provenance.held_out_loss)


def test_learning_rate_warms_up_and_decays():
    assert learning_rate_share(0, 0, 10) == pytest.approx(0.1)
    assert learning_rate_share(50, 0.5, 10) == pytest.approx(0.505)
    assert learning_rate_share(99, 1.0, 10) == pytest.approx(0.01)


def test_the_command_fits_a_stored_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("atradiff.data.store.open_trajectories", lambda path: chain_data(5))
    fit_command(tmp_path / "data", tmp_path / "model", steps=3, model=TINY)
    shown = capsys.readouterr()
    assert "3 steps" in shown.out
    assert "The task ends where the networks predict it." in shown.err  # its end is a goal
    assert TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu").provenance.steps == 3


def test_normalizer_sees_training_episodes_only():
    data = chain_data(20)
    model = run(data, settings=FitConfig(steps=1, held_out=0.5, tokens_per_step=48))
    train, _ = data.split(0.5, 0)
    np.testing.assert_array_equal(model.codec.normalizer.state_low, _all_states(train).min(0))


def _all_states(data):
    return np.concatenate([data.columns.observations, data.columns.next_observations])
