"""Scores against naive loops, and guided models of data in which the first action decides the return."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from atradiff.adaptation.adapt import Adapter
from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.feed import LocalFeed, PickQuestion
from atradiff.config import SamplingConfig
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.guidance import curiosity, fitted_curiosity, following_means, guide_scores, quantiles, returns_to_go
from atradiff.types import Transitions
from cluster.config import load_run_config
from tests.adaptation.adapting import QUICK, double_actions, filled_replay, moved_data
from tests.toys import CHAIN, TINY, chain_data, lay_out, random_data, tiny_diffuser, tiny_fit

GUIDED = replace(TINY, guide="return")


def naive_returns(data, discount):
    out = []
    for episode in range(len(data)):
        rewards = data.episode(episode).rewards
        out += [sum(discount**i * r for i, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    return np.array(out)


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_returns_of_terminated_episodes_are_the_discounted_sums(discount):
    data = random_data([7, 1, 12], [True, True, True])
    np.testing.assert_allclose(returns_to_go(data, discount), naive_returns(data, discount), rtol=1e-4)


def test_what_a_time_out_hides_is_completed_at_the_same_rate_or_unknown():
    """A reward of 2 for ever is worth 2 / (1 - discount) wherever the recording ends; 0.9^7 < 1/2 < 0.9^6."""
    data = random_data([30, 5], [False, True])
    data = replace(data, columns=replace(data.columns, rewards=np.full(35, 2, np.float32)))
    returns = returns_to_go(data, 0.9)
    np.testing.assert_allclose(returns[:24], 20, rtol=1e-5)
    assert np.isnan(returns[24:30]).all()
    assert np.isnan(returns_to_go(data, 1.0)[:30]).all()
    np.testing.assert_allclose(returns_to_go(data, 1.0)[30:], [10, 8, 6, 4, 2])


def test_following_means_stay_in_their_episode():
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    naive = [values[t : min(t + 3, 5 if t < 5 else 9)].mean() for t in range(9)]
    np.testing.assert_allclose(following_means(values, np.array([0, 5, 9]), 3), naive, rtol=1e-5)


def test_quantiles_are_ranks_from_zero_to_one():
    values = np.float32([3, np.nan, 1, 1, 2, np.inf, 7])
    ranks = rankdata([3, 1, 1, 2, 7])  # equals share the middle
    expected = (ranks - ranks.min()) / (ranks.max() - ranks.min())
    found = quantiles(values)
    np.testing.assert_allclose(found[[0, 2, 3, 4, 6]], expected, rtol=1e-6)
    assert np.isnan(found[[1, 5]]).all()
    np.testing.assert_array_equal(quantiles(np.float32([4, 4])), [0.5, 0.5])


def test_scores_that_tell_nothing_are_refused():
    data = random_data([5, 5], [False, False])
    with pytest.raises(ValueError, match="lower guide_discount"):
        guide_scores(data, replace(GUIDED, guide_discount=1.0), lambda: data.columns.rewards)
    same = replace(data, columns=replace(data.columns, rewards=np.ones(10, np.float32)))
    with pytest.raises(ValueError, match="must differ between rows of the data, got"):
        guide_scores(same, replace(GUIDED, guide="relevance"), lambda: same.columns.rewards)


def decided_by_the_first_action(episodes=2000):
    """Episodes of one row: a ~ N(0, 0.4), r = a + N(0, 0.4). So the return has the spread 0.4 sqrt 2, and from any
    state a return of R goes together with a ~ N(R / 2, 0.4 / sqrt 2).
    """
    rng = np.random.default_rng(0)
    states = rng.normal(size=(episodes, 2)).astype(np.float32)
    actions = rng.normal(0, 0.4, (episodes, 1)).astype(np.float32).clip(-1, 1)
    rewards = (actions[:, 0] + rng.normal(0, 0.4, episodes)).astype(np.float32)
    ends = np.ones(episodes, bool)
    rows = Transitions(states, actions, rewards, states + 0.1 * actions, ends, ~ends)
    return lay_out(CHAIN, [rows[np.array([i])] for i in range(episodes)])


def return_at(target):
    return 0.4 * 2**0.5 * norm.ppf(target)


@pytest.fixture(scope="module")
def decided():
    settings = tiny_fit(250, checkpoint_every=250, tokens_per_step=64, dynamics_updates=1)
    config = replace(GUIDED, lengths=(1,), refine="none", prune="none", dynamics_models=1)
    return fit(decided_by_the_first_action(), config=config, settings=settings, device="cpu", quiet=True)


def first_actions(model, **options):
    states = np.random.default_rng(1).normal(size=(512, 2)).astype(np.float32)
    return model.generate(states, generator_seed=0, **options).actions[:, 0, 0]


def test_what_is_asked_for_is_what_the_data_do_for_it(decided):
    for target in (0.1, 0.5, 0.9):
        actions = first_actions(decided, guidance_scale=1, target=target)
        assert actions.mean() == pytest.approx(return_at(target) / 2, abs=0.1)
        assert actions.std() == pytest.approx(0.4 / 2**0.5, abs=0.08)


def test_more_scale_goes_further(decided):
    """In infinitesimal steps towards p(a)^(1 - w) p(a | R)^w, whose mean is w R / (1 + w); in one step to w R / 2."""
    wanted = return_at(0.9)
    for scale in (0, 0.5, 1, 2):
        low, high = sorted((scale * wanted / (1 + scale), scale * wanted / 2))
        assert low - 0.08 < first_actions(decided, guidance_scale=scale, target=0.9).mean() < high + 0.08


def test_without_guidance_the_data_come_back(decided):
    actions = first_actions(decided)
    assert actions.mean() == pytest.approx(0, abs=0.1)
    assert actions.std() == pytest.approx(0.4, abs=0.08)
    np.testing.assert_array_equal(actions, first_actions(decided, guidance_scale=0, target=0.1))


def test_saved_loaded_and_set_it_guides_the_same(decided, tmp_path):
    decided.save_pretrained(tmp_path / "m")
    loaded = TrajectoryDiffuser.from_pretrained(tmp_path / "m", device="cpu")
    loaded.sampling = SamplingConfig(guidance_scale=2, target=0.8)
    asked = first_actions(decided, guidance_scale=2, target=0.8)
    np.testing.assert_array_equal(first_actions(loaded), asked)
    np.testing.assert_array_equal(first_actions(loaded.on("cpu")), asked)
    np.testing.assert_array_equal(first_actions(pickle.loads(pickle.dumps(loaded))), asked)  # as actors get it
    assert "| guide | `return` |" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"generator": "bank", "network": "residual_mlp", "process": "edm", "calls": 3, "rows": "absolute"},
        {"generator": "bank", "task_size": 2},
        {"rows": "both"},
    ],
)
def test_every_network_and_process_can_be_guided(settings):
    data = chain_data(10)
    data = replace(data, tasks=np.eye(2, dtype=np.float32)[np.arange(10) % 2]) if "task_size" in settings else data
    model = tiny_diffuser(data, replace(GUIDED, **settings))
    states, task = data.columns.observations[:40], np.tile(np.float32([1, 0]), (40, 1))
    asked = {"task": task if "task_size" in settings else None, "generator_seed": 0, "refine": "none"}
    plain, told, guided = (model.generate(states, **asked, guidance_scale=scale, target=1) for scale in (0, 1, 2))
    assert np.isfinite(guided.observations).all()
    assert not np.array_equal(plain.actions[:, 0], told.actions[:, 0])
    assert not np.array_equal(told.actions[:, 0], guided.actions[:, 0])


def test_a_model_without_a_guide_says_so_at_once():
    model, wanted = tiny_diffuser(), SamplingConfig(guidance_scale=1)
    with pytest.raises(ValueError, match=r"guidance_scale must be 0: this model was fitted without a guide .*got 1"):
        model.sampling = wanted
    with pytest.raises(ValueError, match="fitted without a guide"):
        model.generate(np.zeros((1, 2), np.float32), generator_seed=0, guidance_scale=1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generator.sampling.guidance_scale", "1.5"], "fitted without a guide"),
        (["--generator.sampling.target", "1.5"], r"target must lie in 0\.\.1"),
        (["--generator.sampling.guidance_scale", "-1"], "guidance_scale must be at least 0"),
        (["--generator.model.guide", "return", "--generator.model.guide_drop", "0"], "guide_drop must lie between"),
    ],
)
def test_a_run_is_refused_before_it_begins(options, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as refused:
        load_run_config("env: X-v0\nname: x\nenv_steps: 2000", options)
    said = str(refused.value) + capsys.readouterr().err
    assert message.replace("\\", "") in said


def test_rows_in_noise_are_the_curious_ones():
    """Where x > 0 the next state is noise, that no one-step model can know."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3000, 2)).astype(np.float32)
    noise = rng.normal(size=states.shape) * (states[:, :1] > 0)
    last = np.arange(3000) % 30 == 29
    rows = Transitions(
        states,
        np.zeros((3000, 1), np.float32),
        np.zeros(3000, np.float32),
        np.float32(states + 0.1 + noise),
        last,
        ~last & False,
    )
    data = lay_out(CHAIN, [rows[np.arange(i, i + 30)] for i in range(0, 3000, 30)])
    model = tiny_diffuser(data, replace(TINY, lengths=(1,), dynamics_models=1))

    fresh = fitted_curiosity(data, model.config, model.codec, 0, model.device)
    known, unknown = fresh[states[:, 0] < 0], fresh[states[:, 0] > 0]
    assert np.median(unknown) > 3 * np.median(known)
    assert curiosity(model.dynamics, data, model.config).shape == (3000,)


