# ruff: noqa: ARG005
"""The update: what it learns from, what it leaves alone, when it is taken back, and that it can be repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atradiff.adaptation.adapt import Adapter
from atradiff.adaptation.config import AdaptationConfig, PickUpConfig
from atradiff.adaptation.feed import LocalFeed
from atradiff.adaptation.local import LocalAdaptation
from atradiff.adaptation.original import WithOriginal, serves_original
from atradiff.adaptation.served import ServedCount
from atradiff.data.windows import WindowSampler
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from tests.adaptation.adapting import QUICK, double_actions, filled_replay, moved_data, offline_data
from tests.toys import TINY, random_data, tiny_diffuser, tiny_fit

STATES = np.array([[0.1, 0.0], [-0.4, 0.02]], np.float32)


@pytest.fixture(scope="module")
def fitted():
    """More than nothing is learned: what the moved agent does must be news."""
    settings = tiny_fit(100, checkpoint_every=100, learning_rate=1e-2, tokens_per_step=120, dynamics_updates=1)
    return fit(offline_data(), config=TINY, settings=settings, device="cpu", quiet=True)


@pytest.fixture
def feed():
    return LocalFeed(filled_replay(moved_data(20)), double_actions)


def adapter(model, config=QUICK, seed=0):
    return Adapter(model, offline_data(), config, seed)


def tiny_diffuser_like(model, weights):
    other = model.on("cpu")
    other.load_weights(1, weights)
    return other


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_the_papers_network_is_adapted_at_the_rate_that_is_asked_for():
    config = replace(TINY, network="residual_mlp", rows="absolute", process="edm", calls=2)
    one = adapter(tiny_diffuser(offline_data(), config), replace(QUICK, learning_rate=1e-6))
    groups = [group for name in one._trainer.optimizers for group in one._trainer.optimizers[name].param_groups]
    assert {group["peak"] for group in groups} == {1e-6, QUICK.dynamics_rate}


def test_losses_on_new_windows_fall_by_half_in_two_updates(fitted, feed):
    config = replace(QUICK, steps=60, learning_rate=1e-2, tokens_per_step=240)
    one = adapter(fitted, config)
    first, second = one.update(feed, 600), one.update(feed, 1200)
    assert second.new_after < 0.5 * first.new_before
    assert (first.version, second.version) == (1, 2)
    assert second.held_out_before == first.held_out_after
    assert first.steps == 60
    assert first.windows <= 300
    assert (first.ages == np.arange(300)).all()


def test_the_one_step_model_may_learn_alone(fitted, feed):
    one = adapter(fitted, replace(QUICK, networks="dynamics", steps=60, dynamics_rate=1e-2, max_forgetting=None))
    before = one.weights()
    report = one.update(feed, 600)
    after = one.weights()
    assert {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])} == {"dynamics"}
    lived = moved_data(20).columns
    errors = []
    for weights in (before, after):
        model = tiny_diffuser_like(fitted, weights)
        told = (torch.from_numpy(np.array(x)) for x in (lived.observations, lived.actions, lived.next_observations))
        errors.append(float(model.dynamics.residual(*told).mean()))
    assert errors[1] < 0.7 * errors[0]
    assert report.new_after < report.new_before


def test_rehearsal_keeps_the_loss_on_offline_windows(fitted, feed):
    after = [
        adapter(fitted, replace(QUICK, steps=40, learning_rate=1e-2, rehearsal=share)).update(feed, 1).held_out_after
        for share in (0.0, 0.75)
    ]
    assert after[1] < after[0]


def test_what_forgets_too_much_is_taken_back_whole(fitted, feed):
    one = adapter(fitted, replace(QUICK, learning_rate=0.5, max_forgetting=0.1))
    before = one.weights()
    report = one.update(feed, 300)
    assert report.outcome == "rolled_back"
    assert report.held_out_after > 1.1 * report.held_out_fitted
    assert one.version == report.version == 0
    assert one.rollbacks == 1
    assert_equal_weights(before, one.weights())
    # Optimisers too: what comes next is as if the bad update had never been, but for its own number and step seeds.
    fresh = adapter(fitted, QUICK)
    fresh._ledger.number, fresh._ledger.steps = one._ledger.number, one._ledger.steps
    one.config, one._trainer.fit = fresh.config, fresh._trainer.fit
    for mine, theirs in zip(one._trainer.optimizers.values(), fresh._trainer.optimizers.values(), strict=True):
        for group, other in zip(mine.param_groups, theirs.param_groups, strict=True):
            group["peak"] = other["peak"]
    one.update(feed, 600)
    fresh.update(feed, 600)
    assert_equal_weights(one.weights(), fresh.weights())


def test_an_update_that_breaks_another_network_than_the_judged_one_is_taken_back(fitted, feed, monkeypatch):
    one = adapter(fitted)
    before, train = one.weights(), one._train

    def breaking(material):
        steps = train(material)
        next(one._trainer.networks.dynamics.parameters()).data.view(-1)[0] = float("nan")
        return steps

    monkeypatch.setattr(one, "_train", breaking)
    report = one.update(feed, 300)
    assert (report.outcome, one.version) == ("rolled_back", 0)
    assert np.isfinite(report.held_out_after)  # the diffuser's loss does not tell
    assert_equal_weights(before, one.weights())


@pytest.mark.parametrize("seed", [0, 5])
def test_forgetting_is_measured_on_episodes_that_the_fit_has_not_seen(fitted, seed):
    held_out = fitted.provenance.split(offline_data())[1]
    windows = WindowSampler(held_out, fitted.config.lengths)
    one = adapter(fitted, seed=seed)
    assert one._ledger.fitted_loss == one.loss(windows)


def test_the_same_seed_gives_the_same_weights_another_one_others(fitted, feed):
    torch.manual_seed(5)
    first, again, other = (adapter(fitted, seed=s) for s in (1, 1, 2))
    for one in (first, again, other):
        one.update(feed, 300)
        torch.manual_seed(6)
    assert_equal_weights(first.weights(), again.weights())
    assert any((first.weights()[n] != value).any() for n, value in other.weights().items())


def test_the_model_it_started_from_is_left_alone(fitted, feed):
    before = fitted.weights()
    adapter(fitted).update(feed, 300)
    assert_equal_weights(before, fitted.weights())
    assert fitted.version == 0


def test_saved_and_loaded_goes_on_the_same(fitted, feed, tmp_path):
    one, other = adapter(fitted), adapter(fitted)
    one.update(feed, 300)
    one.save(tmp_path / "adapter")
    other.load(tmp_path / "adapter")
    assert (other.version, other.number, other.env_steps) == (1, 1, 300)
    assert_equal_weights(one.weights(), other.weights())
    mine, theirs = one.update(feed, 600).metrics(), other.update(feed, 600).metrics()
    assert mine | {"cpu_seconds": 0} == theirs | {"cpu_seconds": 0}
    assert_equal_weights(one.weights(), other.weights())


def test_damaged_or_foreign_states_are_refused(fitted, tmp_path):
    one = adapter(fitted)
    with pytest.raises(ValueError, match=r"adapter.json is missing or damaged"):
        one.load(tmp_path)
    adapter(tiny_diffuser(config=replace(TINY, width=32)), QUICK).save(tmp_path)
    with pytest.raises(ValueError, match="a model with other settings"):
        one.load(tmp_path)


def test_a_fit_goes_on_with_its_raw_weights_and_optimisers(tmp_path):
    fit(offline_data(), tmp_path / "m", config=TINY, settings=tiny_fit(), device="cpu", quiet=True)
    going_on = Adapter.open(tmp_path / "m", offline_data(), QUICK, 0, device="cpu")
    assert all(len(optimizer.state) for optimizer in going_on._trainer.optimizers.values())
    model = TrajectoryDiffuser.from_pretrained(tmp_path / "m", device="cpu")
    assert_equal_weights(going_on.weights(), model.weights())
    raw = going_on._trainer.networks.diffuser.state_dict()
    assert any(not np.array_equal(raw[n], v) for n, v in model.networks.diffuser.state_dict().items())
    model.save_pretrained(tmp_path / "copy")  # a model folder without a state
    plain = Adapter.open(tmp_path / "copy", offline_data(), QUICK, 0, device="cpu")
    assert not any(len(optimizer.state) for optimizer in plain._trainer.optimizers.values())
    with pytest.raises(ValueError, match="belongs to other weights"):
        Adapter(tiny_diffuser(moved_data(5)), offline_data(), QUICK, 0, tmp_path / "m" / "training/state.safetensors")
    wider = tiny_diffuser(config=replace(TINY, width=32))
    with pytest.raises(ValueError, match="a model with other settings"):
        Adapter(wider, offline_data(), QUICK, 0, tmp_path / "m" / "training/state.safetensors")
    with pytest.raises(ValueError, match="no state of a training"):
        Adapter(model, offline_data(), QUICK, 0, tmp_path / "m" / "model.safetensors")


def test_adopted_weights_are_gone_on_from(fitted, feed):
    ahead, lost = adapter(fitted), adapter(fitted)
    ahead.update(feed, 300)
    lost.adopt(ahead.version, ahead.weights())
    assert lost.version == 1
    assert_equal_weights(lost.weights(), ahead.weights())
    assert lost.update(feed, 600).version == 2


def test_without_enough_windows_nothing_happens(fitted):
    few = filled_replay(moved_data(1, limit=7))
    report = adapter(fitted).update(LocalFeed(few, double_actions), 300)
    assert (report.outcome, report.windows, report.version) == ("too_few_windows", 5, 0)


def test_drift_decides(fitted, feed):
    config = replace(QUICK, trigger="drift", drift_ratio=1.5, steps=40, learning_rate=1e-2)
    same = LocalFeed(filled_replay(offline_data()), double_actions)
    one = adapter(fitted, config)
    calm = one.update(same, 300)
    assert (calm.outcome, calm.version) == ("no_drift", 0)
    assert 0.5 < calm.drift < 1.5
    moved = one.update(feed, 600)
    assert moved.outcome == "accepted"
    assert moved.drift > 1.5
    assert one._ledger.drift_reference >= one._ledger.fitted_loss


def test_windows_come_in_the_environments_scale(feed):
    pool = feed.picked(300, (3, 6)).pool
    data = moved_data(20)
    row_ids = pool.row_ids
    np.testing.assert_array_equal(pool.windows.actions[:, 0], data.columns.actions[row_ids])
    rng = np.random.default_rng(0)
    windows = pool.sample(3, 50, rng)
    assert windows.rewards.shape == (50, 3)
    ends = np.repeat(data.offsets[1:], data.lengths)
    left = ends[row_ids] - row_ids
    assert (left >= 3).all()
    np.testing.assert_array_equal(pool.available, np.where(left >= 6, 6, 3))
    assert pool.lengths == (3, 6)
    with pytest.raises(ValueError, match="length must be one of"):
        pool.sample(7, 1, rng)


def test_terminal_windows_are_padded_and_their_ends_counted():
    data = random_data([4, 5], [True, False])
    pool = LocalFeed(filled_replay(data), double_actions).picked(300, (3, 6)).pool
    left = pool.remaining(6)
    told = dict(zip(pool.row_ids.tolist(), left.rows.tolist(), strict=True))
    assert told == {0: 4, 1: 3, 2: 2, 3: 1, 4: 6, 5: 6, 6: 6}
    np.testing.assert_array_equal(left.states, data.columns.observations[pool.row_ids])
    assert (pool.windows.actions[pool.windows.padding] == 0).all()
    rows = pool.transitions()
    assert len(rows) == 4 + 3 + 2 + 1 + 3 * 3  # padding left out
    assert rows.terminated.sum() == 4


def test_in_process_updates_when_due_and_publishes(fitted, tmp_path):
    replay, served = filled_replay(moved_data(20)), fitted.on("cpu")
    local = LocalAdaptation(adapter(fitted), replay, double_actions, served.load_weights)
    assert local.step(299) is None
    report = local.step(300)
    assert report.accepted
    assert served.version == 1
    assert_equal_weights(served.weights(), local.adapter.weights())
    assert local.step(599) is None
    assert local.metrics()["new_loss_after"] == report.new_after
    assert local.metrics()["updates"] == 1
    local.save(tmp_path / "a")
    other = fitted.on("cpu")
    resumed = LocalAdaptation(adapter(fitted), replay, double_actions, other.load_weights)
    resumed.load(tmp_path / "a")
    assert other.version == 1
    assert resumed.due(600)
    assert not resumed.due(599)


def test_rows_are_scored_anew_before_a_pick(fitted):
    replay = filled_replay(moved_data(20), PickUpConfig("td", picked=50))
    config = replace(QUICK, pick_up=PickUpConfig("td", picked=50))
    score = lambda rows: rows.observations[:, 0]  # noqa: E731
    local = LocalAdaptation(adapter(fitted, config), replay, double_actions, lambda version, weights: None, score)
    report = local.step(300)
    position = replay.real["observations"][: len(replay), 0]
    np.testing.assert_array_equal(np.sort(report.importance), np.sort(position)[-50:])


def test_the_original_serves_its_share(fitted, feed, tmp_path):
    both = WithOriginal(fitted.on("cpu"), 0.2)
    one = adapter(fitted)
    one.update(feed, 300)
    both.generate(STATES, generator_seed=0)
    assert both.served.metrics() == {}  # there was but one model to be served by
    both.load_weights(one.version, one.weights())
    seeds = range(400)
    versions = {seed: both.generate(STATES, generator_seed=seed).generator_version for seed in range(30)}
    assert set(versions.values()) == {0, 1}
    assert all((versions[seed] == 0) == serves_original(seed, 0.2) for seed in versions)
    assert both.served.metrics() == {"original_share": sum(v == 0 for v in versions.values()) / 30}
    both.served.write(tmp_path / "served.json")
    assert ServedCount.read(tmp_path / "served.json") == both.served
    share = np.mean([serves_original(seed, 0.2) for seed in seeds])
    assert share == pytest.approx(0.2, abs=0.06)
    seed = next(s for s in seeds if serves_original(s, 0.2))
    np.testing.assert_array_equal(
        both.generate(STATES, generator_seed=seed).observations,
        fitted.generate(STATES, generator_seed=seed).observations,
    )
    moved = both.on("cpu")
    assert (moved.version, moved.original.version) == (1, 0)


@pytest.mark.parametrize("rows", ["differences", "both", "residuals"])
def test_a_model_that_is_told_of_history_goes_on_learning_it_from_offline_windows(feed, rows):
    model = tiny_diffuser(offline_data(), replace(TINY, history=3, rows=rows))
    before = model.weights()
    one = adapter(model)
    assert one.update(feed, 600).outcome == "accepted"
    moved = one.weights()
    name = next(name for name in before if name.startswith("diffuser.encode"))  # what reads the rows before a window
    past = before[name][:, 2:]  # behind the two columns of s_1
    assert np.abs(moved[name][:, 2:] - past).max() > 3e-4  # weight decay alone: 6e-5 at most


def test_data_of_another_task_are_refused(fitted):
    from atradiff.types import Spaces

    other = random_data([8, 8], [False] * 2, spaces=Spaces(3, "continuous", (-1.0,), (1.0,)))
    with pytest.raises(ValueError, match=r"observation_size is 3 in the offline data of the adaptation"):
        Adapter(fitted, other, QUICK, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "steps and cpu_seconds must be given one at a time"),
        ({"rehearsal": 1.0}, r"rehearsal must lie in \[0, 1\), got 1.0"),
        ({"trigger": "never"}, "trigger must be one of period, drift"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"max_forgetting": -0.1}, "max_forgetting must be positive"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(AdaptationConfig(), **change)


def test_a_budget_in_cpu_seconds_ends(fitted, feed):
    report = adapter(fitted, replace(QUICK, steps=None, cpu_seconds=0.2)).update(feed, 300)
    assert report.accepted
    assert report.steps >= 1


def test_trajectories_may_go_where_the_agent_was(fitted, feed):
    """The agent was further left than the offline data reach; the adapted model imagines from there."""
    moved = moved_data(20).columns
    left = moved.next_observations[np.argsort(moved.next_observations[:, 0])[:50]]
    before = fitted.generate(left, generator_seed=0, refine="dynamics").lengths
    one, adapted = adapter(fitted, replace(QUICK, steps=60, learning_rate=1e-2)), fitted.on("cpu")
    report = one.update(feed, 300)
    adapted.load_weights(report.version, one.weights())
    low, high = (x.numpy() for x in adapted.dynamics.seen.reach())
    inside = ((left > low) & (left < high)).all(1)
    assert inside.all()
    original_low = fitted.dynamics.seen.reach()[0].numpy()
    assert (left < original_low).any()
    assert adapted.generate(left, generator_seed=0, refine="dynamics").lengths.mean() > before.mean()
