"""SAC of Stable-Baselines3, trained and evaluated as ``benchmarks.public_sac`` asks, in a Python of its own.

``python benchmarks/public_sac_sb3.py '{"env": "Pendulum-v1", ...}'`` knows nothing of this project; the last line that
it prints is JSON: the version, the seconds it took, and the returns of each evaluation.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import SAC, __version__


def new_sac(asked: dict[str, Any]) -> Any:
    """Plain SAC: two critics, 256x256, one update for each env step, temperature learned from 1."""
    return SAC(
        "MlpPolicy",
        gym.make(asked["env"]),
        learning_rate=3e-4,
        buffer_size=1_000_000,
        learning_starts=asked["learning_starts"],
        batch_size=256,
        tau=0.005,
        gamma=0.99,
        train_freq=1,
        gradient_steps=1,
        ent_coef="auto",
        target_entropy="auto",
        policy_kwargs={"net_arch": [256, 256]},
        seed=asked["seed"],
        device="cpu",
    )


def evaluate(model: Any, asked: dict[str, Any]) -> list[float]:
    """Undiscounted returns of deterministic episodes; episode i starts from ``reset(seed=evaluation_seed + i)``."""
    env, returns = gym.make(asked["env"]), []
    for i in range(asked["episodes"]):
        observation, _ = env.reset(seed=asked["evaluation_seed"] + i)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


def main() -> None:
    """Train as the JSON of the first argument asks, and print name, seconds and returns as JSON."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    began, model, evaluations = time.perf_counter(), new_sac(asked), []
    for _ in range(asked["env_steps"] // asked["every"]):
        model.learn(asked["every"], reset_num_timesteps=False)
        evaluations.append(evaluate(model, asked))
    name = f"Stable-Baselines3 {__version__}"
    print(json.dumps({"name": name, "seconds": time.perf_counter() - began, "returns": evaluations}))


if __name__ == "__main__":
    main()
