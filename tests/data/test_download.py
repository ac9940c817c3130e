"""Downloads from a server on this machine that can cut connections, forget ranges and lie about sizes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from small_data import d4rl_arrays, write_hdf5

from atradiff.data import download
from atradiff.data.d4rl_table import DATASETS
from atradiff.data.errors import DataError
from atradiff.data.importer import import_data
from atradiff.data.store import open_trajectories
from tests.second_process import Telling, holding

CONTENT = bytes(range(256)) * 40


@dataclass
class Server:
    """What to serve, after how many bytes each connection is cut, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("ATRADIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range"))
            content = state.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            start = 0
            if state.ranges and self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + state.cut_after.pop(0) if state.cut_after else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def fetch(server: Server, name: str = "data.bin") -> Path:
    return download.fetch(f"{server.url}/{name}", progress=False)


def test_a_file_is_fetched_once(server: Server) -> None:
    server.files["data.bin"] = CONTENT
    assert fetch(server).read_bytes() == CONTENT
    assert fetch(server).read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_cut_connection_is_resumed(server: Server) -> None:
    server.files["data.bin"] = CONTENT
    server.cut_after = [1000, 4000]
    assert fetch(server).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=5000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["data.bin"] = CONTENT
    server.cut_after = [1000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(DataError, match=r"only 1000 of 10240 bytes came|IncompleteRead"):
        fetch(server)
    assert fetch(server).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_without_ranges_starts_again(server: Server) -> None:
    server.files["data.bin"] = CONTENT
    server.cut_after = [1000]
    server.ranges = False
    assert fetch(server).read_bytes() == CONTENT


def test_a_leftover_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.files["data.bin"] = CONTENT
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(server).read_bytes() == CONTENT


def test_a_missing_file_says_where_to_put_it(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404") as caught:
        fetch(server)
    assert str(tmp_path / "cache" / "data.bin") in caught.value.remedy
    assert "--mirror" in caught.value.remedy


def test_offline_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATRADIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("atradiff.data.d4rl_table.BASE_URL", "http://127.0.0.1:1/offline_rl")
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        import_data("d4rl:hopper-medium-v2", tmp_path / "out", progress=False)
    assert str(tmp_path / "cache" / "d4rl" / "gym_mujoco_v2" / "hopper_medium-v2.hdf5") in caught.value.remedy


def hopper_file(folder: Path) -> Path:
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = d4rl_arrays((8, 4), next_observations=None)
    arrays["observations"] = rng.normal(size=(12, 11)).astype(np.float32)
    arrays["actions"] = rng.uniform(-1, 1, (12, 3)).astype(np.float32)
    return write_hdf5(folder / "served.hdf5", arrays)


def test_d4rl_by_name_through_a_mirror(server: Server, tmp_path: Path) -> None:
    server.files["offline/gym_mujoco_v2/hopper_medium-v2.hdf5"] = hopper_file(tmp_path).read_bytes()
    server.cut_after = [500]
    info = import_data("d4rl:hopper-medium-v2", tmp_path / "out", mirror=f"{server.url}/offline/", progress=False)
    assert (info.dataset_name, info.env_id) == ("hopper-medium-v2", "Hopper-v5")
    assert "CC BY" in info.licence
    assert "D4RL hopper-medium-v2" in info.source
    assert open_trajectories(tmp_path / "out").n_transitions == 11
    assert any("Hopper-v5 in its place" in note for note in info.notes)


def test_d4rl_by_name_from_a_file_put_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATRADIFF_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "d4rl" / DATASETS["hopper-medium-v2"].path
    place.parent.mkdir(parents=True)
    hopper_file(tmp_path).rename(place)
    assert import_data("d4rl:hopper-medium-v2", tmp_path / "out", progress=False).n_transitions == 11


def test_d4rl_by_name_through_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = hopper_file(tmp_path)
    package, offline_env = ModuleType("d4rl"), ModuleType("d4rl.offline_env")
    asked: list[str] = []
    offline_env.download_dataset_from_url = lambda url: asked.append(url) or str(file)  # type: ignore[attr-defined]
    package.offline_env = offline_env  # type: ignore[attr-defined]
    package.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("d4rl", None)
    monkeypatch.setitem(sys.modules, "d4rl", package)
    monkeypatch.setitem(sys.modules, "d4rl.offline_env", offline_env)
    info = import_data("d4rl:hopper-medium-v2", tmp_path / "out", progress=False)
    assert "through the d4rl package" in info.source
    assert asked == [DATASETS["hopper-medium-v2"].url]


def test_a_d4rl_package_that_does_not_import_is_told_and_done_without(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "d4rl.py").write_text("raise RuntimeError('mujoco 2.1 not found')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    server.files["gym_mujoco_v2/hopper_medium-v2.hdf5"] = hopper_file(tmp_path).read_bytes()
    monkeypatch.setattr("atradiff.data.d4rl_table.BASE_URL", server.url)
    info = import_data("d4rl:hopper-medium-v2", tmp_path / "out", progress=False)
    assert any("mujoco 2.1 not found" in note for note in info.notes)


def test_what_another_process_downloads_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, go = tmp_path / "cache" / "x.hdf5", tmp_path / "go"

    def arrive(text: str) -> None:
        if "waiting for another process" in text:
            target.write_bytes(CONTENT)
            go.touch()

    monkeypatch.setattr("sys.stderr", Telling(arrive))
    with holding(target.with_name(".x.hdf5.lock"), go):
        assert download.fetch(f"{server.url}/x.hdf5", progress=False) == target
    assert server.asked == []
