"""What ends a run without being anybody's typing error: the command line tells it in one message, too."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """A run cannot go on; the message says why, and what to do."""
