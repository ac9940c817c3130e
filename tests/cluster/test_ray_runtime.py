"""What a task finds where Ray started it."""

from __future__ import annotations

import os

import pytest
import ray

from cluster.ray_runtime import hide_unreserved_gpus

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_task_sees_no_gpu_that_was_not_reserved_for_it() -> None:
    @ray.remote
    def seen() -> str:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"  # as a machine's own setting may be, which Ray leaves as it is
        hide_unreserved_gpus()
        return os.environ["CUDA_VISIBLE_DEVICES"]

    assert ray.get(seen.remote()) == ""
