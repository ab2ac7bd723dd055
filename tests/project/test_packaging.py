"""What is installed: its version, what importing it costs, and its types as a user's checker sees them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from checks import PATIENCE

import synbench_fast
from synbench_fast.cli import main as cli
from synbench_fast.engine import environment

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = [
    *([name] for name in sorted(cli.commands.commands)),
    *(["study", name] for name in sorted(cli.commands.commands["study"].commands)),
]
HEAVY = ("torch", "numpy", "scipy", "triton", "pandas", "matplotlib", "rich")


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import json, sys
from synbench_fast.cli.main import main
for command in ([], *{COMMANDS}):
    assert main([*command, "--help"]) == 0
    print(json.dumps([command, [name for name in {HEAVY} if name in sys.modules]]))
"""
    printed = python(code)
    assert len(re.findall(r"^usage: ", printed, re.M | re.I)) == 1 + len(COMMANDS)
    loaded = [json.loads(line) for line in printed.splitlines() if line.startswith("[[")]
    assert loaded == [[command, []] for command in ([], *COMMANDS)]


def test_help_of_the_benchmarks_imports_nothing_heavy() -> None:
    code = f"""
import json, runpy, sys
sys.argv = ["run.py", "--help"]
try:
    runpy.run_path({str(ROOT / "benchmarks" / "run.py")!r}, run_name="__main__")
except SystemExit as stop:
    print(json.dumps([stop.code, [name for name in {HEAVY} if name in sys.modules]]))
"""
    assert json.loads(python(code).splitlines()[-1]) == [0, []]


def test_importing_and_asking_for_the_version_imports_nothing_heavy() -> None:
    code = f"""
import json, sys
import synbench_fast
dir(synbench_fast), synbench_fast.__version__, synbench_fast.SynbenchError
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    assert json.loads(python(code)) == []


def git(tree: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=tree, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of two commits, with the settings of this one."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    tree = tmp_path / "checkout"
    tree.mkdir()
    shutil.copy(ROOT / "pyproject.toml", tree)
    for name in (".gitattributes", ".git_archival.txt"):
        if not (ROOT / name).exists():
            pytest.skip(f"needs {name}, which a source distribution leaves out")
        shutil.copy(ROOT / name, tree)
    git(tree, "init", "--quiet")
    for _ in range(2):
        with (tree / "README.md").open("a", encoding="utf-8") as stream:
            stream.write("more\n")
        git(tree, "add", ".")
        git(tree, "commit", "--quiet", "--message", "more")
    return tree


def version(tree: Path) -> str:
    pytest.importorskip("setuptools_scm")
    done = subprocess.run(
        [sys.executable, "-m", "setuptools_scm"], cwd=tree, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_version_counts_and_names_commits(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=9", "HEAD")
    assert version(checkout) == f"0.1.0.dev2+g{commit}"
    git(checkout, "tag", "v0.3.0")
    assert version(checkout) == "0.3.0"


def test_version_of_a_shallow_clone_names_its_commit(checkout: Path) -> None:
    clone = checkout.parent / "clone"
    git(checkout.parent, "clone", "--quiet", "--depth", "1", checkout.as_uri(), str(clone))
    assert version(clone) == f"0.1.0.dev1+g{git(checkout, 'rev-parse', '--short=9', 'HEAD')}"


def test_version_of_an_archive(checkout: Path) -> None:
    def unpacked(name: str) -> Path:
        tree = checkout.parent / name
        tree.mkdir()
        git(checkout, "archive", "--output", str(tree / "a.tar"), "HEAD")
        shutil.unpack_archive(tree / "a.tar", tree)
        return tree

    assert version(unpacked("between")) == "0.1.0.dev0"  # no tag: nothing to count from
    git(checkout, "tag", "v0.3.0")
    assert version(unpacked("tagged")) == "0.3.0"


@pytest.mark.parametrize(
    ("information", "expected"), [("0.2.0.dev7+gabc", "0.2.0.dev7+gabc"), (None, "0.1.0.dev0")]
)
def test_version_without_git(tmp_path: Path, information: str | None, expected: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if information:
        (tmp_path / "PKG-INFO").write_text(
            f"Metadata-Version: 2.2\nName: synbench-fast\nVersion: {information}\n"
        )
    assert version(tmp_path) == expected


def test_version_where_setuptools_scm_is_missing(tmp_path: Path) -> None:
    """What benchmarks/device.py asks for; the module is hidden from the build backend."""
    pytest.importorskip("scikit_build_core")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    code = """
