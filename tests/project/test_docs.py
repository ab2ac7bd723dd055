"""The documents: their examples run and print what they show, and what they name is there."""

from __future__ import annotations

import dataclasses
import glob
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import synbench_fast
from synbench_fast import minimax, report, studies
from synbench_fast.arguments import UsageError
from synbench_fast.cli import fleet, run
from synbench_fast.cli import main as cli
from synbench_fast.config import PRESETS
from synbench_fast.encoders.registry import REGISTRY
from synbench_fast.ops.dispatch import OPERATIONS, RENDERERS
from synbench_fast.results.records import SCHEMA, SCHEMA_VERSION, Result
from synbench_fast.results.suite import SUITE_SCHEMA
from synbench_fast.studies import inheritance

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md"))),
)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
COMMANDS = {
    **cli.commands.commands,
    **{f"study {name}": one for name, one in cli.commands.commands["study"].commands.items()},
}


class Block(NamedTuple):
    """A fenced block: language, the file it is to be saved as, code, and whether it follows another block at once."""

    language: str
    title: str
    code: str
    follows: bool


def fences(name: str) -> list[Block]:
    """The fenced blocks of one document, in order."""
    found, end = [], -1
    for one in re.finditer(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', TEXTS[name], re.M | re.S):
        follows = end >= 0 and not TEXTS[name][end : one.start()].strip()
        found.append(Block(one[1], one[2] or "", one[3], follows))
        end = one.end()
    return found


def blocks(language: str) -> list[Any]:
    """(document, code) of every fenced block of one language without a file name, with a readable id."""
    found = []
    for name in TEXTS:
        codes = [one.code for one in fences(name) if one.language == language and not one.title]
        for number, code in enumerate(codes, 1):
            found.append(pytest.param(name, code, id=f"{Path(name).stem}-{number}"))
    return found


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line) for line in block.splitlines() if line]


def shell_lines() -> list[list[str]]:
    return [words for block in blocks("sh") for words in commands(block.values[1])]


def write_files(name: str, folder: Path) -> None:
    """The files that a document shows, with its changes to files of the package made."""
    for one in fences(name):
        path = folder / one.title
        if one.language == "diff":
            lines = one.code.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            text = path.read_text(encoding="utf-8")
            assert text.count(old) == 1, old
            path.write_text(text.replace(old, new), encoding="utf-8")
        elif one.title:
            path.write_text(one.code, encoding="utf-8")


def table(name: str, first_column: str) -> list[list[str]]:
    """Cells of the rows of the table whose first column has this heading."""
    text = TEXTS[name].split(f"\n| {first_column} |", 1)[1].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def names_of(name: str, first_column: str) -> list[str]:
    """The names in the first column of a table, sorted; a row may have several."""
    return sorted(one for row in table(name, first_column) for one in quoted(row[0]))


# Documents whose blocks need each other: see test_the_tutorial and test_recipes.
TUTORIAL, RECIPES = "docs/tutorial.md", "docs/extending.md"
# Documents of one flow that ends with an output: see test_outputs.
WITH_OUTPUT = ("README.md", "docs/compare.md")


@pytest.mark.parametrize(
    ("name", "code"), [one for one in blocks("python") if one.values[0] not in (TUTORIAL, RECIPES)]
)
def test_python_runs(name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {"__name__": "example"})


def test_there_are_examples() -> None:
    assert len(blocks("python")) >= 5
    assert len(shell_lines()) >= 15


RUNS = [
    pytest.param(block.values[0], words[2:], id=shlex.join(words[2:])[:60])
    for block in blocks("sh")
    if block.values[0] != RECIPES
    for words in commands(block.values[1])
    if words[:2] == ["synbench-fast", "run"]
]


