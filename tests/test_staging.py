"""Files and folders appear whole or not at all, and what stood there before survives a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from atradiff.staging import staged_file, staged_folder, write_text


def fail_in_folder(folder: Path) -> None:
    with staged_folder(folder) as stage:
        (stage / "new").touch()
        raise RuntimeError


def fail_in_file(file: Path) -> None:
    with staged_file(file) as stage:
        stage.write_text("new")
        raise RuntimeError


def test_text_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "t.txt", "µ")
    assert [(f.name, f.read_text(encoding="utf-8")) for f in (tmp_path / "new").iterdir()] == [("t.txt", "µ")]


def test_a_failure_leaves_the_old_and_no_trace_of_the_new(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    with staged_folder(folder) as stage:
        (stage / "old").touch()
    write_text(file, "old")
    with pytest.raises(RuntimeError):
        fail_in_folder(folder)
    with pytest.raises(RuntimeError):
        fail_in_file(file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert [p.name for p in folder.iterdir()] == ["old"]
    assert file.read_text() == "old"


def test_a_new_folder_takes_the_place_of_the_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with staged_folder(tmp_path / "folder") as stage:
            (stage / name).touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
