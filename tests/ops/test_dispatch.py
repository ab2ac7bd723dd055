"""The dispatch table: what "auto" takes where, and what an absent backend says."""

from __future__ import annotations

import importlib

import pytest
from checks import refused

import synbench_fast as sb
from synbench_fast.ops import dispatch


@pytest.fixture
def without(monkeypatch):
    """Pretend that some modules are not installed."""

    def hide(*modules: str) -> None:
        found = dispatch.importable.__wrapped__
        monkeypatch.setattr(dispatch, "importable", lambda name: name not in modules and found(name))

    return hide


@pytest.mark.parametrize("operation", dispatch.OPERATIONS)
def test_every_implementation_exists(operation):
    for one in dispatch.OPERATIONS[operation].values():
        module, name = one.function.split(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("operation", dispatch.OPERATIONS)
def test_auto_takes_the_compiled_core_on_a_cpu_and_the_specification_elsewhere(operation):
    products = operation in ("feature_stats", "leave_one_out")  # of matrices, by the BLAS of any device
    assert dispatch.resolve(operation, "cpu") == ("blas" if products else "cpp")
    assert dispatch.resolve(operation, "mps") == ("blas" if products else "torch")


def test_auto_takes_the_kernels_on_a_gpu(monkeypatch):
    monkeypatch.setattr(dispatch, "importable", lambda name: True)
    chosen = {operation: dispatch.resolve(operation, "cuda") for operation in dispatch.OPERATIONS}
    assert chosen == {
        "sample_mixture": "triton",
        "feature_stats": "blas",
        "robust_solve": "cuda",
        "leave_one_out": "blas",
        "score_sweep": "cuda",
        "score_auc": "cuda",
    }


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
