"""All results of a directory, in boards: groups of results whose scores may be compared."""

from __future__ import annotations

import gc
import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.database import FILE
from synbench_fast.report.reader import Entry, Suite, read_all
from synbench_fast.results.documents import check_own

__all__ = ["Board", "Collection", "Failure", "boards", "collect", "load_results"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An encoder that has no result, with the reason in one line."""

    encoder: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a directory holds. `problems`: one line for every file that is no result."""

    folder: str
    items: list[Entry | Suite]
    failures: list[Failure]
    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class Board:
    """Results of one task (or suite), estimator and seed: the same samples, so that scores may be compared.

    `title` says what they share, `configurations` what distinguishes members with the same spec. `spec` and the
    first result of a member: `encoder_of`.
    """

    title: str
    members: list[Entry | Suite]
    configurations: list[str]

    @property
    def first(self) -> Entry:
        """A result that stands for all: its task, estimator and seed are the board's."""
        return encoder_of(self.members[0])

    @property
    def suite(self) -> bool:
        """Whether the members are results of a suite of tasks."""
        return isinstance(self.members[0], Suite)

    @cached_property
    def eps(self) -> list[float]:
        """Every budget that a member has."""
        return sorted({one for member in self.members for one in encoder_of(member).eps})

    @cached_property
    def thresholds(self) -> list[float]:
        """Every threshold that a member has."""
        return sorted({one for member in self.members for one in encoder_of(member).thresholds})


def encoder_of(item: Entry | Suite) -> Entry:
    """The result itself; of a suite the first one, which has the encoder of all."""
    return item if isinstance(item, Entry) else item.entries[0]


def load_results(folder: str | Path, failures: Iterable[Failure] = ()) -> Collection:
    """Every result and suite in `folder` and `folder`/results.

    Args:
        folder: files `*.json`; names that begin with a dot are left out. Links are followed, but not in the store of
            a fleet, which may be somebody else's.
        failures: encoders without a result, which a report lists with their reasons.

    Raises:
        SynbenchError: no such directory, or one without any result.
    """
    root = Path(folder)
    if not root.is_dir():
        hint = f", did you mean the directory it is in, {str(root.parent)!r}?" if root.is_file() else ""
        raise SynbenchError(f"DIR: expected a directory of results, got {str(folder)!r}{hint}")
    store = os.path.lexists(root / FILE)
    if store:
        check_own(root / "results", folder=True)
    paths, problems = [], []
    for path in sorted(
        path
        for place in (root, root / "results")
        if place.is_dir()
        for path in place.glob("*.json")
        if not path.name.startswith(".")
    ):
        try:
            _check_file(path, store)
        except SynbenchError as error:
            problems.append(str(error))
        else:
            paths.append(str(path))
    found = list(failures)
    if not paths and not problems and not found:
        raise SynbenchError(f"DIR: expected files *.json in {str(folder)!r} or its results/, got none")
    enabled = gc.isenabled()
    gc.disable()  # millions of numbers and no cycle among them
    try:
        read = read_all(paths)
    finally:
        if enabled:
            gc.enable()
    items = [one for one in read if not isinstance(one, str)]
    problems += [one for one in read if isinstance(one, str)]
    if not items and not found:
        raise SynbenchError(
            f"DIR: expected at least one result in {str(folder)!r}, got {len(problems)} files of which none is: "
            f"{problems[0]}"
        )
    return Collection(folder=str(folder), items=items, failures=found, problems=problems)


def _check_file(path: Path, store: bool) -> None:
    """SynbenchError for what a reader would wait for (a FIFO, a device), and in a store for links."""
    if store:
        check_own(path)
    elif path.exists() and stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise SynbenchError(f"{path}: expected a readable result file, got something else")


def collect(results: Iterable[Any]) -> Collection:
    """The same of results in memory: `Result` and `SuiteResult` objects."""
    from synbench_fast.report.reader import entry_of

    items = [entry_of(one) for one in results]
    if not items:
        raise SynbenchError("results: expected at least one result, got none")
    return Collection(folder="", items=items, failures=[], problems=[])


def _task_key(entry: Entry) -> tuple[Any, ...]:
    """What `compare` wants to be alike for scores on the same samples, and how curves are averaged."""
    task = entry.task
    return (
        entry.estimator,
        entry.integral,
        entry.seed,
        tuple(task["shape"]),
        tuple(task["scales"]),
        task["prior"],
        task["center"],
        task["pattern"],
        task["covariance"],
        json.dumps(task.get("average")),
    )


def boards(items: Sequence[Entry | Suite]) -> list[Board]:
    """Items in groups that may be compared, the largest group first."""
    groups: dict[Any, list[Entry | Suite]] = {}
    for one in items:
        if isinstance(one, Suite):
            key: Any = (one.suite, tuple(one.tasks), tuple(_task_key(entry) for entry in one.entries))
        else:
            key = _task_key(one)
        groups.setdefault(key, []).append(one)
    ordered = sorted(groups.values(), key=lambda group: (isinstance(group[0], Suite), -len(group)))
    return [
        Board(title=_title(group[0]), members=group, configurations=_configurations(group))
        for group in ordered
    ]


def _title(item: Entry | Suite) -> str:
    entry = encoder_of(item)
    task = entry.task
    shape = "x".join(str(one) for one in task["shape"])
    if isinstance(item, Suite):
        what = f"suite {item.suite}, {len(item.tasks)} tasks"
    else:
        what = f"pattern {task['pattern']}, {task['covariance']} noise"
        if task["prior"] != 0.5:
            what += f", prior {task['prior']:g}"
        if task["center"] != 0.5:
            what += f", center {task['center']:g}"
    scales = task["scales"]
    extent = f"{len(scales)} scales from {scales[0]:g} to {scales[-1]:g}" if len(scales) > 1 else "1 scale"
    average = task.get("average")
    estimator = entry.estimator + ("" if entry.integral == "exact" else f", {entry.integral} integral")
    return f"{what}; input {shape}; {extent}; {estimator}; seed {entry.seed}" + (
        "" if average is None else f"; average {average if isinstance(average, str) else json.dumps(average)}"
    )


def samples_text(task: dict[str, Any]) -> str:
    """`1024`, or `512-4096` where scales have different numbers of samples."""
    samples = task["samples"]
    if not isinstance(samples, list):
        return str(samples)
    low, high = min(samples, default=0), max(samples, default=0)
    return str(low) if low == high else f"{low}-{high}"


def _facts(item: Entry | Suite) -> dict[str, str]:
    """What may differ between results of one encoder on one board."""
    entry = encoder_of(item)
    encoder, cost = entry.encoder, entry.cost
    prepared = encoder["preprocessing"]
    return {
        "revision": str(encoder["revision"]),
        "checkpoint": str(encoder["checkpoint"]),
        "random init": str(encoder["random_init"]).lower(),
        "pool": str(prepared["pool"]),
        "mean": _listed(prepared["mean"]),
        "std": _listed(prepared["std"]),
        "samples": samples_text(entry.task),
        "eps": _listed(entry.eps),
        "thresholds": _listed(entry.thresholds),
        "dtype": str(cost["dtype"]),
        "device": str(cost["device"]),
        "batch size": str(cost["batch_size"]),
        "weights": entry.encoder["weights_sha256"][:8],
    }


def _listed(values: Sequence[float] | None) -> str:
    return "none" if values is None else ",".join(f"{one:g}" for one in values)


def _configurations(group: Sequence[Entry | Suite]) -> list[str]:
    """For members with the same spec the facts that differ between them, else nothing."""
    same: dict[str, list[int]] = {}
    for place, one in enumerate(group):
        same.setdefault(encoder_of(one).encoder["spec"], []).append(place)
    texts = [""] * len(group)
    for places in same.values():
        if len(places) < 2:
            continue
        facts = [_facts(group[place]) for place in places]
        differing = [name for name in facts[0] if len({one[name] for one in facts}) > 1]
        for place, fact in zip(places, facts, strict=True):
            digest = Path(group[place].file).stem.rpartition("-")[2]
            texts[place] = ", ".join(f"{name} {fact[name]}" for name in differing) or digest
    return texts
