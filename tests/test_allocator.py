"""Freed memory stays with the process."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

PROBE = """
import resource
import sys

import numpy as np

from atradiff.allocator import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for _ in range(20):
    blocks = [np.ones(250_000) for _ in range(16)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_what_one_pass_freed_the_next_one_takes_without_page_faults() -> None:
    pages_of_a_pass = 16 * 250_000 * 8 // resource.getpagesize()
    assert _faults("give back") - _faults("keep") > 10 * pages_of_a_pass
