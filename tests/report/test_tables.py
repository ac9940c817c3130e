"""Tables for people, and files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

from atradiff.report.tables import aligned, markdown, write_text

CELLS = [["a", "bb"], ["ccc", "d"]]


def test_columns_line_up() -> None:
    assert aligned(CELLS) == "a    bb\n-------\nccc   d"


def test_markdown_has_a_rule_below_the_header() -> None:
    assert markdown(CELLS) == "| a | bb |\n| --- | --- |\n| ccc | d |"


def test_text_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "t.txt", "µ")
    assert [(f.name, f.read_text(encoding="utf-8")) for f in (tmp_path / "new").iterdir()] == [("t.txt", "µ")]
