"""Cells: the parts that a long study is made of, each kept on disk when it is done, so that a study that was stopped goes on.

A cell is a JSON file, whole or absent, named by everything that its numbers depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from synbench_fast.errors import SynbenchError
from synbench_fast.results.codec import Mismatch, decode, encode, kind_of
from synbench_fast.results.documents import parse
from synbench_fast.results.files import check_own, read_text, write_atomically
from synbench_fast.studies.base import Say

__all__ = ["CellStore", "Job", "Unmeasurable", "fill"]

CELL_SCHEMA_VERSION = 1

T = TypeVar("T")


class Unmeasurable(SynbenchError):
    """One cell that has no numbers, for the reason in its text, while others may well have."""


class CellStore(Generic[T]):
    """Cells of one kind in one folder; without a folder nothing is kept.

    The name of a file ends in a digest of the cell's configuration, and the file has the configuration itself: with
    other weights, data or options the name is another one, and old cells are left alone. A cell that could not be
    measured leaves its reason there, and is tried again.

    Args:
        folder: made if it is missing; None keeps nothing.
        kind: the dataclass of a cell.
        schema: the word for such files; documents have the schema synbench-fast/SCHEMA.
        named: keys of the configuration that the file's name begins with.

    Raises:
        SynbenchError: a folder that cannot be made.
    """

    def __init__(self, folder: Path | None, kind: type[T], schema: str, *, named: Sequence[str] = ()) -> None:
        self.folder, self.kind, self.schema, self.named = folder, kind, f"synbench-fast/{schema}", named
        if folder is not None:
            check_own(folder, folder=True)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SynbenchError(
                    f"out: expected a folder that can be written, got {folder} ({error.strerror})"
                ) from None

    def path(self, configuration: dict[str, Any]) -> Path | None:
        """Where the cell of this configuration lies."""
        if self.folder is None:
            return None
        words = [configuration[name] for name in self.named]
        words = [
            one if isinstance(one, str) else f"{name}{one}"
            for name, one in zip(self.named, words, strict=True)
        ]
        words.append(hashlib.sha256(_canonical(configuration).encode()).hexdigest()[:20])
        return self.folder / ("_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", one)[:60] for one in words) + ".json")

    def read(self, configuration: dict[str, Any]) -> T | None:
        """The cell, or None if it was not measured yet; SynbenchError for a file that holds something else."""
        path = self.path(configuration)
        if path is None or not os.path.lexists(path):
            return None
        document = parse(read_text(path, "cell", own=True), str(path))
        if not isinstance(document, dict) or document.get("schema") != self.schema:
            got = kind_of(document.get("schema") if isinstance(document, dict) else document)
            raise SynbenchError(f"{path}: expected a document of schema {self.schema!r}, got {got}")
        if document.get("schema_version") != CELL_SCHEMA_VERSION:
            got = kind_of(document.get("schema_version"))
            raise SynbenchError(f"{path}: expected schema_version {CELL_SCHEMA_VERSION}, got {got}")
        if _canonical(document.get("configuration")) != _canonical(configuration):
            raise SynbenchError(f"{path}: expected the configuration that the file is named by, got another")
        if document.get("cell") is None and isinstance(document.get("failed"), str):
            return None
        try:
            return decode(self.kind, document.get("cell"))
        except Mismatch as error:
            raise SynbenchError(f"{path}: cell.{error}") from None

    def write(self, configuration: dict[str, Any], cell: T | None, failed: str | None = None) -> None:
        """Write the cell, or why there is none; even after a crash there is the whole file or none."""
        path = self.path(configuration)
        if path is None:
            return
        document = {
            "schema": self.schema,
            "schema_version": CELL_SCHEMA_VERSION,
            "configuration": configuration,
            "cell": None if cell is None else encode(cell),
            "failed": failed,
        }
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Job(Generic[T]):
    """A cell to come.

    Attributes:
        label: for progress.
        configuration: plain JSON values, everything that the cell's numbers depend on.
        measure: makes the cell, or raises Unmeasurable.
    """

    label: str
    configuration: dict[str, Any]
    measure: Callable[[], T]


@dataclass(frozen=True)
class Filled(Generic[T]):
    """What came of a job: a cell, or the reason for which there is none; `stored`: it was read, not measured."""

    cell: T | None
    reason: str
    stored: bool


def fill(
    store: CellStore[T],
    jobs: Iterable[Job[T]],
    *,
    total: int,
    say: Say = lambda line: None,
    about: str = "",
    headline: Callable[[T], str] = lambda cell: "done",
    usable: Callable[[dict[str, Any]], bool] = lambda configuration: True,
) -> list[Filled[T]]:
    """The cells of all jobs in their order: those that are stored are read, the others measured and stored.

    Args:
        store: where they are kept.
        jobs: `total` of them.
        say: called with a line for each.
        about: what the lines begin with.
        headline: the number of a new cell for its line.
        usable: whether a stored cell counts; by default it does.
    """
    made: list[Filled[T]] = []
    for job in jobs:
        words = f"{about}{len(made) + 1} of {total}: {job.label}"
        stored = store.read(job.configuration) if usable(job.configuration) else None
        if stored is not None:
            say(f"{words}: stored")
            made.append(Filled(stored, "", True))
            continue
        begun = time.perf_counter()
        try:
            cell: T | None = job.measure()
            reason = ""
        except Unmeasurable as error:
            cell, reason = None, str(error)
        store.write(job.configuration, cell, None if cell is not None else reason)
        found = f"failed: {reason}" if cell is None else headline(cell)
        say(f"{words}: {found}, {time.perf_counter() - begun:.1f} s")
        made.append(Filled(cell, reason, False))
    return made


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
