"""The command line: what goes to which stream, exit codes, and the one line that each mistake gives."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from checks import PATIENCE, over, until
from result_example import example
from typer.testing import CliRunner

from synbench_fast import arguments
from synbench_fast.cli import here
from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig, options
from synbench_fast.encoders import SOURCES, list_encoders, load_encoder, registry
from synbench_fast.engine import environment
from synbench_fast.errors import SynbenchError
from synbench_fast.report.progress import Reporter
from synbench_fast.results.codec import encode
from synbench_fast.results.records import (
    CSV_COLUMNS,
    PrecisionCheck,
    PrecisionPoint,
    PrecisionRecord,
    Result,
)
from synbench_fast.studies.inheritance.digits_rib import digits_encoder
from synbench_fast.studies.inheritance.methods import find as find_method
from synbench_fast.tasks.covariances import parse_covariance
from synbench_fast.tasks.patterns import parse_pattern

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ScoreConfig]]:
    """Replaces score() by one that records its configuration; `bad:*` cannot be scored, `bug:*` is a bug."""
    seen: list[tuple[str, ScoreConfig]] = []

    def score(spec: str, *, config: ScoreConfig, progress: Callable[[int, int, str], None]) -> Result:
        seen.append((spec, config))
        print("a library talks")
        progress(0, 100, "encode")
        progress(100, 100, "solve")
        if spec.startswith("bad:"):
            raise SynbenchError("encoder: expected a known source, got 'bad'")
        if spec.startswith("bug:"):
            raise RuntimeError("shapes (3,)\n and (4,) differ")
        return example(spec, eps=list(config.eps), warnings=[])

    module = types.ModuleType("synbench_fast.engine.score")
    module.score = score  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "synbench_fast.engine.score", module)
    return seen


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.mark.parametrize(
    "text",
    [
        "\u0663",
        "\uff11",
        "\u00b2",
        "1_000",
        "nan",
        "inf",
        "-inf",
        "infinity",
        "0x10",
        "1e400",
        "",
        "+",
        ".",
        "1 0",
        "\u22121",
        "1\n",
    ],
)
def test_what_is_no_number(text: str) -> None:
    """Python reads digits of every script, and underscores between them."""
    assert arguments.decimal(text) is None
    for check in (
        lambda: arguments.number("--x", text),
        lambda: arguments.numbers("--x", f"0,{text}"),
        lambda: arguments.numbers("--x", f"1/{text}"),
        lambda: arguments.integer("--x", text, low=0),
        lambda: arguments.shape("--x", f"3,{text}"),
        lambda: arguments.count_or_numbers("--x", f"0.5,{text}"),
        lambda: arguments.device("--x", f"cuda:{text}"),
        lambda: parse_covariance(f"power:{text}"),
        lambda: parse_pattern(f"channel:{text}"),
        lambda: find_method(f"lwf?weight={text}"),
        lambda: digits_encoder(f"standard?seed={text or 'x'}"),
        lambda: load_encoder(f"builtin:linear?dim={text or 'x'}", input_shape=(2,)),
    ):
        with pytest.raises(SynbenchError, match=r"expected .*, got "):
            check()
    for text in ("1e3", "2.0", "1,0"):
        with pytest.raises(SynbenchError, match="expected an integer"):
            arguments.integer("--x", text, low=0)


def test_numbers_that_are_some() -> None:
    texts = ("3", "3.", ".5", "1e3", " 1 ", "-2.5E-1", "+4")
    assert [arguments.decimal(one) for one in texts] == [3, 3, 0.5, 1000, 1, -0.25, 4]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("run a:b --eps 0 --eps 0.2", "--eps: expected once, got it twice"),
        ("run a:b --seed=1 --seed=1", "--seed: expected once, got it twice"),
        ("run a:b --compile --no-compile", "--compile: expected once, got it twice"),
        ("run a:b -q --quiet", "--quiet: expected once, got it twice"),
        ("ls --format json --format table", "--format: expected once, got it twice"),
        ("report d --csv a --csv b", "--csv: expected once, got it twice"),
        ("demo --out a --out b", "--out: expected once, got it twice"),
        ("run a:b --out ''", "--out: expected a value, got ''"),
        ("run --models a:b --out x --ray ''", "--ray: expected a value, got ''"),
        ("run --models a:b --out x --devices=", "--devices: expected a value, got ''"),
        ("run --models ''", "--models: expected a value, got ''"),
        ("run ''", "MODEL: expected a value, got ''"),
        ("report d --html ''", "--html: expected a value, got ''"),
        ("status ''", "DIR: expected a value, got ''"),
        ("compare '' b", "RESULT.json: expected a value, got ''"),
        ("demo --out ''", "--out: expected a value, got ''"),
        ("run a:b --threads 1000000000", f"--threads: expected an integer from 1 to {arguments.most_at_once()}, got '1000000000'"),
        ("run --models a:b --out x --workers 99999", "--workers: expected an integer from 1 to 10000, got '99999'"),
    ],
)  # fmt: skip
def test_options_are_given_once_and_with_a_value(
    words: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*shlex.split(words))
    assert (done.exit_code, done.stderr) == (2, f"error: {error}\n")
    assert not list(tmp_path.iterdir())


def test_a_key_of_a_spec_is_given_once() -> None:
    with pytest.raises(SynbenchError, match="expected dim once, got it twice in 'builtin:linear"):
        load_encoder("builtin:linear?dim=3&dim=4", input_shape=(2,))
    with pytest.raises(SynbenchError, match="methods: expected weight once, got it twice in"):
        find_method("lwf?weight=1&weight=1")


def test_json_is_one_document_per_line_and_nothing_else(calls: list[Any]) -> None:
    done = invoke("run", "builtin:conv", "timm:resnet18", "--format", "json")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [Result.from_json(line).encoder.spec for line in lines] == ["builtin:conv", "timm:resnet18"]
    assert "a library talks" in done.stderr


def test_csv_has_one_header_and_a_row_per_budget_and_threshold(calls: list[Any]) -> None:
    done = invoke("run", "builtin:conv", "timm:resnet18", "--format", "csv")
    assert done.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.stdout.splitlines()[0] == ",".join(CSV_COLUMNS)
    assert [row["encoder"] for row in rows] == ["builtin:conv"] * 4 + ["timm:resnet18"] * 4
    assert float(rows[3]["score"]) == example().scores[3].score


def test_table_shows_the_lowest_threshold_and_is_not_cut_when_piped(calls: list[Any]) -> None:
    long = "onnx:" + "/a_long_folder_name" * 20 + "/model.onnx"
    done = invoke("run", "builtin:conv", long)
    assert done.exit_code == 0
    header, first, second, note = done.stdout.splitlines()
    assert re.split(r"  +", header) == [
        "encoder", "F", "parameters", "score eps=0", "score eps=0.2", "robust area", "of raw", "images/s",
    ]  # fmt: skip
    assert first.split() == [
        "builtin:conv", "256", "1234567", "0.8400", "±", "0.0100", "0.6400", "±", "0.0100",
        "0.6100", "±", "0.0200", "82.4%", "512.0",
    ]  # fmt: skip
    assert second.split()[0] == long
    assert note == (
        "score above accuracy 0.6, ± one standard error; consistent, 2 scales x 1024 samples, float32 on cpu"
    )


def test_the_line_below_a_table_has_the_samples_of_all_encoders(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (dataclasses.replace(example().task, samples=[count] * 2) for count in (512, 1536))
    tasks = {"builtin:linear": few, "builtin:identity": many}
    module = sys.modules["synbench_fast.engine.score"]
    monkeypatch.setattr(module, "score", lambda spec, **_: example(spec, task=tasks[spec]))
    last = invoke("run", "builtin:identity", "builtin:linear").stdout.splitlines()[-1]
    assert "2 scales x 512 to 1536 samples" in last


def test_table_shows_what_a_reduced_precision_did(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    point = PrecisionPoint(
        eps=0.2, t_difference=0.02, t_difference_stderr=0.001, t_stderr=0.05, score_difference=0.01
    )
    check = PrecisionCheck(dtype="tf32", used=True, reason="", scale=2.5, samples=256, points=[point])
    record = PrecisionRecord(requested="tf32", dtype="tf32", checks=[check])
    module = sys.modules["synbench_fast.engine.score"]
    monkeypatch.setattr(module, "score", lambda spec, **_: example(spec, precision=record))
    last = invoke("run", "builtin:conv").stdout.splitlines()[-1]
    assert last == (
        "builtin:conv: tf32 against float32 at scale 2.5: t differs by +0.02 (0.4 standard errors) at eps 0.2"
    )


def test_synonyms_of_dtypes_reach_score_under_their_one_name(calls: list[Any]) -> None:
    for given, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32"), ("tf32", "tf32")):
        invoke("run", "builtin:conv", "--dtype", given)
        assert calls[-1][1].dtype == name


def test_table_shows_the_thresholds_asked_for(calls: list[Any]) -> None:
    done = invoke("run", "builtin:conv", "--thresholds", "0.6,0.7")
    header = re.split(r"  +", done.stdout.splitlines()[0])
    assert header[3:7] == [f"score eps={e} a={a}" for e in ("0", "0.2") for a in ("0.6", "0.7")]
    assert calls[0][1].thresholds == (0.6, 0.7)


def test_values_that_are_not_finite_are_shown_without_an_error(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [dataclasses.replace(one, stderr=math.nan) for one in example().scores]
    module = sys.modules["synbench_fast.engine.score"]
    monkeypatch.setattr(module, "score", lambda spec, **_: example(spec, scores=scores))
    done = invoke("run", "builtin:conv", "--quiet")
    assert done.stdout.splitlines()[1].split()[3:5] == ["0.8400", "0.6400"]
    assert done.stderr == "warning: builtin:conv: samples: 1024 is few for 256 features\n"


COMMANDS = {
    **cli.commands.commands,
    **{f"study {name}": one for name, one in cli.commands.commands["study"].commands.items()},
}
VERBS = sorted(set(COMMANDS) - {"bench", "study"})


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_explains_every_option(name: str) -> None:
    """In sentences: a verb in the imperative, and a full stop (a default may follow)."""
    for one in COMMANDS[name].params:
        help = one.help  # type: ignore[attr-defined]
        first, *_ = help.split()
        assert re.fullmatch("[A-Z][a-z-]+", first) and first not in ("Of", "The", "With", "Default", "By"), (
            help
        )
        assert re.search(r"(\.|\.\.\.)( \[default: .+\])?\.?$", help), help


@pytest.mark.parametrize("name", ["", "study", *VERBS])
@pytest.mark.parametrize("width", [80, 120])
def test_help_reads_as_a_person_would_write_it(name: str, width: int) -> None:
    shown = CliRunner().invoke(cli.app, [*name.split(), "--help"], env={"COLUMNS": str(width)}).stdout
    for left_over in (
        "<",
        "list[",
        "TEXT",
        "]...]",
        "...]...",
        "....",
        "None",
        "Positional",
        "With --models:",
    ):
        assert left_over not in shown
    assert max(map(len, shown.splitlines())) <= width
    for one in COMMANDS[name].params if name in VERBS else []:
        if one.param_type_name == "argument":
            assert f" [OPTIONS] {one.metavar}\n" in shown
            assert len(re.findall(rf"^  {re.escape(str(one.metavar).strip('[]'))}  \S", shown, re.M)) == 1


def test_help_has_panels() -> None:
    shown = invoke("run", "--help").stdout
    panels = re.findall(r"^([A-Z].*):$", shown, re.M)
    assert panels == [
        "Arguments", "What is computed", "The encoder", "What is drawn", "How it runs", "Many encoders",
        "What comes out", "Options", "Examples",
    ]  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_examples_are_command_lines(name: str) -> None:
    examples = COMMANDS[name].epilog.splitlines()
    assert 1 <= len(examples) <= 4
    for line in examples:
        program, *words = shlex.split(line)
        assert program == "synbench-fast" and words[: len(name.split())] == name.split()
        COMMANDS[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize("words", [[], ["study"]])
def test_the_first_command_to_try_is_on_one_line(words: list[str]) -> None:
    shown = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
    example = shlex.split(shown.partition("Examples:\n")[2].splitlines()[0])
    assert example[0] == "synbench-fast"
    done = invoke(*example[1:], "--format", "nothing")
    assert done.stderr.startswith("error: --format")


@pytest.mark.parametrize(
    ("words", "verbs"), [([], cli.commands.commands), (["study"], cli.commands.commands["study"].commands)]
)
def test_the_list_of_commands_is_not_cut_off(words: list[str], verbs: dict[str, Any]) -> None:
    done = CliRunner().invoke(cli.app, words, env={"COLUMNS": "80"})
    assert done.exit_code == 2 and done.stdout == ""
    listed = done.stderr.partition("Commands:")[2]
    assert "..." not in listed and [name for name in verbs if f"  {name} " not in listed] == []


@pytest.mark.parametrize(("text", "value"), [("8/255", (8 / 255,)), ("0, 4/255,0.1", (0.0, 4 / 255, 0.1))])
def test_numbers_may_be_quotients(text: str, value: tuple[float, ...]) -> None:
    assert arguments.numbers("--linf", text, low=0) == value


@pytest.mark.parametrize("text", ["8/0", "/255", "8/", "1/2/3", "1e300/1e-300", "-8/255"])
def test_what_is_no_quotient(text: str) -> None:
    with pytest.raises(arguments.UsageError, match="--linf: expected comma-separated numbers in"):
        arguments.numbers("--linf", text, low=0)


def test_every_option_reaches_score_typed(calls: list[Any], tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    done = invoke(
        "run", "timm:resnet18", "--eps", "0, 0.5", "--thresholds", "0.7", "--estimator", "paper",
        "--scales", "5", "--samples", "64", "--preset", "quick", "--device", "cuda:1", "--dtype", "bfloat16",
        "--backend", "torch", "--no-compile",
        "--batch-size", "8", "--seed", "18446744073709551615", "--prior", "0.25", "--input-shape", "3x32x32",
        "--pool", "avg", "--checkpoint", str(weights),
        "--random-init", "--published-preprocessing", "--trust-remote-code", "--threads", "1",
        "--center", "0", "--integral", "grid", "--precision", "0.01", "--average", "sampled",
        "--format", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    ((spec, config),) = calls
    assert spec == "timm:resnet18"
    assert config == ScoreConfig(
        eps=(0.0, 0.5), thresholds=(0.7,), estimator="paper", scales=5, samples=64, preset="quick", device="cuda:1",
        dtype="bfloat16", backend="torch", compile=False, batch_size=8, seed=2**64 - 1, prior=0.25, center=0.0,
        integral="grid", average="sampled", input_shape=(3, 32, 32), pool="avg", checkpoint=str(weights),
        random_init=True, published_preprocessing=True, trust_remote_code=True, threads=1, precision=0.01, structure=True,
    )  # fmt: skip
    invoke("run", "a:b", "--mean", "-1,0.5,0.5", "--std", "0.25,0.25,1")
    assert (calls[1][1].mean, calls[1][1].std) == ((-1.0, 0.5, 0.5), (0.25, 0.25, 1.0))


@pytest.mark.parametrize(("text", "value"), [("2", 2), ("2.0", (2.0,)), ("0.5,1,4.9", (0.5, 1.0, 4.9))])
def test_scales_are_a_count_or_values(calls: list[Any], text: str, value: Any) -> None:
    invoke("run", "a:b", "--scales", text)
    assert calls[0][1].scales == value
    command = ScoreConfig(scales=value).command("a:b")
    assert f" --scales {text.replace('1,', '1.0,')} " in command


def test_what_is_not_given_is_the_default(calls: list[Any]) -> None:
    invoke("run", "builtin:conv")
    assert calls[0][1] == ScoreConfig(structure=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL: expected at least one encoder such as timm:resnet50, got none"),
        (
            ["a:b", "c:d", "--checkpoint", __file__],
            "--checkpoint: expected a single MODEL to load it into, got 2",
        ),
        (
            ["a:b", "--eps", "0,1.2"],
            "--eps: expected comma-separated distinct numbers in [0, 1), got '1.2' in '0,1.2'",
        ),
        (["a:b", "--eps", "1"], "--eps: expected comma-separated distinct numbers in [0, 1), got '1'"),
        (["a:b", "--eps", "a"], "--eps: expected comma-separated distinct numbers in [0, 1), got 'a'"),
        (["a:b", "--eps", "nan"], "--eps: expected comma-separated distinct numbers in [0, 1), got 'nan'"),
        (["a:b", "--eps", ""], "--eps: expected a value, got ''"),
        (["a:b", "--eps", "-0.1"], "--eps: expected comma-separated distinct numbers in [0, 1), got '-0.1'"),
        (
            ["a:b", "--eps", "0,0.2,0"],
            "--eps: expected comma-separated distinct numbers in [0, 1), got '0' twice in '0,0.2,0'",
        ),
        (
            ["a:b", "--thresholds", ""],
            "--thresholds: expected a value, got ''",
        ),
        (
            ["a:b", "--thresholds", "0.6,1"],
            "--thresholds: expected comma-separated distinct numbers in [0, 1), got '1' in '0.6,1'",
        ),
        (
            ["a:b", "--estimator", "consitent"],
            "--estimator: expected one of consistent, gaussian, counted, paper, got 'consitent', did you mean consistent?",
        ),
        (
            ["a:b", "--estimator", "x"],
            "--estimator: expected one of consistent, gaussian, counted, paper, got 'x'",
        ),
        (
            ["a:b", "--preset", "quik"],
            "--preset: expected one of quick, standard, paper, got 'quik', did you mean quick?",
        ),
        (
            ["a:b", "--format", "jsn"],
            "--format: expected one of table, json, csv, got 'jsn', did you mean json?",
        ),
        (
            ["a:b", "--dtype", "float23"],
            "--dtype: expected one of auto, float32, tf32, bfloat16, float16, float64, got 'float23', "
            "did you mean float32?",
        ),
        (
            ["a:b", "--backend", "troch"],
            "--backend: expected one of auto, torch, got 'troch', did you mean torch?",
        ),
        (
            ["a:b", "--device", "cudo"],
            "--device: expected auto, cpu, cuda, mps, xpu or cuda:N, got 'cudo', did you mean cuda?",
        ),
        (
            ["a:b", "--device", "cuda:x"],
            "--device: expected auto, cpu, cuda, mps, xpu or cuda:N, got 'cuda:x'",
        ),
        (["a:b", "--scales", "0"], "--scales: expected an integer of at least 1, got '0'"),
        *(
            (
                ["a:b", "--scales", text],
                f"--scales: expected a count such as 12 or increasing values such as 0.5,1.0, got {text!r}",
            )
            for text in ("few", "1.5,", "2.0,1.0", "0.0,1.0", "-1.0", "inf", "1.0,1.0")
        ),
        (["a:b", "--center", "grey"], "--center: expected a number, got 'grey'"),
        (["a:b", "--center", "inf"], "--center: expected a number, got 'inf'"),
        (
            ["a:b", "--integral", "gird"],
            "--integral: expected one of exact, grid, got 'gird', did you mean grid?",
        ),
        (["a:b", "--precision", "1"], "--precision: expected a number between 0 and 1, got '1'"),
        (
            ["a:b", "--average", "publish"],
            "--average: expected one of auto, sampled, published, got 'publish', did you mean published?",
        ),
        (["a:b", "--samples", "3"], "--samples: expected an integer of at least 4, got '3'"),
        (["a:b", "--batch-size", "0"], "--batch-size: expected 'auto' or an integer of at least 1, got '0'"),
        (
            ["a:b", "--threads", "all"],
            f"--threads: expected an integer from 1 to {arguments.most_at_once()}, got 'all'",
        ),
        (
            ["a:b", "--seed", "18446744073709551616"],
            "--seed: expected an integer from 0 to 18446744073709551615, got '18446744073709551616'",
        ),
        (["a:b", "--prior", "1"], "--prior: expected a number between 0 and 1, got '1'"),
        (
            ["a:b", "--input-shape", "3,,32"],
            "--input-shape: expected positive integers such as 3,224,224, got '3,,32'",
        ),
        (
            ["a:b", "--input-shape", "3,0"],
            "--input-shape: expected positive integers such as 3,224,224, got '3,0'",
        ),
        (["a:b", "--mean", "0.5,x"], "--mean: expected comma-separated numbers, got 'x' in '0.5,x'"),
        (["a:b", "--std", "0"], "--std: expected comma-separated numbers above 0, got '0'"),
        (
            ["a:b", "--pool", "agv"],
            "--pool: expected one of default, avg, max, cls, flatten, got 'agv', did you mean avg?",
        ),
        (["a:b", "--checkpoint", "none.pt"], "--checkpoint: expected an existing file, got 'none.pt'"),
        (
            ["a:b", "--estimatr", "paper"],
            "option: expected one that --help lists, got '--estimatr', did you mean --estimator?",
        ),
        (["a:b", "--zzz"], "option: expected one that --help lists, got '--zzz'"),
        (
            ["a:b", "--eps", "0", "0.2"],
            "MODEL: expected SOURCE:NAME, got '0.2'; several numbers are joined by commas, such as --eps 0,0.2",
        ),
        (
            ["a:b", "--device", "gpu"],
            "--device: expected auto, cpu, cuda, mps, xpu or cuda:N, got 'gpu', did you mean cuda?",
        ),
        (["a:b", "--eps"], "--eps: expected a value, got none"),
        (["a:b", "--quiet=1"], "--quiet: expected no value, got one"),
        (["a:b", "--help=1"], "--help: expected no value, got one"),
        (
            ["a:b", "--no-compil"],
            "option: expected one that --help lists, got '--no-compil', did you mean --no-compile?",
        ),
        (
            ["a:b", "--published-preprocessing", "--mean", "0", "--std", "1"],
            "--published-preprocessing: expected mean and std to be left out, got both kinds",
        ),
        (["a:b", "--best", "3"], "--best: expected --models beside it, got '3' alone"),
        (["a:b", "--config", "none.toml"], "--config: expected an existing file, got 'none.toml'"),
        (
            ["a:b", "--tasks", "ful"],
            "--tasks: expected one of published, patterns, covariances, priors, full, classes:K or the path of a .toml file, got 'ful', "
            "did you mean full?",
        ),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(calls: list[Any], arguments: list[str], message: str) -> None:
    done = invoke("run", *arguments)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert calls == []


NUMBER = "expected an integer of at least 1, got '0'"
PROBES = [
    ("--l2 x", "--l2: expected comma-separated distinct numbers in [0, inf), got 'x'"),
    ("--linf -1", "--linf: expected comma-separated distinct numbers in [0, inf), got '-1'"),
    ("--attack=1", "--attack: expected no value, got one"),
    ("--steps 0", f"--steps: {NUMBER}"),
    ("--targets 0", f"--targets: {NUMBER}"),
    ("--regularisation 0", "--regularisation: expected a number between 0 and 1e+09, got '0'"),
    ("--test-fraction 1", "--test-fraction: expected a number between 0 and 1, got '1'"),
    ("--batch-size auto", "--batch-size: expected an integer of at least 1, got 'auto'"),
    ("--seed -1", "--seed: expected an integer from 0 to 18446744073709551615, got '-1'"),
    ("--threads 0", f"--threads: expected an integer from 1 to {arguments.most_at_once()}, got '0'"),
]
UNIT = "expected comma-separated numbers in [0, 1), got '1'"
FORMATS = "expected one of table, json, csv, got 'jsn', did you mean json?"


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("compare", "a.json", "RESULT.json: expected at least two files to compare, got 1"),
        ("compare", "", "RESULT.json: expected at least two files to compare, got 0"),
        ("compare", ". b", "RESULT.json: expected files, got the directory '.'; its files are ./*.json"),
        ("compare", "a b --eps 1", "--eps: expected comma-separated distinct numbers in [0, 1), got '1'"),
        ("compare", "a b --thresholds 0,0", "--thresholds: expected comma-separated distinct numbers in [0, 1), got '0' twice in '0,0'"),
        ("compare", "a b --format jsn", f"--format: {FORMATS}"),
        ("compare", "a b --unpaird", "option: expected one that --help lists, got '--unpaird', did you mean --unpaired?"),
        ("report", "", "DIR: expected the directory that `run --out` wrote to, got none"),
        ("report", "d --format htm", "--format: expected one of table, csv, markdown, json, none, got 'htm'"),
        ("report", "d --eps x", "--eps: expected comma-separated distinct numbers in [0, 1), got 'x'"),
        ("status", "", "DIR: expected the folder of a run store, got none"),
        ("status", "d --format csv", "--format: expected one of table, json, got 'csv'"),
        ("export", "d", "--to: expected one of mlflow, wandb, model-card, got none"),
        ("export", "d --to wnadb", "--to: expected one of mlflow, wandb, model-card, got 'wnadb', did you mean wandb?"),
        ("export", "d --to wandb --uri x", "--uri: expected only with --to mlflow, got it with --to wandb"),
        ("export", "d --to mlflow --name x", "--name: expected only with --to model-card, got it with --to mlflow"),
        ("export", "d --to mlflow --offline", "--offline: expected only with --to wandb, got it with --to mlflow"),
        ("export", "d --to mlflow --out x", "--out: expected only with --to wandb or model-card, got it with --to mlflow"),
        ("export", "d --to model-card --project x", "--project: expected only with --to mlflow or wandb, got it with --to model-card"),
        ("ls", "--format csv", "--format: expected one of table, json, got 'csv'"),
        ("ls", "a b", "arguments: expected no more, got 'b'"),
        ("info", "--formt json", "option: expected one that --help lists, got '--formt', did you mean --format?"),
        ("demo", "--seed x", "--seed: expected an integer from 0 to 4294967295, got 'x'"),
        ("study sensitivity", "", "ENCODER: expected at least one encoder such as timm:resnet50, got none"),
        ("study sensitivity", "a:b --vary sed", "--vary: expected one of seed, samples, scales, thresholds, dtype, preprocessing, got 'sed', did you mean seed?"),
        ("study sensitivity", "a:b --vary seed,seed", "--vary: expected each once, got 'seed' twice in 'seed,seed'"),
        ("study sensitivity", "a:b --seeds 1", "--seeds: expected at least 2 to see their spread, got '1'"),
        ("study sensitivity", "a:b --vary thresholds --thresholds 0.7", "--thresholds: expected at least two to vary them, got '0.7'"),
        ("study sensitivity", "a:b c:d --checkpoint pyproject.toml", "--checkpoint: expected a single ENCODER to load it into, got 2"),
        ("study sensitivity", "a:b --dtype float23", "--dtype: expected one of auto, float32, tf32, bfloat16, float16, float64, got 'float23', did you mean float32?"),
        ("study eps-star", "", "ENCODER: expected at least one encoder or result file, got none"),
        ("study eps-star", "a:b --threshold 1", f"--threshold: {UNIT}"),
        ("study eps-star", "a:b --threshold 0.7,0.8", "--threshold: expected one number, got '0.7,0.8'"),
        ("study eps-star", "a:b --repeats 2", "--repeats: expected 1, or at least 3 to see their spread, got '2'"),
        ("study eps-star", "a:b --eps 0.2", "--eps: expected at least 2 budgets, got '0.2'"),
        ("study linear-probe", "", "ENCODER: expected an encoder such as timm:resnet50, got none"),
        ("study linear-probe", "a:b", "--data: expected digits, an image folder, a .npz or a .parquet file, got none"),
        ("study linear-probe", "a:b --data d --standardise x", "--standardise: expected one of common, feature, got 'x'"),
        ("study linear-probe", "a:b --data d --samples 0", f"--samples: {NUMBER}"),
        *(("study linear-probe", f"a:b --data d {words}", message) for words, message in PROBES),
        ("study validate", "", "ENCODER: expected several encoders such as zoo:small, or --demo, got none"),
        ("study validate", "zoo:small", "--data: expected digits, photos, an image folder, a .npz or a .parquet file, got none"),
        ("study validate", "a:b --demo", "--demo: expected neither ENCODER nor --data, got some"),
        ("study validate", "--demo --resamples 99", "--resamples: expected an integer of at least 100, got '99'"),
        ("study validate", "--demo --splits 0", f"--splits: {NUMBER}"),
        ("study validate", "--demo --zoo-epochs 0", "--zoo-epochs: expected a number between 0 and 1e+09, got '0'"),
        ("study validate", "--demo --coefficient pears", "--coefficient: expected one of spearman, pearson, kendall, got 'pears', did you mean pearson?"),
        ("study validate", "--demo --neighbours 0", f"--neighbours: {NUMBER}"),
        ("study validate", "--demo --data-samples 0", f"--data-samples: {NUMBER}"),
        *(("study validate", f"--demo {words}", message) for words, message in PROBES),
        ("study inherit", "--suite folders", "ENCODER: expected at least one, such as timm:vit_base_patch16_224, for folders, got none"),
        ("study inherit", "--score-eps 0,0.2", "--score-eps: expected one number, got '0,0.2'"),
        ("study inherit", "--score-threshold 1", f"--score-threshold: {UNIT}"),
        ("study inherit", "--score-samples 3", "--score-samples: expected an integer of at least 4, got '3'"),
        ("study inherit", "--distance-samples 1", "--distance-samples: expected an integer of at least 2, got '1'"),
        ("study inherit", "--warmup -1", "--warmup: expected an integer of at least 0, got '-1'"),
        ("study inherit", "--momentum x", "--momentum: expected a number, got 'x'"),
        ("study inherit", "--weight-decay x", "--weight-decay: expected a number, got 'x'"),
        ("study inherit", "--epochs 0", f"--epochs: {NUMBER}"),
        ("study pretrain", "", "--demo: expected to be given, as the only pre-training there is, got none"),
        ("study pretrain", "--demo --features 193", "--features: expected an integer from 1 to 192, got '193'"),
        ("study pretrain", "--demo --steps 1", "--steps: expected an integer of at least 2, got '1'"),
        ("study pretrain", "--demo --reference specialist", "--reference: expected one of none, specialists, got 'specialist', did you mean specialists?"),
        ("study pretrain", "--demo --temperature 0", "--temperature: expected a number between 0 and 1e+09, got '0'"),
    ],
)  # fmt: skip
def test_mistakes_of_other_verbs_are_one_line_and_exit_2(
    verb: str, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = invoke(*verb.split(), *words.split())
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_other_usage_errors() -> None:
    wrong = invoke("rum")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: command: expected one of run, compare, report, status, export, ls, info, demo, bench, study, got 'rum', did you mean run?\n",
    )
    wrong = invoke("study", "linear-prob")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: command: expected one of sensitivity, eps-star, pretrain, linear-probe, validate, inherit, got 'linear-prob', did you mean linear-probe?\n",
    )
    extra = invoke("ls", "a", "b")
    assert (extra.exit_code, extra.stderr) == (2, "error: arguments: expected no more, got 'b'\n")
    bare = invoke()
    assert bare.exit_code == 2
    assert bare.stdout == "" and "Usage: synbench-fast" in bare.stderr


def test_an_output_folder_that_cannot_be_written_is_a_usage_error(calls: list[Any], tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    done = invoke("run", "a:b", "--out", str(occupied))
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: --out: expected a directory that can be written, got '{occupied}' (File exists)\n",
    )
    assert calls == []


def test_a_failing_encoder_leaves_the_others(calls: list[Any], tmp_path: Path) -> None:
    done = invoke(
        "run", "bad:x", "builtin:conv", "bug:y", "--format", "json", "--quiet", "--out", str(tmp_path)
    )
    assert done.exit_code == 1
    assert [json.loads(line)["encoder"]["spec"] for line in done.stdout.splitlines()] == ["builtin:conv"]
    assert done.stderr.replace("a library talks\n", "").splitlines() == [
        "error: bad:x: encoder: expected a known source, got 'bad'",
        "error: bug:y: RuntimeError: shapes (3,) (--traceback shows where)",
    ]
    assert [one.name.split("-")[0] for one in tmp_path.glob("*.json")] == ["builtin_conv"]


def test_traceback_shows_where_a_bug_is(calls: list[Any]) -> None:
    done = invoke("run", "bug:y", "--traceback")
    assert done.exit_code == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert 'raise RuntimeError("shapes' in done.stderr


def test_out_writes_one_readable_file_per_encoder(calls: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    done = invoke("run", "builtin:conv", "hf:../../up", "--out", str(folder))
    assert done.exit_code == 0
    written = sorted(folder.glob("*.json"))
    assert [Result.load(one).encoder.spec for one in written] == ["builtin:conv", "hf:../../up"]
    assert all(f"wrote {one}" in done.stderr for one in written)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new"]


def test_a_result_that_cannot_be_written_is_still_delivered(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    done = invoke("run", "builtin:conv", "--out", str(tmp_path), "--format", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["encoder"]["spec"] == "builtin:conv"
    path = (tmp_path / Result.from_json(done.stdout).file_name()).with_suffix(".npz")  # is put in place first
    assert (
        f"error: builtin:conv: {path}: expected a file that can be written, got: No space left on device"
        in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_interrupt_keeps_what_is_finished(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["synbench_fast.engine.score"]
    inner = module.score

    def score(spec: str, **options: Any) -> Result:
        if spec == "timm:second":
            raise KeyboardInterrupt
        result: Result = inner(spec, **options)
        return result

    monkeypatch.setattr(module, "score", score)
    for kind, kept in (
        ("table", "builtin:conv"),
        ("json", '"spec": "builtin:conv"'),
        ("csv", "builtin:conv,"),
    ):
        done = invoke("run", "builtin:conv", "timm:second", "timm:third", "--format", kind)
        assert done.exit_code == 130
        assert kept in done.stdout and "timm" not in done.stdout
        assert done.stderr.endswith("interrupted: what was finished is kept\n")


def test_version_and_help() -> None:
    done = invoke("--version")
    assert done.exit_code == 0
    assert re.fullmatch(r"synbench-fast \S+\n", done.stdout)
    for name in ("", *COMMANDS):
        if name == "bench":  # whose help is that of benchmarks/run.py
            continue
        shown = invoke(*name.split(), "--help")
        assert shown.exit_code == 0
        assert shown.stdout.startswith("Usage: synbench-fast")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_with_the_time_left_that_goes_away() -> None:
    stream = Terminal()
    with Reporter(stream).encoder("[1/2] builtin:conv") as advance:
        advance(0, 400, "encode")
        advance(100, 400, "encode")
        advance(200, 400, "encode")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "[1/2] builtin:conv" in text
    assert "200/400 images" in text
    assert "left, encode" in text
    assert "\x1b[2K" in stream.getvalue().rsplit("left, encode", 1)[1]  # the line is erased at the end


def test_progress_elsewhere_is_plain_lines_not_too_many() -> None:
    now = 0.0
    stream = io.StringIO()
    with Reporter(stream, every=10.0, clock=lambda: now).encoder("builtin:conv") as advance:
        now = 5.0  # loading does not count into the rate
        for done in range(0, 1001, 10):
            advance(done, 1000, "encode")
            now += 0.25
        advance(1000, 1000, "solve")
    assert stream.getvalue().splitlines() == [
        "builtin:conv: loading",
        "builtin:conv: 200/1000 images, encode, 40.0 images/s, 20 s left",
        "builtin:conv: 600/1000 images, encode, 40.0 images/s, 10 s left",
        "builtin:conv: 1000/1000 images",
    ]


def test_progress_goes_on_where_a_precision_asks_for_more_images() -> None:
    now = 0.0
    stream = io.StringIO()
    with Reporter(stream, every=10.0, clock=lambda: now).encoder("a:b") as advance:
        steps = [(0, 100, 0), (100, 100, 1), (110, 150, 2), (150, 150, 3), (160, 400, 4), (280, 400, 12)]
        for done, total, second in [*steps, (400, 400, 13), (420, 420, 14)]:
            now = float(second)
            advance(done, total, "encode")
    assert stream.getvalue().splitlines() == [
        "a:b: loading",
        "a:b: 100/100 images",
        "a:b: 280/400 images, encode, 23.3 images/s, 5 s left",
        "a:b: 420/420 images",
    ]


def test_progress_of_a_run_that_fails_does_not_end() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Reporter(stream).encoder("a:b") as advance:
        advance(100, 100, "encode")
        advance(100, 200, "encode")
        advance(200, 200, "encode")
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines() == ["a:b: loading", "a:b: 100/100 images"]


@pytest.mark.parametrize(("rate", "left"), [(10.0, "1 min 30 s"), (0.1, "2 h 30 min")])
def test_time_left_is_readable(rate: float, left: str) -> None:
    now = 0.0
    stream = io.StringIO()
    with Reporter(stream, clock=lambda: now).encoder("a:b") as advance:
        advance(0, 1000, "encode")
        now = 100 / rate
        advance(100, 1000, "encode")
    assert stream.getvalue().splitlines()[1].endswith(f"{rate:.1f} images/s, {left} left")


def test_quiet_says_nothing() -> None:
    stream = Terminal()
    with Reporter(stream, quiet=True).encoder("a:b") as advance:
        advance(1, 2, "encode")
    assert stream.getvalue() == ""


def test_bench_prefers_the_checkout_and_knows_the_installed_copy(tmp_path: Path) -> None:
    package = tmp_path / "synbench_fast"
    installed = package / "_benchmarks" / "run.py"
    with pytest.raises(
        SynbenchError, match=r"^bench: expected the benchmark suite in .*_benchmarks, got none$"
    ):
        here.benchmark_script(package)
    installed.parent.mkdir(parents=True)
    installed.touch()
    checkout = tmp_path / "benchmarks" / "run.py"
    checkout.parent.mkdir()
    checkout.touch()
    # site-packages may hold a "benchmarks" of somebody else; a checkout has the build file too
    assert here.benchmark_script(package) == (installed, None)
    (tmp_path / "CMakeLists.txt").touch()
    assert here.benchmark_script(package) == (checkout, tmp_path)


def test_bench_forwards_options_and_the_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    seen = tmp_path / "seen"
    script.write_text(
        "import pathlib, sys\n"
        "import synbench_fast\n"
        f"pathlib.Path({str(seen)!r}).write_text(repr((sys.argv[1:], synbench_fast.__file__)))\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setattr(here, "benchmark_script", lambda package: (script, ROOT))
    package = ROOT / "synbench_fast"
    if not package.exists():  # the tests of a wheel, beside which no package lies
        package = Path(cli.__file__).parent
    done = invoke("bench", "--quick", "--help", "case")
    assert done.exit_code == 3
    assert seen.read_text() == repr((["--quick", "--help", "case"], str(package / "__init__.py")))


def test_demo_prints_its_report_and_tells_its_steps_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_demo(out: Path, *, seed: int, progress: Callable[[str], None]) -> str:
        print("a library talks")
        progress("plain: train")
        return f"{out.name}, seed {seed}"

    module = types.ModuleType("synbench_fast.demos.digits")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    module.render = lambda report, console: console.print(report + " " + "x" * 90)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "synbench_fast.demos.digits", module)
    done = invoke("demo", "--out", str(tmp_path / "here"), "--seed", "5")
    assert (done.exit_code, done.stdout) == (0, "here, seed 5 " + "x" * 90 + "\n")
    assert done.stderr == "a library talks\nplain: train\n"
    wrong = invoke("demo", "--seed", "x")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: --seed: expected an integer from 0 to 4294967295, got 'x'\n",
    )


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


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes started inside take SIGINT, also where the tests run in the background of a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
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
ENDED = "error: an encoder, or a library of it, ended the process before the results were complete"


def console(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, as a shell runs it, on the encoders of ENDINGS."""
    (tmp_path / "endings.py").write_text(ENDINGS, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "synbench_fast", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


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


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=PATIENCE,
    )
    return done.stdout


