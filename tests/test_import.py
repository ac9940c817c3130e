from __future__ import annotations

import subprocess
import sys

import pytest

import atradiff


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import atradiff, sys; print([m for m in ('torch', 'ray', 'diffusers', 'h5py', 'minari') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_public_names_resolve():
    for name in atradiff.__all__:
        assert getattr(atradiff, name).__name__ == name


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match="TrajectoryDiffuser"):
        _ = atradiff.Nothing
