# ruff: noqa: ARG005 (stand-ins keep the signature of what they stand for)
from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from atradiff.commands import fit_command
from atradiff.config import FitConfig
from atradiff.data.expectation import Expectation
from atradiff.data.windows import WindowSampler
from atradiff.fit import fit
from atradiff.fit_progress import Bar
from atradiff.generator import Provenance, TrajectoryDiffuser
from atradiff.trainer import Trainer
from tests.second_process import Telling, process, wait_for
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


@pytest.mark.parametrize("change", [{"process": "shortcut"}, {"process": "edm"}, {"rows": "residuals"}])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, change):
    data, config = chain_data(8), replace(TINY, **change)
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
    with monkeypatch.context() as patch:
        patch.setattr(Expectation, "fit", None)  # what was learned before the diffuser is kept, too
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


def test_a_fit_of_an_earlier_version_is_known_by_the_defaults_of_what_it_did_not_know(tmp_path, monkeypatch):
    data, file = chain_data(5), tmp_path / "model" / "training" / "settings.json"
    model = run(data, tmp_path / "model")
    settings = json.loads(file.read_text())
    del settings["config"]["ends"], settings["fit"]["mlp_rate"]
    file.write_text(json.dumps(settings))
    monkeypatch.setattr(Trainer, "step", None)
    assert_same_weights(model, run(data, tmp_path / "model"))
    settings["config"]["of_a_later_version"] = 1
    file.write_text(json.dumps(settings))
    with pytest.raises(FileExistsError, match="other model settings"):
        run(data, tmp_path / "model")


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


def test_a_fit_whose_last_step_diverged_is_no_model(tmp_path, monkeypatch):
    step = Trainer.step

    def diverging(self, index, progress):
        losses = step(self, index, progress)
        if index == 11:
            self.networks.lengths.net[0].weight.data[0, 0] = math.nan
        return losses

    monkeypatch.setattr(Trainer, "step", diverging)
    for out in (None, tmp_path / "model", tmp_path / "model"):  # the second time from the checkpoint of the last step
        with pytest.raises(FloatingPointError, match=r"diverged.*'lengths\..*Lower learning_rate and dynamics_rate"):
            run(chain_data(5), out)
    assert not (tmp_path / "model" / "config.json").exists()


