"""The worker process of the local executor: tasks in, answers out, until the other end is closed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from synbench_fast.printable import PrintableStream

__all__ = ["end_with", "main"]

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def main() -> None:
    """Arguments: descriptor of the connection, torch device, class of the worker."""
    descriptor, device, path = sys.argv[1:4]
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    # What libraries print of a checkpoint's keys or of an encoder's name ends in a log, which a terminal will show.
    sys.stdout, sys.stderr = (
        PrintableStream(
            os.fdopen(number, "wb", closefd=False), errors="backslashreplace", line_buffering=True
        )
        for number in (1, 2)
    )
    from synbench_fast.fleet.tasks import answer, make_worker

    connection, process = Connection(int(descriptor)), os.getpid()
    # What an encoder starts has no part in the connection: it neither answers nor keeps it open.
    os.set_inheritable(connection.fileno(), False)
    os.register_at_fork(after_in_child=connection.close)
    worker = make_worker(path, device)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send({"event": "ready", "kind": worker.kind})
        while True:
            made = answer(worker, connection.recv())
            if os.getpid() != process:  # a copy that came back in the worker's place
                os._exit(1)
            connection.send({"event": "answer", **made})


def end_with(parent: int) -> None:
    """No worker outlives the process that started it, whatever the encoder is doing."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
