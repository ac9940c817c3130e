"""RLlib's learner around the plain-torch update: many updates per call, one set of metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from atradiff.errors import RunFailed
from atradiff.types import FloatArray, Transitions
from rllib_ext.ensemble_sac.scoring import Scorer
from rllib_ext.ensemble_sac.settings import SACSettings
from rllib_ext.ensemble_sac.share import Share
from rllib_ext.ensemble_sac.state_scale import STEPS_FOLLOWED, moments_of, take_scales
from rllib_ext.ensemble_sac.updater import SACOptimizers, SACUpdater, StepResult, TensorBatch

TD_ERROR = "td_error_per_row"
LEARNER_METRICS = frozenset({"critic_loss", "q_mean", "td_error", "alpha", "actor_loss", "entropy"})
LEARNED_COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminated")


class LearnerLost(RunFailed):
    """A remote learner's process died. What it knew is in the last checkpoint: build the algorithm anew from there."""


def to_rllib_batch(batches: list[Transitions]) -> MultiAgentBatch:
    """U batches of B rows each, end to end, as RLlib's learner group takes them (U B rows)."""
    columns = {name: np.concatenate([getattr(b, name) for b in batches]) for name in LEARNED_COLUMNS}
    rows = len(columns["rewards"])
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=rows)


class EnsembleSACLearner(TorchLearner):
    """Runs one gradient step per ``batch_size`` rows; of several learners each is given its share of these rows."""

    def build(self) -> None:
        """Build module and optimisers, and the updater with its noise, the same for all learners."""
        super().build()
        module = self.module[DEFAULT_MODULE_ID]
        action_size = module.action_space.shape[0]
        self.updater = SACUpdater(
            module, self.optimizers, self._settings, action_size, self._build_noise(), self._share
        )

    @property
    def _share(self) -> Share:
        return Share(self._learner_index, max(self.config.num_learners, 1))

    def _build_noise(self) -> torch.Generator:
        """Seeded by the config; without a seed there, by one that the learners agree on."""
        generator = torch.Generator(device=self._device)
        if self.config.seed is not None:
            return generator.manual_seed(self.config.seed)
        seed = torch.tensor(generator.seed() % 2**63, device=self._device)
        self._share.agree([seed])
        return generator.manual_seed(int(seed))

    def _make_modules_ddp_if_necessary(self) -> None:
        """Not as RLlib, which wraps ``forward``: the updater calls the networks and averages gradients itself."""
        self._share.agree(self.module[DEFAULT_MODULE_ID].state_dict().values())

    @property
    def _settings(self) -> SACSettings:
        return self.config.settings

    def named_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of actor, critics and alpha, by these names."""
        return {f.name: getattr(self.optimizers, f.name) for f in fields(self.optimizers)}

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Make the three optimisers and tell RLlib of them; it never steps them itself."""
        self.optimizers = SACOptimizers.of(self.module[module_id], (config or self.config).settings)
        for name, optimizer in self.named_optimizers().items():
            params = [p for group in optimizer.param_groups for p in group["params"]]
            self.register_optimizer(module_id=module_id, optimizer_name=name, optimizer=optimizer, params=params)

    def update(self, batch: MultiAgentBatch | None = None, training_data: Any = None, **_: Any) -> dict[str, Any]:
        """One gradient step per share of ``batch_size`` rows; returns RLlib's metrics, |TD| of each row in order."""
        self._check_is_built()
        rows = (training_data.batch if batch is None else batch)[DEFAULT_MODULE_ID]
        if self._settings.standardise_states and self._scales_follow:
            self._take_scales(rows)
        results = [self.updater.step(minibatch) for minibatch in self._minibatches(rows)]
        self._weights_seq_no += 1
        self._log(results)
        return self.metrics.reduce()

    def score(self, rows: Transitions, draws: int) -> FloatArray:
        """Absolute TD errors (N,) of ``rows`` by the networks as they are; leaves them, and all noise, as they are."""
        seed = np.random.SeedSequence([self.config.seed or 0, self.updater.updates]).generate_state(1)[0]
        module, gamma = self.module[DEFAULT_MODULE_ID], self._settings.gamma
        rows = replace(rows, rewards=rows.rewards + np.float32(self._settings.reward_shift))
        return Scorer(module, gamma, draws, torch.device(self._device), int(seed))(rows)

    def compute_loss_for_module(self, **_: Any) -> Any:
        """Refused: RLlib's class demands the method, but there is no one loss."""
        raise NotImplementedError(
            "EnsembleSAC's three losses are stepped in turn by SACUpdater.step and have no sum: call Learner.update."
        )

    @property
    def _scales_follow(self) -> bool:
        """At the first updates, and as long as these are those of a run's first steps: most rows are yet to come."""
        done, settings = self.updater.updates, self._settings
        return done == 0 or settings.learning_starts + done / settings.utd < STEPS_FOLLOWED

    def _take_scales(self, rows: SampleBatch) -> None:
        """Standardise states by those of ``rows``, and of what the other learners were given."""
        moments = moments_of(_tensor(rows["observations"]).to(self._device))
        self._share.average([moments])
        take_scales(self.module[DEFAULT_MODULE_ID], moments)

    def _minibatches(self, rows: SampleBatch) -> Iterator[TensorBatch]:
        columns = {name: _tensor(rows[name]).to(self._device, torch.float32) for name in LEARNED_COLUMNS}
        size = self._settings.batch_size // self._share.of
        for start in range(0, len(columns["rewards"]), size):
            yield TensorBatch(**{name: column[start : start + size] for name, column in columns.items()})

    def _log(self, results: list[StepResult]) -> None:
        values = {
            "critic_loss": _mean([r.critic_loss for r in results]),
            "q_mean": _mean([r.q_mean for r in results]),
            "td_error": _mean([r.td_error.mean() for r in results]),
            "alpha": self.module[DEFAULT_MODULE_ID].log_alpha.exp().item(),
        }
        learned = [r for r in results if r.actor_loss is not None and r.log_prob is not None]
        if learned:
            values["actor_loss"] = _mean([r.actor_loss for r in learned])  # type: ignore[misc]
            values["entropy"] = -_mean([r.log_prob for r in learned])  # type: ignore[misc]
        if not math.isfinite(values["critic_loss"]):
            raise FloatingPointError(
                f"the critic loss is {values['critic_loss']} after {self.updater.updates} updates: look for infinite "
                "rewards or observations in the data, or lower critic_lr."
            )
        for name, value in values.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        td_errors = torch.cat([r.td_error for r in results]).cpu().numpy()
        self.metrics.log_value((DEFAULT_MODULE_ID, TD_ERROR), td_errors, reduce="item_series")


def _tensor(column: NDArray[Any]) -> torch.Tensor:
    """Without a copy where that is safe: what Ray brings from another process is read-only, and no tensor can be."""
    return torch.as_tensor(column if column.flags.writeable else column.copy())


def _mean(values: list[torch.Tensor]) -> float:
    return float(torch.stack(values).mean())
