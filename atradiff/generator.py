"""The trajectory diffuser: what everything else in the project asks for imagined trajectories."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atradiff.bank import diffuser_network
from atradiff.config import DiffuserConfig, Precision, SamplingConfig, SamplingOptions, require, require_states
from atradiff.data.fingerprint import data_fingerprint
from atradiff.data.normalize import DecodedRows, RowCodec
from atradiff.data.tasks import TaskRows
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows
from atradiff.diffusion.captured import CapturedNetwork
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.guided import guided
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.sample import resolve_device, resolve_precision, sample_rows
from atradiff.dynamics import DynamicsEnsemble
from atradiff.imagine import Ending, GenerationReport, imagine, require_finite
from atradiff.inner_refinement import refined_inside
from atradiff.lengths import LengthEstimator, round_up
from atradiff.refine import Thresholds
from atradiff.rollout import Choose, rollout
from atradiff.types import BoolArray, FloatArray, IntArray, Spaces, SyntheticTrajectories, Transitions
from atradiff.weights import check_weights, copy_weights, weights_of

LIMIT_TIMES = 3.0
"""A model's card holds its disagreement limit at so many times what one row in a thousand of the data exceeds."""


@dataclass(frozen=True)
class Calibration:
    """What held-out data said about the fitted parts, in units of the differences' scale."""

    noise: float = 0.0
    """How far the diffuser's states move where they should stand still: the gate of pruning opens with it."""
    residual_limit: float = float("inf")
    disagreement_limit: float = float("inf")
    """Of the one-step model's members, at ``LIMIT_TIMES``; see :meth:`TrajectoryDiffuser.disagreement_limit`."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from; part of its card."""

    env_id: str | None = None
    data_hash: str = ""
    episodes: int = 0
    transitions: int = 0
    fit: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    cpu_seconds: float = 0.0
    held_out_loss: float = float("nan")

    def split(self, data: Trajectories) -> tuple[Trajectories | None, Trajectories]:
        """(training, held-out) episodes as in the fit; None and all of ``data`` where it was of other data."""
        if self.data_hash != data_fingerprint(data):
            return None, data
        return data.split(self.fit["held_out"], self.fit["seed"])


class Networks(torch.nn.Module):
    """The three networks that are fitted together."""

    def __init__(self, config: DiffuserConfig, codec: RowCodec) -> None:
        super().__init__()
        self.diffuser = diffuser_network(config, codec)
        self.lengths = LengthEstimator(codec.spaces.observation_size, config.task_size, config.longest)
        self.dynamics = DynamicsEnsemble.of(config, codec)


