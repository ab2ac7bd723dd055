"""Fleets: what scheduling costs, and what a second worker brings."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import Case

from synbench_fast.config import ScoreConfig
from synbench_fast.fleet.configuration import configuration_of, family_of, job_key, make_request
from synbench_fast.fleet.executors import Event, Local
from synbench_fast.fleet.scheduler import Fleet
from synbench_fast.fleet.store import Store
from synbench_fast.fleet.tasks import WORKER

SLEEPER = "cases_fleet:Sleeper"


class Sleeper:
    """A worker whose units take a given time and use nothing."""

    kind = "cpu"

    def __init__(self, device: str) -> None:
        self.seconds = 0.0

    def load(self, request: dict[str, Any], prepared: dict[str, Any] | None) -> dict[str, Any]:
        options = request["options"]
        self.seconds = options["seconds"]
        scales = [float(one + 1) for one in range(options["units"])]
        task = {
            "identity": request["spec"],
            "series": request["spec"],
            "scales": scales,
            "samples": 9,
            "least": 9,
        }
        return {"decision": {}, "tasks": [task]}

    def run(self, unit: dict[str, Any]) -> tuple[bytes, int, dict[str, Any]]:
        time.sleep(self.seconds)
        return bytes(5000), unit["count"], {}

    def assemble(
        self, request: dict[str, Any], prepared: dict[str, Any], points: list[Any]
    ) -> dict[str, Any]:
        return {"file": f"{request['spec'][5:]}.json", "header": json.dumps(len(points)), "arrays": b""}

    def close(self) -> None:
        pass


class Warm(Local):
    """Workers that have started before the clock does: `begun` is when the first task is given."""

    begun = 0.0

    def start(self, slot: str) -> None:
        super().start(slot)
        self.early = [*getattr(self, "early", []), *self._ready()]

    def _ready(self) -> list[Event]:
        events: list[Event] = []
        while not events:
            events = super().poll(1.0)
        return events

    def poll(self, seconds: float) -> list[Event]:
        early, self.early = self.early, []
        return early or super().poll(seconds)

    def submit(self, slot: str, task: dict[str, Any]) -> None:
        self.begun = self.begun or time.perf_counter()
        super().submit(slot, task)


def fleet(requests: Sequence[dict[str, Any]], workers: int, worker: str) -> tuple[float, dict[Any, bytes]]:
    """Seconds from the first task to the last result, and every payload."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.begin()
        ids = store.add_jobs(
            (job_key(one), configuration_of(one), family_of(one), one["spec"], one) for one in requests
        )
        executor = Warm(["cpu"] * workers, Path(folder) / "logs", worker=worker)
        states = Fleet(store, executor, ids).run()
        seconds = time.perf_counter() - executor.begun
        assert set(states.values()) == {"done"}
        rows = store.db.execute("SELECT series, scale, start, count, payload FROM units").fetchall()
        store.close()
    return seconds, {row[:4]: row[4] for row in rows}


def overhead(seconds: float = 1.0, units: int = 4, encoders: int = 2) -> Case:
    """Units that sleep, on one worker, against the same sleeps in a row."""
    own = {"units": units, "seconds": seconds, "checkpoint": None}
    requests = [{"spec": f"fake:{one}", "options": own, "tasks": None} for one in range(encoders)]

    def baseline() -> None:
        for _ in range(units * encoders):
            time.sleep(seconds)

    def parity() -> tuple[float, float]:
        quick = [{**one, "options": {**own, "seconds": 0.0}} for one in requests]
        return float(abs(len(fleet(quick, 1, SLEEPER)[1]) - units * encoders)), 0.0

    return Case(
        unit="unit",
        work=units * encoders,
        parity=parity,
        ours=lambda: fleet(requests, 1, SLEEPER)[0],
        baseline=baseline,
        baseline_name="the units alone",
        target=1.02,
        kind="at_most",
        repeat=3,
        note=f"{encoders} encoders x {units} units of {seconds:g} s, started workers",
    )


def scaling(encoders: int = 8, samples: int = 4000) -> Case:
    """Encoders of one CPU thread each, two workers against one."""
    options = {"scales": 4, "samples": samples, "input_shape": (3, 32, 32)}
    requests = [
        make_request(f"builtin:conv?dim={32 + one}", ScoreConfig(**options)) for one in range(encoders)
    ]

    def parity() -> tuple[float, float]:
        return float(fleet(requests, 2, WORKER)[1] != fleet(requests, 1, WORKER)[1]), 0.0

    return Case(
        unit="encoder",
        work=encoders,
        parity=parity,
        ours=lambda: fleet(requests, 2, WORKER)[0],
        baseline=lambda: fleet(requests, 1, WORKER)[0],
        baseline_name="one worker",
        target=1.8,
        repeat=5,
        note=f"{encoders} x builtin:conv, 4 scales x {samples} of 3x32x32, one thread per worker, two cores",
    )


def cases() -> dict[str, Callable[[], Case]]:
    return {"fleet_overhead[1 s units]": overhead, "fleet_workers[2]": scaling}
