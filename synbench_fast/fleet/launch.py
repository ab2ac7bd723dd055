"""A run of a fleet from Python: encoders, devices and a folder in; what became of each out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synbench_fast import plugins
from synbench_fast.arguments import most_at_once
from synbench_fast.checks import check_integer, check_threads
from synbench_fast.config import ScoreConfig
from synbench_fast.engine.devices import find_device, gpu_count
from synbench_fast.engine.prepare import check_with_estimator
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.fleet.configuration import (
    FLEET_THREADS,
    configuration_of,
    family_of,
    job_key,
    make_request,
)
from synbench_fast.fleet.executors import MOST_WORKERS, Executor, Local
from synbench_fast.fleet.places import Snapshot
from synbench_fast.fleet.readahead import ReadAhead
from synbench_fast.fleet.scheduler import RETRIES, Fleet
from synbench_fast.fleet.store import Job, Store
from synbench_fast.runtime.processes import LEASE_SECONDS
from synbench_fast.tasks.suites import Suite

__all__ = ["find_executor", "place_workers", "run_fleet"]


def place_workers(
    devices: str = "auto", workers: int | None = None, threads: int = FLEET_THREADS
) -> list[str]:
    """The torch device of every worker of this machine.

    Args:
        devices: "auto" (every GPU, else the CPU), or some of cpu, cpu:N (N workers), cuda (every GPU) and cuda:I.
        workers: their number altogether, dealt out to the devices in turn; by default one per GPU, and as many
            on the CPU as there are cores for their threads.
        threads: CPU threads of each worker.

    Raises:
        SynbenchError: a device that is not here; more workers than a machine has use for.
    """
    if not isinstance(devices, str):
        raise SynbenchError(f"devices: expected text such as 'cpu:2' or 'cuda:0,cuda:1', got {devices!r}")
    if workers is not None:
        check_integer("workers", workers, 1, "an integer of at least 1")
    threads = check_threads(threads) or FLEET_THREADS
    room = max(1, _cores() // threads)
    counts: dict[str, int] = {}
    for name in devices.split(","):
        text = name.strip()
        if text == "auto":
            gpus = [f"cuda:{index}" for index in range(gpu_count()[0])]
            found = dict.fromkeys(gpus, 1) or {"cpu": room}
        elif text == "cuda":
            _check_gpu("cuda", 0)
            found = {f"cuda:{index}": 1 for index in range(gpu_count()[0])}
        elif match := re.fullmatch(r"cpu(?::([0-9]{1,6}))?", text):
            if match[1] and (int(match[1]) == 0 or workers is not None):
                wanted = "a positive number of workers" if workers is None else "cpu beside --workers"
                raise SynbenchError(f"devices: expected {wanted}, got {text!r}")
            found = {"cpu": int(match[1] or room)}
        elif re.fullmatch(r"cuda:[0-9]{1,6}", text):
            _check_gpu(text, int(text[5:]))
            found = {text: 1}
        else:
            raise SynbenchError(
                f"devices: expected auto, or some of cpu, cpu:N, cuda and cuda:I, got {text!r}"
            )
        for device in found:
            if device in counts:
                raise SynbenchError(f"devices: expected each device once, got {device} again in {devices!r}")
        counts |= found
    asked, most = sum(counts.values()) if workers is None else workers, most_at_once()
    if asked > most:
        name = "devices" if workers is None else "workers"
        raise SynbenchError(f"{name}: expected at most {most} workers on this machine, got {asked}")
    if workers is not None:
        names = list(counts)
        return [names[number % len(names)] for number in range(workers)]
    return [device for device, count in counts.items() for _ in range(count)]


def _check_gpu(name: str, index: int) -> None:
    """SynbenchError unless the GPU is here. It is not used: this process would hold some of its memory all the time."""
    if index >= gpu_count()[0]:
        find_device(name, True)


def find_executor(name: str) -> Callable[..., Executor]:
    """The function of another package that makes executors of this name.

    Raises:
        SynbenchError: no such name, and what `plugins.load` raises.
    """
    found: Callable[..., Executor] | None = plugins.load("executors", name, callable, "a function")
    if found is None:
        known = plugins.names("executors")
        listed = f"one of {', '.join(known)}" if known else "the name of one that a package here declares"
        raise SynbenchError(f"executor: expected {listed}, got {name!r}{suggest(name, known)}")
    return found


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_fleet(
    models: Sequence[str | tuple[str, Mapping[str, Any]]],
    folder: str | Path,
    *,
    config: ScoreConfig | None = None,
    suite: Suite | None = None,
    devices: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    timeout: float | None = None,
    retries: int = RETRIES,
    journal: str = "auto",
    lease_seconds: float = LEASE_SECONDS,
    executor: Executor | str | None = None,
    report: Callable[[Snapshot], None] | None = None,
    said: Callable[[str], None] | None = None,
) -> list[Job]:
    """Score encoders into a run store, going on where earlier runs on it ended; returns their jobs, in order.

    Args:
        models: specs, each alone or with fields of `ScoreConfig` of its own.
        folder: of the store: `store.sqlite`, results in `results`, what workers print in `logs`.
        config: arguments of the scores of all of them; its device is not read.
        suite: tasks to score each one on.
        devices, workers: see `place_workers`.
        ray: address of a Ray cluster to run on ("auto": the one this machine is part of, "local": one of this
            machine's own); None for processes of this machine.
        timeout, retries, report, said: see `scheduler.Fleet`.
        journal: of the store: "auto", "wal", or "delete" for a file system of a network.
        executor: in place of the one that `devices` and `ray` describe; or the name of a function of another package
            (see `plugins`), which is called with `devices`, `workers` and by keyword `threads` (of each worker),
            `logs` (a folder) and `label` (to begin the names of log files with), and returns an Executor.

    Raises:
        SynbenchError: an argument that is wrong, a store that cannot be used, no worker that starts.
    """
    if workers is not None:
        check_integer("workers", workers, 1, f"an integer from 1 to {MOST_WORKERS}", MOST_WORKERS + 1)
    check_integer("retries", retries, 0, "an integer of at least 0")
    config = config or ScoreConfig()
    check_with_estimator(config)
    requests = []
    for one in models:
        spec, own = (one, {}) if isinstance(one, str) else one
        if "device" in own:
            raise SynbenchError(f"device: expected `devices` of the fleet, got {own['device']!r} for {spec}")
        requests.append(make_request(spec, ScoreConfig.of(config, own), suite))
    path = Path(folder)
    threads = requests[0]["options"]["threads"] if requests else FLEET_THREADS
    started = _starter(executor, ray, devices, workers, threads=threads, logs=path / "logs")
    store = Store(path, journal=journal, lease_seconds=lease_seconds)
    try:
        run = store.begin()
        ids = store.add_jobs(
            (job_key(one), configuration_of(one), family_of(one), one["spec"], one) for one in requests
        )
        states = {id: store.job(id).state for id in ids}
        before = {id for id, state in states.items() if state == "done"}
        if any(state not in ("done", "failed") for state in states.values()):
            # Processes of this machine find in memory what another one has read.
            reader = ReadAhead() if executor is None and ray is None else None
            try:
                Fleet(
                    store,
                    started(f"run-{run}-worker"),
                    ids,
                    timeout=timeout,
                    retries=retries,
                    report=report,
                    said=said,
                    ahead=None if reader is None else reader.want,
                ).run()
            finally:
                if reader is not None:
                    reader.close()
        else:
            store.end()
        return [replace(store.job(id), before=id in before) for id in ids]
    finally:
        store.close()


def _starter(
    executor: Executor | str | None,
    ray: str | None,
    devices: str,
    workers: int | None,
    *,
    threads: int,
    logs: Path,
) -> Callable[[str], Executor]:
    """What makes the executor, from the label of its logs; what can be wrong with the arguments is found now."""
    if executor is not None and ray is not None:
        raise SynbenchError(f"executor: expected it without ray, got both: {executor!r} and {ray!r}")
    if isinstance(executor, str):
        name, make = executor, find_executor(executor)

        def made(label: str) -> Executor:
            found = make(devices, workers, threads=threads, logs=logs, label=label)
            if not hasattr(found, "slots"):
                got = type(found).__name__
                raise SynbenchError(f"executor: expected an Executor from {name!r}, got {got}")
            return found

        return made
    if executor is not None:
        given = executor
        return lambda label: given
    if ray is not None:
        from synbench_fast.fleet.ray_executor import RayExecutor, check_ray

        check_ray()
        return lambda label: RayExecutor(ray, devices, workers, threads=threads)
    placed = place_workers(devices, workers, threads)
    return lambda label: Local(placed, logs, label=label)