def test_help_and_import_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, synbench_fast; from synbench_fast.cli.main import main; main(['run', '--help']);"
        "print([one for one in ('torch', 'numpy', 'rich') if one in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "synbench_fast", "run"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: MODEL: expected at least one encoder such as timm:resnet50, got none\n"


def test_ls_lists_sources_and_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda prefix: prefix in ("builtin", "python"))
    everything = invoke("ls")
    assert everything.exit_code == 0
    sources, encoders = everything.stdout.split("\n\n")
    assert re.search(r'^timm:\S+ +no: pip install "synbench-fast\[timm\]" ', sources, re.M)
    assert re.search(r"^builtin:\S+ +yes ", sources, re.M)
    assert encoders.splitlines() == list_encoders()
    assert "builtin:conv" in encoders and "timm:" not in encoders
    some = invoke("ls", "IDENT")
    assert (some.exit_code, some.stdout) == (0, "builtin:identity\n")
    none = invoke("ls", "no-such-net")
    assert (none.exit_code, none.stdout, none.stderr) == (
        1,
        "",
        "error: PATTERN: expected part of a name that `synbench-fast ls` lists, got 'no-such-net'\n",
    )


def test_ls_as_json() -> None:
    document = json.loads(invoke("ls", "builtin:ident*", "--format", "json").stdout)
    assert document["encoders"] == ["builtin:identity"]
    assert [one["source"] for one in document["sources"]] == list(SOURCES)
    assert document["sources"][-1]["installed"] is True
    wrong = invoke("ls", "--format", "csv")
    assert (wrong.exit_code, wrong.stderr) == (2, "error: --format: expected one of table, json, got 'csv'\n")


