"""Workers and encoders for the tests of fleets: quick ones without torch, and encoders that misbehave."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.configuration import configuration_of, digest, family_of, job_key, series_of
from synbench_fast.fleet.executors import Executor, Local
from synbench_fast.fleet.scheduler import Fleet
from synbench_fast.fleet.store import Store
from synbench_fast.fleet.tasks import OutOfMemory

FAKE = "fleet_fakes:FakeWorker"


class FakeWorker:
    """Scores specs such as fake:NAME: units take `seconds`, payloads follow from what decides real numbers.

    Options of a request: units, samples, seconds, and `trouble`, what goes wrong at unit 1 (or when loading).
    """

    def __init__(self, device: str) -> None:
        self.kind = device
        self.loaded: dict[str, Any] = {}

    def load(self, request: dict[str, Any], prepared: dict[str, Any] | None) -> dict[str, Any]:
        options = request["options"]
        if options.get("trouble") == "load":
            raise SynbenchError("encoder: expected a known one, got fake")
        if options.get("trouble") == "load-crash":
            os._exit(7)
        decision = prepared["decision"] if prepared else {"batch_size": 64, "asked": False, "kind": self.kind}
        identity = {"spec": request["spec"], "version": options.get("version", 0)}
        series = series_of(identity, decision)
        self.loaded = {"request": request, "decision": decision, "series": series}
        task = {
            "identity": identity,
            "series": series,
            "scales": [float(one + 1) for one in range(options["units"])],
            "samples": options["samples"],
            "least": 10,
        }
        return {"decision": decision, "tasks": [task]}

    def run(self, unit: dict[str, Any]) -> tuple[bytes, int, dict[str, Any]]:
        options, decision = self.loaded["request"]["options"], self.loaded["decision"]
        if unit["scale_index"] == 1:
            self._trouble(options, decision)
        time.sleep(options.get("seconds", 0.0))
        text = digest([self.loaded["series"], unit["scale_index"], unit["start"], unit["count"]])
        return text.encode(), unit["count"], {"worked": 1.0}

    @staticmethod
    def _trouble(options: dict[str, Any], decision: dict[str, Any]) -> None:
        trouble = options.get("trouble", "")
        if trouble == "crash" or (trouble == "crash-once" and _first(options)):
            os._exit(3)
        if trouble == "orphan":
            child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            Path(options["flag"]).write_text(str(child.pid))
            os._exit(3)
        if trouble == "fork":
            os.fork()  # a data worker whose child forgets to exit
        if trouble in ("held", "held-natively"):
            # A copy of the process that goes on when the worker has died.
            fork = os.fork if trouble == "held" else ctypes.CDLL(None).fork
            if child := fork():
                Path(options["flag"]).write_text(str(child))
                os._exit(3)
            time.sleep(1000)
        if trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "hang":
            time.sleep(1000)
        if trouble == "exit":
            raise SystemExit("enough")
        if trouble == "bug" or (trouble == "bug-once" and _first(options)):
            raise RuntimeError("shapes (3,)\nand (4,) differ")
        if trouble == "memory" and decision["batch_size"] > 16:
            raise OutOfMemory(f"memory: expected room for a batch of {decision['batch_size']}, got none")
        if trouble == "no-memory":
            raise OutOfMemory("memory: expected room for a batch, got none")

    def close(self) -> None:
        self.loaded = {}

    def assemble(
        self, request: dict[str, Any], prepared: dict[str, Any], points: list[tuple[Any, bytes, Any]]
    ) -> dict[str, Any]:
        if any(payload == b"damaged" for _, payload, _ in points):
            raise Damaged(next(unit["id"] for unit, payload, _ in points if payload == b"damaged"))
        text = json.dumps({"spec": request["spec"], "points": [payload.decode() for _, payload, _ in points]})
        return {"file": f"{request['spec'].partition(':')[2]}.json", "header": text, "arrays": b""}


class Damaged(Exception):
    def __init__(self, unit: int) -> None:
        super().__init__("damaged")
        self.unit = unit


def _first(options: dict[str, Any]) -> bool:
    """Whether this is the first time that anybody comes here."""
    try:
        Path(options["flag"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def fakes(count: int, **options: Any) -> list[dict[str, Any]]:
    """Requests of as many fake encoders."""
    own = {"units": 4, "samples": 64, "checkpoint": None, **options}
    return [{"spec": f"fake:{number:03d}", "options": own, "tasks": None} for number in range(count)]


def jumping(when: Callable[[], bool]) -> Callable[[], float]:
    """A clock that goes a thousand seconds ahead once `when` is true: nothing else runs out of time."""
    jumped = False

    def clock() -> float:
        nonlocal jumped
        jumped = jumped or when()
        return time.monotonic() + 1000 * jumped

    return clock


def add(store: Store, requests: list[dict[str, Any]]) -> list[int]:
    return store.add_jobs(
        (job_key(one), configuration_of(one), family_of(one), one["spec"], one) for one in requests
    )


def run_fakes(
    folder: Path,
    requests: list[dict[str, Any]],
    executor: Executor | int = 2,
    *,
    lease_seconds: float = 60.0,
    **options: Any,
) -> dict[str, str]:
    """Run fake encoders on `executor`, or as many worker processes; state of each."""
    store = Store(folder, lease_seconds=lease_seconds)
    try:
        run = store.begin()
        ids = add(store, requests)
        if isinstance(executor, int):
            executor = Local(["cpu"] * executor, folder / "logs", worker=FAKE, label=f"run-{run}")
        states = Fleet(store, executor, ids, **options).run()
        return {store.job(id).spec: state for id, state in states.items()}
    finally:
        store.close()


def contents(folder: Path) -> dict[Any, bytes]:
    """Every payload of a store, by what its unit is."""
    store = Store(folder)
    try:
        rows = store.db.execute("SELECT series, scale, start, count, payload FROM units").fetchall()
    finally:
        store.close()
    assert len({row[:4] for row in rows}) == len(rows)
    return {row[:4]: row[4] for row in rows}


class LoudWorker(FakeWorker):
    """Prints as libraries do of names that are in a file."""

    def load(self, request: dict[str, Any], prepared: dict[str, Any] | None) -> dict[str, Any]:
        print(f"key \x1b[2J\u202e of {request['spec']}")
        print("key \x1b]0;owned\x07", file=sys.stderr)
        return super().load(request, prepared)
