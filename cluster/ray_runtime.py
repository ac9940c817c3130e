"""Ray as a run needs it: the cluster it was submitted to, or a quiet one on this machine."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayTaskError


def start_ray(at_least: float = 0.0) -> None:
    """Connect to the cluster in ``RAY_ADDRESS``, else start Ray on this machine; nothing where Ray runs already.

    A Ray that is started here has ``at_least`` so many CPUs, whatever the machine has: its actors then share them.
    Ray's and RLlib's notes on their own future are kept from the terminal; errors are not.
    """
    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    with _stop_signal_kept():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            cpus = max(math.ceil(at_least), os.cpu_count() or 1)
            ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def hide_unreserved_gpus() -> None:
    """In a task: see no GPU where none was reserved for it. Ray hides the others from who has some, and none from who
    asked for none: every such task would work on the first one.
    """
    if ray.is_initialized() and not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def answer_of(call: ObjectRef[Any]) -> Any:
    """``ray.get``; but what an actor raised is raised as it was, and Ray's account of it, in pages, is its cause."""
    try:
        return ray.get(call)
    except RayTaskError as error:
        cause: Exception = error
        while isinstance(cause, RayTaskError):  # an actor that heard it from another one
            cause = cause.cause
        raise cause from error


@contextmanager
def _stop_signal_kept() -> Iterator[None]:
    """Ray's handler of SIGTERM ends the process at once: a run that set its own, to write a checkpoint, keeps it."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