def test_info_shows_what_the_result_records() -> None:
    document = json.loads(invoke("info", "--format", "json").stdout)
    here = environment.describe()
    assert document.pop("backends") == environment.backends()
    assert document == encode(here)
    assert here.versions["torch"] == metadata.version("torch")
    assert here.cores >= 1 and here.memory_bytes > 0
    shown = invoke("info").stdout
    for text in (here.cpu, here.versions["numpy"], "robust_solve", platform.python_version()):
        assert text in shown
    assert environment.backends()["feature_stats"]["cpu"][0] == "blas"


def test_commit_is_that_of_the_checkout_that_tracks_the_package(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *options, *arguments], capture_output=True, text=True, check=True
        ).stdout

    package = tmp_path / "synbench_fast"
    package.mkdir()
    (package / "__init__.py").touch()
    assert environment._revision(package) == (None, None)
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "somebody's repository")
    assert environment._revision(package) == (None, None)
    git("add", ".")
    git("commit", "--quiet", "-m", "the package")
    assert environment._revision(package) == (git("rev-parse", "HEAD").strip(), False)
    (package / "__init__.py").write_text("changed = True\n")
    assert environment._revision(package) == (git("rev-parse", "HEAD").strip(), True)


def test_score_is_the_function_however_the_submodule_was_loaded() -> None:
    code = """
import sys, types, importlib.abc, importlib.machinery
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "synbench_fast.engine.score" else None
    def exec_module(self, module):
        module.score = lambda: "scored"
sys.meta_path.insert(0, Finder())
import synbench_fast
{first}
print(synbench_fast.score(), "score" in dir(synbench_fast))
"""
    for first in (
        "import synbench_fast.engine.score",
        "from synbench_fast.engine.score import score",
        "synbench_fast.score",
    ):
        assert run_python(code.format(first=first)) == "scored True\n"


