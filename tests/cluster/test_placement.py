"""A run gets all of its places at once, or hears what it asked for and what there is."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from cluster.cluster_config import ClusterConfig
from cluster.placement import Bundle, NoPlaceError, PlacementConfig, Resources, place, shortage, total
from cluster.pool_config import PoolConfig, share_of_gpus
from cluster.stop_signal import Stopped

SMALL = Resources(num_cpus=0.1)


@ray.remote(num_cpus=0.1)
class Somebody:
    def group(self) -> str | None:
        group: str | None = ray.get_runtime_context().get_placement_group_id()
        return group


@pytest.mark.usefixtures("local_ray")
def test_each_role_gets_its_own_bundle() -> None:
    bundles = [Bundle("trainer", SMALL), *[Bundle("generator", SMALL)] * 2, Bundle("replay", SMALL)]
    with place(bundles, PlacementConfig()) as placement:
        strategies = [placement.strategy("trainer"), *placement.strategies("generator"), placement.strategy("replay")]
        people = [Somebody.options(scheduling_strategy=strategy).remote() for strategy in strategies]
        groups = ray.get([person.group.remote() for person in people])
    assert [strategy.placement_group_bundle_index for strategy in strategies] == [0, 1, 2, 3]
    assert groups == [strategies[0].placement_group.id.hex()] * 4
    assert strategies[0].placement_group_capture_child_tasks
    assert not strategies[1].placement_group_capture_child_tasks


@pytest.mark.usefixtures("local_ray")
def test_a_run_without_a_place_says_what_it_asked_for_and_what_there_is() -> None:
    bundles = [Bundle("trainer", SMALL), Bundle("generator", Resources(num_cpus=1, num_gpus=4))]
    with pytest.raises(NoPlaceError) as refusal:
        place(bundles, PlacementConfig(wait_seconds=1))
    text = str(refusal.value)
    assert "1 x generator: 1 CPU, 4 GPU" in text
    assert "4 GPU asked for, 0 there" in text
    assert f"node 0: {ray.cluster_resources()['CPU']:g} CPU" in text
    # What was reserved in part is given back.
    with place([Bundle("trainer", SMALL)], PlacementConfig()):
        pass


@pytest.mark.usefixtures("local_ray")
def test_who_waits_for_places_can_be_stopped_and_leaves_none_reserved() -> None:
    stop = threading.Event()
    stop.set()
    everything = Resources(num_cpus=ray.cluster_resources()["CPU"])
    with pytest.raises(Stopped, match="nothing had begun"):
        place([Bundle("trainer", everything), Bundle("replay", SMALL)], PlacementConfig(wait_seconds=60), stop=stop)
    with place([Bundle("trainer", everything)], PlacementConfig()):
        pass


@pytest.mark.usefixtures("local_ray")
def test_only_who_says_so_takes_the_bundles_that_it_sits_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RLlib trial of Ray Tune may hold bundles just like those that its services ask for: they are taken."""
    bundles = [Bundle("replay", SMALL), Bundle("generator", SMALL)]
    with place(bundles, PlacementConfig()) as around:
        group = around.strategy("replay").placement_group
        monkeypatch.setattr("cluster.placement.get_current_placement_group", lambda: group)
        with place(bundles, PlacementConfig()) as own:
            assert own.strategy("replay").placement_group.id != group.id
        with place(bundles, PlacementConfig(), ours=True) as lent:
            assert lent.strategy("replay").placement_group.id == group.id


def test_a_busy_cluster_is_told_apart_from_a_small_one() -> None:
    text = shortage([Bundle("trainer", Resources(2))], [{"CPU": 4.0, "memory": 1e9}], {"CPU": 0.5})
    assert "in use or its nodes are too small" in text
    assert "free now: 0.5 CPU" in text
    assert "memory" not in text


def test_the_sum_of_the_bundles() -> None:
    bundles = [Bundle("trainer", Resources(1, 0.5)), Bundle("generator", Resources(0.5, 0.5, {"fast": 1}))]
    assert total(bundles) == {"CPU": 1.5, "GPU": 1.0, "fast": 1}


@pytest.mark.parametrize(
    ("gpus", "others", "generators", "share"),
    [
        (0, 0, 2, 0),
        (1, 0, 1, 1),
        (1, 0, 2, 0.5),
        (8, 0, 2, 1),
        (4, 0, 6, 0.5),
        (1, 1, 2, 0),
        (1, 0.5, 2, 0.25),
        (2, 0, 5, 0.3333),
    ],
)
def test_generators_share_the_gpus_that_others_leave(gpus: float, others: float, generators: int, share: float) -> None:
    cluster = ClusterConfig(trainer=Resources(1, others), pool=PoolConfig(generators))
    decided = cluster.decided({"CPU": 16, "GPU": gpus}, adapting=False)
    assert decided.pool.num_gpus == share
    assert total(decided.bundles(generating=True, adapting=False)).get("GPU", 0) <= gpus
    asked = replace(cluster, pool=PoolConfig(generators, num_gpus=1))
    assert asked.decided({"GPU": gpus}, adapting=False) == asked  # an autoscaler may bring what there is not


@given(st.integers(1, 16), st.integers(1, 64))
def test_as_many_generators_as_there_are_find_their_share_on_whole_gpus(gpus: int, generators: int) -> None:
    share = share_of_gpus(gpus, generators)
    assert 0 < share <= 1
    assert gpus * math.floor(1 / share + 1e-9) >= generators


@pytest.mark.parametrize("resources", [{"num_cpus": -1}, {"num_gpus": 1.5}, {"custom": {"tpu": -2}}])
def test_amounts_that_cannot_be(resources: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"cannot take|fractions of one GPU"):
        Resources(**resources)


def test_strategies_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="PACK or SPREAD"):
        PlacementConfig(strategy="SOMEWHERE")  # type: ignore[arg-type]


@pytest.mark.usefixtures("local_ray")
def test_a_run_whose_node_is_gone_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with place([Bundle("trainer", SMALL)], PlacementConfig()) as placement:
        assert placement.missing() is None
        monkeypatch.setattr("cluster.placement.placement_group_table", lambda _: {"state": "RESCHEDULING"})
        missing = placement.missing()
    assert missing is not None
    assert "1 x trainer: 0.1 CPU" in missing
    assert "node 0: " in missing
