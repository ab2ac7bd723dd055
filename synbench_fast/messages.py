"""What the command line says on standard error: one line per message, never a traceback unless asked for."""

from __future__ import annotations

import re
import sys
from typing import Any

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.printable import printable

__all__ = ["fail", "parser_message", "print_trace", "reason", "say"]


def say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


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


def parser_message(error: Any) -> str:
    """The parser's complaint, in the product's form."""
    name = getattr(error, "option_name", None)
    if name is None:
        message = str(error.format_message())
        extra = re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message)
        return f"arguments: expected no more, got {extra[1]!r}" if extra else message.rstrip(".")
    context = error.ctx
    if isinstance(getattr(error, "possibilities", None), list) or "No such option" in error.message:
        known = [one for parameter in context.command.get_params(context) for one in parameter.opts]
        options = [one for one in known if one.startswith("--")]
        return f"option: expected one that --help lists, got {name!r}{suggest(name, options)}"
    if "requires" in error.message:
        return f"{name}: expected a value, got none"
    return f"{name}: expected no value, got one"