def test_unknown_attribute_and_names() -> None:
    import synbench_fast

    with pytest.raises(AttributeError, match=r"^module 'synbench_fast' has no attribute 'scroe'$"):
        synbench_fast.scroe  # noqa: B018
    assert set(synbench_fast.__all__) <= set(dir(synbench_fast))
    assert synbench_fast.Result is Result
    assert synbench_fast.SynbenchError is SynbenchError


def real(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """`synbench-fast run` in a process of its own, with small work."""
    small = ("--input-shape", "3,8,8", "--scales", "3", "--samples", "256", "--format", "json")
    with interruptible():
        return subprocess.Popen(
            [sys.executable, "-m", "synbench_fast", "run", *arguments, *small],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])},
        )


def test_real_encoders_give_documents_whose_command_replays_them(tmp_path: Path) -> None:
    specs = ["builtin:linear?dim=16", "builtin:identity"]
    process = real(
        tmp_path, specs[0], "builtin:conf", specs[1], "--out", "out", "--seed", "3", "--eps", "0,0.3"
    )
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    results = [Result.from_json(line) for line in out.splitlines()]
    assert [one.encoder.spec for one in results] == specs
    assert [line for line in errors.splitlines() if line.startswith("error")] == [
        "error: encoder: expected a model of builtin, got 'builtin:conf', did you mean builtin:conv?"
    ]
    assert "Traceback" not in errors
    for one in results:
        assert [(score.eps, score.threshold) for score in one.scores] == [
            (eps, threshold) for eps in (0.0, 0.3) for threshold in one.thresholds
        ]
        assert one.environment.versions["torch"] == metadata.version("torch")
        assert one.cost.images == sum(one.task.samples)
        assert Result.load(tmp_path / "out" / one.file_name()).scores == one.scores
    words = shlex.split(results[0].command)
    assert words[:3] == ["synbench-fast", "run", specs[0]]
    again = invoke(*words[1:], "--format", "json")
    assert again.exit_code == 0, again.stderr
    assert Result.from_json(again.stdout).scores == results[0].scores


