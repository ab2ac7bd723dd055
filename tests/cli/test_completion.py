"""What a shell completes the command line to, and the scripts that teach it to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from synbench_fast.checks import ESTIMATORS
from synbench_fast.cli import completion, labelled, run, studies
from synbench_fast.cli import main as cli
from synbench_fast.cli.main import PROGRAM
from synbench_fast.cli.parsing import VARIABLE
from synbench_fast.config import PRESETS
from synbench_fast.encoders import SOURCES, builtin
from synbench_fast.fleet.database import JOURNALS
from synbench_fast.studies.inheritance.methods import names as method_names
from synbench_fast.studies.sensitivity import FACTORS
from synbench_fast.tasks.suites import SUITES


def completed(line: str) -> list[str]:
    """The words that bash is told, where the cursor stands at the end of the line; colons end words, and so does `=`."""
    words = re.sub(r"([:=])", r" \1 ", line).replace("  ", " ").split(" ")
    words = words[:-1] if line.endswith((":", "=")) else words
    environment = {
        VARIABLE: "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = CliRunner().invoke(cli.app, [], env=environment)
    assert done.exit_code == 0 and done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("synbench-fast ", list(cli.commands.commands)),
        ("synbench-fast st", ["status", "study"]),
        ("synbench-fast study ", list(cli.commands.commands["study"].commands)),
        ("synbench-fast study in", ["inherit"]),
        ("synbench-fast run --pre", ["--preset"]),
        ("synbench-fast run a:b --no-ran", ["--no-random-init"]),
        ("synbench-fast run --preset ", list(PRESETS)),
        ("synbench-fast run --preset=q", ["quick"]),
        ("synbench-fast run --estimator c", ["consistent", "counted"]),
        ("synbench-fast run --estimator ", list(ESTIMATORS)),
        ("synbench-fast run --eps 0,0.2 --dtype b", ["bfloat16"]),
        ("synbench-fast run --pool ", ["default", "avg", "max", "cls", "flatten"]),
        ("synbench-fast run --tasks p", ["published", "patterns", "priors"]),
        ("synbench-fast run ti", ["timm:"]),
        ("synbench-fast run a:b builtin:co", ["conv"]),  # bash has the colon as the end of a word
        ("synbench-fast run --models hf", ["hf:"]),
        ("synbench-fast run --models timm-", ["timm-100"]),
        ("synbench-fast reproduce im", ["imagenet-rib"]),
        ("synbench-fast ls bu", ["builtin:", "builtin:identity", "builtin:linear", "builtin:conv"]),
        ("synbench-fast study sensitivity a:b --vary seed,s", ["seed,samples", "seed,scales"]),
        ("synbench-fast study inherit --methods lp,w", ["lp,wise"]),
        ("synbench-fast study linear-probe x --data ci", ["cifar10", "cifar100"]),
        ("synbench-fast export d --to ", ["mlflow", "wandb", "model-card"]),
        ("synbench-fast run --seed ", []),
        ("synbench-fast run --nothing --preset p", ["paper"]),  # a mistake further left
        ("synbench-fast run builtin:", ["identity", "linear", "conv"]),
        ("synbench-fast run --preset=", list(PRESETS)),
    ],
)
def test_what_is_completed(line: str, words: list[str]) -> None:
    assert [one for one in completed(line) if one] == words


@pytest.mark.parametrize(
    "words", ["run a:b --checkpoint w", "run a:b --config r", "run a:b --out ", "compare "]
)
def test_names_of_files_are_left_to_the_shell(words: str) -> None:
    assert completed(f"synbench-fast {words}") == [""]


def test_words_are_those_of_the_package() -> None:
    """Some are written down a second time, for the modules that have them import torch."""
    assert tuple(SUITES) == completion.SUITES
    assert studies.FACTORS == FACTORS
    assert set(labelled.METHODS) == set(method_names())
    assert run.JOURNALS == JOURNALS
    assert {f"{one}:" for one in SOURCES} | {f"builtin:{one}" for one in builtin.names()} == set(
        completion.encoder_names()
    )


def test_completion_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, atexit; from synbench_fast.cli.main import main; "
        "atexit.register(lambda: print([one for one in ('torch', 'numpy') if one in sys.modules])); main([])"
    )
    for line in (
        "synbench-fast run bu",
        "synbench-fast run --tasks full --estimator x ",
        "synbench-fast study ",
    ):
        environment = {
            **os.environ, VARIABLE: "complete_bash", "COMP_WORDS": line.replace(" ", "\n"), "COMP_CWORD": str(line.count(" ")), "PYTHONPATH": os.pathsep.join(sys.path)
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        *words, loaded = done.stdout.splitlines()
        assert words and loaded == "[]", done.stderr


def invoke(*words: str, **environment: str) -> Any:
    return CliRunner().invoke(cli.app, list(words), env=environment)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_shown_and_installed(shell: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = invoke("--show-completion")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert f"{VARIABLE}=complete_{shell}" in shown.stdout and PROGRAM in shown.stdout
    done = invoke("--install-completion")
    assert (done.exit_code, done.stderr) == (0, "")
    written = [one.read_text() for one in tmp_path.rglob("*") if one.is_file()]
    assert shown.stdout.strip() in [one.strip() for one in written]


def test_scripts_that_cannot_be_installed_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("zsh", "/bin/zsh"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".zfunc").write_text("")
    done = invoke("--install-completion")
    assert done.exit_code == 1 and re.fullmatch(r"error: .*\.zfunc.*\n", done.stderr)
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    done = invoke("--show-completion")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Shell tcsh not supported.\n")


def completion_script() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
        return str(invoke("--show-completion").stdout)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    """The script in a real bash, whose words end at colons."""
    script = tmp_path / "complete.bash"
    script.write_text(completion_script())
    program = tmp_path / PROGRAM
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={os.pathsep.join(sys.path)!r} exec {sys.executable!r} -m synbench_fast "$@"\n'
    )
    program.chmod(0o755)
    shell = f"""
    PATH={tmp_path}:$PATH
    . {script}
    tried() {{
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _synbench_fast_completion synbench-fast 2>/dev/null
        echo "${{COMPREPLY[*]}}"
    }}
    complete -p synbench-fast
    tried synbench-fast study val
    tried synbench-fast run builtin : co
    tried synbench-fast run --format = js
    """
    done = subprocess.run(["bash", "--norc", "-c", shell], capture_output=True, text=True, check=False)
    registered, *replies = done.stdout.splitlines()
    assert registered == "complete -o default -F _synbench_fast_completion synbench-fast", done.stderr
    assert replies == ["validate", "conv", "json"], done.stderr
