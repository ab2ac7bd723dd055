"""The dispatch table: what "auto" takes where, and what an absent backend says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from checks import refused

import synbench_fast as sb
from synbench_fast import _core
from synbench_fast.ops import dispatch


@pytest.fixture
def without(monkeypatch):
    """Pretend that some modules are not installed."""

    def hide(*modules: str) -> None:
        found = dispatch.importable.__wrapped__
        monkeypatch.setattr(dispatch, "importable", lambda name: name not in modules and found(name))

    return hide


@pytest.mark.parametrize("operation", dispatch.OPERATIONS)
def test_all_backends_of_an_operation_are_called_alike(operation):
    """What is checked once goes to any of them: the same arguments, of the same types, and the same result."""
    calls = {}
    for backend in dispatch.OPERATIONS[operation]:
        if backend == "triton":
            pytest.importorskip("triton")
        function = dispatch.implementation(operation, backend)
        hints = get_type_hints(function)
        required = [
            one.name for one in inspect.signature(function).parameters.values() if one.default is one.empty
        ]
        calls[backend] = [(name, hints[name]) for name in [*required, "return"]]
    first, *others = calls.values()
    assert all(other == first for other in others), calls


def test_every_compiled_operation_is_in_the_table():
    """All that the core does to arrays, but for the function that tests look into the generator with."""
    functions = {name for name in dir(_core) if not name.startswith(("_", "simd_level"))}
    compiled = {operation for operation, row in dispatch.OPERATIONS.items() if "cpp" in row}
    assert functions - {"philox4x32"} == compiled


def test_only_the_table_names_backends_functions():
    """A caller goes through the table: nobody imports a backend's function, or the compiled core, around it."""
    backends = "|".join(
        f"{operation}_{backend}" for operation, row in dispatch.OPERATIONS.items() for backend in row
    )
    pattern = re.compile(rf"^\s*(?:from|import) .*\b(?:{backends}|_core)\b", re.M)
    package = Path(dispatch.__file__).parents[1]
    found = {
        path.relative_to(package).as_posix(): pattern.findall(path.read_text(encoding="utf-8"))
        for path in package.rglob("*.py")
        if path.parent.name
        not in ("ops", "_benchmarks")  # the benchmarks, which a wheel holds, time single backends
    }
    assert {path for path, lines in found.items() if lines} == {
        "engine/environment.py",  # the instruction set
    }


@pytest.mark.parametrize("operation", dispatch.OPERATIONS)
def test_auto_takes_the_compiled_core_on_a_cpu(operation):
    products = operation in ("feature_stats", "leave_one_out")  # of matrices, by the BLAS of any device
    assert dispatch.resolve(operation, "cpu") == ("blas" if products else "cpp")


@pytest.mark.parametrize("operation", [one for one in dispatch.OPERATIONS if one not in dispatch.RENDERERS])
def test_auto_takes_the_libraries_of_other_devices_or_the_specification(operation):
    library = {
        "feature_stats": "blas",
        "leave_one_out": "blas",
        "nuclear_norm": "blas",
        "filter_spectrum": "fft",
    }
    assert dispatch.resolve(operation, "mps") == library.get(operation, "torch")


def test_a_backend_may_serve_some_dtypes_only():
    assert dispatch.available("filter_spectrum", "cpu", "float64") == ["fft", "torch"]
    assert dispatch.available("filter_spectrum", "cpu", "float32") == ["cpp", "fft", "torch"]


def test_auto_takes_the_kernels_on_a_gpu(monkeypatch):
    monkeypatch.setattr(dispatch, "importable", lambda name: True)
    chosen = {
        operation: dispatch.resolve(operation, "cuda") for operation in (*dispatch.SCORING, "nuclear_norm")
    }
    assert chosen == {
        "sample_mixture": "triton",
        "filter_spectrum": "fft",
        "feature_stats": "blas",
        "robust_solve": "cuda",
        "leave_one_out": "blas",
        "score_sweep": "cuda",
        "score_auc": "cuda",
        "nuclear_norm": "blas",
    }


@pytest.mark.parametrize("operation", dispatch.IMAGES)
def test_images_are_drawn_on_a_cpu_and_on_a_gpu_with_kernels(monkeypatch, operation):
    monkeypatch.setattr(dispatch, "importable", lambda name: name != "cupy")
    assert dispatch.resolve(operation, "cuda") == "cuda"
    with refused(f"device: expected one that has {operation}, got 'mps'"):
        dispatch.resolve(operation, "mps")
    monkeypatch.setattr(dispatch, "importable", lambda name: False)
    with refused("pip install 'synbench-fast[cuda]'"):
        dispatch.resolve(operation, "cuda")


def test_the_specification_runs_on_a_gpu_only_when_asked(without):
    without("synbench_fast._cuda", "cupy", "triton")
    with refused(
        "synbench_fast._cuda or cupy for robust_solve", "'cuda'", "pip install 'synbench-fast[cuda]'"
    ):
        dispatch.resolve("robust_solve", "cuda")
    with refused("triton for sample_mixture", "pip install 'triton'", "backend='torch'"):
        dispatch.resolve("sample_mixture", "cuda")
    assert dispatch.resolve("robust_solve", "cuda", "torch") == "torch"


@pytest.mark.parametrize("there", ["synbench_fast._cuda", "cupy"])
def test_one_way_to_get_the_kernels_is_enough(monkeypatch, there):
    monkeypatch.setattr(dispatch, "importable", lambda name: name == there)
    assert dispatch.resolve("score_sweep", "cuda") == "cuda"


def test_a_run_without_the_compiled_core_says_so(without):
    options = {"input_shape": (1, 4, 4), "scales": 5, "samples": 64}
    assert sb.score("builtin:linear?dim=4", **options).warnings == []
    without("synbench_fast._core")
    (warning,) = sb.score("builtin:linear?dim=4", **options).warnings
    assert warning.startswith("core: expected the compiled operations, got none in ")
    assert sb.score("builtin:linear?dim=4", backend="torch", **options).warnings == []


def test_an_explicit_backend_never_falls_back(without):
    with refused("backend: expected 'auto' or one of ['cpp', 'torch']", "'cuda'"):
        dispatch.resolve("robust_solve", "cpu", "cuda")
    without("synbench_fast._core")
    with refused("one of ['torch']", "got 'cpp'"):
        dispatch.resolve("score_auc", "cpu", "cpp")
