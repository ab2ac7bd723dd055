"""Which backend implements which operation, and for which devices: the only such table."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from synbench_fast.errors import SynbenchError

__all__ = ["OPERATIONS", "Implementation", "available", "implementation", "resolve"]


@dataclass(frozen=True, slots=True)
class Implementation:
    """One backend of one operation."""

    function: str  # "package.module:name"
    devices: tuple[str, ...] | None  # torch device types; None: any
    requires: str | None = None  # module without which the backend is absent


# Order is preference: backend="auto" takes the first one that serves the device and is available.
OPERATIONS: dict[str, dict[str, Implementation]] = {
    "sample_mixture": {
        "cpp": Implementation("synbench_fast.ops.sample_mixture:_cpp", ("cpu",), "synbench_fast._core"),
        "torch": Implementation("synbench_fast.ops.sample_mixture:_torch", None),
    },
    "feature_stats": {
        "blas": Implementation("synbench_fast.ops.feature_stats:_blas", None),
        "torch": Implementation("synbench_fast.ops.feature_stats:_torch", None),
    },
    "robust_solve": {
        "cpp": Implementation("synbench_fast.ops.robust_solve:_cpp", ("cpu",), "synbench_fast._core"),
        "torch": Implementation("synbench_fast.ops.robust_solve:_torch", None),
    },
    "score_sweep": {
        "cpp": Implementation("synbench_fast.ops.score_sweep:_cpp", ("cpu",), "synbench_fast._core"),
        "torch": Implementation("synbench_fast.ops.score_sweep:_torch", None),
    },
    "score_auc": {
        "cpp": Implementation("synbench_fast.ops.score_auc:_cpp", ("cpu",), "synbench_fast._core"),
        "torch": Implementation("synbench_fast.ops.score_auc:_torch", None),
    },
}


@cache
def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def available(operation: str, device: str) -> list[str]:
    """Backends of `operation` that serve torch device type `device` here, best first."""
    return [
        name
        for name, one in OPERATIONS[operation].items()
        if (one.devices is None or device in one.devices)
        and (one.requires is None or _importable(one.requires))
    ]


def resolve(operation: str, device: str, backend: str = "auto") -> str:
    """The backend that runs `operation` on torch device type `device`.

    An explicit backend never falls back: it is returned, or SynbenchError names what is available.
    """
    usable = available(operation, device)
    if backend == "auto":
        return usable[0]
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
