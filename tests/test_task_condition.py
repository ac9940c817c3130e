"""One diffuser for two tasks that differ in what is done and in what is paid: it imagines the one that it is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atradiff.adaptation.adapt import Adapter
from atradiff.adaptation.feed import LocalFeed
from atradiff.data.tasks import join_tasks
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from tests.adaptation.adapting import QUICK, double_actions, filled_replay, moved_data
from tests.toys import TINY, chain_data, tiny_diffuser, tiny_fit

RIGHT, LEFT = np.float32([1, 0]), np.float32([0, 1])
STATES = np.random.default_rng(1).uniform([-0.6, -0.02], [-0.2, 0.02], (64, 2)).astype(np.float32)


def both_ways():
    """Pushing right for the chain's rewards, and pushing left for three less."""
    left = moved_data(12)
    paid_less = replace(left, columns=replace(left.columns, rewards=left.columns.rewards - 3))
    return join_tasks([chain_data(12), paid_less], "one_hot")


@pytest.fixture(scope="module")
def model():
    settings = tiny_fit(250, checkpoint_every=250, learning_rate=1e-2, tokens_per_step=240, dynamics_batch=64)
    return fit(both_ways(), config=replace(TINY, task_size=2), settings=settings, device="cpu", quiet=True)


def imagined(model, task, **options):
    batch = model.generate(STATES, np.tile(task, (64, 1)), generator_seed=0, **options)
    first = (np.arange(64), np.zeros(64, int))
    return batch.actions[first].mean(), batch.rewards[first].mean()


@pytest.mark.parametrize("refine", ["none", "project", "dynamics"])
def test_actions_and_rewards_are_those_of_the_task(model, refine):
    """With ``dynamics`` the rewards are the one-step model's, which is told the task, too."""
    (right, paid), (left, less) = (imagined(model, task, refine=refine) for task in (RIGHT, LEFT))
    assert right - left > 0.4
    assert paid - less == pytest.approx(3, abs=1)


def test_a_model_set_to_a_task_needs_not_be_told_it(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    own = TrajectoryDiffuser.from_pretrained(tmp_path / "m", device="cpu")
    with pytest.raises(ValueError, match=r"task must be 2 finite numbers: this model was fitted with tasks, got None"):
        own.generate(STATES, generator_seed=0)
    with pytest.raises(ValueError, match="task must be 2 finite numbers"):
        own.tell_task([1.0])
    with pytest.raises(ValueError, match="must be left out: this model was fitted without tasks"):
        tiny_diffuser().tell_task([1.0])
    own.tell_task(tuple(LEFT))
    told = model.generate(STATES, np.tile(LEFT, (64, 1)), generator_seed=0)
    for copy in (own, own.on("cpu")):
        np.testing.assert_array_equal(copy.generate(STATES, generator_seed=0).actions, told.actions)


def test_it_is_adapted_in_its_own_task_and_keeps_the_other(model):
    agent = model.on("cpu")
    agent.task = RIGHT
    one = Adapter(agent, both_ways(), replace(QUICK, steps=80, learning_rate=1e-2, tokens_per_step=240), 0)
    feed = LocalFeed(filled_replay(moved_data(20)), double_actions)  # in the task of the right it now goes left
    report = one.update(feed, 300)
    assert report.accepted
    assert report.new_after < 0.7 * report.new_before
    agent.load_weights(report.version, one.weights())
    assert imagined(agent, RIGHT, refine="none")[0] < imagined(model, RIGHT, refine="none")[0] - 0.2
    assert imagined(agent, LEFT, refine="none")[1] < -1.5


def test_an_adapter_is_opened_in_a_task(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    opened = Adapter.open(tmp_path / "model", both_ways(), QUICK, 0, task=RIGHT, device="cpu")
    assert opened.version == model.version
    with pytest.raises(ValueError, match="task must be"):
        Adapter.open(tmp_path / "model", both_ways(), QUICK, 0, device="cpu")


def test_tasks_can_be_left_out_and_must_fit_where_they_are_not(model):
    settings = tiny_fit(4)
    plain = fit(both_ways(), config=TINY, settings=settings, device="cpu", quiet=True)
    assert len(plain.generate(STATES, generator_seed=0)) == 64
    assert Adapter(plain, both_ways(), QUICK, 0).update(LocalFeed(filled_replay(moved_data(5)), double_actions), 300)
    with pytest.raises(ValueError, match=r"task_size must be 0, or 2 as the task vectors of the data.*got 5"):
        fit(both_ways(), config=replace(TINY, task_size=5), settings=settings, device="cpu", quiet=True)
    told = model.on("cpu")
    told.task = RIGHT
    with pytest.raises(ValueError, match="task vectors of the offline data must be 2 long, got 0"):
        Adapter(told, chain_data(5), QUICK, 0)
