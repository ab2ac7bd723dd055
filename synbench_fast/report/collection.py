"""All results of a directory, in boards: groups of results whose scores may be compared."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.database import FILE
from synbench_fast.results.codec import Mismatch
from synbench_fast.results.documents import parse
from synbench_fast.results.files import check_own, read_text
from synbench_fast.results.records import SCHEMA, Result, TaskRecord
from synbench_fast.results.suite import SUITE_SCHEMA, SuiteResult

__all__ = [
    "Board",
    "Collection",
    "Failure",
    "Item",
    "boards",
    "collect",
    "load_documents",
    "load_results",
    "no_collection",
]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A result or a suite of results, and the file that it is from; of one in memory its encoder."""

    file: str
    document: Result | SuiteResult

    @property
    def suite(self) -> SuiteResult | None:
        """The document where it is a suite's."""
        return self.document if isinstance(self.document, SuiteResult) else None

    @cached_property
    def results(self) -> list[Result]:
        """The result, or those of the suite's tasks."""
        return [self.document] if isinstance(self.document, Result) else self.document.results

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks of a suite; an empty one for a single result."""
        return [""] if isinstance(self.document, Result) else self.document.tasks

    @property
    def first(self) -> Result:
        """The result; of a suite the first one, which has the encoder of all, and the budgets and thresholds of its scores."""
        return self.results[0]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An encoder that has no result, with the reason in one line."""

    encoder: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a directory holds. `problems`: one line for every file that is no result; `unfinished`: what a store still lacks."""

    folder: str
    items: list[Item]
    failures: list[Failure]
    problems: list[str]
    unfinished: str = ""


@dataclass(frozen=True, kw_only=True)
class Board:
    """Results of one task (or suite), estimator and seed: the same samples, so that scores may be compared.

    `title` says what they share, `configurations` what distinguishes members with the same spec.
    """

    title: str
    members: list[Item]
    configurations: list[str]

    @property
    def first(self) -> Result:
        """A result that stands for all: its task, estimator and seed are the board's."""
        return self.members[0].first

    @property
    def suite(self) -> bool:
        """Whether the members are results of a suite of tasks."""
        return self.members[0].suite is not None

    @cached_property
    def eps(self) -> list[float]:
        """Every budget that a member has."""
        return sorted({one for member in self.members for one in member.first.eps})

    @cached_property
    def thresholds(self) -> list[float]:
        """Every threshold that a member has."""
        return sorted({one for member in self.members for one in member.first.thresholds})


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python does not look for cycles: among millions of numbers of results there is none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_results(folder: str | Path, failures: Iterable[Failure] = (), unfinished: str = "") -> Collection:
    """Every result and suite in `folder` and `folder`/results.

    Args:
        folder: files `*.json`; names that begin with a dot are left out. Links are followed, but not in the store of
            a fleet, which may be somebody else's.
        failures: encoders without a result, which a report lists with their reasons.
        unfinished: a sentence about what the store still lacks, which a report shows.

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
    paths = sorted(
        os.path.join(place, name)
        for place in (root, root / "results")
        if place.is_dir()
        for name in os.listdir(place)
        if name.endswith(".json") and not name.startswith(".")
    )
    found = list(failures)
    if not paths and not found and not unfinished:
        raise SynbenchError(f"DIR: expected files *.json in {str(folder)!r} or its results/, got none")
    items, problems = [], []
    with no_collection():
        for path in paths:
            try:
                items.append(_item(path, store))
            except SynbenchError as error:
                problems.append(str(error))
    if not items and not found and not unfinished:
        raise SynbenchError(
            f"DIR: expected at least one result in {str(folder)!r}, got {len(problems)} files of which none is: "
            f"{problems[0]}"
        )
    return Collection(
        folder=str(folder), items=items, failures=found, problems=problems, unfinished=unfinished
    )


def load_documents(places: Sequence[str]) -> tuple[list[Result | SuiteResult], list[str]]:
    """Results and suites of these files, and of `load_results` of these folders; a line for every file in them that is neither.

    Raises:
        SynbenchError: a file that is neither, a folder without any.
    """
    found, problems = [], []
    for place in places:
        if os.path.isdir(place):
            collection = load_results(place)
            found += [one.document for one in collection.items]
            problems += collection.problems
        elif place.endswith(".npz") and os.path.isfile(place.removesuffix(".npz") + ".json"):
            continue  # arrays of a document, which a pattern of the shell names too
        else:
            found.append(_item(place, False).document)
    return found, problems


def _item(path: str, store: bool) -> Item:
    """The result or suite in a file; SynbenchError for others, and for what a reader would wait for (a FIFO, a device)."""
    source = parse(read_text(path, "result", own=store, regular=True), path)
    schema = source.get("schema") if isinstance(source, dict) else None
    if schema not in (SCHEMA, SUITE_SCHEMA):
        raise SynbenchError(
            f"{path}: schema: expected {SCHEMA!r} or {SUITE_SCHEMA!r}, got {str(schema)[:60]!r}"
        )
    kind = Result if schema == SCHEMA else SuiteResult
    return Item(file=path, document=kind.from_header(source, path, own=store))


def collect(results: Iterable[Result | SuiteResult]) -> Collection:
    """The same of results in memory."""
    items = [Item(file=one.encoder.spec, document=one) for one in results]
    if not items:
        raise SynbenchError("results: expected at least one result, got none")
    for one in items:
        try:
            one.document.check()
        except Mismatch as error:
            raise SynbenchError(f"{one.first.encoder.spec}: {error}") from None
    return Collection(folder="", items=items, failures=[], problems=[])


def _task_key(result: Result) -> tuple[Any, ...]:
    """What `compare` wants to be alike for scores on the same samples, and how curves are averaged."""
    task = result.task
    noise = (task.prior, task.center, task.pattern, task.covariance, task.average)
    return (result.estimator, result.integral, result.seed, task.shape, tuple(task.scales), *noise)


def boards(items: Sequence[Item]) -> list[Board]:
    """Items in groups that may be compared, the largest group first."""
    groups: dict[Any, list[Item]] = {}
    for one in items:
        key: Any = tuple(_task_key(result) for result in one.results)
        if one.suite is not None:
            families = [
                (family.task, family.family, *family.levels, family.classes, family.samples)
                for family in one.suite.families
            ]
            key = (one.suite.suite, tuple(one.tasks), tuple(families), key)
        groups.setdefault(key, []).append(one)
    ordered = sorted(groups.values(), key=lambda group: (group[0].suite is not None, -len(group)))
    return [
        Board(title=_title(group[0]), members=group, configurations=_configurations(group))
        for group in ordered
    ]


def _title(item: Item) -> str:
    first = item.first
    task = first.task
    shape = "x".join(str(one) for one in task.shape)
    if item.suite is not None:
        what = f"suite {item.suite.suite}, {len(item.tasks) + len(item.suite.families)} tasks"
    else:
        what = f"pattern {task.pattern}, {task.covariance} noise"
        if task.prior != 0.5:
            what += f", prior {task.prior:g}"
        if task.center != 0.5:
            what += f", center {task.center:g}"
    scales = task.scales
    extent = f"{len(scales)} scales from {scales[0]:g} to {scales[-1]:g}" if len(scales) > 1 else "1 scale"
    estimator = first.estimator + ("" if first.integral == "exact" else f", {first.integral} integral")
    return f"{what}; input {shape}; {extent}; {estimator}; seed {first.seed}; average {task.average}"


def samples_text(task: TaskRecord) -> str:
    """`1024`, or `512-4096` where scales have different numbers of samples."""
    low, high = min(task.samples, default=0), max(task.samples, default=0)
    return str(low) if low == high else f"{low}-{high}"


def _facts(item: Item) -> dict[str, str]:
    """What may differ between results of one encoder on one board."""
    result = item.first
    encoder, cost, prepared = result.encoder, result.cost, result.encoder.preprocessing
    return {
        "revision": str(encoder.revision),
        "checkpoint": str(encoder.checkpoint),
        "random init": str(encoder.random_init).lower(),
        "pool": str(prepared.pool),
        "mean": _listed(prepared.mean),
        "std": _listed(prepared.std),
        "samples": samples_text(result.task),
        "eps": _listed(result.eps),
        "thresholds": _listed(result.thresholds),
        "dtype": cost.dtype,
        "device": cost.device,
        "batch size": str(cost.batch_size),
        "weights": encoder.weights_sha256[:8],
    }


def _listed(values: Sequence[float] | None) -> str:
    return "none" if values is None else ",".join(f"{one:g}" for one in values)


def _configurations(group: Sequence[Item]) -> list[str]:
    """For members with the same spec the facts that differ between them, else nothing."""
    same: dict[str, list[int]] = {}
    for place, one in enumerate(group):
        same.setdefault(one.first.encoder.spec, []).append(place)
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
