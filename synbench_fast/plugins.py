"""Encoders, tasks, estimators and executors of other packages, found by name through entry points.

A package declares objects in groups of its metadata:

    [project.entry-points."synbench_fast.encoders"]
    mine = "my_package.encoders:source"          # a Source: specs mine:NAME

    [project.entry-points."synbench_fast.tasks"]
    textures = "my_package.tasks:suite"          # a Suite, or a sequence of TaskDefinition

    [project.entry-points."synbench_fast.estimators"]
    shrunk = "my_package.estimators:estimator"   # an Estimator of stats.estimators with this name

    [project.entry-points."synbench_fast.executors"]
    slurm = "my_package.executors:make"          # a function, see fleet.launch.run_fleet

Metadata are read when a name is not one of this package's own, and a plugin is imported when its name is used.
Built-in names always win.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from synbench_fast.errors import SynbenchError, first_line

if TYPE_CHECKING:
    from importlib import metadata


__all__ = ["GROUPS", "Plugin", "listing", "load", "names", "origin", "used_distributions"]

GROUPS = ("encoders", "tasks", "estimators", "executors")


@dataclass(frozen=True)
class Plugin:
    """One name that a distribution declares; `entry` is 'package.module:object'."""

    group: str
    name: str
    entry: str
    distribution: str
    version: str


_loaded: dict[tuple[str, str], tuple[Plugin, Any]] = {}


@lru_cache(maxsize=1)
def _found(path: tuple[str, ...]) -> tuple[tuple[Plugin, metadata.EntryPoint], ...]:
    """All of the groups, in the order of the path; it is sys.path, so that a change of it counts."""
    from importlib import metadata  # takes longer than all the rest of the command line's --help

    everything = metadata.entry_points()
    found = []
    for group in GROUPS:
        for one in everything.select(group=f"synbench_fast.{group}"):
            name, version = (one.dist.name, one.dist.version) if one.dist is not None else ("unknown", "")
            found.append((Plugin(group, one.name, one.value, name, version), one))
    return tuple(found)


def _of(group: str) -> list[tuple[Plugin, metadata.EntryPoint]]:
    return [pair for pair in _found(tuple(sys.path)) if pair[0].group == group]


def listing(group: str | None = None) -> list[Plugin]:
    """What is declared, of one group or all; nothing is imported."""
    return [plugin for one in (GROUPS if group is None else (group,)) for plugin, _ in _of(one)]


def names(group: str) -> list[str]:
    """Names of one group, each once."""
    return list(dict.fromkeys(plugin.name for plugin in listing(group)))


def load(group: str, name: str, accepts: Callable[[Any], bool], expected: str) -> Any | None:
    """The object of this name, imported at its first use; None if no distribution declares it.

    Args:
        accepts: whether the object is of a kind that the group has.
        expected: that kind in words.

    Raises:
        SynbenchError: two distributions declare the name; it cannot be imported; it is something else.
    """
    found = [pair for pair in _of(group) if pair[0].name == name]
    if not found:
        return None
    by = " and ".join(sorted(f"{one.distribution} {one.version}" for one, _ in found))
    if len(found) > 1:
        raise SynbenchError(
            f"entry point synbench_fast.{group}: expected {name!r} of one distribution, got it of {by}"
        )
    plugin, entry = found[0]
    held = _loaded.get((group, name))
    if held is not None and held[0] == plugin:
        return held[1]
    try:
        value = entry.load()
    except (Exception, SystemExit) as error:
        raise SynbenchError(
            f"entry point synbench_fast.{group}: expected {name!r} of {by} to be there, got {first_line(error)} from {plugin.entry}"
        ) from error
    if not accepts(value):
        raise SynbenchError(
            f"entry point synbench_fast.{group}: expected {expected} as {name!r} of {by}, got {type(value).__name__} from {plugin.entry}"
        )
    _loaded[group, name] = (plugin, value)
    return value


def origin(group: str, name: str) -> dict[str, str]:
    """Name and version of the distributions that declare this name."""
    return {one.distribution: one.version for one in listing(group) if one.name == name}


def used_distributions() -> dict[str, str]:
    """Name and version of the distributions whose objects this process has used."""
    return {plugin.distribution: plugin.version for plugin, _ in _loaded.values()}
