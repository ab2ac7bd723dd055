"""What the command line says on standard error: one line per message, never a traceback unless asked for."""

from __future__ import annotations

import sys

from synbench_fast.errors import SynbenchError, first_line

__all__ = ["fail", "print_trace", "reason", "say"]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(message: str, code: int) -> int:
    """Say an error; returns the exit code."""
    say("error: " + " ".join(message.split()))
    return code


def reason(spec: str, error: Exception) -> str:
    """A SynbenchError explains itself; anything else is named by its type, its first line only."""
    if not isinstance(error, SynbenchError):
        return f"{spec}: {first_line(error)} (--traceback shows where)"
    return str(error) if spec in str(error) else f"{spec}: {error}"


def print_trace() -> None:
    import traceback

    traceback.print_exc(file=sys.stderr)
