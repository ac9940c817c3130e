"""What sampling goes on from is the projected estimate, or one that follows the one-step model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from atradiff.data.normalize import Path
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.edm import denoise
from atradiff.inner_refinement import RefinedNetwork, follow
from atradiff.projection import project
from atradiff.types import Spaces
from tests.toys import TINY, random_data, tiny_diffuser

ROWS = ("differences", "absolute", "both", "residuals")
KINDS = [(rows, process) for rows in ROWS for process in ("shortcut", "edm")]
MOVES = [partial(project, steps=4), partial(follow, share=0.8)]
DISCRETE = Spaces(3, "discrete", n_actions=4)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def diffuser(request):
    rows, process = request.param
    return tiny_diffuser(config=replace(TINY, rows=rows, process=process, calls=3))


def states_like(n, width=2):
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32) * np.float32(0.2)


def refined(diffuser, move, network=None, last_of=None):
    inner = network or diffuser.denoiser
    return RefinedNetwork(inner, diffuser.config.process, diffuser.decoder, diffuser.dynamics, move, last_of)


def estimate(diffuser, network, rows, level, condition):
    """Clean rows, by the definition of each process."""
    if diffuser.config.process == "edm":
        return denoise(network, rows, torch.full((len(rows),), level), condition)
    time = torch.full((len(rows),), level)
    return rows + (1 - level) * network(rows, time, torch.zeros(len(rows)), condition)


@pytest.mark.parametrize("move", MOVES, ids=["project", "follow"])
@pytest.mark.parametrize("level", [0.25, 0.75])
def test_the_estimate_is_the_moved_one(diffuser, level, move):
    codec, lengths = diffuser.decoder, np.array([6, 6, 3, 3])
    states = states_like(4)
    condition = Condition(torch.as_tensor(codec.normalizer.states(states)), torch.as_tensor(lengths))
    rows = 0.5 * torch.randn((4, 6, codec.row_size), generator=torch.Generator().manual_seed(0))
    rows[..., -1] = -10  # no end
    with torch.inference_mode():
        plain = estimate(diffuser, diffuser.denoiser, rows, level, condition)
        moved = estimate(diffuser, refined(diffuser, move), rows, level, condition)
        decoded = codec.decode(states, plain.numpy(), lengths)
        real = torch.arange(6) < torch.as_tensor(lengths)[:, None]
        wanted, actions = move(
            diffuser.dynamics, torch.as_tensor(decoded.states), torch.as_tensor(decoded.actions), real, None
        )
    # Encoded anew, since decoding would hide what it clips.
    paths = Path(wanted.numpy(), actions.numpy(), ~real.numpy()), Path(decoded.states, decoded.actions, ~real.numpy())
    after, before = (codec.encode_states(path, states) for path in paths)
    added = after - before
    keep = real.numpy()
    np.testing.assert_allclose((moved - plain)[..., codec.state_columns][keep], added[keep], atol=1e-4)
    pushed = (actions.numpy() - decoded.actions) / codec.normalizer.action_scale
    np.testing.assert_allclose((moved - plain)[..., :1][keep], pushed[keep], atol=1e-4)
    assert np.abs(added[keep]).max() > 1e-3
    unmoved = (moved - plain).numpy()
    np.testing.assert_allclose(unmoved[..., [1, -1]], 0, atol=1e-5)  # rewards and ends
    np.testing.assert_allclose(unmoved[~keep], 0, atol=1e-5)


def test_windows_come_nearer_to_the_one_step_model(diffuser):
    def residual(steps):
        made = diffuser.generate(
            states_like(60), generator_seed=0, length=6, refine="none", prune="none", inner_projection_steps=steps
        )
        following = torch.as_tensor(made.observations[:, 1:])
        here = torch.as_tensor(made.observations[:, :-1])
        width = here.shape[-1]
        gaps = diffuser.dynamics.residual(
            here.reshape(-1, width), torch.as_tensor(made.actions).reshape(-1, 1), following.reshape(-1, width)
        ).numpy()
        return gaps[made.mask.reshape(-1)].mean()

    assert residual(6) < 0.7 * residual(0)


@pytest.mark.parametrize("move", MOVES, ids=["project", "follow"])
@pytest.mark.parametrize("bounds", [False, True], ids=["by flag", "by bounds"])
def test_what_comes_after_an_end_stays(bounds, move):
    diffuser = tiny_diffuser()
    codec, states = diffuser.decoder, states_like(5)
    rows = 0.3 * torch.randn((5, 6, codec.row_size), generator=torch.Generator().manual_seed(1))
    rows[..., -1] = -1
    if bounds:
        path = torch.as_tensor(codec.decode(states, rows.numpy()).states)
        diffuser.dynamics.seen.alive_high = torch.maximum(path[:, 3].amax(0), path[:, :3].amax((0, 1))) - 1e-3
        over = diffuser.dynamics.seen.ends(path[:, 1:]).numpy()
    else:
        rows[:, 2, -1] = 1
        over = np.tile(np.arange(6) == 2, (5, 1))
    behind = (np.cumsum(over, 1) - over) > 0
    assert behind.any()

    class Sure(torch.nn.Module):
        """Its estimate is ``rows``, wherever it is asked."""

        row_size = codec.row_size

        def forward(self, noisy, time, step, condition):  # noqa: ARG002
            return (rows - noisy) / (1 - time)[:, None, None]

    condition = Condition(torch.as_tensor(codec.normalizer.states(states)), torch.full((5,), 6))
    network = refined(diffuser, move, Sure())
    with torch.inference_mode():
        moved = (estimate(diffuser, network, torch.zeros_like(rows), 0.5, condition) - rows).abs().amax(-1).numpy()
    np.testing.assert_allclose(moved[behind], 0, atol=1e-5)
    assert moved[~behind].min() > 1e-5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_each_state_is_the_models_by_its_share(diffuser, share):
    rng, model = np.random.default_rng(1), diffuser.dynamics
    states = torch.as_tensor(rng.normal(size=(4, 7, 2)).astype(np.float32).cumsum(1) * np.float32(0.1))
    actions = torch.as_tensor(rng.uniform(-1, 1, (4, 6, 1)).astype(np.float32))
    real = torch.arange(6) < torch.tensor([6, 6, 3, 0])[:, None]
    followed, unchanged = follow(model, states, actions, real, None, share)
    assert torch.equal(unchanged, actions)
    assert torch.equal(followed[:, 0], states[:, 0])
    for j in range(6):
        led_to = followed[:, j] + model.predict(followed[:, j], actions[:, j]).deltas
        behind = followed[:, j] + states[:, j + 1] - states[:, j]
        wanted = torch.where(real[:, j, None], share * led_to + (1 - share) * states[:, j + 1], behind)
        torch.testing.assert_close(followed[:, j + 1], wanted, rtol=0, atol=1e-5)


def test_the_last_call_alone_follows_nothing(diffuser, monkeypatch):
    asked = []

    def counted(model, states, actions, real, tasks, share):
        asked.append(share)
        return follow(model, states, actions, real, tasks, share)

    monkeypatch.setattr("atradiff.inner_refinement.follow", counted)
    diffuser.generate(states_like(3), generator_seed=0, length=6, calls=4, inner_roll=0.8)
    assert asked == [0.8] * 3


@pytest.mark.parametrize("calls", [1, 4])
@pytest.mark.parametrize("solver", [None, "dpm++", "heun", "stochastic"])
def test_one_call_leaves_nothing_to_follow(calls, solver):
    config = TINY if solver is None else replace(TINY, process="edm", solver=solver)
    diffuser, states = tiny_diffuser(config=config), states_like(20)
    plain, rolled = (
        diffuser.generate(states, generator_seed=0, calls=calls, refine="none", inner_roll=share) for share in (0, 0.8)
    )
    same = plain.actions.shape == rolled.actions.shape and np.array_equal(plain.actions, rolled.actions)
    assert same == (calls == 1)


def test_as_many_calls_as_anyone_likes():
    made = tiny_diffuser().generate(states_like(3), generator_seed=0, calls=32, inner_projection_steps=2)
    assert np.isfinite(made.observations).all()


@pytest.mark.parametrize("inner", [{"inner_projection_steps": 2}, {"inner_roll": 0.8}], ids=str)
@pytest.mark.parametrize("refine", ["none", "dynamics"])
def test_discrete_actions(refine, inner):
    diffuser = tiny_diffuser(random_data([12] * 6, [True, False] * 3, spaces=DISCRETE))
    made = diffuser.generate(states_like(7, 3), generator_seed=0, refine=refine, horizon=15, **inner)
    assert set(np.unique(made.actions)) <= set(range(4))
    assert np.isfinite(made.observations).all()
