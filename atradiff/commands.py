"""What the command line calls: a typed function whose arguments are the options."""

from __future__ import annotations

from pathlib import Path

from atradiff.config import DiffuserConfig, FitConfig

_MODEL = DiffuserConfig()


def fit_command(
    data: Path,
    out: Path,
    steps: int | None = None,
    cpu_minutes: float | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str = "auto",
    overwrite: bool = False,
    relevance: Path | None = None,
    model: DiffuserConfig = _MODEL,
) -> None:
    """Fit a trajectory diffuser on a trajectory store; called again with the same options it resumes.

    Args:
        data: folder of a trajectory store.
        out: folder for the model; TensorBoard files lie in its tensorboard/.
        steps: fit steps (bit-reproducible).
        cpu_minutes: CPU minutes to spend; 5 where neither this nor steps is given.
        seed: of the weights, the windows and the noise.
        threads: of torch.
        device: where to fit: auto, cpu or cuda.
        overwrite: replace a fit with other settings in the same folder.
        relevance: .npy file with a number for each row of the store, for --model.guide relevance; without it the
            one-step model's error is taken.
        model: settings of the model, e.g. --model.process edm.
    """
    from atradiff.data.npy import read_npy
    from atradiff.data.store import open_trajectories
    from atradiff.fit import fit

    budget = 5.0 if steps is None and cpu_minutes is None else cpu_minutes
    settings = FitConfig(steps=steps, cpu_minutes=budget, seed=seed, threads=threads)
    diffuser = fit(
        open_trajectories(data),
        out,
        config=model,
        settings=settings,
        device=device,
        overwrite=overwrite,
        relevance=None if relevance is None else read_npy(relevance),
    )
    source = diffuser.provenance
    print(
        f"Model in {out}: {source.steps} steps, {source.cpu_seconds:.0f} CPU seconds, "
        f"held-out loss {source.held_out_loss:.4f}. Judge it: atradiff fidelity --model {out} --data {data}"
    )
