"""Fields of ScoreConfig as options, files of options, and spellings of earlier versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checks import PATIENCE
from cli_cases import COMMANDS, ROOT, invoke
from typer.core import TyperOption

from synbench_fast.cli import main as cli
from synbench_fast.cli.runfile import load
from synbench_fast.config import ScoreConfig, options


def test_every_field_of_the_configuration_is_an_option_of_run() -> None:
    params = {one.name: one for one in cli.commands.commands["run"].params}
    for name, (about, default) in options().items():
        one = params[name]
        assert isinstance(one, TyperOption)
        assert one.rich_help_panel == about.panel and str(one.help).startswith(about.help)
        if not about.kind.is_flag and default is not None:
            assert about.kind.read(f"--{name}", str(one.default)) == default


FURTHER = """
import dataclasses, sys, types
sys.path.insert(0, {tests!r})
from result_example import example
from synbench_fast import arguments, config

@dataclasses.dataclass(frozen=True, kw_only=True)
class Further(config.ScoreConfig):
    trial_number: int = dataclasses.field(default=3, metadata={{"option": config.Option(
        kind=config.Kind("T", lambda name, value: int(value), lambda o, t: arguments.integer(o, t, low=1), lambda: ("7",)),
        help="Try this number.", panel="Trials",
    )}})

config.ScoreConfig = Further
module = types.ModuleType("synbench_fast.engine.score")
def score(spec, *, config, progress):
    print("config", config.trial_number, config.command(spec), file=sys.stderr)
    return example(spec)
module.score = score
sys.modules["synbench_fast.engine.score"] = module
from synbench_fast.encoders import early
early.mistakes = lambda named: []  # a:b is made up
from synbench_fast.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def further(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line of a package whose ScoreConfig has one more field."""
    return subprocess.run(
        [sys.executable, "-c", FURTHER.format(tests=str(ROOT / "tests")), *words], text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False, timeout=PATIENCE,
    )  # fmt: skip


def test_a_further_field_is_an_option_at_once(tmp_path: Path) -> None:
    shown = further("run", "--help").stdout
    assert re.search(r"^Trials:\n  --trial-number T  Try this number. \[default: 3\]$", shown, re.M)
    line = "config 7 synbench-fast run a:b .*--trial-number 7"
    assert re.search(line, further("run", "a:b", "--trial-number", "7").stderr)
    (tmp_path / "run.toml").write_text("trial_number = 7\n")
    assert re.search(line, further("run", "a:b", "--config", str(tmp_path / "run.toml")).stderr)
    wrong = further("run", "a:b", "--trial-number", "0")
    assert (wrong.returncode, wrong.stderr) == (
        2, "error: --trial-number: expected an integer of at least 1, got '0'\n",
    )  # fmt: skip


def test_a_file_gives_options_and_the_command_line_wins(calls: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'eps = [0, 0.1]\npreset = "quick"\nrandom_init = true\nthresholds = 0.7\nscales = [1.0, 2.0]\n'
    )
    done = invoke("run", "a:b", "--config", str(path), "--eps", "0.3", "--no-random-init", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert calls[0][1] == ScoreConfig(
        eps=0.3, preset="quick", thresholds=(0.7,), scales=(1.0, 2.0), structure=True
    )
    path.write_text(f"checkpoint = {str(path)!r}\n")
    assert invoke("run", "a:b", "c:d", "--config", str(path)).stderr == (
        "error: --checkpoint: expected a single MODEL to load it into, got 2\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eps = 2", "--config: run.toml: eps: expected values in [0, 1), relative to the half-distance of the classes, got 2"),
        ('preset = "quik"', "--config: run.toml: preset: expected one of ['quick', 'standard', 'paper'], got 'quik', did you mean quick?"),
        ('task = "full"', "--config: run.toml: options: expected arguments of score(), got 'task'"),
        ("tasks = 3", "--config: run.toml: tasks: expected text, got 3"),
        ('encoders = "a:b"', "--config: run.toml: encoders: expected a list of specs, got 'a:b'"),
        ("encoders = [3]", '--config: run.toml: encoders: expected "SPEC" or { spec = "SPEC", ... }, got 3'),
        ('encoders = [{ spec = "a:b", pol = "avg" }]', "--config: run.toml: encoders: a:b: expected spec, input_shape, mean, std, pool, checkpoint, random_init, trust_remote_code, got 'pol', did you mean pool?"),
        ('encoders = [{ spec = "a:b", eps = 0.2 }]', "--config: run.toml: encoders: a:b: expected spec, input_shape, mean, std, pool, checkpoint, random_init, trust_remote_code, got 'eps'"),
        ('encoders = [{ spec = "a:b", pool = "x" }]', "--config: run.toml: encoders: a:b: pool: expected one of default, avg, max, cls, flatten, got 'x'"),
        ("precision = 0.1", "--config: run.toml: options: expected 'half_width', got 'precision'"),
        ("ep = 0", "--config: run.toml: options: expected arguments of score(), got 'ep', did you mean eps?"),
        ("eps =", "--config: run.toml: expected a TOML file, got: Invalid value (at end of document)"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_of_options(
    text: str, message: str, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(text)
    done = invoke("run", "a:b", "--config", "run.toml")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert calls == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eps-star", "study eps-star"),
        ("sensitivity", "study sensitivity"),
        ("probe", "study linear-probe"),
        ("validate", "study validate"),
        ("inherit", "study inherit"),
        ("pretrain", "study pretrain"),
    ],
)
def test_old_spellings_are_answered_with_the_new_ones(old: str, new: str) -> None:
    done = invoke(old, "a:b", "--data", "digits")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        f"error: command: expected {new!r}, got {old!r}\n",
    )
    assert new in COMMANDS


@pytest.mark.parametrize("verb", ["run"])
def test_old_options_are_answered_with_the_new_ones(verb: str) -> None:
    for old in ("--precision", "--precision=0.1"):
        done = invoke(*verb.split(), "a:b", old, "0.1")
        assert (done.exit_code, done.stdout, done.stderr) == (
            2, "", "error: option: expected '--half-width', got '--precision'\n",
        )  # fmt: skip


def test_a_file_holds_a_whole_run(calls: list[tuple[str, ScoreConfig]], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
        eps = [0, 0.2]  # comments are kept: the file is only read
        seed = 4
        out = "{tmp_path / "out"}"
        encoders = ["a:b", {{ spec = "c:d", pool = "avg", input_shape = [3, 8, 8] }}]
        """
    )
    assert invoke("run", "e:f", "--config", str(path), "--seed", "5").exit_code == 0
    assert [spec for spec, _ in calls] == ["e:f", "a:b", "c:d"]
    assert {(one.eps, one.seed) for _, one in calls} == {((0.0, 0.2), 5)}
    assert [(one.pool, one.input_shape) for _, one in calls] == [(None, None)] * 2 + [("avg", (3, 8, 8))]
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


