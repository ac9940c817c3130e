"""The data sets of D4RL: every published name, its task and its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atradiff.data.d4rl_tasks import TASKS, D4RLTask
from atradiff.data.errors import DataError

BASE_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
"""Where the files were published; below it lie the paths of the table."""

LICENCE = "CC BY 4.0 (data sets of D4RL)"


@dataclass(frozen=True)
class D4RLDataset:
    """A published data set: ``path`` is the file's place below :data:`BASE_URL`."""

    name: str
    task: D4RLTask
    path: str

    @property
    def url(self) -> str:
        return f"{BASE_URL}/{self.path}"


def find_dataset(name: str) -> D4RLDataset:
    """Look a data set up by its D4RL name; raises :class:`DataError` with the nearest names for an unknown one."""
    if name in DATASETS:
        return DATASETS[name]
    import difflib

    near = difflib.get_close_matches(name, DATASETS, n=3) or ["hopper-medium-v2"]
    raise DataError(
        f"'{name}' is not one of the {len(DATASETS)} data sets of D4RL.", f"Did you mean {' or '.join(near)}?"
    )


def dataset_of_file(stem: str) -> D4RLDataset | None:
    """The data set whose published file is called ``stem``.hdf5, if any."""
    return next((d for d in DATASETS.values() if d.path.rsplit("/", 1)[-1] == f"{stem}.hdf5"), None)


def _locomotion() -> Iterator[tuple[str, str, str]]:
    """(name, task, path) of the Gym-MuJoCo sets, -v0 to -v2."""
    short = {"walker2d": "walker"}
    kinds = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
    for robot in ("halfcheetah", "walker2d", "hopper", "ant"):
        for kind in kinds:
            for version in ("v1", "v2"):
                file = f"{robot}_{kind.replace('-', '_')}-{version}.hdf5"
                yield f"{robot}-{kind}-{version}", robot, f"gym_mujoco_{version}/{file}"
            if kind != "full-replay":
                file = f"{robot}_{kind.replace('-', '_')}.hdf5"
                if kind == "medium-replay":
                    file = f"{short.get(robot, robot)}_mixed.hdf5"
                yield f"{robot}-{kind}-v0", robot, f"gym_mujoco/{file}"
    yield "ant-random-expert-v0", "ant", "gym_mujoco/ant_random_expert.hdf5"


def _maze2d() -> Iterator[tuple[str, str, str]]:
    yield "maze2d-open-v0", "maze2d-open", "maze2d/maze2d-open-sparse.hdf5"
    yield "maze2d-open-dense-v0", "maze2d-open-dense", "maze2d/maze2d-open-dense.hdf5"
    for maze in ("umaze", "medium", "large", "eval-umaze", "eval-medium", "eval-large"):
        yield f"maze2d-{maze}-v1", f"maze2d-{maze}", f"maze2d/maze2d-{maze}-sparse-v1.hdf5"
        yield f"maze2d-{maze}-dense-v1", f"maze2d-{maze}-dense", f"maze2d/maze2d-{maze}-dense-v1.hdf5"


def _antmaze() -> Iterator[tuple[str, str, str]]:
    files = {
        "umaze": ("umaze", "u-maze_noisy_multistart_False_multigoal_False"),
        "umaze-diverse": ("umaze", "u-maze_noisy_multistart_True_multigoal_True"),
        "medium-play": ("medium", "big-maze_noisy_multistart_True_multigoal_False"),
        "medium-diverse": ("medium", "big-maze_noisy_multistart_True_multigoal_True"),
        "large-play": ("large", "hardest-maze_noisy_multistart_True_multigoal_False"),
        "large-diverse": ("large", "hardest-maze_noisy_multistart_True_multigoal_True"),
    }
    for kind, (maze, file) in files.items():
        yield f"antmaze-{kind}-v0", f"antmaze-{maze}", f"ant_maze_new/Ant_maze_{file}_sparse.hdf5"
        yield f"antmaze-{kind}-v2", f"antmaze-{maze}", f"ant_maze_v2/Ant_maze_{file}_sparse_fixed.hdf5"


def _manipulation() -> Iterator[tuple[str, str, str]]:
    old = {"human": "v0_demos_clipped", "cloned": "demos-v0-bc-combined", "expert": "v0_expert_clipped"}
    for tool in ("pen", "hammer", "relocate", "door"):
        for kind, file in old.items():
            yield f"{tool}-{kind}-v0", tool, f"hand_dapg/{tool}-{file}.hdf5"
            yield f"{tool}-{kind}-v1", tool, f"hand_dapg_v1/{tool}-{kind}-v1.hdf5"
    yield "kitchen-complete-v0", "kitchen", "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
    yield "kitchen-partial-v0", "kitchen", "kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5"
    yield "kitchen-mixed-v0", "kitchen", "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"


def _others() -> Iterator[tuple[str, str, str]]:
    yield "minigrid-fourrooms-v0", "minigrid-fourrooms", "minigrid/minigrid4rooms.hdf5"
    yield "minigrid-fourrooms-random-v0", "minigrid-fourrooms", "minigrid/minigrid4rooms_random.hdf5"
    for road in ("ring", "merge"):
        yield f"flow-{road}-random-v0", f"flow-{road}", f"flow/flow-{road}-v0-random.hdf5"
        yield f"flow-{road}-controller-v0", f"flow-{road}", f"flow/flow-{road}-v0-idm.hdf5"
    yield "carla-lane-v0", "carla-lane", "carla/carla_lane_follow_flat-v0.hdf5"
    yield "carla-town-v0", "carla-town", "carla/carla_town_subsamp_flat-v0.hdf5"
    yield "carla-town-full-v0", "carla-town-full", "carla/carla_town_flat-v0.hdf5"


def _bullet() -> Iterator[tuple[str, str, str]]:
    for robot in ("halfcheetah", "hopper", "ant", "walker2d"):
        for kind in ("random", "medium", "expert", "medium-expert", "medium-replay"):
            file = f"bullet/bullet-{robot}_{kind.replace('-', '_')}.hdf5"
            yield f"bullet-{robot}-{kind}-v0", f"bullet-{robot}", file
    for maze in ("open", "umaze", "medium", "large"):
        yield f"bullet-maze2d-{maze}-v0", f"bullet-maze2d-{maze}", f"bullet/bullet-maze2d-{maze}-sparse.hdf5"


DATASETS: dict[str, D4RLDataset] = {
    name: D4RLDataset(name, TASKS[task], path)
    for family in (_locomotion, _maze2d, _antmaze, _manipulation, _others, _bullet)
    for name, task, path in family()
}
