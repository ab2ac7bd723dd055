"""`python -m synbench_fast` is the `synbench-fast` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> int:
    """The command line of this process; its exit code."""
    # Before and after the command there is nothing to finish, and a KeyboardInterrupt in the middle of an import, or of
    # the interpreter's own end, would be a traceback. A shell that ignores SIGINT for us goes on doing so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupted)
    from synbench_fast.cli import main as cli

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = cli.main()
    if ours and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a supervised run does at its end
        signal.signal(signal.SIGINT, _interrupted)
    return code


def _interrupted(number: int, frame: Any) -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
