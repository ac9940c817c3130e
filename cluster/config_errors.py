"""What is wrong with a run's config, for people: the wrong key and the known ones, without jsonargparse's unions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

_NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "- Problem with given class_path",
    "- Expected a <class 'NoneType'>",
    "Given value type:",
    "Given value:",
)


def require_known_keys(arguments: Sequence[str], kind: type) -> None:
    """Raise ``ValueError`` for a key of a config file or a dotted flag that is no field of the dataclass ``kind``.

    Flags that ask for help or begin with no field of ``kind``, and files that cannot be read, are left to the parser.
    """
    for flag, value in flags_of(arguments):
        if flag == "config":
            require_known(mapping_of(text_of_config(value)), kind)
        elif not flag.endswith(".help") and flag.partition(".")[0] in get_type_hints(kind):
            require_known({flag: mapping_of(value)}, kind)


def plain(message: str) -> str:
    """jsonargparse's ``message`` without what it says of a value that may be None: its types, and all that is given."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if not line.startswith(_NOISE))


def require_known(given: Mapping[str, Any], kind: type, where: str = "") -> None:
    """Raise ``ValueError`` for a key of nested or dotted settings, at ``where``, that is no field of ``kind``, and for
    a null where it takes settings of its own.
    """
    known = get_type_hints(kind)
    for name, value in given.items():
        key, _, rest = str(name).partition(".")
        if key not in known:
            raise ValueError(_unknown(where, key, sorted(known)))
        inner = next((one for one in (known[key], *get_args(known[key])) if is_dataclass(one)), None)
        below = {rest: value} if rest else value
        if inner is known[key] and below is None:
            raise ValueError(f"{where}{key} must hold settings, got null: leave it out for its defaults.")
        if isinstance(inner, type) and isinstance(below, Mapping):
            require_known(below, inner, f"{where}{key}.")


def _unknown(where: str, key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    owner = where.rstrip(".") or "a run"
    return f"{where}{key} is no setting.{meant} What {owner} takes: {', '.join(known)}."


def flags_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``--name value`` and ``--name=value``, without the dashes."""
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield name, value if equals else following


def text_of_config(value: str) -> str:
    """Of the file that ``value`` names, or ``value`` itself; empty for a file that cannot be read."""
    try:
        is_file = "\n" not in value and Path(value).is_file()
        return Path(value).read_text(encoding="utf-8") if is_file else value
    except (OSError, UnicodeDecodeError):
        return ""


def mapping_of(text: str) -> Mapping[str, Any]:
    """What ``text`` maps as YAML; empty for anything else."""
    try:
        read = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):  # a ValueError: 2026-13-01 looks like a date, and is none
        return {}
    return read if isinstance(read, Mapping) else {}
