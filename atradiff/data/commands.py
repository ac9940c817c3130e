"""The functions behind ``atradiff data import | info | join | export``: their arguments are the command's."""

from __future__ import annotations

from typing import Literal


def import_(
    src: str,
    out: str,
    *,
    env: str | None = None,
    horizon: int | None = None,
    licence: str | None = None,
    mirror: str | None = None,
    clip_actions: bool = False,
    end_at_reward: float | None = None,
    overwrite: bool = False,
) -> None:
    """Check a data set and bring it into the trajectory store.

    Args:
        src: a D4RL .hdf5 file, a NumPy .npz file, a Minari folder, d4rl:NAME (d4rl:hopper-medium-v2) or minari:ID.
        out: folder to write; it must not exist.
        env: environment the data come from, where the source does not say.
        horizon: episode length, for files that mark no time-outs.
        licence: licence of the data, where the source does not say.
        mirror: base address that holds D4RL's files, instead of the published one.
        clip_actions: clip actions outside the environment's bounds instead of refusing them.
        end_at_reward: end episodes, as terminated, with the first row that is paid at least this: for data of a goal
            that were recorded on after it was reached.
        overwrite: replace a store at out once the new one is whole.
    """
    from atradiff.data.importer import import_data

    import_data(
        src,
        out,
        env=env,
        horizon=horizon,
        licence=licence,
        mirror=mirror,
        clip_actions=clip_actions,
        end_at_reward=end_at_reward,
        overwrite=overwrite,
    )
    info(out)


def info(dir: str) -> None:
    """Print what a store holds: episodes, lengths, returns, score, ends, and a histogram.

    Args:
        dir: folder of the store.
    """
    from atradiff.data.info import describe

    print(describe(dir))


def join(stores: list[str], *, out: str, task: str = "one_hot", overwrite: bool = False) -> None:
    """Lay the episodes of several stores into one, those of each with the vector of its task.

    Args:
        stores: folders of the stores, one task each.
        out: folder to write; it must not exist.
        task: one_hot (a number for each store), none, or a .npy file with one row of numbers for each store.
        overwrite: replace a store at out once the new one is whole.
    """
    from atradiff.data.join import join_stores

    join_stores(stores, out, task, overwrite=overwrite)
    info(out)


def export(dir: str, out: str, format: Literal["d4rl", "minari"] = "d4rl") -> None:
    """Write a store in a layout that other tools read.

    Args:
        dir: folder of the store.
        out: file to write (d4rl), or folder or minari:ID (minari); it must not exist.
        format: d4rl for one HDF5 file in D4RL's layout, minari for a Minari data set.
    """
    from atradiff.data.export import export_d4rl_hdf5, export_minari

    written = export_d4rl_hdf5(dir, out) if format == "d4rl" else export_minari(dir, out)
    print(f"wrote {written}")
