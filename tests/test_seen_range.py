"""What trajectories are held to: the range of the data at first, wider with what an agent saw; part of the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from atradiff.data.normalize import Normalizer
from atradiff.model_folder import load_model
from atradiff.seen_range import SeenRange
from tests.toys import chain_data, random_data, tiny_diffuser


def test_widens_to_the_extremes_of_all_finite_rows():
    data, other = chain_data(3), random_data([40], [True], seed=4).columns
    n = Normalizer.fit(data)
    broken = other.next_observations.copy()
    broken[7, 1], broken[8, 0] = np.nan, np.inf
    seen = SeenRange(n)
    seen.widen(replace(other, next_observations=broken))
    rows = [i for i in range(40) if i not in (7, 8)]
    for column in range(2):
        states = [float(x) for i in rows for x in (other.observations[i, column], broken[i, column])]
        steps = [float(broken[i, column] - other.observations[i, column]) for i in rows]
        assert float(seen.state_low[column]) == min([*states, float(n.state_low[column])])
        assert float(seen.state_high[column]) == max([*states, float(n.state_high[column])])
        assert float(seen.delta_low[column]) == min([*steps, float(n.delta_low[column])])
        assert float(seen.delta_high[column]) == max([*steps, float(n.delta_high[column])])
    before = seen.bounds()
    seen.widen(other[rows[:0]])
    for name, value in seen.bounds().items():
        np.testing.assert_array_equal(value, before[name])


def test_before_anything_was_seen_it_is_that_of_the_data():
    n = Normalizer.fit(chain_data(5))
    n = replace(n, state_low=np.float32([-1, 7]), state_high=np.float32([1, 7]))
    low, high = SeenRange(n).reach()
    np.testing.assert_allclose(low, [-2, 7 - 0.007], rtol=1e-6)
    np.testing.assert_allclose(high, [2, 7 + 0.007], rtol=1e-6)
    bounds = SeenRange(n).bounds()
    for name in ("state_low", "state_high", "delta_low", "delta_high"):
        np.testing.assert_array_equal(bounds[name], getattr(n, name))


def test_a_difference_that_never_varied_keeps_its_value():
    data = random_data([12], [True])
    columns = data.columns
    columns.observations[:, 1], columns.next_observations[:, 1] = np.arange(12) / 4, np.arange(1, 13) / 4
    seen = SeenRange(Normalizer.fit(data))
    other = replace(columns, next_observations=columns.next_observations + 3)
    seen.widen(other)
    assert (float(seen.delta_low[1]), float(seen.delta_high[1])) == (0.25, 0.25)
    assert float(seen.state_high[1]) == 6.0


def test_it_travels_with_the_weights_and_steps_are_held_to_it():
    model, other = tiny_diffuser(), tiny_diffuser()
    n = model.codec.normalizer
    rows = np.zeros((1, 3, model.codec.row_size), np.float32)
    rows[..., model.codec.state_columns] = 1e3
    start = np.zeros((1, 2), np.float32)
    np.testing.assert_allclose(np.diff(other.decoder.decode(start, rows).states, axis=1)[0, 0], n.delta_high)
    far = chain_data(2).columns
    far = replace(far, next_observations=far.observations + np.float32([5, 2]))
    model.dynamics.seen.widen(far)
    other.load_weights(1, model.weights())
    np.testing.assert_allclose(np.diff(other.decoder.decode(start, rows).states, axis=1)[0, 0], [5, 2], rtol=1e-6)
    reached = torch.from_numpy(far.next_observations)
    assert not other.dynamics.leaves_data(reached).any()
    assert tiny_diffuser().dynamics.leaves_data(reached).any()


def test_a_model_folder_keeps_it_and_one_without_it_has_that_of_its_data(tmp_path):
    from safetensors.torch import load_file, save_file

    model = tiny_diffuser()
    model.dynamics.seen.widen(random_data([30], [True], seed=2).columns)
    model.save_pretrained(tmp_path / "m")
    again = load_model(tmp_path / "m", "cpu", "float32").dynamics.seen.bounds()
    for name, value in model.dynamics.seen.bounds().items():
        np.testing.assert_array_equal(again[name], value)
    file = tmp_path / "m" / "dynamics.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("seen.")}, file)
    old = load_model(tmp_path / "m", "cpu", "float32").dynamics.seen.bounds()
    np.testing.assert_array_equal(old["state_high"], model.codec.normalizer.state_high)


def test_rewards_that_only_the_agent_was_paid_are_imagined_from_then_on():
    data = chain_data(5)
    columns = replace(data.columns, rewards=np.zeros(data.n_transitions, np.float32))
    seen = SeenRange(Normalizer.fit(replace(data, columns=columns)))
    near = torch.tensor([0.2, 0.9, torch.nan])
    assert seen.crisp(near)[:2].tolist() == [0, 0]
    assert seen.crisp(near)[2].isnan()
    paid = replace(columns[:4], rewards=np.float32([0, 1, np.nan, -1]))
    seen.widen(paid)
    assert seen.crisp(near)[:2].tolist() == [0, 1]
    assert seen.bounds()["reward_levels"].tolist() == [-1, 0, 1]
    other = SeenRange(Normalizer.fit(replace(data, columns=columns)))
    other.load_state_dict(seen.state_dict())  # levels travel with the weights, however many there are
    assert other.crisp(near)[:2].tolist() == [0, 1]
    seen.widen(replace(columns[:20], rewards=np.arange(20, dtype=np.float32) / 7))
    assert len(seen.bounds()["reward_levels"]) == 0  # too many for levels: a scale
    torch.testing.assert_close(seen.crisp(near)[:2], near[:2])
    scale = SeenRange(Normalizer.fit(data))
    scale.widen(paid)
    torch.testing.assert_close(scale.crisp(near)[:2], near[:2])


def test_a_box_gives_way_to_states_that_the_task_went_on_from():
    data = falling_data()
    seen = SeenRange(Normalizer.fit(data))
    assert seen.tells_ends
    assert not SeenRange(Normalizer.fit(chain_data(5))).tells_ends  # its end is a goal
    rows = data.columns[:3]
    on = np.float32([[1.2, 0], [2.5, 0], [1.7, 0]])
    seen.widen(replace(rows, next_observations=on, terminated=np.array([False, True, False])))
    told = seen.ends(torch.tensor([[1.65, 0], [1.75, 0], [-9, 9]]))
    assert told.tolist() == [False, True, False]


def test_trajectories_of_a_task_that_can_be_lost_end_where_they_leave_the_box(tmp_path):
    model = tiny_diffuser(falling_data())
    model.save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m", "cpu", "float32")
    edge = float(model.dynamics.seen.alive_high[0])
    assert f"| the task ends | where state[0] > {edge:.3g} |" in (tmp_path / "m" / "README.md").read_text()
    starts = np.linspace([edge - 0.1, 0], [edge + 0.1, 0], 40, dtype=np.float32)
    for refine in ("none", "cut", "project", "dynamics"):
        t = model.generate(starts, generator_seed=0, refine=refine, horizon=20, length=3)
        np.testing.assert_array_equal(t.terminated & t.mask, (t.observations[:, 1:, 0] > edge) & t.mask)
        assert t.terminated.any()


def falling_data():
    """The chain, but what ends it pays nothing."""
    data = chain_data(30)
    return replace(data, columns=replace(data.columns, rewards=np.zeros(data.n_transitions, np.float32)))
