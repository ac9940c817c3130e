from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_data import d4rl_arrays, write_hdf5

from atradiff.data.importer import import_data
from atradiff.data.scores import normalized_score
from atradiff.data.store import open_trajectories, read_extras


def test_npz_and_hdf5_give_the_same_store(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    one = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "one")
    renamed = {{"terminals": "terminated", "timeouts": "truncated"}.get(k, k): v for k, v in arrays.items()}
    np.savez(tmp_path / "a.npz", **renamed)
    two = import_data(str(tmp_path / "a.npz"), tmp_path / "two")
    assert one.content_hash == two.content_hash
    np.testing.assert_array_equal(open_trajectories(tmp_path / "one").offsets, [0, 5, 8, 12])


def test_float64_is_narrowed_and_remembered(tmp_path: Path) -> None:
    wide = d4rl_arrays()["observations"].astype(np.float64) + 1e-12
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", d4rl_arrays(observations=wide))), tmp_path / "out")
    assert info.source_dtypes["observations"] == "float64"
    assert info.source_dtypes["rewards"] == "float32"
    data = open_trajectories(tmp_path / "out")
    np.testing.assert_array_equal(data.columns.observations, wide.astype(np.float32))


def test_discrete_actions(tmp_path: Path) -> None:
    arrays = d4rl_arrays(actions=np.arange(12, dtype=np.int32) % 5)
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "out")
    data = open_trajectories(tmp_path / "out")
    assert info.spaces.n_actions == 5
    assert data.columns.actions.dtype == np.int64
    np.testing.assert_array_equal(data.columns.actions, arrays["actions"])


def test_clipping_is_done_when_asked_and_told(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    arrays["actions"][4, 0] = 3.0
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "out", clip_actions=True)
    assert open_trajectories(tmp_path / "out").columns.actions[4, 0] == 1.0
    assert any("actions of 1 rows" in note for note in info.notes)


def test_episodes_end_at_the_goal_when_asked(tmp_path: Path) -> None:
    arrays = d4rl_arrays((6, 4), rewards=np.float32([0, 0, 1, 1, 0, 1, 0, 0, 0, 0]))
    file = str(write_hdf5(tmp_path / "a.hdf5", arrays))
    info = import_data(file, tmp_path / "out", end_at_reward=1)
    data = open_trajectories(tmp_path / "out")
    assert data.lengths.tolist() == [3, 4]
    assert data.columns.terminated.tolist() == [False, False, True, False, False, False, arrays["terminals"][-1]]
    assert any(
        "1 episodes end with a reward of 1 or more; 3 rows after it were left out" in note for note in info.notes
    )
    with pytest.raises(ValueError, match=r"got 2, the highest is 1.0"):
        import_data(file, tmp_path / "other", end_at_reward=2)
    assert not (tmp_path / "other").exists()


def test_rounded_bounds_are_no_reason_to_refuse(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    arrays["actions"][4, 0] = np.float32(1.00001)
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "out")
    assert not any("clipped" in note for note in info.notes)
    assert open_trajectories(tmp_path / "out").columns.actions[4, 0] == np.float32(1.00001)


