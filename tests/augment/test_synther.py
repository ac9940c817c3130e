"""SynthER against a chain whose step is known, and its promises: format, seeds, folder, online schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from atradiff.augment.synther import SyntherDiffuser, new_network
from atradiff.augment.synther_fit import OnlineSynther, fit_synther
from atradiff.augment.transition_rows import TransitionRows
from atradiff.config import ServingConfig, SyntherConfig, SyntherFit
from atradiff.ports import TrajectoryGenerator
from atradiff.types import Spaces
from tests.toys import CHAIN, chain_data, chain_step, random_data

SMALL = SyntherConfig(width=96, depth=3)
DISCRETE = Spaces(3, "discrete", n_actions=4)


@pytest.fixture(scope="module")
def synther():
    settings = SyntherFit(steps=400, learning_rate=2e-3, precision="float32")
    return fit_synther(CHAIN, chain_data(60).columns, SMALL, settings, device="cpu", quiet=True)


def nothing(n, width=2):
    return np.zeros((n, width), np.float32)


@pytest.mark.parametrize(("solver", "calls"), [("stochastic", 63), ("dpm++", None)])
def test_transitions_follow_the_chain(synther, solver, calls):
    model = replace_config(synther, solver=solver, calls=calls)
    rows = model.generate(nothing(1024), generator_seed=0).to_transitions()
    following, _, _ = chain_step(rows.observations, rows.actions)
    moved = np.sqrt(np.square(rows.observations - following).mean())
    assert np.sqrt(np.square(rows.next_observations - following).mean()) < 0.25 * moved
    data = chain_data(60).columns
    np.testing.assert_allclose(rows.observations.mean(0), data.observations.mean(0), atol=0.15)
    assert rows.terminated.mean() == pytest.approx(data.terminated.mean(), abs=0.04)


def replace_config(model, **changes):
    config = replace(model.config, **changes)
    return SyntherDiffuser(config, model.codec, model.network, device="cpu", precision="float32")


UNBOUNDED = Spaces(3, "continuous", action_low=(-np.inf, 0.0), action_high=(np.inf, np.inf))


@pytest.mark.parametrize("solver", ["stochastic", "heun", "dpm++"])
@pytest.mark.parametrize("spaces", [DISCRETE, UNBOUNDED, Spaces(3, "continuous", (-1.0, 0.0), (1.0, 0.5))])
def test_untrained_networks_stay_in_the_action_space(spaces, solver):
    data = random_data([12] * 3, [True, False, True], spaces=spaces)
    codec = TransitionRows.fit(spaces, data.columns)
    config = replace(SMALL, solver=solver, calls=3)
    for wildness in (0.1, 1.0, 10.0):
        network = new_network(config, codec, seed=0)
        for parameter in network.parameters():
            parameter.data *= wildness
        imagined = SyntherDiffuser(config, codec, network, device="cpu").generate(nothing(50, 3), generator_seed=1)
        for column in (imagined.observations, imagined.rewards, imagined.actions):
            assert np.isfinite(column).all()
        if spaces.discrete:
            assert set(np.unique(imagined.actions)) <= set(range(4))
        else:
            assert (imagined.actions >= np.float32(spaces.action_low)).all()
            assert (imagined.actions <= np.float32(spaces.action_high)).all()
    network.head.bias.data.fill_(np.nan)
    with pytest.raises(FloatingPointError, match="weights are damaged"):
        SyntherDiffuser(config, codec, network, device="cpu").generate(nothing(2, 3), generator_seed=1)


def test_the_published_sampler_calls_its_network_255_times(synther):
    asked = []
    handle = synther.network.register_forward_hook(lambda *_: asked.append(1))
    synther.generate(nothing(2), generator_seed=0)
    handle.remove()
    assert len(asked) == 255
    assert replace(SMALL, solver="dpm++").network_calls == 20


def test_is_a_generator_that_starts_where_it_likes(synther):
    generator: TrajectoryGenerator = replace_config(synther, solver="dpm++", calls=4)
    first = generator.generate(nothing(30), generator_seed=5)
    again = generator.generate(nothing(30) + 1, generator_seed=5)
    other = generator.generate(nothing(30), generator_seed=6)
    assert not generator.starts_at_states
    np.testing.assert_array_equal(first.observations, again.observations)
    assert not np.array_equal(first.observations, other.observations)
    assert first.observations.shape == (30, 2, 2)
    assert first.lengths.tolist() == [1] * 30
    with pytest.raises(ValueError, match="no task"):
        generator.generate(nothing(1), nothing(1), generator_seed=0)


def test_the_server_stores_its_rows(synther):
    from atradiff.replay.mixed import MixedReplay, ReplayConfig
    from atradiff.serving import LocalServer

    config = ReplayConfig(capacity=1000, rho=0.5)
    replay = MixedReplay(CHAIN, config, seed=0)
    generator = replace_config(synther, solver="dpm++", calls=2)
    server = LocalServer(replay, generator, ServingConfig(requests_per_batch=4, max_wait=0), 0, lambda rows: rows)
    replay.store(chain_data(3).columns)
    assert server.serve() == replay.counters.trajectories > 0


def test_a_fit_of_fewer_steps_than_there_are_between_averages_is_a_fit():
    data, settings = chain_data(4).columns, SyntherFit(steps=9, ema_every=10)
    fitted = fit_synther(CHAIN, data, SMALL, settings, device="cpu", quiet=True).network.state_dict()
    untrained = new_network(SMALL, TransitionRows.fit(CHAIN, data), settings.seed).state_dict()
    assert any((value != untrained[name]).any() for name, value in fitted.items())


def test_the_same_global_random_stream_afterwards_and_the_same_fit_again():
    data, settings = chain_data(4).columns, SyntherFit(steps=3)
    state = torch.get_rng_state()
    first, second = (fit_synther(CHAIN, data, SMALL, settings, device="cpu", quiet=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.network.state_dict().items():
        torch.testing.assert_close(value, second.network.state_dict()[name], rtol=0, atol=0)


def test_a_folder_holds_the_model(synther, tmp_path):
    model = replace_config(synther, solver="heun", calls=3)
    model.save_pretrained(tmp_path / "model")
    again = SyntherDiffuser.from_pretrained(tmp_path / "model", device="cpu", precision="float32")
    ours, theirs = (m.generate(nothing(9), generator_seed=2) for m in (model, again))
    np.testing.assert_array_equal(ours.observations, theirs.observations)
    assert again.config == model.config
    with pytest.raises(FileExistsError, match="not empty"):
        model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="no SynthER model"):
        SyntherDiffuser.from_pretrained(tmp_path / "model")


def test_weights_that_are_not_finite_are_refused(synther, tmp_path, monkeypatch):
    synther.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = np.nan
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"model\.safetensors holds weights that are not finite"):
        SyntherDiffuser.from_pretrained(tmp_path / "model")

    def diverging(optimizer):
        optimizer.param_groups[0]["params"][0].data.fill_(np.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", diverging)
    with pytest.raises(FloatingPointError, match=r"diverged.*Lower learning_rate, or"):
        fit_synther(CHAIN, chain_data(4).columns, SMALL, SyntherFit(steps=10), device="cpu", quiet=True)


def test_no_bound_is_null_in_the_folder(tmp_path):
    codec = TransitionRows.fit(UNBOUNDED, random_data([12], [True], spaces=UNBOUNDED).columns)
    model = SyntherDiffuser(SMALL, codec, new_network(SMALL, codec, seed=0), device="cpu")
    model.save_pretrained(tmp_path / "model")
    assert "Infinity" not in (tmp_path / "model" / "config.json").read_text()
    assert SyntherDiffuser.from_pretrained(tmp_path / "model").spaces == UNBOUNDED


@pytest.mark.parametrize("data", [chain_data(5), random_data([20, 9], [True, False], spaces=DISCRETE)])
def test_rows_come_back_as_they_were(data):
    codec = TransitionRows.fit(data.spaces, data.columns)
    back = codec.decode(codec.encode(data.columns), 3).to_transitions()
    np.testing.assert_allclose(back.observations, data.columns.observations, atol=1e-5)
    np.testing.assert_allclose(back.next_observations, data.columns.next_observations, atol=1e-5)
    np.testing.assert_allclose(back.rewards, data.columns.rewards, atol=1e-4)
    np.testing.assert_allclose(back.actions, data.columns.actions, atol=1e-5)
    np.testing.assert_array_equal(back.terminated, data.columns.terminated)


def test_beside_an_agent_it_is_fitted_anew_every_so_many_steps():
    data = chain_data(4).columns
    config = replace(SMALL, retrain_every=100, solver="dpm++", calls=2)
    online = OnlineSynther(CHAIN, config, SyntherFit(steps=2), device="cpu")
    assert not online.ready
    assert not online.due(99)
    with pytest.raises(ValueError, match="no model before env step 100"):
        online.generate(nothing(1), generator_seed=0)
    assert online.due(100)
    online.retrain(data, 100)
    first = online.model
    assert (online.ready, online.version, online.due(199), online.due(230)) == (True, 1, False, True)
    online.retrain(data, 230)
    assert (online.version, online.due(299), online.due(300)) == (2, False, True)
    assert online.generate(nothing(2), generator_seed=0).generator_version == 2
    weights = first.network.state_dict()["head.weight"], online.model.network.state_dict()["head.weight"]
    assert not torch.equal(*weights)  # from scratch, by another seed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SyntherConfig(solver="euler"), "solver must be one of"),
        (lambda: SyntherConfig(calls=0), "calls must be at least 1"),
        (lambda: SyntherFit(), "must be given one at a time"),
        (lambda: SyntherFit(steps=1, batch=0), "batch must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
