"""What a worker is asked and answers, the same in every executor.

A task is a dict with `number`, which is its own in a run, and `kind`:

    load      job, request, prepared (or None)        -> data: what `Worker.load` returns
    run       job, unit                               -> payload, images, costs
    assemble  job, request, prepared, points          -> file, header and arrays, or more

An answer has `number`, `kind` and `job` of the task, `unit` (its id), `seconds`, and `ok`. If it is not ok: `reason`,
`permanent` (trying again would not help), `memory` (there was not enough) and `damaged` (a unit whose payload
cannot be read).
"""

from __future__ import annotations

import importlib
import time
from typing import Any, Protocol

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.messages import print_trace

__all__ = ["WORKER", "OutOfMemory", "Worker", "answer", "make_worker"]

WORKER = "synbench_fast.fleet.worker:EncoderWorker"


class Worker(Protocol):
    """Holds at most one encoder. `kind` names the kind of its device: numbers of one kind belong together."""

    kind: str

    def load(self, request: dict[str, Any], prepared: dict[str, Any] | None) -> dict[str, Any]:
        """Load an encoder; returns `prepared` (see `Store.plan`), decided as before if that is given."""

    def run(self, unit: dict[str, int]) -> tuple[bytes, int, dict[str, Any]]:
        """One unit of the loaded encoder: payload, images and costs."""

    def close(self) -> None:
        """Let go of the encoder."""

    def assemble(
        self,
        request: dict[str, Any],
        prepared: dict[str, Any],
        points: list[tuple[dict[str, int], bytes, dict[str, Any]]],
    ) -> dict[str, Any]:
        """`file`, `header` and `arrays` of the result (see Document.to_files), or `more`: per task and scale how many further samples it needs."""


def make_worker(path: str, device: str) -> Worker:
    """The worker of class `path` ("package.module:Class") on a torch device."""
    module, name = path.split(":")
    worker: Worker = getattr(importlib.import_module(module), name)(device)
    return worker


def answer(worker: Worker, task: dict[str, Any]) -> dict[str, Any]:
    """Do a task. Whatever an encoder raises, also SystemExit, is an answer."""
    kind = task["kind"]
    given: dict[str, Any] = {name: task[name] for name in ("number", "kind", "job")}
    given["unit"] = task.get("unit", {}).get("id")
    begun = time.perf_counter()
    try:
        if kind == "load":
            given["data"] = worker.load(task["request"], task["prepared"])
        elif kind == "run":
            given["payload"], given["images"], given["costs"] = worker.run(task["unit"])
        else:
            given |= worker.assemble(task["request"], task["prepared"], task["points"])
        given["ok"] = True
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not isinstance(error, SynbenchError):
            print_trace(error)  # into the worker's log
        given |= {
            "ok": False,
            "reason": str(error) if isinstance(error, SynbenchError) else first_line(error),
            "permanent": isinstance(error, SynbenchError | SystemExit),
            "memory": isinstance(error, OutOfMemory),
            "damaged": getattr(error, "unit", None),
        }
    given["seconds"] = time.perf_counter() - begun
    return given


class OutOfMemory(SynbenchError):
    """A batch of the size that was decided did not fit."""