class TrajectoryDiffuser:
    """A fitted diffuser with its length estimator, one-step model and scales.

    Satisfies :class:`atradiff.ports.TrajectoryGenerator`. Nothing here draws from torch's global generator.
    ``sampling`` holds the options of :meth:`generate` that a caller leaves out, ``task`` (T,) the task vector; both may
    be replaced at any time.
    """

    def __init__(
        self,
        config: DiffuserConfig,
        codec: RowCodec,
        networks: Networks,
        calibration: Calibration | None = None,
        provenance: Provenance | None = None,
        *,
        version: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.config, self.codec = config, codec
        self.calibration, self.provenance = calibration or Calibration(), provenance or Provenance()
        self.device = resolve_device(device)
        self.precision, self.dtype = precision, resolve_precision(precision, self.device)
        self.networks = networks.to(self.device).eval().requires_grad_(False)
        self.denoiser: RowNetwork = self.networks.diffuser
        """What sampling calls: the diffuser network, or its compiled form over the same weights."""
        self.sampling = SamplingConfig()
        self.task: FloatArray | None = None
        self._version = version

    @property
    def spaces(self) -> Spaces:
        """Of the environment that the data are from."""
        return self.codec.spaces

    @property
    def sampling(self) -> SamplingConfig:
        """Options of :meth:`generate`; setting them raises ``ValueError`` for guidance or a length not fitted."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: SamplingConfig) -> None:
        """Raises ``ValueError`` for guidance or a length that was not fitted."""
        sampling.require_fits(self.config)
        self._sampling = sampling

    @property
    def starts_at_states(self) -> bool:
        """False with ``condition: none``: trajectories start at states of the data, whatever is asked for."""
        return self.config.condition == "state"

    @property
    def version(self) -> int:
        """Counts the weight updates since the model was fitted."""
        return self._version

    @property
    def dynamics(self) -> DynamicsEnsemble:
        """The one-step model."""
        return self.networks.dynamics

    @property
    def decoder(self) -> RowCodec:
        """The codec, held to the range that the data of the current weights have shown."""
        return self.codec.within(self.dynamics.seen.bounds())

    def generate(
        self,
        states: FloatArray,
        task: FloatArray | None = None,
        *,
        generator_seed: int,
        **options: Unpack[SamplingOptions],
    ) -> SyntheticTrajectories:
        """Trajectories (B, K) that start exactly at ``states`` (B, S); see :meth:`generate_with_report`.

        With ``condition: none`` there are as many, but they start at states of the data: together, draws from the
        distribution of whole trajectories (the paper's ablation, table 5).
        """
        return self.generate_with_report(states, task, generator_seed=generator_seed, **options)[0]

    def generate_with_report(
        self,
        states: FloatArray,
        task: FloatArray | None = None,
        *,
        generator_seed: int,
        **options: Unpack[SamplingOptions],
    ) -> tuple[SyntheticTrajectories, GenerationReport]:
        """Trajectories and what happened to them on the way.

        ``options`` are fields of :class:`SamplingConfig`; those left out or None are as in ``self.sampling``. Raises
        ``ValueError`` for states of a wrong width or with NaN or infinity, and for a task vector that does not fit;
        ``FloatingPointError`` rather than return NaN or infinity that a damaged model makes of them.
        """
        states = require_states(states, self.spaces.observation_size)
        if not self.starts_at_states:
            starts = self.codec.normalizer.starts
            states = starts[np.random.default_rng([generator_seed, 1]).integers(len(starts), size=len(states))]
        given = {name: value for name, value in options.items() if value is not None}
        sampling = replace(self.sampling, **given)  # type: ignore[arg-type]
        request = _Request(self, self._checked_task(task, len(states)), generator_seed, sampling)
        ending = self._ending(sampling)
        with self._autocast():
            imagined, report = imagine(
                request, self.dynamics, ending, self.spaces, states, request.total, request.chained, self._version
            )
        require_finite(imagined)
        return imagined, report

    def roll(self, states: FloatArray, act: Choose, rows: int) -> SyntheticTrajectories:
        """See :class:`atradiff.ports.RollsPolicies` and :func:`atradiff.rollout.rollout`."""
        states, limit = require_states(states, self.spaces.observation_size), self.disagreement_limit(self.sampling)
        task = self._checked_task(None, len(states))
        rolled = rollout(self.dynamics, limit, states, act, rows, task, self._version)
        require_finite(rolled)
        return rolled

    def update_dynamics(self, transitions: Transitions, steps: int, *, seed: int, batch: int = 256) -> float:
        """Train the one-step model on an agent's own experience, which widens the seen range too; returns the mean
        loss, raises the version by one.
        """
        self.dynamics.seen.widen(transitions)
        self.dynamics.requires_grad_(True)
        tasks = TaskRows.same(self.own_task(), len(transitions)) if self.config.task_size else None
        loss = self.dynamics.update(transitions, steps, seed=seed, batch=batch, tasks=tasks)
        self.dynamics.requires_grad_(False)
        self._version += 1
        return loss

    def weights(self) -> dict[str, NDArray[Any]]:
        """All that training changes (diffuser, length estimator, one-step model), as arrays of their own by name."""
        return weights_of(self.networks)

    def check_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Raise ``ValueError``, with the first name and the reason, unless these could be this model's weights."""
        check_weights(self.networks, weights)

    def load_weights(self, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """Become what :meth:`weights` gave, as ``version``; all of it or, with a ``ValueError``, nothing of it."""
        copy_weights(self.networks, weights)
        self._version = version

    def on(self, device: str, *, compiled: bool = False) -> TrajectoryDiffuser:
        """A copy on ``device``, in the precision that was asked of this one ("auto": what that device multiplies best).

        ``compiled`` makes calls of the diffuser network CUDA graphs, see :class:`CapturedNetwork`: seconds to minutes
        at the first requests, for GPUs. Raises ``ValueError`` for a GPU that torch does not see here.
        """
        seen = not device.startswith("cuda") or torch.cuda.is_available()
        require(seen, "device", device, "must be one that torch sees: there is no GPU here, or torch was built without")
        moved = TrajectoryDiffuser(
            self.config,
            self.codec,
            copy.deepcopy(self.networks),
            self.calibration,
            self.provenance,
            version=self._version,
            device=device,
            precision=self.precision,
        )
        moved.sampling, moved.task = self.sampling, self.task
        if compiled:
            moved.denoiser = CapturedNetwork(
                moved.networks.diffuser, moved.device, whole=self.config.generator == "one"
            )
        return moved

    def diffused(
        self, states: FloatArray, length: int, task: FloatArray | None = None, *, generator_seed: int
    ) -> DecodedRows:
        """Windows (B, K) of ``length`` rows just as the diffuser makes them: not ended, not pruned, not refined."""
        states = require_states(states, self.spaces.observation_size)
        request = _Request(self, self._checked_task(task, len(states)), generator_seed, SamplingConfig(length=length))
        everyone = np.arange(len(states))
        with self._autocast():
            return request.windows_for(states, np.full(len(states), length, np.int64), everyone)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder (staged, then renamed); raises ``FileExistsError`` where there is one already."""
        from atradiff.model_folder import save_model

        save_model(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, device: str = "auto", precision: Precision | None = None
    ) -> TrajectoryDiffuser:
        """Read a model folder, or fetch one from the Hugging Face hub; ``precision`` None: that of its fit."""
        from atradiff.model_folder import load_model

        return load_model(path_or_id, device, precision)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> None:
        """Upload the model folder to the Hugging Face hub."""
        from atradiff.model_folder import push_model

        push_model(self, repo_id, private)

    def disagreement_limit(self, sampling: SamplingConfig) -> float:
        """How far apart members of the one-step model may be before a trajectory ends, in units of differences."""
        return self.calibration.disagreement_limit * (sampling.disagreement / LIMIT_TIMES)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _ending(self, sampling: SamplingConfig) -> Ending:
        alive, prune = self.dynamics.seen.box(), sampling.prune or self.config.prune
        if alive is not None and sampling.prune is None and prune == "gated":
            prune = "none"  # nothing is left to find, and a slow start would be taken for an end
        return Ending(
            prune=prune,
            refine=sampling.refine or self.config.refine,
            delta_scale=self.codec.normalizer.delta_scale,
            noise=self.calibration.noise,
            thresholds=Thresholds(self.calibration.residual_limit, self.disagreement_limit(sampling)),
            alive=alive,
            projection_steps=sampling.projection_steps,
        )

    def _checked_task(self, task: FloatArray | None, batch: int) -> FloatArray | None:
        size = self.config.task_size
        if size == 0:
            require(task is None, "task", task, "must be left out: this model was fitted without tasks")
            return None
        given = np.tile(self.own_task(), (batch, 1)) if task is None else np.asarray(task, np.float32)
        fits = given.shape == (batch, size)
        require(fits, "task", given.shape, f"must have the shape ({batch}, {size}): this model was fitted with tasks")
        require(bool(np.isfinite(given).all()), "task", "NaN or infinity", "must be finite")
        return given

    def tell_task(self, task: Sequence[float] | None) -> None:
        """Set ``task``; ``ValueError`` unless it is as long as those of the fit (None for a fit without tasks)."""
        size = self.config.task_size
        require(size > 0 or task is None, "task", task, "must be left out: this model was fitted without tasks")
        self.task = None if task is None else np.asarray(task, np.float32)
        if size > 0:
            self.own_task()

    def own_task(self) -> FloatArray:
        """``task``; raises ``ValueError`` where a model of tasks was not told it."""
        size = self.config.task_size
        own = np.asarray([] if self.task is None else self.task, np.float32)
        fits = own.shape == (size,) and bool(np.isfinite(own).all())
        require(fits, "task", self.task, f"must be {size} finite numbers: this model was fitted with tasks")
        return own


class _Request:
    """One call of ``generate``: holds its noise and answers for the windows that chaining asks for."""

    def __init__(
        self,
        model: TrajectoryDiffuser,
        task: FloatArray | None,
        seed: int,
        sampling: SamplingConfig,
    ) -> None:
        sampling.require_fits(model.config)
        self._model, self._sampling = model, sampling
        self._task = None if task is None else torch.as_tensor(task, device=model.device)
        self._generator = torch.Generator().manual_seed(seed)
        denoiser = guided(model.denoiser, sampling.guidance_scale)
        self._denoiser = refined_inside(denoiser, sampling, model.config, model.decoder, model.dynamics)
        self.total = sampling.horizon or sampling.length or model.config.longest
        self.chained = sampling.horizon is not None

    def lengths_for(self, states: FloatArray, rows: IntArray) -> tuple[IntArray, BoolArray]:
        """See :class:`atradiff.imagine.WindowSource`; a fixed length is nobody's estimate of an end."""
        config = self._model.config
        if self._sampling.length is not None:
            return np.full(len(states), self._sampling.length, np.int64), np.zeros(len(states), np.bool_)
        estimate = self._model.networks.lengths.quantile(
            self._states(states), config.length_quantile, self._tasks(rows)
        )
        lengths = round_up(estimate, config.lengths).cpu().numpy()
        return lengths, np.asarray(estimate.cpu().numpy() < config.longest)

    @property
    def history(self) -> int:
        """See :class:`atradiff.imagine.WindowSource`."""
        return self._model.config.history

    def windows_for(
        self, states: FloatArray, lengths: IntArray, rows: IntArray, history: Windows | None = None
    ) -> DecodedRows:
        """See :class:`atradiff.imagine.WindowSource`; a length that was not trained is cut from the next longer one."""
        model = self._model
        trained = round_up(torch.as_tensor(lengths, device=model.device), model.config.lengths)
        tasks, scores = self._tasks(rows), self._scores(len(rows))
        condition = Condition(self._states(states), trained, tasks, scores, self._encoded(history))
        sampled = sample_rows(
            self._denoiser,
            model.config,
            condition,
            self._generator,
            self._sampling.calls,
            torch.as_tensor(model.codec.temperatures(self._sampling), device=model.device),
        )
        cut = sampled[:, : int(lengths.max())].cpu().numpy()
        decoded = model.decoder.decode(states, cut, trained.cpu().numpy())
        return (
            decoded if self._task is None else replace(decoded, tasks=self._task[torch.as_tensor(rows)].cpu().numpy())
        )

    def _states(self, states: FloatArray) -> Tensor:
        return torch.as_tensor(self._model.codec.normalizer.states(states), device=self._model.device)

    def _encoded(self, history: Windows | None) -> Tensor | None:
        if history is None:
            return None
        return torch.as_tensor(self._model.codec.encode_history(history), device=self._model.device)

    def _scores(self, count: int) -> Tensor | None:
        """(count,) what is asked for; None without guidance."""
        asked = self._sampling.target if self._sampling.guidance_scale > 0 else None
        return None if asked is None else torch.full((count,), float(asked), device=self._model.device)

    def _tasks(self, rows: IntArray) -> Tensor | None:
        return None if self._task is None else self._task[torch.as_tensor(rows, device=self._task.device)]
