"""The documents: their Python runs, their commands are accepted, and what they name is there."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from synbench_fast import cli
from synbench_fast.checks import THRESHOLDS
from synbench_fast.encoders.registry import REGISTRY
from synbench_fast.ops.dispatch import OPERATIONS
from synbench_fast.results import SCHEMA, SCHEMA_VERSION, Result
from synbench_fast.score import PRESETS
from synbench_fast.suite_results import SUITE_SCHEMA

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def blocks(language: str) -> list[Any]:
    """(document, code) of every fenced block of one language, with a readable id."""
    found = []
    for name, text in TEXTS.items():
        for number, one in enumerate(re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S), 1):
            found.append(pytest.param(name, one, id=f"{Path(name).stem}-{number}"))
    return found


def shell_lines() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.values[1].splitlines()]
    return [shlex.split(line) for line in lines if line]


def table(name: str, first_column: str) -> list[list[str]]:
    """Cells of the rows of the table whose first column has this heading."""
    text = TEXTS[name].split(f"\n| {first_column} |", 1)[1].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize(("name", "code"), blocks("python"))
def test_python_runs(name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {"__name__": "example"})


def test_there_are_examples() -> None:
    assert len(blocks("python")) >= 5
    assert len(shell_lines()) >= 15


def write_task_files(arguments: list[str], folder: Path) -> None:
    """The example of a task file in the documents, under the name that the line has."""
    for one in arguments:
        if one.endswith(".toml"):
            (folder / one).write_text(blocks("toml")[0].values[1], encoding="utf-8")


RUNS = [words[2:] for words in shell_lines() if words[:2] == ["synbench-fast", "run"]]


@pytest.mark.parametrize("arguments", RUNS, ids=lambda words: shlex.join(words)[:60])
def test_run_lines_are_accepted(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value passes the checks of the command line; the models have a source that exists."""
    seen: list[list[str]] = []

    def accept(models: list[str], *rest: Any) -> int:
        seen.append(models)
        return 0

    def accept_fleet(models: list[str], architectures: list[str], *rest: Any) -> int:
        seen.append([one for one in [*models, *architectures] if ":" in one])
        return 0

    monkeypatch.setattr(cli, "_score_all", accept)
    monkeypatch.setattr(cli, "score_fleet", accept_fleet)
    monkeypatch.chdir(tmp_path)
    write_task_files(arguments, tmp_path)
    if "--checkpoint" in arguments:
        (tmp_path / arguments[arguments.index("--checkpoint") + 1]).touch()
    assert cli.main(["run", *arguments]) == 0
    assert all(spec.partition(":")[0] in REGISTRY for spec in seen[0])


BUILTIN = [
    words
    for words in RUNS
    if "--models" not in words and all(one.startswith("builtin:") for one in words if ":" in one)
]


@pytest.mark.parametrize("arguments", BUILTIN, ids=lambda words: words[0])
def test_run_lines_of_builtin_encoders_run(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task_files(arguments, tmp_path)
    assert cli.main(["run", *arguments, "--scales", "1", "--samples", "800", "--quiet"]) == 0
    assert "score eps=0" in capsys.readouterr().out


def test_other_commands_are_accepted() -> None:
    others = [words for words in shell_lines() if words[0] == "synbench-fast" and words[1] != "run"]
    assert {words[1] for words in others} == set(COMMANDS) - {"run"}
    for _, name, *arguments in others:
        COMMANDS[name].make_context(name, list(arguments))


def test_other_shell_lines() -> None:
    """Besides the command itself: make with targets, pip with extras, python with files that exist."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for words in shell_lines():
        if words[0] == "make":
            assert set(words[1:]) <= targets
        elif words[:2] == ["pip", "install"]:
            wanted = re.fullmatch(r"\.(?:\[(.+)\])?", words[2])
            assert wanted and set((wanted[1] or "timm").split(",")) <= set(extras)
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[0] == "synbench-fast"
    for name, text in TEXTS.items():
        for one in quoted(text):
            if one.startswith("make "):
                assert one.removeprefix("make ") in targets, name
    assert [quoted(row[0])[0] for row in table("docs/guide.md", "extra")] == list(extras)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_paths_exist(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.M | re.S)
    links = [one for one in re.findall(r"\]\(([^)]+)\)", text) if not one.startswith("https://")]
    missing = [one for one in links if not (ROOT / name).parent.joinpath(one.partition("#")[0]).exists()]
    for one in quoted(text):
        path = re.fullmatch(r"[a-z_.][\w.-]*/[\w./-]*|[\w-]+\.(?:md|toml|txt)", one)
        if path and "NAME" not in one and one not in (SCHEMA, SUITE_SCHEMA) and not (ROOT / one).exists():
            missing.append(one)
    assert missing == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_table_is_rectangular(name: str) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", TEXTS[name], re.M):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block.splitlines()[0]


def test_operations_and_their_files() -> None:
    rows = table("README.md", "operation")
    assert [quoted(row[0])[0] for row in rows] == list(OPERATIONS)
    for row in rows:
        operation = quoted(row[0])[0]
        compiled = "cpp" in OPERATIONS[operation]
        launches = {
            "triton": [f"synbench_fast/ops/{operation}_triton.py"],
            "cuda": [f"csrc/{operation}_cuda.cu", f"synbench_fast/ops/{operation}_cuda.py"],
        }
        gpu = [one for backend in OPERATIONS[operation] for one in launches.get(backend, [])]
        assert [quoted(cell) for cell in row[1:]] == [
            [f"synbench_fast/ops/{operation}.py"],
            [f"csrc/{operation}.hpp"] if compiled else [],
            [f"csrc/{operation}_cpu.cpp"] if compiled else [],
            [f"src/{operation}.cpp"] if compiled else [],
            gpu,
            [f"tests/test_{operation}.py"],
        ]


def test_guide_lists_every_option_source_preset_and_field() -> None:
    options = {one for row in table("docs/guide.md", "option") for one in quoted(row[0])}
    known = {one for parameter in COMMANDS["run"].params for one in parameter.opts if one.startswith("--")}
    assert options == known - {"--help"}

    sources = {quoted(row[0])[0].partition(":")[0] for row in table("docs/guide.md", "spec")}
    assert sources == set(REGISTRY)

    for row, (name, preset) in zip(table("docs/guide.md", "preset"), PRESETS.items(), strict=True):
        images = preset.scales * preset.samples
        numbers = [int(cell.replace(" ", "")) for cell in row[1:]]
        assert (quoted(row[0]), numbers) == ([name], [preset.scales, preset.samples, images, 2 * images])

    fields = [quoted(row[0])[0] for row in table("docs/guide.md", "field")]
    assert fields == [
        "schema", "schema_version",
        *(one.name for one in dataclasses.fields(Result) if not one.name.startswith("schema")),
    ]  # fmt: skip
    assert f"schema `{SCHEMA}`, version {SCHEMA_VERSION}" in TEXTS["docs/guide.md"]


def test_defaults_in_the_guide() -> None:
    stated = {quoted(row[0])[0]: row[1] for row in table("docs/guide.md", "option")}
    for parameter in COMMANDS["run"].params:
        option = parameter.opts[0]
        if option in stated and isinstance(parameter.default, str):
            assert stated[option] == parameter.default
    assert stated["--thresholds"] == "0.6, 0.65, ..., 0.95, 0.99"
    assert list(THRESHOLDS) == [*(round(0.6 + 0.05 * i, 2) for i in range(8)), 0.99]


def test_deviations_are_numbered() -> None:
    numbers = [row[0] for row in table("docs/method.md", "no.")]
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    assert len(numbers) >= 20
