"""Standard streams that are closed, full or gone, and Ctrl-C: an exit code and at most one line, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synbench_fast.cli import main as cli
from synbench_fast.fleet.tasks import answer
from synbench_fast.runtime.messages import print_trace

ROOT = Path(__file__).parents[2]
SMALL = "builtin:conv?dim=4 --input-shape 1,4,4 --scales 1.0,2.0 --samples 200 --thresholds 0.6"
FULL = "error: standard output: expected room for what is written, got: No space left on device\n"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The exit code of `synbench-fast COMMAND`, with what reaches the shell's own streams."""
    line = f"set -o pipefail; '{sys.executable}' -m synbench_fast {command}"
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        ("--version 2>&-", 0, "synbench-fast "),
        ("--version 2>/dev/full", 0, "synbench-fast "),
        ("--version >&-", 0, ""),
        ("--version >/dev/full 2>/dev/full", 1, ""),
        (f"run {SMALL} 2>/dev/full", 0, "encoder "),
        (f"run --models {SMALL} --out kept >&- 2>&- <&-", 0, ""),
        ("run --bogus 2>&-", 2, ""),
        ("status nowhere >&- 2>&- <&-", 1, ""),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path: Path, command: str, code: int, out: str) -> None:
    """A closed standard error was an AttributeError, and its messages went to standard output, or into the next file."""
    done = shell(command, tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(out) and (out or not done.stdout)
    assert "Traceback" not in done.stderr and "error:" not in done.stdout
    for kept in tmp_path.rglob("*.json"):
        assert kept.read_text().startswith("{")
    if "kept" in command:
        assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize("command", ["ls", f"run {SMALL} --quiet --format json"])
def test_results_that_find_no_room_are_one_line(tmp_path: Path, command: str) -> None:
    done = shell(f"{command} >/dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (1, FULL)
    gone = shell(f"{command} | true", tmp_path)
    assert (gone.returncode, gone.stderr) == (1, "")


def test_ctrl_c_before_a_command_begins_is_one_line(tmp_path: Path) -> None:
    """While Python imports what the command line is made of; one of its modules is slow here."""
    (tmp_path / "typer.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "synbench_fast", "ls"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    patience = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < patience:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "interrupted\n")


def test_ctrl_c_while_a_command_loads_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synbench_fast.engine.environment.describe", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_traces_quote_keys_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of a log that a checkpoint's keys would write otherwise."""

    class Broken:
        def load(self, request: object, prepared: object) -> None:
            try:
                raise KeyError("inner\n$(touch x)")
            except KeyError as error:
                raise RuntimeError("unexpected keys:\nrm -rf ~\n\x1b[2J") from error

    answer(Broken(), {"number": 0, "kind": "load", "job": 1, "request": {}, "prepared": None})  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "RuntimeError: unexpected keys: rm -rf ~ \\x1b[2J"
    assert sum(line.startswith("Traceback") for line in lines) == 2
    assert all(line.startswith((" ", "Traceback", "RuntimeError", "KeyError")) for line in lines)
    print_trace(ValueError("a\nb"))
    assert capsys.readouterr().err == "Traceback (most recent call last):\nValueError: a b\n"


def test_a_worker_prints_what_a_terminal_can_show(tmp_path: Path) -> None:
    from fleet_fakes import FAKE, fakes, run_fakes

    from synbench_fast.fleet.executors import Local

    executor = Local(["cpu"], tmp_path / "logs", worker=FAKE.replace("FakeWorker", "LoudWorker"))
    run_fakes(tmp_path / "store", fakes(1), executor)
    assert executor.log("0").read_text() == "key \\x1b[2J\\u202e of fake:000\nkey \\x1b]0;owned\\x07\n"
