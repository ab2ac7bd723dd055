"""The command as a process: signals, exit codes, standard streams, encoders that leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from checks import PATIENCE, over, until
from cli_cases import ROOT, interrupted, interruptible, invoke
from result_example import example

from synbench_fast.results.records import Result

FAKE = """
import ctypes, os, pathlib, sys, time, types
sys.path.insert(0, {tests!r})
from result_example import example
module = types.ModuleType("synbench_fast.engine.score")
def score(spec, **options):
    print("python prints")
    os.write(1, b"a descriptor is written to\\n")
    ctypes.CDLL(None).puts(b"native code prints")
    if spec == "slow:x":
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(60)
    return example(spec)
module.score = score
sys.modules["synbench_fast.engine.score"] = module
from synbench_fast.encoders import early
early.mistakes = lambda named: []  # these specs are made up
from synbench_fast.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def start(tmp_path: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own; its score() talks on every channel and slow:x takes a minute."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    environ.pop(
        "PYTHONUNBUFFERED", None
    )  # it would unbuffer C's standard output too, and hide what lingers there
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE.format(tests=str(ROOT / "tests"))))
    with interruptible():
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "ready"), *arguments],
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            **options,
        )


def test_nothing_but_the_result_reaches_standard_output(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "builtin:conv", "timm:b", "--format", "json")
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [json.loads(line)["encoder"]["spec"] for line in out.splitlines()] == ["builtin:conv", "timm:b"]
    for said in ("python prints", "a descriptor is written to", "native code prints"):
        assert errors.count(said) == 2


def test_a_signal_leaves_whole_files_and_exit_code_130(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = start(tmp_path, "run", "builtin:conv", "slow:x", "--format", "json", "--out", str(folder))
    out, errors = interrupted(process, tmp_path / "ready")
    assert process.returncode == 130
    assert json.loads(out)["encoder"]["spec"] == "builtin:conv"
    assert "interrupted: what was finished is kept" in errors.splitlines()
    assert "Traceback" not in errors
    (written,) = folder.glob("*.json")
    assert Result.load(written).encoder.spec == "builtin:conv"


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


ENDED = "error: an encoder, or a library of it, ended the process before the results were complete"


QUICK = (
    "--scales",
    "1,2",
    "--thresholds",
    "0.6",
    "--samples",
    "64",
    "--batch-size",
    "32",
    "--quiet",
    "--format",
    "json",
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("python", 1, f"{ENDED} (exit code 0)"),
        ("library", 1, f"{ENDED} (exit code 0)"),
        ("other_code", 1, f"{ENDED} (exit code 130)"),
        ("factory", 1, f"{ENDED} (exit code 0)"),
        ("background", 1, f"{ENDED} (exit code 0)"),
        (
            "later",
            1,
            "error: python:endings.py:later: ZeroDivisionError: division by zero (--traceback shows where)",
        ),
        ("killed", -9, "error: the run was ended by SIGKILL, as the system does when memory runs out"),
    ],
)
def test_no_encoder_ends_a_run_with_the_exit_code_of_success(
    tmp_path: Path, name: str, code: int, line: str
) -> None:
    done = console(tmp_path, "run", "python:endings.py:copies", f"python:endings.py:{name}", *QUICK)
    assert (done.returncode, done.stderr) == (code, f"{line}\n")
    assert [json.loads(one)["encoder"]["name"] for one in done.stdout.splitlines()] == ["endings.py:copies"]


def test_every_command_that_runs_encoders_is_watched(tmp_path: Path) -> None:
    for name in ("sensitivity", "eps-star"):
        done = console(
            tmp_path,
            "study",
            name,
            "python:endings.py:python",
            "--scales",
            "1,3",
            "--samples",
            "64",
            "--quiet",
        )
        assert (done.returncode, done.stderr) == (1, f"{ENDED} (exit code 0)\n"), name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("group", [False, True])
def test_a_signal_to_the_command_reaches_the_run(tmp_path: Path, number: int, group: bool) -> None:
    """To the process alone, as from `kill`, and to its group, as from a terminal."""
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\n\ndef make():\n    pathlib.Path('child').write_text(str(os.getpid()))\n"
        "    pathlib.Path('ready').touch()\n    time.sleep(60)\n",
        encoding="utf-8",
    )
    with interruptible():
        process = subprocess.Popen(
            [sys.executable, "-m", "synbench_fast", "run", "builtin:identity", "python:slow.py:make",
             "--input-shape", "3,4,4", *QUICK],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    (os.killpg if group else os.kill)(process.pid, number)
    out, errors = process.communicate(timeout=60)
    assert json.loads(out)["encoder"]["spec"] == "builtin:identity"
    if number == signal.SIGINT:
        assert (process.returncode, errors) == (130, "interrupted: what was finished is kept\n")
    else:
        assert (process.returncode, errors) == (-number, "")
    assert until(lambda: over(int((tmp_path / "child").read_text())))


LATE = """
import os, signal, sys, threading, time
from synbench_fast import __main__ as command
from synbench_fast.cli import main, supervision

def run():
    tell = supervision.supervised()
    threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
    tell(0)
    return 0

main.main = run
code = command.main()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
sys.exit(code)
"""


def test_an_interrupt_after_the_end_changes_nothing() -> None:
    """Also where another thread takes it, such as one of torch's: the parent hands on a Ctrl-C that the child has had."""
    with interruptible():
        done = subprocess.run(
            [sys.executable, "-c", LATE], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, "run", "builtin:conv", "--format", "json", stdout=write)
    os.close(write)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "Traceback" not in errors and "Exception" not in errors and "error" not in errors


def test_an_encoder_that_leaves_takes_nobody_with_it(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sys.exit(0) in a user's factory is no success."""

    def score(spec: str, **_: Any) -> Result:
        if spec == "python:leaves:make":
            sys.exit(0)
        return example(spec)

    monkeypatch.setattr(sys.modules["synbench_fast.engine.score"], "score", score)
    done = invoke("run", "python:leaves:make", "builtin:conv", "--quiet", "--format", "json")
    assert done.exit_code == 1 and Result.from_json(done.stdout).encoder.spec == "builtin:conv"
    assert "error: python:leaves:make: SystemExit: 0\n" in done.stderr
    monkeypatch.setattr("synbench_fast.cli.run._score_all", lambda *_: sys.exit(0))
    done = invoke("run", "builtin:conv")
    assert (done.exit_code, done.stderr) == (1, "error: SystemExit: 0\n")


HUB = """
import logging, os, sys
from huggingface_hub.utils import _http
from synbench_fast.cli.main import main
main(["ls", "builtin:identity"])
_http.logger.warning("'[Errno 111] Connection refused' thrown while requesting HEAD https://hub/x/config.json")
_http.logger.warning("Retrying in 1s [Retry 1/5].")
_http.logger.warning("Rate limited. Waiting 61.0s before retry [Retry 1/5].")
"""


@pytest.mark.parametrize("verbosity", ["", "warning"])
def test_attempts_of_the_hubs_library_are_not_told_unless_it_is_asked_to(verbosity: str) -> None:
    pytest.importorskip("huggingface_hub")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_VERBOSITY": verbosity or "warning"}
    if not verbosity:
        del environment["HF_HUB_VERBOSITY"]
    environment.pop("HF_DEBUG", None)
    done = subprocess.run(
        [sys.executable, "-c", HUB],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert "Rate limited. Waiting 61.0s" in done.stderr
    for line in ("Connection refused", "Retrying in 1s"):
        assert (line in done.stderr) == bool(verbosity)