def test_a_real_run_stops_at_a_signal_with_whole_files(tmp_path: Path) -> None:
    (tmp_path / "slow_encoder.py").write_text(
        "import pathlib, time\n"
        "def make():\n"
        "    def encode(x):\n"
        "        pathlib.Path('ready').touch()\n"
        "        time.sleep(0.5)\n"
        "        return x.flatten(1)[:, :4]\n"
        "    return encode\n"
    )
    process = real(
        tmp_path, "builtin:linear?dim=4", "python:slow_encoder:make", "--out", "out", "--batch-size", "1"
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert Result.from_json(out).encoder.spec == "builtin:linear?dim=4"
    assert "Traceback" not in errors
    assert [Result.load(one).scores for one in (tmp_path / "out").glob("*.json")] == [
        Result.from_json(out).scores
    ]


def test_every_field_of_the_configuration_is_an_option_of_run() -> None:
    params = {one.name: one for one in cli.commands.commands["run"].params}
    for name, (about, default) in options().items():
        one = params[name]
        assert one.rich_help_panel == about.panel and str(one.help).startswith(about.help)  # type: ignore[attr-defined]
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


# Files of options


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
        ('tasks = "full"', "--config: run.toml: options: expected arguments of score(), got 'tasks'"),
        ("ep = 0", "--config: run.toml: options: expected arguments of score(), got 'ep', did you mean eps?"),
        ("eps =", "--config: expected a TOML file, got 'run.toml' (Invalid value (at end of document))"),
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


# Spellings of earlier versions


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
