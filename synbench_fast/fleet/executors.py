"""Where tasks run: the interface that the scheduler needs, this process, and worker processes of this machine.

A slot is a place for one worker at a time. Tasks given to a slot are done in order, each with one answer. A
worker that ends, by itself or by force, is one event `lost`; its slot can be started again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from synbench_fast.fleet.tasks import WORKER, answer, make_worker
from synbench_fast.results.files import check_own, open_own

__all__ = ["Event", "Executor", "InProcess", "Local", "Slot"]

MOST_WORKERS = 10_000  # of a run, wherever they are: more is a slip
ENDING_SECONDS = 5.0  # for a worker that has closed its end
STUCK_SECONDS = 30.0  # for one that was killed; giving memory of a GPU back takes some

Task = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """A place for a worker: its name in the run and the torch device, or whatever says where it is."""

    name: str
    device: str


@dataclass(frozen=True)
class Event:
    """What happened in a slot.

    kind: "ready" (body: `kind` of the device), "answer" (body: see `tasks.answer`) or "lost" (`reason`; `blame`
    says whether the task that ran may be why).
    """

    slot: str
    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    blame: bool = True


class Executor(Protocol):
    """Runs tasks in slots."""

    slots: list[Slot]

    def start(self, slot: str) -> None:
        """Begin a worker there, which takes tasks at once."""

    def submit(self, slot: str, task: Task) -> None: ...

    def poll(self, seconds: float) -> list[Event]:
        """What has happened; waits up to so long for something to."""

    def stop(self, slot: str) -> None:
        """End the worker by force. No event."""

    def close(self) -> None: ...


class InProcess:
    """One worker, in this process: tasks run inside `poll`. Nothing protects it from what an encoder does."""

    def __init__(self, device: str = "cpu", worker: str = WORKER) -> None:
        self.slots = [Slot("0", device)]
        self._path = worker
        self._worker: Any = None
        self._events: deque[Event] = deque()
        self._tasks: deque[Task] = deque()

    def start(self, slot: str) -> None:
        self._worker = make_worker(self._path, self.slots[0].device)
        self._tasks.clear()
        self._events.append(Event(slot, "ready", {"kind": self._worker.kind}))

    def submit(self, slot: str, task: Task) -> None:
        self._tasks.append(task)

    def poll(self, seconds: float) -> list[Event]:
        events = list(self._events)
        self._events.clear()
        if not events and self._tasks:
            events = [Event(self.slots[0].name, "answer", answer(self._worker, self._tasks.popleft()))]
        elif not events:
            time.sleep(seconds)
        return events

    def stop(self, slot: str) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        self._tasks.clear()

    def close(self) -> None:
        self.stop(self.slots[0].name)


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    connection: Connection


class Local:
    """One process per slot on this machine, which lives and dies alone.

    Args:
        devices: torch device of each slot.
        logs: folder for what workers and libraries print.
        worker: see `tasks.make_worker`.
        label: begins the names of log files.
    """

    def __init__(
        self, devices: Sequence[str], logs: Path, *, worker: str = WORKER, label: str = "worker"
    ) -> None:
        self.slots = [Slot(str(number), device) for number, device in enumerate(devices)]
        self._logs, self._worker, self._label = logs, worker, label
        check_own(logs, folder=True)
        logs.mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, _Process] = {}

    def pids(self) -> dict[str, int]:
        """Process of each slot that has one."""
        return {slot: one.process.pid for slot, one in self._processes.items()}

    def log(self, slot: str) -> Path:
        return self._logs / f"{self._label}-{slot}.log"

    def start(self, slot: str) -> None:
        device = next(one.device for one in self.slots if one.name == slot)
        log = open_own(self.log(slot), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        ours, theirs = socket.socketpair()
        paths = dict.fromkeys(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        program = "from synbench_fast.fleet.process import main; main()"
        with theirs, open(log, "ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", program, str(theirs.fileno()), device, self._worker],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which then ends the others
                env=environment,
            )
        self._processes[slot] = _Process(process, Connection(ours.detach()))

    def submit(self, slot: str, task: Task) -> None:
        with suppress(OSError):  # a worker that has ended is reported by poll
            self._processes[slot].connection.send(task)

    def poll(self, seconds: float) -> list[Event]:
        by_connection = {one.connection: slot for slot, one in self._processes.items()}
        if not by_connection:
            time.sleep(seconds)
            return []
        events = []
        for connection in wait(list(by_connection), seconds):
            assert isinstance(connection, Connection)
            slot = by_connection[connection]
            try:
                body = connection.recv()
            except Exception:  # the other end is closed, or somebody else has written to it
                events.append(self._lost(slot))
            else:
                events.append(Event(slot, body.pop("event"), body))
        # What a worker started may hold its end open.
        ended = [
            slot for slot, one in self._processes.items() if _over(one.process) and not one.connection.poll()
        ]
        return events + [self._lost(slot) for slot in ended]

    def _lost(self, slot: str) -> Event:
        one = self._processes.pop(slot)
        one.connection.close()
        patience = time.monotonic() + ENDING_SECONDS
        # Not waited for yet: until then its number, which is that of its group, belongs to nobody else.
        while not _over(one.process) and time.monotonic() < patience:
            time.sleep(0.01)
        self._kill(one.process)  # what it started and left behind, or itself
        code = self._ended(one.process)
        return Event(slot, "lost", reason=f"{ended(code)}; what it printed is in {self.log(slot).name}")

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        """The worker and what it started: it leads a group of its own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> int:
        """Its exit code. One that a driver holds on to, so that not even SIGKILL ends it, is left behind."""
        with suppress(subprocess.TimeoutExpired):
            return process.wait(STUCK_SECONDS)
        return -signal.SIGKILL

    def stop(self, slot: str) -> None:
        one = self._processes.pop(slot, None)
        if one is not None:
            self._kill(one.process)
            one.connection.close()
            self._ended(one.process)

    def close(self) -> None:
        for slot in list(self._processes):
            self.stop(slot)


def _over(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended; where the system can, its exit code stays to be asked for."""
    if hasattr(os, "waitid"):
        with suppress(ChildProcessError):
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def ended(code: int) -> str:
    """What an exit code says about a worker that was not asked to end."""
    if code >= 0:
        return f"the worker ended with exit code {code}"
    known = {one.value: one.name for one in signal.Signals}
    name = known.get(-code, f"signal {-code}")
    why = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"the worker was killed by {name}{why}"
