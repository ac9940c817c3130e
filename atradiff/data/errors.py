"""The one error that data work raises about what it was given."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Says which file, which field, which row is wrong, how, and what to do about it."""

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        file: str | Path | None = None,
        field: str | None = None,
        row: str | int | None = None,
    ) -> None:
        self.file, self.field, self.row, self.remedy = file, field, row, remedy
        place = [
            f"{file}" if file is not None else "",
            f"field '{field}'" if field is not None else "",
            f"row {row}" if row is not None else "",
        ]
        where = ", ".join(part for part in place if part)
        super().__init__(f"{where}: {problem} {remedy}" if where else f"{problem} {remedy}")
