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
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from checks import PATIENCE
from cli_cases import COMMANDS, ROOT, interrupted, interruptible, invoke
from result_example import example
from typer.core import TyperArgument, TyperOption
from typer.testing import CliRunner

from synbench_fast import arguments
from synbench_fast.cli import here
from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import SOURCES, list_encoders, load_encoder, registry
from synbench_fast.engine import environment
from synbench_fast.errors import SynbenchError
from synbench_fast.results.codec import encode
from synbench_fast.results.records import (
    CSV_COLUMNS,
    ArithmeticCheck,
    ArithmeticPoint,
    ArithmeticRecord,
    Result,
)
from synbench_fast.studies.inheritance.digits_rib import digits_encoder
from synbench_fast.studies.inheritance.methods import find as find_method
from synbench_fast.tasks.covariances import parse_covariance
from synbench_fast.tasks.patterns import parse_pattern


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
        ("compare '' b", "DIR|RESULT.json: expected a value, got ''"),
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
    header, first, second, note, *_ = done.stdout.splitlines()
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
    _, _, _, note, *_ = invoke("run", "builtin:identity", "builtin:linear").stdout.splitlines()
    assert "2 scales x 512 to 1536 samples" in note


def test_table_shows_what_a_reduced_precision_did(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    point = ArithmeticPoint(
        eps=0.2, t_difference=0.02, t_difference_stderr=0.001, t_stderr=0.05, score_difference=0.01
    )
    check = ArithmeticCheck(dtype="tf32", used=True, reason="", scale=2.5, samples=256, points=[point])
    record = ArithmeticRecord(requested="tf32", dtype="tf32", checks=[check])
    module = sys.modules["synbench_fast.engine.score"]
    monkeypatch.setattr(module, "score", lambda spec, **_: example(spec, arithmetic=record))
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


VERBS = sorted(set(COMMANDS) - {"bench", "study"})


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_explains_every_option(name: str) -> None:
    """In sentences: a verb in the imperative, and a full stop (a default may follow)."""
    for one in COMMANDS[name].params:
        assert isinstance(one, TyperArgument | TyperOption) and one.help
        help = one.help
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
        "--center", "0", "--integral", "grid", "--half-width", "0.01", "--average", "sampled",
        "--format", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    ((spec, config),) = calls
    assert spec == "timm:resnet18"
    assert config == ScoreConfig(
        eps=(0.0, 0.5), thresholds=(0.7,), estimator="paper", scales=5, samples=64, preset="quick", device="cuda:1",
        dtype="bfloat16", backend="torch", compile=False, batch_size=8, seed=2**64 - 1, prior=0.25, center=0.0,
        integral="grid", average="sampled", input_shape=(3, 32, 32), pool="avg", checkpoint=str(weights),
        random_init=True, published_preprocessing=True, trust_remote_code=True, threads=1, half_width=0.01, structure=True,
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
        package = Path(cli.__file__).parents[1]
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
    vars(module)["run_demo"] = run_demo
    vars(module)["render"] = lambda report, console: console.print(report + " " + "x" * 90)
    monkeypatch.setitem(sys.modules, "synbench_fast.demos.digits", module)
    done = invoke("demo", "--out", str(tmp_path / "here"), "--seed", "5")
    assert (done.exit_code, done.stdout) == (0, "here, seed 5 " + "x" * 90 + "\n")
    assert done.stderr == "a library talks\nplain: train\n"
    wrong = invoke("demo", "--seed", "x")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: --seed: expected an integer from 0 to 4294967295, got 'x'\n",
    )


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
    sources, lists, encoders = everything.stdout.split("\n\n")
    assert lists.splitlines()[1].split()[0] == "timm-100"
    assert re.search(r'^timm:\S+ +no: pip install "synbench-fast\[timm\]" ', sources, re.M)
    assert re.search(r"^builtin:\S+ +yes ", sources, re.M)
    assert encoders.splitlines() == list_encoders()
    assert "builtin:conv" in encoders and "timm:" not in encoders
    some = invoke("ls", "IDENT")
    assert (some.exit_code, some.stdout) == (0, "builtin:identity\n")
    none = invoke("ls", "no-such-net")
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr.startswith(
        "error: PATTERN: expected part of a name that `synbench-fast ls` lists, got 'no-such-net'; "
        'timm is not installed: pip install "synbench-fast[timm]"; '
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


def test_the_same_run_again_goes_on_where_the_first_one_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def make():\n    return lambda x: x.flatten(1)[:, :4]\n")
    small = ("--input-shape", "3,8,8", "--scales", "3", "--samples", "256", "--out", "out")
    first = invoke("run", "builtin:identity", "python:mine.py:make", *small)
    assert first.exit_code == 0
    files = {one: one.read_bytes() for one in Path("out").glob("*.json")}
    again = invoke("run", "builtin:identity", "python:mine.py:make", "builtin:linear?dim=8", *small)
    assert again.exit_code == 0
    kept = next(one for one in files if "identity" in one.name)
    assert f"builtin:identity: scored already, in {kept}; remove that file to score it again" in again.stderr
    assert kept.read_bytes() == files[kept] and "builtin:identity: loading" not in again.stderr
    assert "python:mine.py:make: loading" in again.stderr  # its file may have changed
    assert len(list(Path("out").glob("*.json"))) == 3
    assert [line.split()[0] for line in again.stdout.splitlines()[1:4]].count("builtin:identity") == 1
    other = invoke("run", "builtin:identity", *small, "--seed", "1")
    assert "scored already" not in other.stderr
    text = kept.read_text().replace('"torch": "', '"torch": "0.')
    kept.write_text(text)  # of another version of a library
    assert "scored already" not in invoke("run", "builtin:identity", *small).stderr


def test_wide_features_that_need_more_images_are_announced_with_the_reason() -> None:
    small = ("--input-shape", "2,16,16", "--scales", "5", "--no-structure")
    said = invoke("run", "builtin:identity", "--preset", "quick", *small).stderr.splitlines()
    assert said[1] == (
        "builtin:identity: 5120 images in place of the 2560 of --preset quick, because each scale needs 2 samples for each "
        "of 512 features; --samples sets another number"
    )
    for more in (
        ["--samples", "1100"],
        ["--estimator", "paper", "--preset", "quick"],
        ["--preset", "quick", "--quiet"],
    ):
        assert "in place of" not in invoke("run", "builtin:identity", *small, *more).stderr
    narrow = invoke("run", "builtin:linear?dim=8", "--preset", "quick", *small).stderr
    assert "in place of" not in narrow


def test_ls_says_which_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    done = invoke("ls", "timm:resnet*")
    assert done.exit_code == 1
    assert done.stderr.rstrip().endswith('timm is not installed: pip install "synbench-fast[timm]"')


def test_real_encoders_give_documents_whose_command_replays_them(tmp_path: Path) -> None:
    specs = ["builtin:linear?dim=16", "builtin:identity"]
    (tmp_path / "broken.py").write_text("def make():\n    raise OSError('no room')\n")
    process = real(
        tmp_path, specs[0], "python:broken.py:make", specs[1], "--out", "out", "--seed", "3", "--eps", "0,0.3"
    )
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    results = [Result.from_json(line) for line in out.splitlines()]
    assert [one.encoder.spec for one in results] == specs
    assert [line for line in errors.splitlines() if line.startswith("error")] == [
        "error: encoder python:broken.py:make: make() failed (OSError: no room)"
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
    out, errors = interrupted(process, tmp_path / "ready")
    assert process.returncode == 130
    assert Result.from_json(out).encoder.spec == "builtin:linear?dim=4"
    assert "Traceback" not in errors
    assert [Result.load(one).scores for one in (tmp_path / "out").glob("*.json")] == [
        Result.from_json(out).scores
    ]
