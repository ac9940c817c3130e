"""Settings in layers, later ones win; one that names the offline data in another way stands in for the earlier way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from cluster.config_errors import flags_of, mapping_of, text_of_config

_WAYS = ("path", "source", "collect")
"""Of naming the offline data: settings of ``data``, of which a run has one."""


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One nested mapping from several; ``a.b: 1`` is the same as ``a: {b: 1}``."""
    result: dict[str, Any] = {}
    for layer in layers:
        for way in _overruled(_nested(layer)):
            _put(result, ("data", way), None)
        for key, value in layer.items():
            _put(result, str(key).split("."), value)
    return result


def with_data_overruled(arguments: Sequence[str]) -> list[str]:
    """The flags of a run with one more before each layer for what it overrules: ``--data.source=null``.

    A config file is a layer, and so are the flags before, between and after such files.
    """
    layers: list[list[list[str]]] = []
    for flag in _flags_with_values(arguments):
        if not layers or _is_config(flag) or _is_config(layers[-1][-1]):
            layers.append([])
        layers[-1].append(flag)
    words: list[str] = []
    for layer in layers:
        given = [word for flag in layer for word in flag]
        words += [f"--data.{way}=null" for way in _overruled(_settings(given))] + given
    return words


def _overruled(layer: Mapping[str, Any]) -> list[str]:
    """The settings of ``data`` that this (nested) layer overrules in those below it: ways but its own, if it has one.

    Null is none; what the layer sets itself is left to it, so that two ways in one layer are still refused.
    """
    data = layer.get("data")
    if not isinstance(data, Mapping) or all(data.get(way) is None for way in _WAYS):
        return []
    settings = _WAYS if "source" in data else (*_WAYS, "end_at_reward")  # which speaks of a source alone
    return [name for name in settings if name not in data]


def _nested(layer: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in layer.items():
        _put(result, str(key).split("."), value)
    return result


def _put(target: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    first, *rest = keys
    if not rest and not isinstance(value, Mapping):
        target[first] = value
        return
    if not isinstance(target.get(first), dict):
        target[first] = {}
    if rest:
        _put(target[first], rest, value)
    else:
        for key, item in value.items():
            _put(target[first], str(key).split("."), item)


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """What the flags of one layer say, nested."""
    result: dict[str, Any] = {}
    for name, value in flags_of(words):
        for key, item in mapping_of(text_of_config(value)).items() if name == "config" else [(name, _read(value))]:
            _put(result, str(key).split("."), item)
    return result


def _read(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        return value


def _flags_with_values(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Each flag with the words up to the next one."""
    flag: list[str] = []
    for word in arguments:
        if word.startswith("--") and flag:
            yield flag
            flag = []
        flag.append(word)
    if flag:
        yield flag


def _is_config(flag: Sequence[str]) -> bool:
    return flag[0].partition("=")[0] == "--config"
