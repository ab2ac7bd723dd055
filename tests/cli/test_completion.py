"""What a shell completes the command line to, and the scripts that teach it to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from synbench_fast.checks import ESTIMATORS
from synbench_fast.cli import completion, labelled, run, studies
from synbench_fast.cli import main as cli
from synbench_fast.cli.completion import PROGRAM, VARIABLE
from synbench_fast.config import PRESETS
from synbench_fast.encoders import SOURCES, builtin
from synbench_fast.fleet.database import JOURNALS
from synbench_fast.studies.inheritance.methods import names as method_names
from synbench_fast.studies.sensitivity import FACTORS
from synbench_fast.tasks.suites import SUITES


def completed(line: str, shell: str = "bash") -> list[str]:
    """The words that a shell is told, where the cursor stands at the end of the line."""
    words = line.split(" ")
    environment = {VARIABLE: f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner().invoke(cli.app, [], env=environment)
    return done.stdout.splitlines()


def plain(line: str) -> list[str]:
    return [one.removeprefix("plain,") for one in completed(line) if one.startswith("plain,")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("synbench-fast ", list(cli.app.commands)),
        ("synbench-fast st", ["status", "study"]),
        ("synbench-fast study ", list(studies.study.commands)),
        ("synbench-fast study in", ["inherit"]),
        ("synbench-fast run --pre", ["--preset", "--precision"]),
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
        ("synbench-fast ls bu", ["builtin:", "builtin:identity", "builtin:linear", "builtin:conv"]),
        ("synbench-fast study sensitivity a:b --vary seed,s", ["seed,samples", "seed,scales"]),
        ("synbench-fast study inherit --methods lp,w", ["lp,wise"]),
        ("synbench-fast study linear-probe x --data ", []),
        ("synbench-fast export d --to ", ["mlflow", "wandb", "model-card"]),
        ("synbench-fast run --seed ", []),
        ("synbench-fast run --nothing --preset p", ["paper"]),  # a mistake further left
        ("synbench-fast --show-completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_is_completed(line: str, words: list[str]) -> None:
    assert plain(line) == words


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("synbench-fast run a:b --checkpoint w", "file"),
        ("synbench-fast run a:b --config r", "file"),
        ("synbench-fast run a:b --out ", "dir"),
        ("synbench-fast report ", "dir"),
        ("synbench-fast compare ", "file"),
    ],
)
def test_names_of_files_are_left_to_the_shell(line: str, kind: str) -> None:
    assert [one.partition(",")[0] for one in completed(line)] == [kind]


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
        "atexit.register(lambda: print([one for one in ('torch', 'numpy', 'rich') if one in sys.modules])); main([])"
    )
    for line in (
        "synbench-fast run bu",
        "synbench-fast run --tasks full --estimator x ",
        "synbench-fast study ",
    ):
        environment = {
            **os.environ, VARIABLE: "bash_complete", "COMP_WORDS": line, "PYTHONPATH": os.pathsep.join(sys.path)
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        *words, loaded = done.stdout.splitlines()
        assert words and loaded == "[]", done.stderr


def invoke(*words: str, **environment: str) -> Any:
    return CliRunner().invoke(cli.app, list(words), env=environment)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_shown(shell: str) -> None:
    named, found = invoke("--show-completion", shell), invoke("--show-completion", SHELL=f"/usr/bin/{shell}")
    assert (named.exit_code, named.stderr) == (0, "") and named.stdout == found.stdout
    assert f"{VARIABLE}={shell}_complete" in named.stdout and PROGRAM in named.stdout


def test_shells_that_are_unknown_are_one_line() -> None:
    done = invoke("--show-completion", "tcsh")
    assert (done.exit_code, done.stderr) == (
        2, "error: --show-completion: expected one of bash, zsh, fish, got 'tcsh'\n",
    )  # fmt: skip
    done = invoke("--install-completion", SHELL="/bin/tcsh")
    assert (done.exit_code, done.stderr) == (
        2, "error: --install-completion: expected one of bash, zsh, fish, got none, and SHELL is '/bin/tcsh'\n",
    )  # fmt: skip


def test_installed_scripts_are_read_once(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("alias l=ls")
    for _ in range(2):
        done = invoke("--install-completion", "bash", HOME=str(tmp_path))
        assert (done.exit_code, done.stdout) == (0, "") and done.stderr.count("\n") == 1
    script = tmp_path / ".config" / PROGRAM / "complete.bash"
    assert (tmp_path / ".bashrc").read_text() == f"alias l=ls\n. '{script}'\n"
    assert script.read_text() == invoke("--show-completion", "bash").stdout
    invoke("--install-completion", "fish", HOME=str(tmp_path))
    assert (tmp_path / ".config/fish/completions" / f"{PROGRAM}.fish").is_file()
    (tmp_path / ".zshrc").mkdir()
    done = invoke("--install-completion", "zsh", HOME=str(tmp_path))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --install-completion: expected files that can be written, got ")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    """The script in a real bash, whose words end at colons, with the command in a function."""
    script = tmp_path / "complete.bash"
    script.write_text(invoke("--show-completion", "bash").stdout)
    shell = f"""
    synbench-fast() {{ PYTHONPATH={os.pathsep.join(sys.path)!r} {sys.executable!r} -m synbench_fast "$@"; }}
    . {script}
    tried() {{
        COMP_LINE=$1; COMP_POINT=${{#1}}
        _synbench_fast_completion synbench-fast 2>/dev/null
        echo "${{COMPREPLY[*]}}"
    }}
    complete -p synbench-fast
    tried 'synbench-fast study val'
    tried 'synbench-fast run builtin:co'
    tried 'synbench-fast run --format=js'
    """
    done = subprocess.run(["bash", "--norc", "-c", shell], capture_output=True, text=True, check=False)
    registered, *replies = done.stdout.splitlines()
    assert registered == "complete -o nosort -F _synbench_fast_completion synbench-fast", done.stderr
    assert replies == ["validate", "conv", "json"], done.stderr
