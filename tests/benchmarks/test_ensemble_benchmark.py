"""The yardstick for REDQ does REDQ's arithmetic, and the benchmark writes its figures."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import ensemble, tight_redq
from benchmarks.tight_redq import CRITICS, SUBSET, UTD, TightREDQ
from benchmarks.tight_sac import HIDDEN
from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor
from rllib_ext.ensemble_sac.settings import SACSettings
from rllib_ext.ensemble_sac.updater import SACOptimizers, SACUpdater, TensorBatch


def ours(loop: TightREDQ, settings: SACSettings) -> SimpleNamespace:
    """Our networks with the loop's weights."""
    s, a = loop.cuts[:2]
    critics, targets = (CriticEnsemble(s, a, CRITICS, (HIDDEN, HIDDEN), layer_norm=False) for _ in range(2))
    for mine, theirs in ((critics, loop.critics), (targets, loop.targets)):
        for parameter, value in zip([*mine.weights, *mine.biases], [*theirs[::2], *theirs[1::2]], strict=True):
            parameter.data.copy_(value.detach())
    actor = GaussianActor(s, a, settings.hidden_sizes)
    for parameter, value in zip(actor.parameters(), loop.actor_parameters, strict=True):
        parameter.data.copy_(value.detach())
    log_alpha = nn.Parameter(torch.zeros(()))
    return SimpleNamespace(
        actor=actor, critics=critics, target_critics=targets.requires_grad_(False), log_alpha=log_alpha
    )


def test_the_hand_written_loop_has_our_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty updates and an actor's from the same weights, batches and noise leave the same weights."""
    loop = TightREDQ("Pendulum-v1", seed=0)
    loop.steps(64, learn=False)
    settings = SACSettings(n_critics=CRITICS, target_subset=SUBSET, actor_reduce="mean", utd=UTD, actor_every=UTD)
    nets = ours(loop, settings)
    updater = SACUpdater(nets, SACOptimizers.of(nets, settings), settings, loop.cuts[1], torch.default_generator)
    given: list[TensorBatch] = []
    update_critics = loop._update_critics

    def keep(s: torch.Tensor, a: torch.Tensor, r: torch.Tensor, s2: torch.Tensor, d: torch.Tensor) -> None:
        given.append(TensorBatch(s, a, r.squeeze(1), s2, d.squeeze(1)))
        update_critics(s, a, r, s2, d)

    monkeypatch.setattr(loop, "_update_critics", keep)
    torch.manual_seed(1)
    loop._update()
    torch.manual_seed(1)
    for batch in given:
        updater.step(batch)
    assert len(given) == UTD
    for mine, theirs in zip(
        [*nets.critics.weights, *nets.critics.biases], [*loop.critics[::2], *loop.critics[1::2]], strict=True
    ):
        torch.testing.assert_close(mine.data, theirs.data, atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(nets.actor.parameters(), loop.actor_parameters, strict=True):
        torch.testing.assert_close(mine.data, theirs.data, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(nets.log_alpha.data, loop.log_alpha.data)


def test_ensemble_figures(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    out = tmp_path / "ensemble.json"
    for module in (ensemble, tight_redq):
        monkeypatch.setattr(module, "UTD", 2)
    monkeypatch.setattr(ensemble, "ray_session", nullcontext)
    monkeypatch.setattr(ensemble, "WARM_UP", 40)
    monkeypatch.setattr(
        sys, "argv", ["ensemble", "--json", str(out), "--rounds", "2", "--env", "Pendulum-v1", "--compile"]
    )
    ensemble.main()
    figures = json.loads(out.read_text())
    assert figures["updates_per_second"].keys() == {"ours", "tight", "compiled"}
    assert (figures["rounds"], figures["device"]) == (2, "cpu")


def test_ratios_are_of_times_and_medians_over_rounds() -> None:
    speeds = {"ours": [(10, 1), (20, 2), (40, 4)], "tight": [(20, 1), (10, 1), (80, 1)], "compiled": [(40, 1)] * 3}
    figures = ensemble.report(speeds)
    assert figures["redq_over_tight"] == 2.0  # of 2, 0.5 and 2: env steps take us twice the loop's time
    assert figures["redq_over_tight_cpu"] == 0.5  # of 1, 0.5 and 0.25
    assert figures["compiled_over_plain"] == 0.5  # of 0.25, 0.5 and 1