def test_relevance_may_be_given(tmp_path):
    data, config = chain_data(10), replace(TINY, guide="relevance")
    given = np.random.default_rng(0).normal(size=data.n_transitions).astype(np.float32)
    settings = {"config": config, "settings": tiny_fit(2), "device": "cpu", "quiet": True}
    first = fit(data, tmp_path / "m", relevance=given, **settings)
    assert first.provenance.steps == 2
    with pytest.raises(FileExistsError, match="holds a fit of other relevance"):
        fit(data, tmp_path / "m", relevance=given + 1, **settings)
    with pytest.raises(ValueError, match="must be one score for each row"):
        fit(data, relevance=given[1:], **settings)
    with pytest.raises(ValueError, match="relevance must be numbers, got '<U"):
        fit(data, relevance=given.astype(str), **settings)
    with pytest.raises(ValueError, match="guide must be relevance where scores of relevance are given, got 'none'"):
        fit(data, relevance=given, **(settings | {"config": TINY}))


def test_the_same_seed_fits_the_same_guided_weights():
    settings = {"config": GUIDED, "device": "cpu", "quiet": True}
    whole = fit(chain_data(10), settings=tiny_fit(4), **settings)
    again = fit(chain_data(10), settings=tiny_fit(4), **settings)
    for name, value in whole.weights().items():
        np.testing.assert_array_equal(value, again.weights()[name], err_msg=name)


