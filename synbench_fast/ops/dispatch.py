"""Which backends an operation has, what each needs, and which one runs: the only such table.

Backend B of operation NAME is the function `NAME_B`, in the module `NAME_B` if there is one, else in `NAME`; those of the
renderers are in `renderers_B`. All backends
of an operation take the same checked arguments and return the same type, which its module states once:

    _backends = Operation[[Tensor, Tensor, int], Tensor]("name")
    ...
    return _backends.on(x.device.type, backend)(x, y, 3)
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

from synbench_fast.errors import SynbenchError

__all__ = [
    "BACKENDS",
    "OPERATIONS",
    "RENDERERS",
    "SCORING",
    "Backend",
    "Operation",
    "available",
    "implementation",
    "importable",
    "resolve",
]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Backend:
    """What one backend needs.

    Attributes:
        devices: torch device types that it serves; None for any.
        requires: modules of which one must be there.
        install: what brings them.
        only_when_asked: device types on which "auto" does not take it.
        dtypes: names of the torch dtypes that it serves, where the operation serves more; None for all.
        enqueues: whether it returns before the device has done the work.
    """

    devices: tuple[str, ...] | None = None
    requires: tuple[str, ...] = ()
    install: str = ""
    only_when_asked: tuple[str, ...] = ()
    dtypes: tuple[str, ...] | None = None
    enqueues: bool = False

    def serves(self, device: str, dtype: str | None = None) -> bool:
        """Whether it can run here, on tensors of this device type and dtype (None: whatever they are)."""
        return (
            (self.devices is None or device in self.devices)
            and (self.dtypes is None or dtype is None or dtype in self.dtypes)
            and (not self.requires or any(map(importable, self.requires)))
        )


BACKENDS = {
    "cpp": Backend(("cpu",), ("synbench_fast._core",)),
    "cuda": Backend(("cuda",), ("synbench_fast._cuda", "cupy"), "synbench-fast[cuda]", enqueues=True),
    "triton": Backend(("cuda",), ("triton",), "triton", enqueues=True),
    # What torch hands to the libraries of its device.
    "blas": Backend(),
    "fft": Backend(),
    # The specification of what draws images, on the CPU alone.
    "numpy": Backend(("cpu",)),
    # The float64 specification, which on a GPU would cost more than the encoder: nobody gets it there unasked.
    "torch": Backend(only_when_asked=("cuda",)),
}


def _row(*backends: str) -> dict[str, Backend]:
    return {name: BACKENDS[name] for name in backends}


# What a score computes, where the features are.
SCORING = (
    "sample_mixture", "filter_spectrum", "feature_stats", "robust_solve", "leave_one_out", "score_sweep", "score_auc"
)  # fmt: skip
# Of the task families: the numbers of samples, which NumPy computes with, and the images, where they are wanted.
NUMBERS, IMAGES = ("random_words", "normals_of_words"), ("fields", "roll", "view", "paint")
RENDERERS = (*NUMBERS, *IMAGES)

# Order is preference: backend="auto" takes the first one that serves the device.
OPERATIONS: dict[str, dict[str, Backend]] = {
    "sample_mixture": _row("cpp", "triton", "torch"),
    "filter_spectrum": _row("cpp", "fft", "torch"),
    "feature_stats": _row("blas", "torch"),
    "robust_solve": _row("cpp", "cuda", "torch"),
    "leave_one_out": _row("blas", "torch"),
    "score_sweep": _row("cpp", "cuda", "torch"),
    "score_auc": _row("cpp", "cuda", "torch"),
    "nuclear_norm": _row("cpp", "blas", "torch"),
    **{one: _row("cpp", "numpy") for one in NUMBERS},
    **{one: _row("cpp", "cuda", "numpy") for one in IMAGES},
}
OPERATIONS["filter_spectrum"]["cpp"] = replace(BACKENDS["cpp"], dtypes=("float32",))


@cache
def importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def available(operation: str, device: str, dtype: str | None = None) -> list[str]:
    """Backends of `operation` that serve torch device type `device` here, best first."""
    return [name for name, one in OPERATIONS[operation].items() if one.serves(device, dtype)]


def resolve(operation: str, device: str, backend: str = "auto", dtype: str | None = None) -> str:
    """The backend that runs `operation` on torch device type `device`.

    An explicit backend never falls back: it is returned, or SynbenchError names what is available. "auto"
    never takes the float64 specification on a GPU; where the kernels are missing, the error says what brings
    them.
    """
    if backend != "auto":  # looked at alone: the families ask a thousand times for a score
        asked = OPERATIONS[operation].get(backend)
        if asked is not None and asked.serves(device, dtype):
            return backend
    usable = available(operation, device, dtype)
    if backend == "auto":
        chosen = [name for name in usable if device not in OPERATIONS[operation][name].only_when_asked]
        if chosen:
            return chosen[0]
        missing = next((one for one in OPERATIONS[operation].values() if one.devices == (device,)), None)
        if missing is None:
            raise SynbenchError(f"device: expected one that has {operation}, got '{device}'")
        slow = ", or ask for the slow float64 specification with backend='torch'" if "torch" in usable else ""
        raise SynbenchError(
            f"backend: expected {' or '.join(missing.requires)} for {operation} on device '{device}', got none; "
            f"pip install '{missing.install}'{slow}"
        )
    raise SynbenchError(
        f"backend: expected 'auto' or one of {usable} for {operation} on device '{device}', got {backend!r}"
    )


@cache
def implementation(operation: str, backend: str) -> Callable[..., Any]:
    """The function behind (operation, backend), imported at first use."""
    name = f"{operation}_{backend}"
    own = f"synbench_fast.ops.{f'renderers_{backend}' if operation in RENDERERS else name}"
    home = own if importlib.util.find_spec(own) is not None else f"synbench_fast.ops.{operation}"
    function: Callable[..., Any] = getattr(importlib.import_module(home), name)
    return function


class Operation(Generic[P, R]):
    """The row of one operation in OPERATIONS, with the arguments and the result that all of its backends share."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on(self, device: str, backend: str = "auto", dtype: str | None = None) -> Callable[P, R]:
        """The function of the backend that `resolve` names."""
        return implementation(self.name, resolve(self.name, device, backend, dtype))
