"""Paths and URIs are read, written and named alike; what cannot be reached says so at once."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
from object_store import ObjectStore
from pyarrow import fs

from cluster.storage import Location, is_uri, join

CLOSED_PORT = "endpoint_override=127.0.0.1:9&scheme=http"


def test_names_are_joined_as_paths_and_as_uris() -> None:
    assert join("runs/", "a", "b") == "runs/a/b"
    assert join("s3://bucket/runs/", "a", "b") == "s3://bucket/runs/a/b"
    assert join("s3://bucket/runs?region=x", "a") == "s3://bucket/runs/a?region=x"
    assert is_uri("file:///tmp/x")
    assert not is_uri("/tmp/x")


def test_a_place_is_walked_up_and_down(tmp_path: Path) -> None:
    uri = Location.of("s3://bucket/runs?region=us-east-1") / "a" / "b"
    assert (uri.path, uri.name, uri.basename) == ("bucket/runs/a/b", "s3://bucket/runs/a/b?region=us-east-1", "b")
    assert uri.parent.parent.name == "s3://bucket/runs?region=us-east-1"
    assert uri.local is None
    path = Location.of(tmp_path) / "a"
    assert (path.local, path.parent.local) == (tmp_path / "a", tmp_path)
    assert Location.of(f"file://{tmp_path}").local is None


def places(tmp_path: Path) -> list[Location]:
    subtree = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    (tmp_path / "subtree").mkdir()
    return [
        Location.of(tmp_path / "path"),
        Location.of(f"file://{tmp_path}/uri"),
        Location(subtree, "subtree", "subtree://x/subtree"),
        ObjectStore().location(),
    ]


def test_files_come_and_go_alike_everywhere(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"\x00\x01" * 5_000_000)  # more than one chunk
    for place in places(tmp_path):
        place.require_writable()
        assert place.files_below() == []
        (place / "a" / "text").write_text("µ")
        (place / "b").upload(source)
        assert (place / "a" / "text").read_text() == "µ"
        assert place.files_below() == ["a/text", "b"]
        assert [folder.basename for folder in place.folders()] == ["a"]
        assert place.sizes_of(["b", "a", "a/text", "none"]) == [10_000_000, None, 2, None]
        expected = hashlib.sha256(source.read_bytes()).hexdigest()
        assert (place / "b").download(target) == (place / "b").sha256() == expected
        assert target.read_bytes() == source.read_bytes()
        (place / "a").delete_folder()
        (place / "b").delete_file()
        (place / "b").delete_file()
        assert place.files_below() == []
        with pytest.raises(FileNotFoundError):
            (place / "b").read_text()


def test_a_place_reaches_another_process(tmp_path: Path) -> None:
    for place in (Location.of(tmp_path), Location.of(f"file://{tmp_path}"), Location.of("s3://b/x?region=x")):
        copy = pickle.loads(pickle.dumps(place))
        assert (copy.name, copy.path, copy.filesystem.type_name) == (place.name, place.path, place.filesystem.type_name)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nfs://server/x cannot be opened.*s3://"):
        Location.of("nfs://server/x")


def test_a_place_that_cannot_be_reached_or_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"nothing can be written to .*/file/x"):
        Location.of(tmp_path / "file" / "x").require_writable()
    unreachable = f"gs://anonymous@bucket/x?{CLOSED_PORT}&retry_limit_seconds=1"
    with pytest.raises(ValueError, match=r"nothing can be written to gs://.*credentials"):
        Location.of(unreachable).require_writable()