@pytest.fixture(scope="module")
def replay():
    return filled_replay(moved_data(20), PickUpConfig("td", picked=300))


def test_the_agents_windows_are_scored_by_the_importance_of_their_first_row(replay):
    batch = PickQuestion(300, TINY.lengths, double_actions)(replay)
    scores = batch.scored_pool("relevance").windows.scores
    importance = dict(zip(batch.picked.row_ids, batch.picked.importance, strict=True))
    ranks = {row: i / (len(importance) - 1) for i, row in enumerate(sorted(importance, key=importance.__getitem__))}
    np.testing.assert_allclose(scores, [ranks[row] for row in batch.pool.row_ids], atol=1e-6)
    assert np.isnan(batch.scored_pool("return").windows.scores).all()
    assert batch.scored_pool("none").windows.scores is None


@pytest.mark.parametrize("guide", ["return", "relevance"])
def test_a_guided_model_is_adapted_and_guides_on(replay, guide, monkeypatch):
    monkeypatch.setattr("atradiff.guidance._CURIOSITY_UPDATES", 10)
    model = tiny_diffuser(config=replace(TINY, guide=guide))
    adapter = Adapter(model, chain_data(10), replace(QUICK, pick_up=PickUpConfig("td", picked=300)), seed=0)
    report = adapter.update(LocalFeed(replay, double_actions), 300)
    assert report.accepted
    assert report.new_after < report.new_before
    adapted = model.on("cpu")
    adapted.load_weights(adapter.version, adapter.weights())
    states = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    for scale in (0, 1, 2):
        before, after = (m.generate(states, generator_seed=0, guidance_scale=scale) for m in (model, adapted))
        assert not np.array_equal(before.actions[:, 0], after.actions[:, 0])
