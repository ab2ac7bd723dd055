"""Workers as actors of a Ray cluster, which this machine is part of or starts for itself.

Actors belong to the process that made them: when that dies, Ray ends them, and a new run on the same store goes
on. Retries are the scheduler's, not Ray's, so that they are counted once. The store stays with this process; only
tasks and answers travel.

If the node of this process dies, Ray may wait for ever, or end the process without a word at the next call. So a
connection to it is held, which ends with it, and looked at before every call.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any

from synbench_fast.checks import check_integer
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.fleet.executors import MOST_WORKERS, Event, Slot
from synbench_fast.fleet.tasks import WORKER, answer, make_worker

__all__ = ["RayExecutor", "check_ray"]


def check_ray() -> Any:
    """The module, or one line that says how to get it."""
    try:
        import ray
    except ImportError as error:
        raise SynbenchError(
            f'ray: expected it to be installed, got {first_line(error)}; pip install "synbench-fast[ray]"'
        ) from None
    return ray


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, path: str, device: str) -> None:
        self._worker = make_worker(path, device)

    def ready(self) -> dict[str, Any]:
        return {"kind": self._worker.kind}

    def answer(self, task: dict[str, Any]) -> dict[str, Any]:
        return answer(self._worker, task)


class RayExecutor:
    """Slots are actors, each with its CPU threads and its share of a GPU; where they run is up to Ray.

    An actor that Ray cannot place yet, such as after a node is lost, waits for room while the others work.

    Args:
        address: "auto" for the cluster that this machine is part of, "local" for one of this machine alone, else
            HOST:PORT or ray://HOST:PORT. A connection that is there already is used and left open.
        devices: "auto" (GPUs if the cluster has any), "cpu" or "cuda".
        workers: number of actors; by default one per GPU, or as many as the CPUs have threads for. More than
            there are GPUs share them evenly.
        threads: CPU threads of each.

    Raises:
        SynbenchError: no Ray, no cluster, or none with such a device.
    """

    def __init__(
        self,
        address: str,
        devices: str = "auto",
        workers: int | None = None,
        *,
        threads: int = 1,
        worker: str = WORKER,
    ) -> None:
        if workers is not None:
            check_integer("workers", workers, 1, f"an integer from 1 to {MOST_WORKERS}", MOST_WORKERS + 1)
        ray = self._ray = check_ray()
        if devices not in ("auto", "cpu", "cuda"):
            raise SynbenchError(f"devices: expected auto, cpu or cuda on a Ray cluster, got {devices!r}")
        self._owned = not ray.is_initialized()
        if self._owned:
            where = None if address == "local" else address
            try:
                ray.init(
                    where,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if where is None else None,
                )
            except Exception as error:
                raise SynbenchError(
                    f"ray: expected a cluster at {address!r}, got {first_line(error)}"
                ) from None
        self._node = _connection(ray)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        device = ("cuda" if gpus else "cpu") if devices == "auto" else devices
        if device == "cuda" and not gpus:
            self.close()
            raise SynbenchError("devices: expected a Ray cluster with GPUs for cuda, got one without")
        count = workers or (gpus if device == "cuda" else max(1, cpus // threads))
        share = 0.0 if device == "cpu" else 1 / math.ceil(count / gpus)
        self.slots = [Slot(str(number), device) for number in range(count)]
        self._make = ray.remote(num_cpus=threads, num_gpus=share, max_restarts=0, max_task_retries=0)(_Actor)
        self._worker = worker
        self._actors: dict[str, Any] = {}
        self._waiting: dict[str, deque[tuple[str, Any]]] = {}  # per slot (kind of event, reference), in order

    def _check_node(self) -> None:
        """SynbenchError once the node of this process is gone."""
        try:
            if self._node is None or self._node.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                return
        except BlockingIOError:  # nothing to read: it is there
            return
        except OSError:
            pass
        raise SynbenchError(
            "ray: expected the Ray node of this process to stay, got its end; what is finished is kept, the same "
            "command goes on"
        )

    def start(self, slot: str) -> None:
        self._check_node()
        device = next(one.device for one in self.slots if one.name == slot)
        actor = self._actors[slot] = self._make.remote(self._worker, device)
        self._waiting[slot] = deque([("ready", actor.ready.remote())])

    def submit(self, slot: str, task: dict[str, Any]) -> None:
        self._check_node()
        self._waiting[slot].append(("answer", self._actors[slot].answer.remote(task)))

    def poll(self, seconds: float) -> list[Event]:
        self._check_node()
        heads = {tasks[0][1]: slot for slot, tasks in self._waiting.items() if tasks}
        if not heads:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(heads), num_returns=1, timeout=seconds)
        if done and len(heads) > 1:
            done, _ = self._ray.wait(list(heads), num_returns=len(heads), timeout=0)
        return [self._event(heads[one]) for one in done]

    def _event(self, slot: str) -> Event:
        self._check_node()
        kind, reference = self._waiting[slot].popleft()
        try:
            return Event(slot, kind, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            self.stop(slot)
            reason, blame = _why(" ".join(str(error).split()))
            return Event(slot, "lost", reason=reason, blame=blame)

    def stop(self, slot: str) -> None:
        actor = self._actors.pop(slot, None)
        self._waiting.pop(slot, None)
        if actor is not None:
            with suppress(Exception):  # it may have ended, or its node
                self._ray.kill(actor)

    def close(self) -> None:
        for slot in list(getattr(self, "_actors", {})):
            self.stop(slot)
        if self._node is not None:
            self._node.close()
        if self._owned:
            self._ray.shutdown()


def _connection(ray: Any) -> socket.socket | None:
    """A connection to the node of this process, on which nothing is said; None for a client of a cluster elsewhere."""
    with suppress(Exception):  # of a client, which has no node, or of a Ray that names no such socket
        own = ray.get_runtime_context().get_node_id()
        name = next(one["RayletSocketName"] for one in ray.nodes() if one["NodeID"] == own)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(name)
        return connection
    return None


def _why(text: str) -> tuple[str, bool]:
    """What Ray says of an actor's end in one line, and whether its task may be why: not if its node died."""
    if "node has died" in text or "node died" in text or "node was terminated" in text:
        return "the worker's node was lost", False
    if "running low on memory" in text or "OutOfMemoryError" in text:
        return "the worker was killed by Ray because memory ran out", True
    if "unavailable" in text:
        return "the connection to the worker was lost", True
    if "worker process has died" in text or "unexpected" in text:
        return "the worker ended unexpectedly; what it printed is in Ray's logs", True
    return f"the worker ended: {text[:200]}", True
