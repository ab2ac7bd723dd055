"""What the tests of the command line share."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checks import PATIENCE
from typer.testing import CliRunner

from synbench_fast.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments))


COMMANDS = {
    **cli.commands.commands,
    **{f"study {name}": one for name, one in cli.commands.commands["study"].commands.items()},
}


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes started inside take SIGINT, also where the tests run in the background of a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(process: subprocess.Popen[str], ready: Path) -> tuple[str, str]:
    """Both streams of a process that gets SIGINT once the file `ready` is there, which its encoder makes."""
    while not ready.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)
