"""The command line runs encoders in a child process, so that none of them can end a run with the exit code of success.

`os._exit(0)` in an encoder, or `exit(0)` in a library of it, ends the process at once: to a script that looks at the
exit code, the run has succeeded. A parent that waits knows better, because the child tells it how the run ended. The
child is forked before torch is imported, so that the parent costs a few megabytes and milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from synbench_fast.runtime.messages import fail

__all__ = ["supervised"]

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
SAME_SECONDS = 1.0  # Ctrl-C reaches the child from the terminal and from its parent, which is one Ctrl-C


def supervised() -> Callable[[int], None]:
    """Go on in a child process; returns the function that tells the parent the exit code once the run is over.

    This process waits, hands signals on, and ends as the child does; where the child did not say how its run ended,
    with exit code 1 and a line on standard error. Where no child can be made safely (no fork, threads, torch is
    there already) the run stays in this process.
    """
    apart = threading.current_thread() is threading.main_thread() and threading.active_count() == 1
    if not hasattr(os, "fork") or not apart or "torch" in sys.modules:
        return lambda code: None
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    numbers = [getattr(signal, name) for name in FORWARDED]
    reader, writer = os.pipe()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until both know what to do with them
    child = os.fork()
    if child:
        os.close(writer)
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: _send(child, number))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _end_as(child, reader)
    os.close(reader)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupts())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    from synbench_fast.fleet.process import end_with

    end_with(parent)

    def tell(code: int) -> None:
        # The same Ctrl-C, from the parent, comes too late. A mask would leave it to torch's threads.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.write(writer, str(code).encode())

    return tell


def _send(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _interrupts() -> Callable[[int, Any], None]:
    last = -SAME_SECONDS

    def interrupt(number: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SAME_SECONDS:
            last = now
            raise KeyboardInterrupt

    return interrupt


def _end_as(child: int, reader: int) -> NoReturn:
    """Wait for the child, then end: with its exit code, by the signal that ended it, or with 1 if its run was cut off."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.set_blocking(reader, False)  # what the child started may hold the other end open
    told = b""
    with suppress(BlockingIOError):
        told = os.read(reader, 16)
    if code < 0:
        if -code not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            why = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
            name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
            fail(f"the run was ended by {name}{why}", 1)
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        code = 128 - code
    elif not told:
        what = "an encoder, or a library of it, ended the process before the results were complete"
        code = fail(f"{what} (exit code {code})", 1)
    os._exit(code or int(told))