import sys
sys.modules["setuptools_scm"] = None
from scikit_build_core.build import prepare_metadata_for_build_wheel
print(prepare_metadata_for_build_wheel("."))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "SYNBENCH_FALLBACK_VERSION": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "synbench_fast-0.1.0.dev0.dist-info"


def test_version_is_the_installed_one() -> None:
    try:
        expected = metadata.version("synbench-fast")
    except metadata.PackageNotFoundError:
        expected = "unknown"
    assert synbench_fast.__version__ == expected
    assert environment.describe().versions.get("synbench-fast", "unknown") == expected


def test_changelog_begins_with_the_version_that_is_next() -> None:
    fallback = PROJECT["tool"]["setuptools_scm"]["fallback_version"]
    first = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert first and f"{first[1]}.dev0" == fallback


# What a user with a strict checker writes; every public name is touched, most of them loaded at first use.
USER = """
from typing import assert_type

import torch

import synbench_fast as sb


class Encoder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def measure() -> float:
    result = sb.score(Encoder(), preset="quick", input_shape=(3, 8, 8))
    assert_type(result, sb.Result)
    assert_type(result.curve[0].accuracy, float)
    return result.score(eps=0.2, threshold=0.7).score


def compare(paths: list[str]) -> float:
    try:
        comparison: sb.Comparison = sb.compare(*(sb.Result.load(path) for path in paths))
        return comparison.differences[0].difference
    except sb.SynbenchError as error:
        raise SystemExit(str(error)) from None


def suite(name: str) -> sb.SuiteResult:
    suite: sb.Suite = sb.load_suite(name)
    return sb.score_suite("builtin:conv", tasks=suite, config=sb.ScoreConfig(preset="quick"))


names: list[str] = sb.list_encoders()
version: str = sb.__version__
others = (sb.CurvePoint, sb.MulticlassResult, sb.studies.EpsStar, sb.GaussianTask, sb.studies.InheritanceReport, sb.Probe, sb.studies.LinearProbeReport, sb.studies.Sensitivity, sb.TaskDefinition, sb.FamilyDefinition)
reports = (sb.studies.ValidityReport, sb.minimax.TaskRobustLoss, sb.report.frame)
functions = (sb.auc_ratio, sb.studies.find_eps_star, sb.evaluate_features, sb.studies.inherit, sb.load_encoder, sb.studies.robust_linear_probe)
more = (sb.studies.measure_sensitivity, sb.studies.validate, sb.structure_score)
metrics = (sb.studies.InputMetricsReport, sb.studies.measure_inputs)
published = (sb.studies.PublishedReport, sb.studies.read_measurements, sb.studies.validate_published)
"""
MISTAKES = """
import synbench_fast as sb

sb.score("builtin:conv", config=sb.ScoreConfig(preset=3))
sb.score("builtin:conv").nothing
sb.no_such_name
"""


@pytest.mark.slow
def test_users_files_are_checked_strictly(tmp_path: Path) -> None:
    """In an environment that has the package as a wheel leaves it: files and py.typed, found by the interpreter."""
    pytest.importorskip("mypy")
    place = tmp_path / "environment"
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    package = Path(synbench_fast.__file__).parent
    shutil.copytree(package, packages / "synbench_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def check(code: str) -> list[str]:
        (tmp_path / "user.py").write_text(code, encoding="utf-8")
        (tmp_path / "mypy.ini").write_text("[mypy]\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "mypy", "--strict", "--python-executable", str(place / "bin" / "python"),
            "--cache-dir", str(tmp_path / "cache"), "user.py",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert check(USER) == ["Success: no issues found in 1 source file"]
    used = set(re.findall(r"\bsb\.(\w+)", USER))
    assert used == set(synbench_fast.__all__)
    found = "\n".join(check(MISTAKES))
    assert 'Argument "preset" to "ScoreConfig" has incompatible type "int"' in found
    assert '"Result" has no attribute "nothing"' in found
    assert 'Module has no attribute "no_such_name"' in found
