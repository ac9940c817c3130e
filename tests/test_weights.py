"""Weights that travel: what arrives is what left, or nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from atradiff.generator import TrajectoryDiffuser
from atradiff.types import SyntheticTrajectories
from tests.toys import chain_data, tiny_diffuser

STATES = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def base() -> TrajectoryDiffuser:
    return tiny_diffuser()


@pytest.fixture(scope="module")
def other() -> TrajectoryDiffuser:
    """The same settings, other weights."""
    return tiny_diffuser(chain_data(6, seed=9))


def imagined(model: TrajectoryDiffuser) -> SyntheticTrajectories:
    return model.generate(STATES, generator_seed=5, horizon=9)


def same(a: SyntheticTrajectories, b: SyntheticTrajectories) -> bool:
    columns = ("observations", "actions", "rewards", "terminated", "lengths")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)


def test_a_copy_with_loaded_weights_imagines_what_their_origin_does(base, other) -> None:
    copied = base.on("cpu")
    copied.load_weights(7, other.weights())
    # scales and limits belong to the model, weights travel alone: judge by the networks, then by what is imagined
    for name, value in copied.networks.state_dict().items():
        assert torch.equal(value, other.networks.state_dict()[name])
    assert copied.version == 7
    assert (imagined(copied).generator_version, imagined(base).generator_version) == (7, 0)
    assert not same(imagined(copied), imagined(base))
    copied.load_weights(8, base.weights())
    assert same(imagined(copied), imagined(base))


def test_weights_are_arrays_of_their_own(base) -> None:
    model = base.on("cpu")
    taken = model.weights()
    before = {name: value.copy() for name, value in taken.items()}
    model.update_dynamics(chain_data(3).columns, 2, seed=0)
    assert all(np.array_equal(taken[name], before[name]) for name in taken)
    moved = model.weights()
    assert any(not np.array_equal(moved[name], before[name]) for name in taken if name.startswith("dynamics"))


def test_read_only_arrays_will_do(base, recwarn) -> None:
    """As they come out of an object store."""
    weights = base.weights()
    for value in weights.values():
        value.flags.writeable = False
    base.on("cpu").load_weights(1, weights)
    assert not recwarn.list


def broken(weights: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    first, *_, last = weights
    if how == "missing":
        return {name: value for name, value in weights.items() if name != last}
    if how == "unknown":
        return weights | {"diffuser.extra": weights[first]}
    if how == "shape":
        return weights | {last: weights[last][None]}
    return weights | {last: np.full_like(weights[last], np.nan)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "in only one of the two"),
        ("unknown", "diffuser.extra"),
        ("shape", "of shape"),
        ("nan", "must be finite"),
    ],
)
def test_a_wrong_set_is_refused_whole(base, other, how: str, message: str) -> None:
    model = base.on("cpu")
    with pytest.raises(ValueError, match=message):
        model.load_weights(3, broken(other.weights(), how))
    assert model.version == 0
    assert same(imagined(model), imagined(base))


def test_a_copy_elsewhere_imagines_the_same(base) -> None:
    copied = pickle.loads(pickle.dumps(base.on("cpu")))  # as an actor's argument
    assert same(imagined(copied), imagined(base))
    base_sampling = base.sampling
    assert copied.sampling == base_sampling
    copied.load_weights(1, {name: value + 1 for name, value in copied.weights().items()})
    assert base.version == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(base) -> None:
    with pytest.raises(ValueError, match="no GPU here"):
        base.on("cuda")


def test_the_compiled_form_imagines_the_same_and_follows_new_weights(base, other) -> None:
    """Traced as for a GPU, but run as it is."""
    compiled, plain = base.on("cpu", compiled=True), base.on("cpu")
    for version, states, length in ((1, STATES, 6), (2, STATES[:2], 3)):
        compiled.load_weights(version, other.weights())
        plain.load_weights(version, other.weights())
        ours = compiled.diffused(states, length, generator_seed=1)
        theirs = plain.diffused(states, length, generator_seed=1)
        np.testing.assert_allclose(ours.states, theirs.states, rtol=1e-2, atol=1e-3)
