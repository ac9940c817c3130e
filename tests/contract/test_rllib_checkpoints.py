"""What RLlib's checkpoints leave out, and the two methods through which a part can be added.

When one of the first three fails, RLlib has learned to save it: what :mod:`rllib_ext.checkpoint` adds may go.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.checkpoints import Checkpointable
from stock_configs import stock_config

Build = Callable[[Any], Algorithm]


def test_the_replay_buffer_is_not_saved_even_when_asked_for(build: Build, tmp_path: Path) -> None:
    first, second = (build(stock_config("SAC", store_buffer_in_checkpoints=True)) for _ in range(2))
    first.train()
    second.restore_from_path(first.save_to_path(tmp_path))
    assert first.local_replay_buffer.get_num_timesteps() == 10
    assert second.local_replay_buffer.get_num_timesteps() == 0


def test_log_alpha_is_not_saved(build: Build, tmp_path: Path) -> None:
    first, second = (build(stock_config("SAC")) for _ in range(2))
    first.train()
    second.restore_from_path(first.save_to_path(tmp_path))
    before, after = (
        float(a.learner_group._learner.curr_log_alpha[DEFAULT_MODULE_ID].detach()) for a in (first, second)
    )
    assert before != 0.0
    assert after == 0.0


def test_the_step_of_the_last_target_update_is_not_saved(build: Build, tmp_path: Path) -> None:
    first, second = (build(stock_config("DQN", target_network_update_freq=10)) for _ in range(2))
    first.train()
    second.restore_from_path(first.save_to_path(tmp_path))
    assert first.learner_group._learner.last_update_ts_by_mid[DEFAULT_MODULE_ID] == 10
    assert second.learner_group._learner.last_update_ts_by_mid[DEFAULT_MODULE_ID] == 0


class Part(Checkpointable):
    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def save_to_path(self, path: Any = None, **_: Any) -> str:
        self.log.append(("save", Path(path).name))
        Path(path).mkdir()
        return str(path)

    def restore_from_path(self, path: Any, **_: Any) -> None:
        self.log.append(("restore", Path(path).name))

    def get_state(self, components: Any = None, *, not_components: Any = None, **_: Any) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def set_state(self, state: Any) -> None: ...

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {}


def test_a_part_can_be_added_from_outside(build: Build, tmp_path: Path) -> None:
    """Both methods may be wrapped on the instance, and a part is restored after those before it in the list."""
    algorithm, part = build(stock_config("SAC")), Part()
    get_state, get_components = algorithm.get_state, algorithm.get_checkpointable_components
    asked: list[Any] = []

    def with_part(components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        asked.append((components, not_components))
        state: dict[str, Any] = get_state(components, not_components=not_components, **kwargs)
        return {**state, "part": {}} if algorithm._check_component("part", components, not_components) else state

    algorithm.get_state = with_part
    algorithm.get_checkpointable_components = lambda: [*get_components(), ("part", part)]
    algorithm.save(str(tmp_path / "by_tune"))
    algorithm.restore(str(tmp_path / "by_tune"))
    assert part.log == [("save", "part"), ("restore", "part")]
    assert ("part", None) in asked
    assert any("part" in (left_out or []) for _, left_out in asked)


def test_env_runners_begin_anew_after_a_restore(build: Build, tmp_path: Path) -> None:
    first, second = (build(stock_config("SAC")) for _ in range(2))
    first.train()
    second.restore_from_path(first.save_to_path(tmp_path))
    assert not first.env_runner._needs_initial_reset
    assert second.env_runner._needs_initial_reset
