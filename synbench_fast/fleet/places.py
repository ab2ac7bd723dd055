"""The state of a run: what each worker has, and how far everything is."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from synbench_fast.fleet.executors import Slot
from synbench_fast.fleet.store import Unit

__all__ = ["Given", "Place", "Snapshot", "weighted"]


@dataclass
class Given:
    """A task that a worker has. `since`: when it began, or will have, once those before it are done."""

    number: int  # which the answer has too
    kind: str
    job: int
    unit: Unit | None
    since: float


@dataclass
class Place:
    """A slot and its worker."""

    slot: Slot
    state: str = "down"  # down, starting, ready or given up
    kind: str = ""
    job: int | None = None  # whose encoder is loaded
    series: list[str] = field(default_factory=list)  # of its tasks, as the worker runs them
    tasks: deque[Given] = field(default_factory=deque)
    starts: int = 0
    units: int = 0
    images: int = 0
    seconds: float = 0.0
    since: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """How far a run is. `progress` is the share of the work that is done, see `weighted`."""

    places: Sequence[Place]
    names: dict[int, str]
    counts: dict[str, int]
    units_done: dict[int, tuple[int, int]]  # job -> units done and in all
    progress: float
    images: int
    seconds: float
    seconds_left: float | None


def weighted(shares: Mapping[int, float], seconds: Mapping[int, float]) -> float:
    """The share of the work that is done, from the share of each job; 1 without jobs.

    A job weighs the `seconds` that all of it takes as measured so far, and one that was not measured yet as much as the
    others do on average.
    """
    usual = fmean(seconds.values()) if seconds else 1.0
    weights = {job: seconds.get(job, usual) for job in shares}
    total = sum(weights.values())
    return sum(weights[job] * share for job, share in shares.items()) / total if total > 0 else 1.0
