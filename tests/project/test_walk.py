"""CONTRIBUTING.md: the functions of its walk are there and called, and packages import only from the floors below theirs."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any

import synbench_fast as sb

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = Path(sb.__file__).parent
# The walk says that another estimator calls it.
OF_ANOTHER_ESTIMATOR = "leave_one_out"


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_functions_of_the_walk_are_called() -> None:
    steps = re.findall(r"`([\w/]+)\.py: ([\w.]+)`", section("One batch, function by function"))
    assert len(steps) > 15
    codes = {}
    for path, name in steps:
        module = importlib.import_module(f"synbench_fast.{path.replace('/', '.')}")
        codes[name] = reduce(getattr, name.split("."), module).__code__
    called = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        result = sb.score("builtin:conv", estimator="paper", scales=2, samples=64, input_shape=(3, 8, 8))
        result.file_name()
    finally:
        sys.setprofile(before)
    missed = {name for name, code in codes.items() if code not in called}
    assert missed == {OF_ANOTHER_ESTIMATOR}


def imported(file: Path) -> set[str]:
    """Names directly below synbench_fast that a file imports, anywhere in it, but for a type checker alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If):
            node.body = [] if ast.unparse(node.test) == "TYPE_CHECKING" else node.body
    found = set()
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"synbench_fast.{one.name}" for one in node.names]
                if node.module == "synbench_fast"
                else [node.module]
            )
        found |= {one.split(".")[1] for one in names if one.startswith("synbench_fast.")}
    return found


def test_packages_import_downwards() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section("Layout"), re.M)
    floor = {
        name.removesuffix(".py").strip("/"): number
        for number, row in enumerate(rows)
        for name in re.findall(r"`synbench_fast/([\w./]+)`", row)
    }
    there = {one.stem for one in PACKAGE.iterdir() if one.suffix == ".py" or (one / "__init__.py").exists()}
    assert set(floor) == there - {"__init__", "__main__"}
    wrong = {
        (name, other)
        for name, number in floor.items()
        for file in (
            [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else (PACKAGE / name).rglob("*.py")
        )
        for other in imported(file)
        if floor.get(other, -1) > number
    }
    assert wrong == set()
