"""The state of a run: what each worker has, and how far everything is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from synbench_fast.fleet.executors import Slot
from synbench_fast.fleet.store import Unit

__all__ = ["Given", "Place", "Snapshot"]


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
    """How far a run is. `progress` counts an encoder as the share of its units that is done."""

    places: Sequence[Place]
    names: dict[int, str]
    counts: dict[str, int]
    units_done: dict[int, tuple[int, int]]  # job -> units done and in all
    progress: float
    images: int
    seconds: float
    seconds_left: float | None
