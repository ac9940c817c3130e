"""Ray as a run needs it: the cluster it was submitted to, or a quiet one on this machine."""

from __future__ import annotations

import logging
import os

import ray


def start_ray() -> None:
    """Connect to the cluster in ``RAY_ADDRESS``, else start Ray on this machine; nothing where Ray runs already.

    Ray's and RLlib's notes on their own future are kept from the terminal; errors are not.
    """
    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