def test_a_fit_that_is_killed_between_its_checkpoints_loses_seconds(tmp_path, monkeypatch):
    straight = run(chain_data(5), settings=tiny_fit(12, checkpoint_every=1000))
    step = Trainer.step

    def killed(self, index, progress):
        if index == 7:
            raise Interrupted
        return step(self, index, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", killed)
        patched.setattr("atradiff.fit._SAVE_SECONDS", -1.0)
        with pytest.raises(Interrupted):
            run(chain_data(5), tmp_path / "model", settings=tiny_fit(12, checkpoint_every=1000))
    done = []
    monkeypatch.setattr(
        Trainer, "step", lambda self, index, progress: done.append(index) or step(self, index, progress)
    )
    assert_same_weights(straight, run(chain_data(5), tmp_path / "model", settings=tiny_fit(12, checkpoint_every=1000)))
    assert done == list(range(7, 12))


def test_a_model_is_read_with_the_precision_of_its_fit(tmp_path):
    run(chain_data(5), tmp_path / "model", settings=tiny_fit(precision="bfloat16"))
    for asked, wanted in ((None, "bfloat16"), ("float32", "float32")):
        assert TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu", precision=asked).precision == wanted


def test_rows_of_residuals_are_fitted_and_decoded_in_bfloat16():
    model = run(chain_data(8), config=replace(TINY, rows="residuals"), settings=tiny_fit(precision="bfloat16"))
    made = model.generate(chain_data(1).columns.observations[:5], generator_seed=0, inner_roll=0.5)
    assert made.observations.dtype == np.float32


def test_a_budget_of_cpu_time_pays_for_the_scores_of_a_guide(monkeypatch):
    clock = iter(range(0, 100_000, 30))  # each look at it finds 30 CPU seconds gone

    def curious(train, *_):
        for _ in range(5):
            next(clock)
        return train.columns.rewards

    monkeypatch.setattr("atradiff.fit.time.process_time", lambda: float(next(clock)))
    monkeypatch.setattr("atradiff.fit.fitted_curiosity", curious)
    settings = replace(tiny_fit(), steps=None, cpu_minutes=5.0)
    model = run(chain_data(5), config=replace(TINY, guide="relevance"), settings=settings)
    assert model.provenance.cpu_seconds == 300
    assert model.provenance.steps == (300 - 6 * 30) / 30


def test_data_that_were_never_stored_are_known_again():
    data, other = chain_data(20), chain_data(20, seed=1)
    model = run(data)
    train, held_out = model.provenance.split(data)
    for mine, theirs in zip((train, held_out), data.split(0.05, 0), strict=True):
        np.testing.assert_array_equal(mine.columns.observations, theirs.columns.observations)
    assert model.provenance.split(other) == (None, other)
    assert Provenance().split(other) == (None, other)


def test_damaged_settings_are_told_in_words(tmp_path):
    run(chain_data(5), tmp_path / "model")
    (tmp_path / "model" / "training" / "settings.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"settings.json is damaged.*remove"):
        run(chain_data(5), tmp_path / "model")


def test_a_model_with_tasks_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"task_size must be 0, or 0 as the task vectors of the data.*got 3"):
        run(chain_data(5), tmp_path / "model", config=replace(TINY, task_size=3))
    assert not (tmp_path / "model").exists()


def test_a_fit_that_is_killed_while_it_makes_room_is_still_a_fits_folder(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    data, model = chain_data(5), tmp_path / "model"
    monkeypatch.setattr("atradiff.fit_folder.write_text", kill)
    with pytest.raises(Killed):
        run(data, model)
    (model / "training" / ".settings.json.0.partial").write_text("{")  # what a kill leaves of a file
    monkeypatch.undo()
    run(data, model)
    monkeypatch.setattr("atradiff.fit_folder.write_text", kill)
    with pytest.raises(Killed):
        run(data, model, settings=tiny_fit(seed=5), overwrite=True)
    monkeypatch.undo()
    assert not (model / "config.json").exists()
    assert run(data, model, settings=tiny_fit(seed=5), overwrite=True).provenance.fit["seed"] == 5


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


def test_the_bar_counts_the_windows_that_a_step_takes(monkeypatch):
    drawn, shown, data = [], [], chain_data(5)
    sample, show = WindowSampler.sample, Bar.show

    def counting(self, length, batch, rng):
        drawn.append((length, batch))
        return sample(self, length, batch, rng)

    def telling(self, progress, losses, trainer):
        show(self, replace(progress, cpu_seconds=1.0), losses, trainer)  # one second: the rate is the count
        shown.append(int(re.search(r"(\d+) windows/CPU s", self.postfix)[1]))

    monkeypatch.setattr(WindowSampler, "sample", counting)
    monkeypatch.setattr(Bar, "show", telling)
    run(data, settings=tiny_fit(400, tokens_per_step=11, dynamics_updates=1, checkpoint_every=10_000))
    batches = [batch for _, batch in drawn[:400]]  # the rest are of the held-out loss
    assert set(drawn[:400]) == {(3, 3), (6, 1)}
    assert shown[-1] == pytest.approx(sum(batches), rel=0.05)


def test_one_episode_is_enough():
    assert math.isfinite(run(chain_data(1)).provenance.held_out_loss)


def test_the_command_fits_a_stored_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("atradiff.data.store.open_trajectories", lambda path: chain_data(5))
    fit_command(tmp_path / "data", tmp_path / "model", steps=3, model=TINY)
    shown = capsys.readouterr()
    assert "3 steps" in shown.out
    assert "The task ends where the networks predict it." in shown.err  # its end is a goal
    assert TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu").provenance.steps == 3


def test_a_success_that_was_held_out_can_be_imagined():
    data, settings = chain_data(20), tiny_fit()
    for first in data.offsets[:-1]:
        rewards = np.zeros(data.n_transitions, np.float32)
        rewards[first] = 1
        only = replace(data, columns=replace(data.columns, rewards=rewards))
        if not only.split(settings.held_out, settings.seed)[0].columns.rewards.any():
            break
    else:
        pytest.fail("no episode is held out")
    assert run(only).codec.normalizer.reward_levels.tolist() == [0, 1]


def test_the_networks_may_be_asked_for_the_end_where_bounds_would_tell_it():
    data = chain_data(30)
    falls = replace(data, columns=replace(data.columns, rewards=np.zeros(data.n_transitions, np.float32)))
    assert run(falls).dynamics.seen.tells_ends
    assert not run(falls, config=replace(TINY, ends="networks")).dynamics.seen.tells_ends


def test_normalizer_sees_training_episodes_only():
    data = chain_data(20)
    model = run(data, settings=FitConfig(steps=1, held_out=0.5, tokens_per_step=48))
    train, _ = data.split(0.5, 0)
    np.testing.assert_array_equal(model.codec.normalizer.state_low, _all_states(train).min(0))


def _all_states(data):
    return np.concatenate([data.columns.observations, data.columns.next_observations])


_SLOW_FIT = """
import sys, time
from pathlib import Path
from atradiff.data.windows import WindowSampler
from atradiff.fit import fit
from atradiff.fit_progress import Bar
from atradiff.trainer import Trainer
from tests.toys import TINY, chain_data, tiny_fit
out, begun, go = map(Path, sys.argv[1:])
step = Trainer.step
def slow(self, index, progress):
    begun.touch()
    while index == 6 and not go.exists():
        time.sleep(0.02)
    return step(self, index, progress)
Trainer.step = slow
fit(chain_data(5), out, config=TINY, settings=tiny_fit(), device="cpu", quiet=True)
"""


@pytest.mark.slow
def test_a_second_process_waits_for_the_first_and_takes_its_model(tmp_path, monkeypatch):
    out, begun, go = (tmp_path / name for name in ("model", "begun", "go"))
    shown = Telling(lambda text: go.touch() if "waiting" in text else None)
    with process(_SLOW_FIT, out, begun, go) as first:
        wait_for(lambda: begun.exists() or first.poll() is not None)
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", None)
            patch.setattr("sys.stderr", shown)
            model = run(chain_data(5), out, quiet=False)
        assert first.wait() == 0
    assert shown.getvalue().count(f"waiting for another fit in {out}\n") == 1
    assert_same_weights(model, run(chain_data(5)))
    assert not (out / ".lock").exists()


def test_a_fit_goes_on_where_a_killed_process_was(tmp_path):
    out, begun, go = (tmp_path / name for name in ("model", "begun", "go"))
    with process(_SLOW_FIT, out, begun, go) as first:
        wait_for(lambda: (out / "training" / "state.safetensors").exists() or first.poll() is not None)
        with pytest.raises(FileExistsError, match="other fit settings"):  # at once: nothing to wait for
            run(chain_data(5), out, settings=tiny_fit(seed=5))
        first.kill()
        first.wait()
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step
        patch.setattr(Trainer, "step", lambda self, index, share: (steps.append(index), step(self, index, share))[1])
        resumed = run(chain_data(5), out)
    assert steps[0] == 4
    assert_same_weights(resumed, run(chain_data(5)))
