"""What is said of services that travel: a config that holds them is copied and pickled by RLlib."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import cast

import pytest

from atradiff.adaptation.service import AdaptingServices
from atradiff.ports import ServiceOrder
from tests.adaptation.adapting import QUICK, offline_data
from tests.toys import tiny_diffuser


def test_neither_model_nor_data_are_copied() -> None:
    services = AdaptingServices(tiny_diffuser(offline_data()), offline_data(), QUICK)
    assert copy.deepcopy(services) is services
    sent = pickle.dumps(services)
    assert len(sent) < 500
    assert pickle.loads(sent) is services
    arrive = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps(pickle.loads(sys.stdin.buffer.read())))"
    elsewhere = subprocess.run([sys.executable, "-c", arrive], input=sent, capture_output=True, check=True).stdout
    assert pickle.loads(elsewhere) is services  # on its way through another process


def test_what_was_left_behind_says_so() -> None:
    services = AdaptingServices(tiny_diffuser(offline_data()), offline_data(), QUICK)
    sent = pickle.dumps(services)
    del services
    with pytest.raises(RuntimeError, match="new ones of the same diffuser and data"):
        pickle.loads(sent).start(cast(ServiceOrder, None))
