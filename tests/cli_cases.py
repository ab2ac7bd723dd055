"""What the tests of the command line share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


ENDINGS = """
import atexit, ctypes, os, sys
from torch import nn

class Ends(nn.Module):
    input_shape = (3, 4, 4)

    def __init__(self, end):
        super().__init__()
        self.layer, self.end, self.calls = nn.Linear(48, 8), end, 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 2:
            self.end()
        return self.layer(x.flatten(1))

def python():
    return Ends(lambda: os._exit(0))

def library():
    return Ends(lambda: ctypes.CDLL(None).exit(0))

def other_code():
    return Ends(lambda: os._exit(130))

def factory():
    os._exit(0)

def later():
    atexit.register(os._exit, 0)
    return Ends(lambda: 1 / 0)

def background():
    if os.fork() == 0:
        os.closerange(0, 3)
        os.execvp("sleep", ["sleep", "5"])
    return Ends(lambda: os._exit(0))

def killed():
    return Ends(lambda: os.kill(os.getpid(), 9))

def copies():
    os.fork()
    return Ends(os.fork)
"""


def console(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, as a shell runs it, on the encoders of ENDINGS."""
    (tmp_path / "endings.py").write_text(ENDINGS, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "synbench_fast", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
