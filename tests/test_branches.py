"""Rows of the agent's own actions: which pieces they take the place of, whose they are, and who is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atradiff.adaptation.original import WithOriginal
from atradiff.augment.s4rl import S4RLConfig, S4RLGenerator, StateAugmentation
from atradiff.branches import OwnActions, branched, own_actions
from atradiff.config import ServingConfig
from atradiff.ports import Act, EpisodeRows, ServiceOrder
from atradiff.replay.config import ReplayConfig
from atradiff.replay.local import LocalReplay
from atradiff.serving import imagined_rows
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories, Transitions
from tests.toys import CHAIN, chain_data, tiny_diffuser

SPACES = Spaces(1, "continuous", (-2.0,), (2.0,))
DIFFUSED, OWN = 0.0, 1.0


def _halved(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions / 2)


def _doubled(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions * 2)


def _noisy(states: FloatArray, seed: int) -> FloatArray:
    return np.random.default_rng(seed).uniform(-1, 1, (len(states), 1)).astype(np.float32)


class Climber:
    """Its states count upwards, from 100 i for the i-th trajectory: DIFFUSED ones by 1, those of a policy by 0.01.

    The k-th state that is rolled from yields k % ``rows`` + 1 rows; every third of these trajectories terminates.
    """

    spaces, version, starts_at_states = SPACES, 2, True

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths, np.int64)

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        starts = 100 * np.arange(len(self.lengths), dtype=np.float32)[:, None, None]
        ends = np.arange(len(self.lengths)) % 2 == 0
        return self._climbed(starts, self.lengths, 1.0, ends, DIFFUSED, int(self.lengths.max()))

    def roll(self, states: FloatArray, act, rows: int) -> SyntheticTrajectories:
        lengths = np.arange(len(states)) % rows + 1
        made = self._climbed(states[:, None], lengths, 0.01, np.arange(len(states)) % 3 == 0, OWN, rows)
        for j in range(rows):
            made.actions[:, j] = act(states, j)
        return made

    def _climbed(self, starts, lengths, step, ends, reward, width) -> SyntheticTrajectories:
        n = len(lengths)
        return SyntheticTrajectories(
            (starts + step * np.arange(width + 1)[None, :, None]).astype(np.float32),
            np.full((n, width, 1), 2.0, np.float32),
            np.full((n, width), reward, np.float32),
            (np.arange(width) == lengths[:, None] - 1) & ends[:, None],
            lengths,
            self.version,
        )


def _own(share: float, length: int, act: Act = _noisy) -> OwnActions:
    return OwnActions(act, share, length, _doubled)


def _naive_pieces(lengths: list[int], length: int) -> list[list[tuple[int, int]]]:
    """(trajectory, row) of the rows of each piece."""
    pieces = []
    for i, n in enumerate(lengths):
        for start in range(0, n, length):
            pieces.append([(i, j) for j in range(start, min(start + length, n))])
    return pieces


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.integers(0, 10),
)
def test_every_row_is_in_one_piece_that_is_diffused_or_the_agents(
    lengths: list[int], length: int, share: float, seed: int
) -> None:
    generator = Climber(lengths)
    states = np.zeros((len(lengths), 1), np.float32)
    made = branched(generator, generator.generate(states, generator_seed=seed), _own(share, length), seed)
    rows, at, rolled = made.rows, 0, 0
    per_request = np.zeros(len(lengths), int)
    for piece in _naive_pieces(lengths, length):
        (owner, first), begin = piece[0], at
        assert rows.observations[at, 0] == 100 * owner + first  # each begins where the diffused one did
        if rows.rewards[at] == OWN:
            count, ends = rolled % length + 1, rolled % 3 == 0
            rolled += 1
            assert (rows.rewards[at : at + count] == OWN).all()
            np.testing.assert_allclose(rows.observations[at : at + count, 0] - 100 * owner - first, 0, atol=0.09)
            assert (rows.terminated[at + count - 1], rows.truncated[at + count - 1]) == (ends, not ends)
            assert not (rows.terminated | rows.truncated)[at : at + count - 1].any()
        else:
            count = len(piece)
            assert rows.observations[at : at + count, 0].tolist() == [100 * i + j for i, j in piece]
        at += count
        per_request[owner] += at - begin
    assert at == len(rows)
    assert made.lengths.tolist() == per_request.tolist()
    assert made.own_rows == (rows.rewards == OWN).sum()
    goes_on = ~(rows.terminated | rows.truncated)
    np.testing.assert_array_equal(rows.next_observations[:-1][goes_on[:-1]], rows.observations[1:][goes_on[:-1]])
    if share in (0.0, 1.0):
        assert rolled == share * len(_naive_pieces(lengths, length))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 10))
def test_each_row_has_the_version_of_the_model_that_made_it(lengths: list[int], length: int, seed: int) -> None:
    """As under adaptation: the original imagines, the newest one-step model rolls."""
    original, newest = Climber(lengths), Climber(lengths)
    newest.version = 7
    newest.generate = original.generate  # type: ignore[method-assign]
    states = np.zeros((len(lengths), 1), np.float32)
    made = imagined_rows(newest, states, seed, _halved, _own(0.6, length))
    assert made.versions.tolist() == [7 if reward == OWN else 2 for reward in made.rows.rewards]
    assert made.generator_version == 2
    plain = imagined_rows(newest, states, seed, _halved)
    assert plain.versions.tolist() == [2] * len(plain.rows)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 5))
def test_share_zero_gives_the_generators_rows_bit_for_bit(lengths: list[int], length: int) -> None:
    generator = Climber(lengths)
    states = np.zeros((len(lengths), 1), np.float32)
    plain = imagined_rows(generator, states, 5, _halved)
    same = imagined_rows(generator, states, 5, _halved, _own(0.0, length))
    for (name, ours), (_, theirs) in zip(plain.rows.items(), same.rows.items(), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert plain.lengths.tolist() == same.lengths.tolist() == lengths
    assert plain.own_rows == same.own_rows == 0


def test_the_model_acts_in_the_environments_scale_and_the_replay_keeps_the_learners() -> None:
    asked: list[np.ndarray] = []

    def act(states: FloatArray, seed: int) -> FloatArray:
        asked.append(_noisy(states, seed))
        return asked[-1]

    generator = Climber([4])
    own = _own(1.0, 4, act)
    choose = own.choose(3)
    environment = [choose(np.zeros((5, 1), np.float32), j) for j in range(3)]
    for ours, theirs in zip(asked, environment, strict=True):
        np.testing.assert_array_equal(2 * ours, theirs)
    assert not np.array_equal(asked[0], asked[1])  # each row has noise of its own
    asked.clear()
    made = imagined_rows(generator, np.zeros((1, 1), np.float32), 3, _halved, own)
    np.testing.assert_allclose(made.rows.actions[0], asked[0][0])


def test_a_share_of_the_pieces_is_drawn_apart_and_from_the_seed() -> None:
    generator, states = Climber([5] * 400), np.zeros((400, 1), np.float32)
    made = [imagined_rows(generator, states, seed, _halved, _own(0.3, 5)) for seed in (1, 1, 2)]
    firsts = [m.rows.rewards[np.cumsum(m.lengths) - m.lengths] == OWN for m in made]
    assert 0.2 < firsts[0].mean() < 0.4
    np.testing.assert_array_equal(firsts[0], firsts[1])
    assert not np.array_equal(firsts[0], firsts[2])
    np.testing.assert_array_equal(made[0].rows.actions, made[1].rows.actions)


def test_a_fitted_diffuser_answers_with_the_policys_actions_alone() -> None:
    model, states = tiny_diffuser(), chain_data(3).columns.observations[:6]

    def steady(states: FloatArray, seed: int) -> FloatArray:  # noqa: ARG001
        return np.full((len(states), 1), 0.25, np.float32)

    made = imagined_rows(model, states, 4, lambda rows: rows, OwnActions(steady, 1.0, 3, lambda rows: rows))
    assert (made.rows.actions == 0.25).all()
    assert made.own_rows == len(made.rows) == made.lengths.sum()
    np.testing.assert_array_equal(made.rows.observations[np.cumsum(made.lengths) - made.lengths], states)


def test_with_adaptation_the_newest_one_step_model_rolls() -> None:
    pair = WithOriginal(tiny_diffuser(), share=0.5)
    states = chain_data(3).columns.observations[:20]
    push = lambda states, row: np.full((len(states), 1), 0.5, np.float32)  # noqa: E731, ARG005
    before = pair.roll(states, push, 2)
    pair.adapted.update_dynamics(chain_data(5).columns, 20, seed=0)
    after = pair.roll(states, push, 2)
    np.testing.assert_array_equal(after.observations, pair.adapted.roll(states, push, 2).observations)
    assert not np.array_equal(before.observations, after.observations)
    assert after.generator_version == 1


def _order(generator, policy=lambda: _noisy, **serving) -> ServiceOrder:
    replay = ReplayConfig(capacity=2_000, rho=0.5, expected_length=1.0)  # a request for each row
    settings = ServingConfig(4, **serving)
    return ServiceOrder(CHAIN, replay, settings, 0, generator, _halved, _doubled, policy=policy)


def test_generators_without_a_one_step_model_are_refused() -> None:
    augmented = S4RLGenerator(CHAIN, chain_data(2).columns, StateAugmentation(S4RLConfig()))
    with pytest.raises(ValueError, match=r"own_share=0.5 .* a S4RLGenerator has none"):
        LocalReplay(_order(augmented, own_share=0.5))
    assert own_actions(_order(augmented)) is None
    with pytest.raises(ValueError, match="no one-step model"):
        imagined_rows(augmented, np.zeros((2, 2), np.float32), 0, _halved, _own(1.0, 2))


def test_an_algorithm_without_a_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the learner's policy"):
        LocalReplay(_order(tiny_diffuser(), policy=None, own_share=1.0))


def test_a_policy_that_diverged_is_named_and_not_the_model() -> None:
    def lost(states: FloatArray, seed: int) -> FloatArray:  # noqa: ARG001
        return np.full((len(states), 1), np.nan, np.float32)

    states = chain_data(3).columns.observations[:6]
    with pytest.raises(FloatingPointError, match="the agent's policy gave actions that are NaN"):
        imagined_rows(tiny_diffuser(), states, 4, _halved, _own(1.0, 3, lost))


def test_the_policy_acts_for_a_whole_piece_also_from_a_shorter_last_one() -> None:
    class Whole(Climber):
        def roll(self, states: FloatArray, act, rows: int) -> SyntheticTrajectories:  # noqa: ARG002
            n = len(states)
            return self._climbed(states[:, None], np.full(n, rows), 0.01, np.zeros(n) > 0, OWN, rows)

    generator = Whole([5, 1, 6])
    made = imagined_rows(generator, np.zeros((3, 1), np.float32), 0, _halved, _own(1.0, 4))
    assert made.lengths.tolist() == [8, 4, 8]


def test_settings_are_named_where_they_are_wrong() -> None:
    with pytest.raises(ValueError, match="own_share must lie in"):
        ServingConfig(own_share=1.5)
    with pytest.raises(ValueError, match="own_length must be at least 1"):
        ServingConfig(own_length=0)


def test_the_replay_takes_a_snapshot_for_each_batch_that_is_due() -> None:
    taken = []

    def policy() -> Act:
        value = 0.1 * (len(taken) + 1)
        taken.append(value)
        return lambda states, seed: np.full((len(states), 1), value, np.float32)  # noqa: ARG005

    model = tiny_diffuser()
    service = LocalReplay(_order(model, policy, own_share=1.0, own_length=2))
    columns = chain_data(2).columns
    for batches, start in enumerate((0, 4)):
        rows = columns[slice(start, start + 4)]
        service.store(EpisodeRows(rows, np.zeros(4, np.int64), "test", start))
        assert len(taken) == batches
        service.serve()
        assert len(taken) == batches + 1
    ring = service.replay.synthetic
    assert set(np.unique(ring["actions"][: len(ring)])) == {np.float32(0.1), np.float32(0.2)}
    assert service.metrics()["own_rows"] == len(ring)


def test_without_own_rows_no_snapshot_is_taken() -> None:
    def policy() -> Act:
        raise AssertionError("nobody asked")

    service = LocalReplay(_order(tiny_diffuser(), policy))
    service.store(EpisodeRows(chain_data(2).columns[:20], np.zeros(20, np.int64), "test", 0))
    service.serve()
    assert len(service.replay.synthetic) > 0
    assert "own_rows" not in service.metrics()


def test_what_goes_to_an_actor_can_be_sent() -> None:
    own = pickle.loads(pickle.dumps(_own(0.5, 3)))
    assert (own.share, own.length) == (0.5, 3)
