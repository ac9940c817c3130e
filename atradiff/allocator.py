"""Memory that a computation frees is kept for its next pass, instead of being given back to the kernel each time.

glibc returns large freed blocks at once. A network that runs in passes of some megabytes then asks for the same pages
over and over, and on a CPU much of the time of :meth:`TrajectoryDiffuser.generate` went into their page faults.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_... of <malloc.h>
_ONE_GIB = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc to hold on to freed memory in this process, up to 1 GiB; False where the C library is another one.

    For processes of one's own (commands, actors): a library has no business to change its host's allocator unasked.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function: macOS, musl, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _ONE_GIB)) and bool(mallopt(_TRIM_THRESHOLD, _ONE_GIB))
