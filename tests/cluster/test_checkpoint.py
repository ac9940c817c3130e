"""A checkpoint is whole or it is not used: whatever is cut, flipped, deleted or killed, an older one takes over."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import ObjectStore

from cluster.checkpoint import CheckpointStore, read_checkpoint
from cluster.checkpoint_files import DamagedCheckpoint, FileEntry, Part, here, write_part
from cluster.storage import Location


class Rings:
    """An owner with a large and a small file."""

    def __init__(self, value: int) -> None:
        self.value = value

    def save(self, folder: Path) -> None:
        (folder / "real").mkdir()
        np.save(folder / "real" / "observations.npy", np.full(300, self.value))
        (folder / "replay.json").write_text(f'{{"value": {self.value}}}')

    @staticmethod
    def load(folder: Path) -> int:
        observations = np.load(folder / "real" / "observations.npy", allow_pickle=False)
        assert len(set(observations.tolist())) == 1
        return int(observations[0])


def parts(step: int) -> dict[str, Part]:
    return {"algorithm": here(lambda folder: write_marker(folder, step)), "replay": here(Rings(step).save)}


def write_marker(folder: Path, step: int) -> None:
    (folder / "weights").write_text(f"w{step}")


def write(store: CheckpointStore, step: int, keep: int = 5) -> None:
    store.write(step, parts(step), {"env_steps": step, "pool": {"version": 3}}, keep)


def content(store: CheckpointStore) -> int | None:
    """The step of the newest whole checkpoint, read through its parts."""
    checkpoint = store.newest_whole()
    if checkpoint is None:
        return None
    with checkpoint.part("replay").open() as folder:
        replay = Rings.load(folder)
    with checkpoint.part("algorithm").open() as folder:
        assert (folder / "weights").read_text() == f"w{replay}"
    assert (checkpoint.step, checkpoint.state) == (replay, {"env_steps": replay, "pool": {"version": 3}})
    return replay


@contextmanager
def local_store() -> Iterator[CheckpointStore]:
    with TemporaryDirectory() as folder:
        yield CheckpointStore(Location.of(Path(folder) / "checkpoints"))


@contextmanager
def uri_store() -> Iterator[CheckpointStore]:
    with TemporaryDirectory() as folder:
        yield CheckpointStore(Location.of(f"file://{folder}/checkpoints"))


@contextmanager
def object_store() -> Iterator[CheckpointStore]:
    yield CheckpointStore(ObjectStore().location())


anywhere = pytest.mark.parametrize("make", [local_store, uri_store, object_store])


def names(store: CheckpointStore) -> list[str]:
    return [folder.basename for folder in store.location.folders()]


@anywhere
def test_the_newest_are_kept_and_read_by_part(make: Callable[[], contextmanager[CheckpointStore]]) -> None:
    with make() as store:
        assert content(store) is None
        for step in (100, 900, 1000, 20_000):
            write(store, step, keep=2)
            assert content(store) == step
        assert names(store) == ["step_000000001000", "step_000000020000"]
        assert content_of_named(store, "step_000000001000") == 1000
        store.drop_after(1000)
        assert content(store) == 1000
        with pytest.raises(ValueError, match="no part pool, only algorithm, replay"):
            read_checkpoint(store.location / "step_000000001000").part("pool")


def content_of_named(store: CheckpointStore, name: str) -> int:
    with store.named(name).part("replay").open() as folder:
        return Rings.load(folder)


@anywhere
def test_a_step_written_twice_leaves_the_first_alone(make: Callable[[], contextmanager[CheckpointStore]]) -> None:
    with make() as store:
        write(store, 100)
        first = store.newest_whole()
        write(store, 100)
        second = store.newest_whole()
        assert first is not None
        assert second is not None
        assert names(store) == ["step_000000000100", "step_000000000100.1"]
        assert second.location.basename == "step_000000000100.1"
        write(store, 200, keep=1)
        assert names(store) == ["step_000000000200"]


@anywhere
def test_a_part_that_fails_leaves_the_older_checkpoint(make: Callable[[], contextmanager[CheckpointStore]]) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with make() as store:
        write(store, 100, keep=1)
        with pytest.raises(OSError, match="disk full"):
            store.write(200, {**parts(200), "late": here(fail)}, {}, keep=1)
        assert content(store) == 100
        write(store, 300, keep=1)
        assert names(store) == ["step_000000000300"]


@given(kill_at=st.integers(0, 8))
@settings(max_examples=9)
def test_an_upload_that_ends_anywhere_leaves_the_older_checkpoint(kill_at: int) -> None:
    objects = ObjectStore()
    store = CheckpointStore(objects.location())
    write(store, 100, keep=1)
    before = dict(objects.objects)
    puts = []

    def kill(name: str) -> None:
        puts.append(name)
        if len(puts) > kill_at:
            raise ConnectionError(name)

    objects.before_put = kill
    survived = True
    try:
        write(store, 200, keep=1)
    except OSError:
        survived = False
    objects.before_put = lambda _: None
    assert survived == (kill_at >= 4)  # three files and the manifest
    assert content(store) == (200 if survived else 100)
    if not survived:
        assert {name: objects.objects[name] for name in before} == before
    write(store, 300, keep=1)
    assert names(store) == ["step_000000000300"]


def damage(file: Path, how: str, position: float, mask: int) -> None:
    content = bytearray(file.read_bytes())
    at = int(position * len(content))
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(content[:at])
    else:
        content[at] ^= mask
        file.write_bytes(content)


@given(
    data=st.data(),
    how=st.sampled_from(["delete", "truncate", "flip"]),
    position=st.floats(0, 1, exclude_max=True),
    mask=st.integers(1, 255),
    make=st.sampled_from([local_store, uri_store]),
)
@settings(max_examples=60)
def test_any_damage_is_found(
    data: st.DataObject, how: str, position: float, mask: int, make: Callable[[], contextmanager[CheckpointStore]]
) -> None:
    with make() as store:
        write(store, 100)
        write(store, 200)
        newest = Path(store.location.path) / "step_000000000200"
        file = data.draw(st.sampled_from(sorted(path for path in newest.rglob("*") if path.is_file())))
        before = read_checkpoint(store.location / newest.name).manifest
        damage(file, how, position, mask)
        found = content(store)
        # White space of the manifest may change without a change in what it says; nothing else may.
        assert found == 100 or (file.name == "checkpoint.json" and store.named(newest.name).manifest == before)


def test_what_is_wrong_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(Location.of(tmp_path))
    write(store, 100)
    write(store, 200)
    file = tmp_path / "step_000000000200" / "replay" / "real" / "observations.npy"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:1024])
    with caplog.at_level(logging.WARNING):
        assert content(store) == 100
    assert f"replay/real/observations.npy has 1,024 bytes, its manifest says {size:,}" in caplog.text
    (tmp_path / "step_000000000100" / "algorithm" / "weights").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"no checkpoint in .* is whole.*1,024 bytes.*weights is missing"):
        store.newest_whole()
    with pytest.raises(DamagedCheckpoint, match=r"step_000000000100 is not a whole checkpoint: algorithm/weights"):
        store.named("step_000000000100")


@anywhere
def test_what_is_gone_back_behind_is_deleted_but_kept_aside_where_it_cannot_be_read(
    make: Callable[[], contextmanager[CheckpointStore]], caplog: pytest.LogCaptureFixture
) -> None:
    with make() as store:
        for step in (100, 200, 300):
            write(store, step)
        newest = store.location / "step_000000000300"
        (newest / "checkpoint.json").write_text('{"format": 99}')
        before = newest.files_below()
        for _ in range(2):
            store.drop_after(100)
        assert names(store) == [".step_000000000300.damaged-1", "step_000000000100"]
        aside = store.location / ".step_000000000300.damaged-1"
        assert aside.files_below() == before
        assert (aside / "algorithm" / "weights").read_text() == "w300"
        assert f"{newest} cannot be read and is kept in {aside}" in caplog.text
        write(store, 300)
        (newest / "algorithm" / "weights").delete_file()
        store.drop_after(100)
        assert names(store)[1] == ".step_000000000300.damaged-2"
        store.clean()
        assert (len(names(store)), content(store)) == (3, 100)


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "step_000000000200"
    folder.mkdir()
    (folder / "checkpoint.json").write_text('{"env_steps": 200}')
    with pytest.raises(DamagedCheckpoint, match="written by another version"):
        CheckpointStore(Location.of(tmp_path)).newest_whole()


def test_an_owner_that_died_as_it_wrote_writes_anew(tmp_path: Path) -> None:
    """Ray repeats the call in the restarted process, which finds the files of the first attempt."""
    target = Location.of(tmp_path / "replay")
    (tmp_path / "replay" / "real").mkdir(parents=True)
    (tmp_path / "replay" / "real" / "half.npy").write_bytes(b"x")
    names = {entry.name for entry in write_part(target, Rings(1).save)}
    assert names == {"real/observations.npy", "replay.json"}
    assert Rings.load(tmp_path / "replay") == 1


def test_an_owner_whose_disk_is_not_seen_from_here_is_told(tmp_path: Path) -> None:
    def elsewhere(_: Location) -> list[FileEntry]:
        """What the actor of another node does with a path: it finds its own disk there."""
        return write_part(Location.of(tmp_path / "other_node"), Rings(1).save)

    store = CheckpointStore(Location.of(tmp_path / "checkpoints"))
    with pytest.raises(OSError, match=r"cannot be seen from here.*all machines share, or to a URI"):
        store.write(1, {"replay": elsewhere}, {}, keep=1)
    assert store.newest_whole() is None


_WRITER = """
import sys
from pathlib import Path
from cluster.checkpoint import CheckpointStore
from cluster.checkpoint_files import here
from cluster.storage import Location
def fill(folder):
    for n in range(20):
        (folder / str(n)).write_bytes(bytes([step % 256]) * 200_000)
store = CheckpointStore(Location.of(sys.argv[1]))
for step in range(1, 10**6):
    store.write(step, {"a": here(fill)}, {"step": step}, 2)
    print(step, flush=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(scheme: str, tmp_path: Path) -> None:
    where = f"{scheme}{tmp_path}/checkpoints"
    store = CheckpointStore(Location.of(where))
    rng = np.random.default_rng(0)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _WRITER, where], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.2))
            os.kill(writer.pid, signal.SIGKILL)
            told = [first, *(int(line) for line in writer.stdout if line.endswith("\n"))]
        checkpoint = store.newest_whole()
        assert checkpoint is not None
        assert checkpoint.step in (told[-1], told[-1] + 1)  # killed between its commit and its word of it
        with checkpoint.part("a").open() as folder:
            assert (folder / "19").read_bytes() == bytes([checkpoint.step % 256]) * 200_000
        store.drop_after(0)
    store.clean()
    assert names(store) == []
