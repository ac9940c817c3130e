"""What a result says of the replay: the same names under EnsembleSAC (``replay``) and the callback (``atradiff``)."""

from __future__ import annotations

from atradiff.replay.mixed import MixedReplay


def replay_metrics(replay: MixedReplay, generator_version: int | None) -> dict[str, float]:
    """The counters of one run so far (``docs/metrics.md`` explains each); no generator, no ages."""
    counters = replay.counters
    sampled = max(counters.sampled_real + counters.sampled_synthetic + counters.sampled_offline, 1)
    values: dict[str, float] = {
        "env_steps": counters.env_steps,
        "real_rows": len(replay.real),
        "synthetic_rows": len(replay.synthetic),
        "synthetic_rows_drawable": replay.drawable_synthetic,
        "offline_rows": 0 if replay.offline is None else len(replay.offline),
        "real_fill": len(replay.real) / replay.real.capacity,
        "synthetic_fill": len(replay.synthetic) / replay.synthetic.capacity,
        "memory_bytes": replay.nbytes,
        "rho": replay.rho,
        "synthetic_share_sampled": counters.sampled_synthetic / sampled,
        "offline_share_sampled": counters.sampled_offline / sampled,
        "requests": counters.requests,
        "requests_pending": replay.pending,
        "requests_dropped": counters.requests_dropped,
        "oldest_request_age": replay.oldest_request_age,
        "trajectories": counters.trajectories,
        "expected_length": replay.expected_length,
    }
    if generator_version is None:
        return values
    return values | {"generator_version": generator_version} | _synthetic_age(replay, generator_version)


def _synthetic_age(replay: MixedReplay, newest_version: int) -> dict[str, float]:
    """Mean age of the stored synthetic rows, in generator versions and in env steps; empty while there are none."""
    ring = replay.synthetic
    if len(ring) == 0:
        return {}
    rows = slice(0, len(ring))
    return {
        "synthetic_age_versions": newest_version - float(ring["generator_version"][rows].mean()),
        "synthetic_age_steps": replay.counters.env_steps - float(ring["created_at"][rows].mean()),
    }
