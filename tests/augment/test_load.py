from __future__ import annotations

import pytest

from atradiff.augment.load import load_generator
from atradiff.augment.synther import SyntherDiffuser
from atradiff.augment.synther_fit import fit_synther
from atradiff.config import SyntherConfig, SyntherFit
from atradiff.generator import TrajectoryDiffuser
from tests.toys import CHAIN, chain_data, tiny_diffuser


def test_the_folder_says_what_it_holds(tmp_path):
    data = chain_data(3)
    synther = fit_synther(
        CHAIN, data.columns, SyntherConfig(width=8, depth=1), SyntherFit(steps=1), device="cpu", quiet=True
    )
    synther.save_pretrained(tmp_path / "synther")
    tiny_diffuser(data).save_pretrained(tmp_path / "diffuser")
    assert isinstance(load_generator(tmp_path / "synther", device="cpu"), SyntherDiffuser)
    assert isinstance(load_generator(tmp_path / "diffuser", device="cpu"), TrajectoryDiffuser)


def test_a_damaged_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_generator(tmp_path)
