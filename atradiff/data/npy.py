"""NumPy ``.npy`` files of numbers that people hand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.errors import DataError


def read_npy(file: Path) -> NDArray[Any]:
    """The array in a ``.npy`` file; nothing is unpickled. Raises :class:`DataError` where there is none."""
    if not file.is_file():
        raise DataError("there is no such file.", "Check the path.", file=file)
    try:
        with file.open("rb") as stream:  # numpy.load would take other files for archives or pickles
            return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # damaged headers fail in many ways
        raise DataError(
            f"holds no array of numbers ({type(error).__name__}: {error}).", "Write it with numpy.save.", file=file
        ) from error
