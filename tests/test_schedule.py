from __future__ import annotations

import pytest

from atradiff.schedule import learning_rate_share


def test_learning_rate_warms_up_and_decays():
    assert learning_rate_share(0, 0, 10) == pytest.approx(0.1)
    assert learning_rate_share(50, 0.5, 10) == pytest.approx(0.505)
    assert learning_rate_share(99, 1.0, 10) == pytest.approx(0.01)
