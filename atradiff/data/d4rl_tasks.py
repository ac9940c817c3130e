"""The tasks of D4RL: reference returns, modern counterparts, and what differs between the two.

The reference returns are those published with the ``d4rl`` package (1.1): the mean return of a random policy and of
an expert. A normalised score is comparable with published tables only where data and environment are D4RL's own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class D4RLTask:
    """One environment of D4RL; ``environment`` is the id of what Gymnasium offers in its place, if anything."""

    name: str
    horizon: int
    random_return: float | None
    expert_return: float | None
    environment: str | None
    differs: str


_MUJOCO = (
    "mujoco-py's MuJoCo 2 (-v2) gave way to MuJoCo 3 (-v5), whose solver differs: the same actions lead elsewhere "
    "after a while"
)
_HEALTHY = "-v5 gives the healthy reward only while healthy, earlier versions on every step"
_MAZE = (
    "D4RL observes position and velocity only and never ends an episode; the counterpart observes goal and achieved "
    "goal too, and draws a goal per episode where D4RL's is fixed"
)
_EVAL = "as without eval, with the goal drawn per episode: "
_ANT_MAZE = "D4RL's observation (29) has no goal; the counterpart's (109) has the goal and the contact forces"
_HAND = "-v1 counterparts run 200 steps in the newer simulator; their sparse reward is a separate environment"
_KITCHEN = "the counterpart observes 59 numbers and goals by name where D4RL observes 60 with the goal appended"
_NONE = "no maintained counterpart: the data can be read, the task cannot be run here"

_LOCOMOTION = (
    D4RLTask("hopper", 1000, -20.272305, 3234.3, "Hopper-v5", f"{_MUJOCO}; {_HEALTHY}"),
    D4RLTask("halfcheetah", 1000, -280.178953, 12135.0, "HalfCheetah-v5", _MUJOCO),
    D4RLTask(
        "walker2d",
        1000,
        1.629008,
        4592.3,
        "Walker2d-v5",
        f"{_MUJOCO}; {_HEALTHY}; both feet have the same friction since -v5",
    ),
    D4RLTask(
        "ant",
        1000,
        -325.6,
        3879.7,
        "Ant-v5",
        f"{_MUJOCO}; {_HEALTHY}; D4RL observes 111 numbers, -v5 105 (no contact force of the world body)",
    ),
)

_MAZE2D = (
    D4RLTask("maze2d-open", 150, 0.01, 20.66, "PointMaze_Open-v3", _MAZE),
    D4RLTask("maze2d-umaze", 300, 23.85, 161.86, "PointMaze_UMaze-v3", _MAZE),
    D4RLTask("maze2d-medium", 600, 13.13, 277.39, "PointMaze_Medium-v3", _MAZE),
    D4RLTask("maze2d-large", 800, 6.7, 273.99, "PointMaze_Large-v3", _MAZE),
    D4RLTask("maze2d-open-dense", 150, 11.17817, 27.166538620695782, "PointMaze_OpenDense-v3", _MAZE),
    D4RLTask("maze2d-umaze-dense", 300, 68.537689, 193.66285642381482, "PointMaze_UMazeDense-v3", _MAZE),
    D4RLTask("maze2d-medium-dense", 600, 44.264742, 297.4552547777125, "PointMaze_MediumDense-v3", _MAZE),
    D4RLTask("maze2d-large-dense", 800, 30.569041, 303.4857382709002, "PointMaze_LargeDense-v3", _MAZE),
    D4RLTask("maze2d-eval-umaze", 300, None, None, "PointMaze_UMaze-v3", _EVAL + _MAZE),
    D4RLTask("maze2d-eval-medium", 600, None, None, "PointMaze_Medium-v3", _EVAL + _MAZE),
    D4RLTask("maze2d-eval-large", 800, None, None, "PointMaze_Large-v3", _EVAL + _MAZE),
    D4RLTask("maze2d-eval-umaze-dense", 300, None, None, "PointMaze_UMazeDense-v3", _EVAL + _MAZE),
    D4RLTask("maze2d-eval-medium-dense", 600, None, None, "PointMaze_MediumDense-v3", _EVAL + _MAZE),
    D4RLTask("maze2d-eval-large-dense", 800, None, None, "PointMaze_LargeDense-v3", _EVAL + _MAZE),
)

_ANTMAZE = (
    D4RLTask("antmaze-umaze", 700, 0.0, 1.0, "AntMaze_UMaze-v5", _ANT_MAZE),
    D4RLTask("antmaze-medium", 1000, 0.0, 1.0, "AntMaze_Medium-v5", _ANT_MAZE),
    D4RLTask("antmaze-large", 1000, 0.0, 1.0, "AntMaze_Large-v5", _ANT_MAZE),
)

_MANIPULATION = (
    D4RLTask("pen", 100, 96.262799, 3076.8331017826877, "AdroitHandPen-v1", f"{_HAND}; D4RL's pen ran 100"),
    D4RLTask("hammer", 200, -274.856578, 12794.134825156867, "AdroitHandHammer-v1", _HAND),
    D4RLTask("relocate", 200, -6.425911, 4233.877797728884, "AdroitHandRelocate-v1", _HAND),
    D4RLTask("door", 200, -56.512833, 2880.5693087298737, "AdroitHandDoor-v1", _HAND),
    D4RLTask("kitchen", 280, 0.0, 4.0, "FrankaKitchen-v1", _KITCHEN),
)

_WITHOUT_COUNTERPART = (
    D4RLTask("minigrid-fourrooms", 50, 0.01442, 2.89685, None, _NONE),
    D4RLTask("flow-ring", 500, -165.22, 24.42, None, _NONE),
    D4RLTask("flow-merge", 750, 118.67993, 330.03179, None, _NONE),
    D4RLTask("carla-lane", 250, -0.8503839912088142, 1023.5784385429523, None, _NONE),
    D4RLTask("carla-town", 1000, -114.81579500772153, 2440.1772022247314, None, _NONE),
    D4RLTask("carla-town-full", 1000, None, None, None, _NONE),
    D4RLTask("bullet-halfcheetah", 1000, -1275.766996, 2381.6725, None, _NONE),
    D4RLTask("bullet-hopper", 1000, 20.058972, 1441.8059623430963, None, _NONE),
    D4RLTask("bullet-ant", 1000, 373.705955, 2650.495, None, _NONE),
    D4RLTask("bullet-walker2d", 1000, 16.523877, 1623.6476303317536, None, _NONE),
    D4RLTask("bullet-maze2d-open", 150, 8.75, 64.15, None, _NONE),
    D4RLTask("bullet-maze2d-umaze", 300, 32.46, 153.99, None, _NONE),
    D4RLTask("bullet-maze2d-medium", 600, 14.87, 238.05, None, _NONE),
    D4RLTask("bullet-maze2d-large", 800, 1.82, 285.92, None, _NONE),
)

TASKS: dict[str, D4RLTask] = {
    task.name: task for task in (*_LOCOMOTION, *_MAZE2D, *_ANTMAZE, *_MANIPULATION, *_WITHOUT_COUNTERPART)
}
