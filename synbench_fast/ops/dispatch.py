"""Which backend implements which operation, and for which devices: the only such table."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from synbench_fast.errors import SynbenchError

__all__ = ["OPERATIONS", "Implementation", "available", "implementation", "importable", "resolve"]


@dataclass(frozen=True, slots=True)
class Implementation:
    """One backend of one operation."""

    function: str  # "package.module:name"
    devices: tuple[str, ...] | None  # torch device types; None: any
    requires: tuple[
        str, ...
    ] = ()  # modules of which one is enough; without any of them the backend is absent
    install: str = ""  # what brings them
    only_when_asked: tuple[str, ...] = ()  # device types on which "auto" does not take it


_CORE = ("synbench_fast._core",)
_KERNELS = ("synbench_fast._cuda", "cupy")
# On a GPU the float64 specification would cost more than the encoder: nobody gets it unasked.
_SPECIFICATION = ("cuda",)


def _operation(name: str, gpu: dict[str, Implementation]) -> dict[str, Implementation]:
    module = f"synbench_fast.ops.{name}"
    return {
        "cpp": Implementation(f"{module}:_cpp", ("cpu",), _CORE),
        **gpu,
        "torch": Implementation(f"{module}:_torch", None, only_when_asked=_SPECIFICATION),
    }


def _cuda(function: str) -> dict[str, Implementation]:
    return {
        "cuda": Implementation(f"synbench_fast.ops.{function}", ("cuda",), _KERNELS, "synbench-fast[cuda]")
    }


# Order is preference: backend="auto" takes the first one that serves the device and is available.
OPERATIONS: dict[str, dict[str, Implementation]] = {
    "sample_mixture": _operation(
        "sample_mixture",
        {
            "triton": Implementation(
                "synbench_fast.ops.sample_mixture_triton:sample_mixture", ("cuda",), ("triton",), "triton"
            )
        },
    ),
    "feature_stats": {
        "blas": Implementation("synbench_fast.ops.feature_stats:_blas", None),
        "torch": Implementation("synbench_fast.ops.feature_stats:_torch", None),
    },
    "robust_solve": _operation("robust_solve", _cuda("robust_solve:_cuda")),
    "leave_one_out": {
        "blas": Implementation("synbench_fast.ops.leave_one_out:_blas", None),
        "torch": Implementation("synbench_fast.ops.leave_one_out:_torch", None),
    },
    "score_sweep": _operation("score_sweep", _cuda("score_sweep_cuda:score_sweep")),
    "score_auc": _operation("score_auc", _cuda("score_auc_cuda:score_auc")),
}


@cache
def importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def available(operation: str, device: str) -> list[str]:
    """Backends of `operation` that serve torch device type `device` here, best first."""
    return [
        name
        for name, one in OPERATIONS[operation].items()
        if (one.devices is None or device in one.devices)
        and (not one.requires or any(importable(module) for module in one.requires))
    ]


def resolve(operation: str, device: str, backend: str = "auto") -> str:
    """The backend that runs `operation` on torch device type `device`.

    An explicit backend never falls back: it is returned, or SynbenchError names what is available. "auto"
    never takes the float64 specification on a GPU; where the kernels are missing, the error says what brings
    them.
    """
    usable = available(operation, device)
    if backend == "auto":
        chosen = [name for name in usable if device not in OPERATIONS[operation][name].only_when_asked]
        if chosen:
            return chosen[0]
        missing = next(one for one in OPERATIONS[operation].values() if one.devices == (device,))
        raise SynbenchError(
            f"backend: expected {' or '.join(missing.requires)} for {operation} on device '{device}', got none; "
            f"pip install '{missing.install}', or ask for the slow float64 specification with backend='torch'"
        )
    if backend not in usable:
        raise SynbenchError(
            f"backend: expected 'auto' or one of {usable} for {operation} on device '{device}', got {backend!r}"
        )
    return backend


@cache
def implementation(operation: str, backend: str) -> Callable[..., Any]:
    """The function behind (operation, backend); all backends of one operation share one signature."""
    module, name = OPERATIONS[operation][backend].function.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