def test_goals_and_infos_are_kept_with_their_rows(tmp_path: Path) -> None:
    """Rows dropped for want of a next observation take their infos along; metadata is left out."""
    arrays = d4rl_arrays((5, 3, 4), next_observations=None)
    arrays["infos/goal"] = np.arange(24.0).reshape(12, 2)
    arrays["policy"] = np.arange(12, dtype=np.int16)
    arrays["metadata/policy/weight"] = np.zeros((12, 7))
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "out")
    extras = read_extras(tmp_path / "out")
    assert set(info.extras) == set(extras) == {"infos/goal", "policy"}
    np.testing.assert_array_equal(extras["policy"], [0, 1, 2, 3, 5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(extras["infos/goal"], arrays["infos/goal"][extras["policy"]])


def test_extras_that_cannot_be_stored_stay_behind(tmp_path: Path) -> None:
    foreign = {"big": np.arange(12, dtype=">f4"), "long": np.zeros(12, np.longdouble), "empty": np.zeros((12, 0))}
    np.savez(tmp_path / "a.npz", **d4rl_arrays(), **foreign)
    import_data(str(tmp_path / "a.npz"), tmp_path / "out")
    extras = read_extras(tmp_path / "out")
    assert list(extras) == ["big"]
    np.testing.assert_array_equal(extras["big"], np.arange(12))


def test_only_a_horizon(tmp_path: Path) -> None:
    arrays = d4rl_arrays((12,), terminals=np.zeros(12, bool), timeouts=None)
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "out", horizon=4)
    assert (info.n_episodes, info.n_truncated) == (3, 3)


def test_a_horizon_that_the_file_has_no_use_for_is_told(tmp_path: Path) -> None:
    file = str(write_hdf5(tmp_path / "a.hdf5", d4rl_arrays()))
    info = import_data(file, tmp_path / "out", horizon=2)
    assert info.n_episodes == 3
    assert "the horizon of 2 steps was not used: the file says itself where episodes end" in info.notes
    assert not any("not used" in note for note in import_data(file, tmp_path / "other").notes)


def test_the_environments_horizon_serves_where_none_is_given(tmp_path: Path) -> None:
    """Pendulum-v1 truncates after 200 steps."""
    n = 400
    arrays = d4rl_arrays((n,), terminals=np.zeros(n, bool), timeouts=None)
    arrays["actions"] = arrays["actions"][:, :1]
    info = import_data(str(write_hdf5(tmp_path / "a.hdf5", arrays)), tmp_path / "out", env="Pendulum-v1")
    assert info.n_episodes == 2
    assert info.env_id == "Pendulum-v1"
    assert info.spaces.action_high == (2.0,)


def test_a_d4rl_file_is_known_by_its_name(tmp_path: Path) -> None:
    """maze2d observes 4 numbers and its modern counterpart 8, so that no environment is named."""
    arrays = d4rl_arrays((6, 6), observations=np.zeros((12, 4), np.float32), next_observations=None)
    info = import_data(str(write_hdf5(tmp_path / "maze2d-umaze-sparse-v1.hdf5", arrays)), tmp_path / "out")
    assert info.dataset_name == "maze2d-umaze-v1"
    assert info.env_id is None
    assert any("observes 8 numbers, the file 4" in note for note in info.notes)


@pytest.mark.parametrize(
    ("name", "mean_return", "score"),
    [
        ("hopper_random", 17, 1), ("hopper_medium", 1520, 47), ("hopper_medium-replay", 1315, 41),
        ("hopper_expert", 3383, 105), ("halfcheetah_random", -275, 0), ("halfcheetah_medium", 5345, 45),
        ("halfcheetah_medium-replay", 2765, 25), ("halfcheetah_expert", 11117, 92), ("walker2d_random", 1, 0),
        ("walker2d_medium", 2479, 54), ("walker2d_medium-replay", 1518, 33), ("walker2d_expert", 4218, 92),
    ],
)  # fmt: skip
def test_real_locomotion_returns(tmp_path: Path, shared_data: Path, name: str, mean_return: int, score: int) -> None:
    """Against the returns that were noted when the files were recorded, over the episodes that were played out."""
    file = shared_data / "locomotion" / f"{name}-v5.hdf5"
    import_data(str(file), tmp_path / "out")
    data = open_trajectories(tmp_path / "out")
    ends = data.offsets[1:] - 1
    whole = data.columns.terminated[ends] | (data.lengths == 1000)
    returns = data.returns[whole]
    assert data.n_transitions == 50_000
    assert returns.mean() == pytest.approx(mean_return, abs=0.6)
    assert normalized_score(data.env_id or "", returns).mean() == pytest.approx(score, abs=0.6)
