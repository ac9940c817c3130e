"""Rows of text as tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Cells = Sequence[Sequence[str]]
"""A header and rows of equal length."""


def aligned(cells: Cells) -> str:
    """Rows of text as columns of equal width: the first to the left, the others to the right, a rule below the head."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(_pad(text, widths[i], left=i == 0) for i, text in enumerate(row)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _pad(text: str, width: int, *, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def markdown(cells: Cells) -> str:
    """The cells as a Markdown table, whose header is the first row."""
    header, *rows = cells
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])
