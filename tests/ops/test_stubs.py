"""The stubs of the compiled modules say what the modules say of themselves."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import types
from pathlib import Path

import numpy as np
import pytest

import synbench_fast
from synbench_fast import _core

ROOT = Path(__file__).parents[2]
# How versions of pybind11 write the types of arguments that they convert, and the stubs' names for the same.
SPELLINGS = [
    (r"typing\.Annotated\[(.+), \"FixedSize\(\d+\)\"\]", r"\1"),
    (r"(typing\.)?SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"(typing\.)?SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r"(collections\.abc\.|typing\.)?Sequence", "Sequence"),
    (r"(numpy\.typing\.)?NDArray\[(numpy|np)\.(\w+)\]", r"numpy.ndarray[\3]"),
    (r"numpy\.ndarray\[numpy\.(\w+)\]", r"numpy.ndarray[\1]"),
    (r"(typing\.)?Optional\[(.+)\]", r"\2 | None"),
    (r"\b_Array\b", "numpy.ndarray"),
    (r"\b(_RobustSums|_SweepTotals)\b", "dict"),
    (r"\b[Ll]ist\[", "list["),
]  # fmt: skip


def stub(name: str) -> ast.Module:
    return ast.parse((Path(synbench_fast.__file__).parent / f"{name}.pyi").read_text(encoding="utf-8"))


def functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {one.name: one for one in module.body if isinstance(one, ast.FunctionDef)}


def plain(annotation: ast.expr | None) -> str:
    """A type in one spelling."""
    text = "None" if annotation is None else ast.unparse(annotation).replace("'", '"')
    for pattern, replacement in SPELLINGS:
        text = re.sub(pattern, replacement, text)
    return text


def signature(function: ast.FunctionDef) -> tuple[list[tuple[str, str, str, str]], str]:
    """(kind, name, type, default) of every argument, and the type of the result."""
    arguments = function.args
    positional = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    rows = [("positional", *pair) for pair in zip(arguments.args, positional, strict=True)]
    rows += [("keyword", *pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found = [
        (kind, one.arg, plain(one.annotation), "" if default is None else ast.unparse(default))
        for kind, one, default in rows
    ]
    return found, plain(function.returns)


def described(function: object) -> ast.FunctionDef:
    """What a docstring of pybind11 begins with."""
    (line,) = (function.__doc__ or "").strip().splitlines()
    (parsed,) = functions(ast.parse(f"def {line}: ...")).values()
    return parsed


def public(module: types.ModuleType) -> set[str]:
    return {name for name in dir(module) if not name.startswith("_")}


def test_the_core_has_the_names_of_its_stub() -> None:
    assert public(_core) == set(functions(stub("_core")))


@pytest.mark.parametrize("name", sorted(public(_core)))
def test_the_core_has_the_signatures_of_its_stub(name: str) -> None:
    assert signature(described(getattr(_core, name))) == signature(functions(stub("_core"))[name])


def test_what_the_core_returns_has_the_fields_of_its_stub() -> None:
    classes = {one.name: one.body for one in stub("_core").body if isinstance(one, ast.ClassDef)}
    ones, eps = np.ones(3), np.zeros(1)
    results = {
        "_RobustSums": _core.robust_solve(ones, np.eye(3), eps, True, 9.0, 0.0, 0.0, True, 1),
        "_SweepTotals": _core.score_sweep(
            np.ones((2, 3)), np.ones(2, np.uint8), np.ones((1, 3)), ones, eps, eps, 0.0, 1, 1
        ),
    }
    assert set(classes) == set(results)
    for name, found in results.items():
        fields = [one for one in classes[name] if isinstance(one, ast.AnnAssign)]
        kinds = {
            key: f"numpy.ndarray[{value.dtype}]" if isinstance(value, np.ndarray) else type(value).__name__
            for key, value in found.items()  # type: ignore[attr-defined]
        }
        assert {ast.unparse(one.target): plain(one.annotation) for one in fields} == kinds


def test_the_stub_of_the_kernels_is_what_their_source_defines() -> None:
    """Where nvcc has not built the module, its source tells."""
    text = (ROOT / "src" / "cuda.cpp").read_text(encoding="utf-8")
    module = stub("_cuda")
    assert set(re.findall(r'module\.def\(\s*"(\w+)"', text)) == set(functions(module))
    assert re.findall(r'module\.attr\("(\w+)"\)', text) == [
        ast.unparse(one.target) for one in module.body if isinstance(one, ast.AnnAssign)
    ]
    arguments = [one.arg for one in functions(module)["launch"].args.args]
    assert re.findall(r'"(\w+)"_a', text) == arguments
    if importlib.util.find_spec("synbench_fast._cuda") is not None:
        built = importlib.import_module("synbench_fast._cuda")
        assert public(built) == {*functions(module), "architectures"}