@pytest.mark.parametrize(("name", "arguments"), RUNS)
def test_run_lines_are_accepted(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value passes the checks of the command line; the models have a source that exists."""
    seen: list[list[str]] = []

    def accept(named: Sequence[tuple[str, Any]], *rest: Any) -> int:
        seen.append([spec for spec, _ in named])
        return 0

    def accept_fleet(models: Sequence[str], architectures: Sequence[str], *rest: Any) -> int:
        seen.append([one for one in [*models, *architectures] if ":" in one])
        return 0

    monkeypatch.setattr("synbench_fast.encoders.early.mistakes", lambda named: [])  # files of the examples
    monkeypatch.setattr(run, "_score_all", accept)
    monkeypatch.setattr(fleet, "score_fleet", accept_fleet)
    monkeypatch.chdir(tmp_path)
    write_files(name, tmp_path)
    if "--checkpoint" in arguments:
        (tmp_path / arguments[arguments.index("--checkpoint") + 1]).touch()
    assert cli.main(["run", *arguments]) == 0
    assert all(spec.partition(":")[0] in REGISTRY for spec in seen[0])


# Lines whose options are checked and that are not run, and why.
NOT_RUN = {
    r"\b(timm|torchvision|hf|onnx):": "weights to download, or the reader's own",
    r"\b(my_\w+|features\.npz|one\.json|resnet50\.json|epochs|network\.py)\b": "files of the reader",
    r" --(devices|ray) ": "devices of the reader",
    r"^synbench-fast (bench|demo|inherit|pretrain)\b|--demo|zoo:all|--best|probe python:": "minutes",
    r"--to (mlflow|wandb)": "tests/report/test_report.py runs both",
}
# Tens of seconds each: run with the slow tests.
SLOW = r"--tasks full|probe builtin:conv|sensitivity|python:benchmarks/"


def runnable(line: str) -> bool:
    return line.startswith("synbench-fast ") and not any(
        re.search(pattern, line.replace("my_tasks", "").replace("my_encoder", "")) for pattern in NOT_RUN
    )


def flow(name: str, slow: bool) -> list[str]:
    """The lines of a document that are run; with the slow ones everything, since lines need what others wrote."""
    lines = [line for one in fences(name) if one.language == "sh" for line in one.code.splitlines()]
    found = [line for line in lines if runnable(line) and (slow or not re.search(SLOW, line))]
    if not any("--out store" in line for line in found):  # that of the reader
        found = [line for line in found if "status store" not in line]
    return found if not slow or any(re.search(SLOW, line) for line in found) else []


def run_line(line: str) -> int:
    words = [file for word in shlex.split(line)[1:] for file in sorted(glob.glob(word)) or [word]]
    return cli.main(words)


FLOWS = [
    pytest.param(
        name, slow, id=f"{Path(name).stem}-{'all' if slow else 'fast'}", marks=[pytest.mark.slow] * slow
    )
    for name in TEXTS
    if name not in (TUTORIAL, RECIPES, *WITH_OUTPUT)
    for slow in (False, True)
    if flow(name, slow)
]


@pytest.mark.parametrize(("name", "slow"), FLOWS)
def test_commands_run(
    name: str,
    slow: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All that work offline, in the order of the document, in one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # encoders that the documents name
    write_files(name, tmp_path)
    for line in flow(name, slow):
        assert run_line(line) == 0, line
    if slow and name in ("docs/sensitivity.md", "docs/tasks.md"):
        printed = capsys.readouterr().out.splitlines()
        for one in fences(name):  # scores; of other lines the documents leave some out
            for line in one.code.splitlines() if one.language == "text" else ():
                if re.search(r"\d ± \d", line):
                    assert any(is_same_output(other, line) for other in printed), line
    if slow and name == "docs/linear-probe.md":  # all numbers of its table are per cent
        printed = [f"{line} %" for line in capsys.readouterr().out.splitlines()]
        shown = [
            f"{line} %" for one in fences(name) if one.language == "text" for line in one.code.splitlines()
        ]
        assert shown and all(any(is_same_output(other, line) for other in printed) for line in shown)


def masked(lines: list[str]) -> Iterator[str]:
    """Without the cells that a machine decides."""
    header = ""
    for line in lines:
        if "images/s" in line:
            header = line
        elif line.startswith(("score ", "structure:")):
            header = ""
        for column in ("images/s", "seconds", "memory") if header and line != header else ():
            if column in header:
                end = header.index(column) + len(column)
                start = len(header[: header.index(column)].rstrip())
                line = line[:start] + " " * (end - start) + line[end:]
        yield line


NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def assert_same_output(printed: str, shown: str) -> None:
    """Words are equal, and so are numbers: fractions to two digits, counts above 100 to a tenth."""
    left, right = (list(masked(text.splitlines())) for text in (printed, shown))
    assert len(left) == len(right), printed
    for a, b in zip(left, right, strict=True):
        assert NUMBER.sub("0", a).split() == NUMBER.sub("0", b).split(), (a, b)
        for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
            if "." in y or "e" in y:
                most = 0.005 * (100 if "%" in b and float(y) > 1 else 1) + 1e-9
                assert abs(float(x) - float(y)) <= most, (a, b)
            else:
                assert abs(int(x) - int(y)) <= (abs(int(y)) // 10 if abs(int(y)) > 100 else 0), (a, b)


def is_same_output(printed: str, shown: str) -> bool:
    try:
        assert_same_output(printed, shown)
    except AssertionError:
        return False
    return True


def test_outputs_are_told_apart() -> None:
    """The comparison of outputs finds what it is for."""
    table = "encoder        F            score  images/s\nbuiltin:conv  64  0.6538 ± 0.0166   66596.9\nscore above"
    assert_same_output(table.replace("66596.9", "   12.3"), table)
    assert_same_output(table.replace("0.6538", "0.6549"), table)
    for old, new in (("0.6538", "0.6638"), ("conv", "linear"), ("64", "65"), ("\nscore above", "")):
        with pytest.raises(AssertionError):
            assert_same_output(table.replace(old, new), table)


def test_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command and every output, from the first line to the last."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files(TUTORIAL, tmp_path)
    printed, shown, compared, installing = "", "", 0, True

    def compare() -> None:
        nonlocal shown, compared
        if shown:
            assert_same_output(printed, shown)
            shown, compared = "", compared + 1

    try:
        for one in fences(TUTORIAL):
            if one.language == "text":
                assert one.follows
                shown += one.code
                continue
            compare()
            if one.language == "sh" and installing:  # into an environment: this one has it all
                installing = False
                assert [words[0] for words in commands(one.code)] == [
                    "python",
                    ".",
                    "pip",
                    "mkdir",
                    "cd",
                    "synbench-fast",
                ]
                assert run_line(one.code.splitlines()[-1]) == 0
            elif one.language == "sh":
                for line in one.code.splitlines():
                    assert run_line(line) == 0, line
            elif one.language == "python":
                exec(compile_block(one.code), {"__name__": "example"})
            else:
                assert one.title
                continue
            printed = capsys.readouterr().out
        compare()
    finally:
        sys.modules.pop("my_encoder", None)
    assert compared >= 6
    assert (tmp_path / "results" / "report.html").is_file()


def compile_block(code: str) -> Any:
    return compile(code, TUTORIAL, "exec")


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_outputs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last command that runs prints what follows."""
    monkeypatch.chdir(tmp_path)
    for line in flow(name, False):
        capsys.readouterr()
        assert run_line(line) == 0, line
    shown = next(one.code for one in fences(name) if one.language == "text")
    assert_same_output(capsys.readouterr().out, shown)


def test_recipes(tmp_path: Path) -> None:
    """What the document says to write, written into a copy of the package, does what its commands ask for."""
    shutil.copytree(
        ROOT / "synbench_fast", tmp_path / "synbench_fast", ignore=shutil.ignore_patterns("__pycache__")
    )
    core = importlib.util.find_spec("synbench_fast._core")
    if core is not None and core.origin is not None:  # of an installation, not in the tree
        shutil.copy(core.origin, tmp_path / "synbench_fast")
    write_files(RECIPES, tmp_path)
    methods = tmp_path / "synbench_fast" / "studies" / "inheritance" / "methods"
    shutil.copy(methods / "l2sp.py", methods / "anchor_again.py")  # a method is a file and nothing else
    steps: list[str] = [
        "import sys",  # an editable installation would serve the checkout, whatever the path says
        "sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in type(one).__module__]",
        "from synbench_fast.cli import main as cli",
    ]
    expected: list[str] = []
    for one in fences(RECIPES):
        if one.language == "python":
            steps.append(one.code)
        for words in commands(one.code) if one.language == "sh" else ():
            steps.append(f"assert cli.main({words[1:]!r}) == 0")
            expected.append(words[1])
    assert expected == ["run", "run"]
    line = "study inherit --methods ft,anchor-again?weight=0.2 --seeds 1 --epochs 1 --no-score --no-distance"
    steps.append(f"assert cli.main({shlex.split(line)!r}) == 0")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(steps)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for printed in ("edge in natural noise", "npy:matrix.npy", "anchor-again?weight=0.2"):
        assert printed in done.stdout


def test_other_commands_are_accepted() -> None:
    others = [words[1:] for words in shell_lines() if words[0] == "synbench-fast" and words[1] != "run"]
    others = [[" ".join(words[:2]), *words[2:]] if words[0] == "study" else words for words in others]
    assert {words[0] for words in others} == set(COMMANDS) - {"run", "study"}
    for name, *arguments in others:
        try:
            COMMANDS[name].make_context(name, list(arguments))
        except (UsageError, typer.BadParameter) as error:
            assert "expected an existing file" in str(error)


def test_other_shell_lines() -> None:
    """Besides the command itself: make with targets, pip with extras, python with files that exist."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for words in shell_lines():
        if words in (["python", "-m", "venv", ".venv"], [".", ".venv/bin/activate"]) or words[0] in (
            "mkdir",
            "cd",
        ):
            continue
        if words[0] == "make":
            assert set(words[1:]) <= targets
        elif words[:2] == ["pip", "install"]:
            wanted = re.fullmatch(r"(?:\.|synbench-fast)(?:\[(.+)\])?", words[2])
            assert wanted and set((wanted[1] or "timm").split(",")) <= set(extras)
        elif words[:3] == ["python", "-m", "zoo"]:  # its options: tests/benchmarks/test_zoo_validity.py
            assert (ROOT / "benchmarks" / "zoo" / "__main__.py").is_file()
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[0] == "synbench-fast"
    for name, text in TEXTS.items():
        for one in quoted(text):
            if one.startswith("make "):
                assert one.removeprefix("make ") in targets, name
    assert names_of("docs/guide.md", "extra") == sorted(extras)


def test_contributing_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.M)[0].split()
    assert {quoted(row[0])[0] for row in table("CONTRIBUTING.md", "command")} == {
        f"make {one}" for one in targets
    }


def test_publications_to_cite_are_those_of_the_pages() -> None:
    """The references of CITATION.cff: complete, and each linked from a page."""
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert len(citation["references"]) >= 2
    for one in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(one)
        number = one["url"].removeprefix("https://arxiv.org/abs/")
        assert one["identifiers"] == [{"type": "other", "value": f"arXiv:{number}"}]
        assert any(f"({one['url']})" in text for text in TEXTS.values()), number


def anchors(path: Path) -> set[str]:
    """Of the headings of a document, as the site makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in titles}