def test_a_run_is_written_as_a_file_that_reads_back_as_the_same(
    calls: list[tuple[str, ScoreConfig]], tmp_path: Path
) -> None:
    path, again = tmp_path / "run.toml", tmp_path / "again.toml"
    words = ["--eps", "0,0.3", "--mean", "0.5", "--std", "0.25", "--tasks", "full", "--half-width", "0.02"]
    done = invoke("run", "hf:a 'b' \"c\"\\", "a:b", *words, "--out", "o", "--dump-config")
    assert done.exit_code == 0 and calls == []
    path.write_text(done.stdout)
    (tmp_path / "more.toml").write_text('encoders = [{ spec = "c:d", pool = "avg", random_init = true }]')
    assert invoke("run", "--config", str(path), "--dump-config").stdout == done.stdout
    found = load(path, ScoreConfig())
    assert found.config == ScoreConfig(eps=(0, 0.3), mean=0.5, std=0.25, half_width=0.02, structure=True)  # type: ignore[arg-type]
    assert (found.encoders, found.tasks, found.out) == ([("hf:a 'b' \"c\"\\", {}), ("a:b", {})], "full", "o")
    again.write_text(invoke("run", "--config", str(tmp_path / "more.toml"), "--dump-config").stdout)
    assert load(again, ScoreConfig()).encoders == [("c:d", {"pool": "avg", "random_init": True})]
    assert all(f"\n{name} = " in done.stdout or f"\n# {name} =" in done.stdout for name in options())
    refused = invoke("run", "--models", "x:*", "--out", "o", "--dump-config")
    assert refused.exit_code == 2 and "--dump-config: expected encoders as MODEL" in refused.stderr
