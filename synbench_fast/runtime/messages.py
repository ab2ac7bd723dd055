"""What the command line says on standard error: one line per message, never a traceback unless asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.printable import printable

__all__ = ["NO_ROOM", "fail", "flushed", "print_trace", "reason", "say", "standard_streams"]


def say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


class _Unfailing:
    """Standard error: what cannot be said there, because it is closed or full, is lost and nothing else fails."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            _discard(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _discard(self._stream)


def _discard(stream: Any) -> None:
    """From now on, and for what the stream still holds, its descriptor leads nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Standard output and error that are there, whatever the process was started with.

    A closed one (`2>&-`) leads nowhere, as one to /dev/null: else the next file that is opened would take its number,
    and get what is meant for it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(descriptor, True)  # as the standard streams are
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))
    error_stream = sys.stderr
    sys.stderr = _Unfailing(error_stream)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = error_stream


NO_ROOM = "standard output: expected room for what is written, got: "


def flushed(code: Any) -> Any:
    """The exit code, once standard output has all that was printed: not 0 if it did not take it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # whose reader wants no more, and no message
            fail(NO_ROOM + str(error.strerror), 1)
        return code or 1
    return code


def fail(message: str, code: int) -> int:
    """Say an error; returns the exit code."""
    say("error: " + " ".join(message.split()))
    return code


def reason(spec: str, error: Exception) -> str:
    """A SynbenchError explains itself; anything else is named by its type, its first line only."""
    if not isinstance(error, SynbenchError):
        return f"{spec}: {first_line(error)} (--traceback shows where)"
    return str(error) if spec in str(error) else f"{spec}: {error}"


def print_trace(error: BaseException) -> None:
    """Where it was raised, then what it says, on one line: a message may quote keys of a checkpoint."""
    import traceback

    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        print_trace(before)
    where = "".join(traceback.format_tb(error.__traceback__))
    print(f"Traceback (most recent call last):\n{where}", end="", file=sys.stderr)
    say(f"{type(error).__name__}: {error}")