# Folders that commands make.
MADE = ("results/", "build/")
# A source distribution has no files whose names begin with a dot.
PACKED = (ROOT / "PKG-INFO").exists()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_paths_exist(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.M | re.S)
    missing = []
    for one in re.findall(r"\]\(([^)]+)\)", text):
        if one.startswith("https://"):
            continue
        file, _, anchor = one.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(one)
    for one in quoted(text):
        path = re.fullmatch(r"[a-z_.][\w.-]*/[\w./-]*|[\w-]+\.(?:md|toml|txt)", one)
        known = "NAME" in one or one in (SCHEMA, SUITE_SCHEMA, "synbench/") or one.startswith(MADE)
        known = known or (PACKED and one.startswith("."))
        if path and not known and not (ROOT / one).exists():
            missing.append(one)
    assert missing == []


def found_at(path: str) -> Any:
    """The module or the attribute of a module at a dotted path."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, attribute = path.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def test_the_reference_has_every_public_name() -> None:
    pages = [text for name, text in TEXTS.items() if name.startswith("docs/api/")]
    listed = {one for text in pages for one in re.findall(r"^::: ([\w.]+)$", text, re.M)}
    objects = [found_at(one) for one in listed]
    for package in (synbench_fast, minimax, report, studies, inheritance):
        for name in package.__all__:
            if name not in ("__version__", "minimax", "report", "studies") and not name.isupper():
                assert any(one is getattr(package, name) for one in objects), name
    modules = {one: "renderers" if one in RENDERERS else one for one in OPERATIONS}
    assert {f"synbench_fast.ops.{module}.{one}" for one, module in modules.items()} <= listed


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/-]+\.md)$", text, re.M)
    assert sorted(f"docs/{one}" for one in listed) == sorted(
        one for one in DOCUMENTS if one.startswith("docs/")
    )


@pytest.mark.skipif(
    any(importlib.util.find_spec(one) is None for one in ("mkdocs", "material", "mkdocstrings")),
    reason="the extra docs is not installed; make docs builds the site",
)
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    reference = (tmp_path / "api" / "scores.html").read_text(encoding="utf-8")
    assert 'id="synbench_fast.engine.score.score"' in reference and "Args" not in TEXTS["docs/api/scores.md"]
    for page in tmp_path.glob("**/*.html"):  # a page loads nothing from elsewhere
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=[\"']?https?:", text), page.name
        assert not re.findall(r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect)[^>]+href=[\"']?https?:", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_table_is_rectangular(name: str) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", TEXTS[name], re.M):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block.splitlines()[0]


def test_operations_and_their_files() -> None:
    """Every operation has the files that the table in CONTRIBUTING.md names, and no other backend has one."""
    files = [quoted(row[0]) for row in table("CONTRIBUTING.md", "file")]
    assert len(files) == 6
    contract, specification, cpp, cuda, triton, test = files
    backends = {"cpp": cpp, "cuda": cuda, "triton": triton}
    for operation, served in OPERATIONS.items():
        if operation in RENDERERS:  # which share three files, and those of csrc/families/
            continue
        there = [*contract, *specification, *test]
        there += [one for name, wanted in backends.items() if name in served for one in wanted]
        absent = [one for name, wanted in backends.items() if name not in served for one in wanted]
        for one in there:
            assert (ROOT / one.replace("NAME", operation)).is_file(), (operation, one)
        for one in absent:
            assert not (ROOT / one.replace("NAME", operation)).exists(), (operation, one)


def test_guide_lists_every_source_preset_and_field() -> None:
    sources = {quoted(row[0])[0].partition(":")[0] for row in table("docs/guide.md", "spec")}
    assert sources == set(REGISTRY)

    for row, (name, preset) in zip(table("docs/guide.md", "preset"), PRESETS.items(), strict=True):
        images = preset.scales * preset.samples
        numbers = [int(cell.replace(" ", "")) for cell in row[1:]]
        assert (quoted(row[0]), numbers) == ([name], [preset.scales, preset.samples, images, 2 * images])

    assert f"schema `{SCHEMA}`, version {SCHEMA_VERSION}" in TEXTS["docs/guide.md"]


def test_the_reference_has_every_part_of_a_result() -> None:
    listed = re.findall(r"^::: ([\w.]+)$", TEXTS["docs/api/scores.md"], re.M)
    hints = typing.get_type_hints(Result).values()
    parts = {
        part for hint in hints for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)
    }
    parts |= {one for hint in hints for part in typing.get_args(hint) for one in typing.get_args(part)}
    parts = {one for one in parts if dataclasses.is_dataclass(one)}
    assert len(parts) > 5
    for one in parts:
        assert one.__module__ in listed or f"{one.__module__}.{one.__name__}" in listed, one


def test_options_that_are_named_exist() -> None:
    known = {one for command in COMMANDS.values() for parameter in command.params for one in parameter.opts}
    known |= {
        one
        for command in COMMANDS.values()
        for parameter in command.params
        for one in parameter.secondary_opts
    }
    known |= {
        "--help",
        "--install-completion",
        "--cache",
        "--list",
        "--case",
        "--repeat",
        "--part",
        "--blocks",
        "--encoders",
        "--settings",
        "--estimators",
    }  # all but the first two of the benchmarks
    named = {
        option for name, text in TEXTS.items() if name != "docs/harnesses.md"  # which has those of the harnesses
        for one in quoted(re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
        for option in re.findall(r"(?:^| )(--[a-z][\w-]*)", one)
    }  # fmt: skip
    assert named - known == set()


def test_deviations_are_numbered() -> None:
    numbers = [row[0] for row in table("docs/method.md", "no.")]
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    assert len(numbers) >= 20


def rows(name: str) -> dict[str, dict[str, Any]]:
    text = (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8")
    return {one["case"]: one for one in map(json.loads, text.splitlines())}


def test_benchmarks_are_those_of_the_rows() -> None:
    """Every row of the page is a stored one; the page names the cases whose rows it does not show."""
    stored = rows("cpu-2-core-avx512.jsonl")
    left_out = re.search(r"^Not shown.*$", TEXTS["docs/benchmarks.md"], re.M)
    assert left_out is not None
    kept = [case for case in stored if case.partition("[")[0] not in quoted(left_out[0])]
    shown = table("docs/benchmarks.md", "case | ratio")
    assert [row[0] for row in shown] == kept
    for case, ratio, _, met, *_ in shown:
        row = stored[case]
        assert (ratio, met) == (f"{row['ratio']:.2f}", {True: "yes", False: "no", None: ""}[row["met"]])


def test_costs_of_the_structure_score_are_those_of_the_rows() -> None:
    text = (ROOT / "benchmarks" / "results" / "structure-cpu-2-core-avx512.jsonl").read_text(encoding="utf-8")
    ratio = {
        (one["case"], one["threads"]): f"{one['ratio']:.2f}" for one in map(json.loads, text.splitlines())
    }
    for side in (64, 160, 224):
        one, two = (ratio[f"structure[{side}x{side}]", threads] for threads in (1, 2))
        assert re.search(
            rf"{one} \({two}\) (times the forward passes )?of 3x{side}x{side}", TEXTS["docs/structure.md"]
        )


def test_errors_of_scores_are_those_of_the_rows() -> None:
    stored = rows("accuracy-cpu-2-core-avx512.jsonl")
    short = {"random ReLU": "relu", "random tanh": "tanh", "random convolutions": "conv"}
    for name, f, *cells in table("docs/precision.md", "encoder | F | reference"):
        row = stored[f"accuracy[{short[name]}, F={f}]"]
        assert cells == [f"{row['truth']:.3f}", f"{row['published']:.3f}", f"{row['rmse_published']:.4f}"]
    none, some, many = (stored[f"padding[paper, {dims} noise dimensions]"] for dims in (0, 256, 1024))
    assert (
        f"falls from {none['score']:.3f} to {some['score']:.3f} and {many['score']:.3f}, and `paper` prefers the other one "
        f"({many['unpadded_other']:.3f}) in {1 - some['ranked_right']:.0%}".removesuffix("%")
        + f" and {1 - many['ranked_right']:.0%}".replace("%", " %")
    ) in TEXTS["docs/precision.md"]
