"""Tables for people."""

from __future__ import annotations

from atradiff.report.tables import aligned, markdown

CELLS = [["a", "bb"], ["ccc", "d"]]


def test_columns_line_up() -> None:
    assert aligned(CELLS) == "a    bb\n-------\nccc   d"


def test_markdown_has_a_rule_below_the_header() -> None:
    assert markdown(CELLS) == "| a | bb |\n| --- | --- |\n| ccc | d |"
