"""Checks of the arguments that several entry points share: a value that is right, or one line that says why not."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synbench_fast import plugins
from synbench_fast.arguments import ESTIMATORS, most_at_once
from synbench_fast.errors import SynbenchError, suggest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "ESTIMATORS",
    "POOLS",
    "THRESHOLDS",
    "as_float",
    "as_numbers",
    "check_eps",
    "check_estimator",
    "check_integer",
    "check_plain",
    "check_pool",
    "check_seed",
    "check_shape",
    "check_threads",
    "check_thresholds",
    "plugin_estimator",
]

POOLS = ("default", "avg", "max", "cls", "flatten")
THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)  # the paper's


def check_estimator(estimator: str) -> str:
    """`estimator` if there is one of that name, of this package or of another (see `plugins`)."""
    if estimator in ESTIMATORS or plugin_estimator(estimator) is not None:
        return estimator
    known = [*ESTIMATORS, *plugins.names("estimators")]
    raise SynbenchError(
        f"estimator: expected one of {known}, got {estimator!r}{suggest(str(estimator), known)}"
    )


def plugin_estimator(name: str) -> Any:
    """The `stats.estimators.Estimator` of another package; None for those of this package and where there is none."""
    if name in ESTIMATORS:
        return None

    def accepts(value: Any) -> bool:
        return (
            not isinstance(value, type) and hasattr(value, "enqueue") and getattr(value, "name", None) == name
        )

    return plugins.load("estimators", name, accepts, f"an instance of Estimator whose name is {name!r}")


def as_numbers(values: ArrayLike, name: str) -> tuple[float, ...]:
    """One number or several, also of NumPy or Torch, as floats; SynbenchError names the argument."""
    import numpy as np  # not at the top: the command line checks its values without it

    plain: Any = check_plain(values, name)
    try:
        if hasattr(plain, "detach"):
            tensor = plain.detach().cpu()
            plain = tensor.tolist() if tensor.ndim < 2 else tensor.numpy()  # NumPy has no bfloat16
        given = plain if isinstance(plain, list | tuple) else [plain]
        if any(
            one is None or one is np.ma.masked or isinstance(one, bool | np.bool_ | str | bytes)
            for one in given
        ):
            raise TypeError  # which NumPy makes numbers of
        array = np.asarray(plain)
        if array.dtype.kind not in "iufO" or array.ndim > 1:
            raise TypeError
        return tuple(
            (array.astype(np.float64).reshape(-1) + 0.0).tolist()
        )  # -0.0, which prints as -0, is 0.0
    except (TypeError, ValueError, RuntimeError, OverflowError):
        shown = repr(plain)
        got = shown if len(shown) <= 80 else f"{type(plain).__name__} {shown[:60]}..."
        raise SynbenchError(f"{name}: expected a number or a sequence of numbers, got {got}") from None


def as_float(value: Any) -> float:
    """Infinite where an integer or a fraction is too large for a float, which whoever checks the number refuses."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_plain(value: Any, name: str) -> Any:
    """`value`; SynbenchError for an array or tensor whose numbers are not all there, or not plain real numbers.

    Such are masked entries, complex numbers, and tensors that are sparse, nested, quantised, without values ("meta")
    or of 8-bit floats, which other code would read as something else or not at all. The mask of an array without
    masked entries is left out.
    """
    import numpy as np

    got = ""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        got = _unlike_plain(torch, value)
    elif isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        got = f"a masked array with {masked} masked entries" if masked else ""
        value = value.data
    if not got and isinstance(value, np.ndarray | np.generic | complex) and np.iscomplexobj(value):
        got = f"an array of {np.asarray(value).dtype}"
    if got:
        raise SynbenchError(f"{name}: expected dense real numbers, got {got}")
    return value


def _unlike_plain(torch: Any, value: Any) -> str:
    """What a tensor is that has no values of its own, or none that all code reads alike; "" for all others."""
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a tensor of layout {str(value.layout).removeprefix('torch.')}"
    if value.is_quantized:
        return "a quantised tensor"
    if value.device.type == "meta":
        return "a tensor of device meta, which has no values"
    if value.is_complex() or (value.is_floating_point() and value.element_size() < 2):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return ""


def check_shape(value: Any, name: str = "input_shape") -> tuple[int, ...]:
    """The shape of one input as a tuple; SynbenchError unless it is positive integers."""
    try:
        sizes = tuple(value)
    except TypeError:
        sizes = ()
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**63 for n in sizes):
        raise SynbenchError(f"{name}: expected positive integers such as (3, 224, 224), got {value!r}")
    return sizes


def check_pool(value: Any, name: str = "pool") -> str:
    """The pooling's name; SynbenchError with the nearest one."""
    if value not in POOLS:
        raise SynbenchError(
            f"{name}: expected one of {', '.join(POOLS)}, got {value!r}{suggest(str(value), POOLS)}"
        )
    return str(value)


def check_eps(eps: Sequence[float] | float) -> tuple[float, ...]:
    """The budgets as floats; SynbenchError unless there is one and all are in [0, 1)."""
    values = as_numbers(eps, "eps")
    if not values:
        raise SynbenchError("eps: expected at least one value in [0, 1), got none")
    for value in values:
        if not 0 <= value < 1:
            raise SynbenchError(
                f"eps: expected values in [0, 1), relative to the half-distance of the classes, got {value:g}"
            )
    return values


def check_integer(name: str, value: Any, low: int, expected: str, high: float = math.inf) -> int:
    """`value`, also a NumPy integer, as int; SynbenchError unless low <= value < high."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) < high:
        raise SynbenchError(f"{name}: expected {expected}, got {value!r}")
    return int(value)


def check_seed(seed: int) -> int:
    return check_integer("seed", seed, 0, "an integer in [0, 2^64)", 2**64)


def check_threads(threads: int | None) -> int | None:
    """CPU threads as int, None for the default; SynbenchError for none, or for more than a machine has use for."""
    if threads is None:
        return None
    most = most_at_once()
    return check_integer("threads", threads, 1, f"an integer from 1 to {most}", most + 1)


def check_thresholds(thresholds: Sequence[float] | float | None) -> tuple[float, ...]:
    """Threshold accuracies as floats, the paper's by default; SynbenchError outside [0, 1)."""
    values = THRESHOLDS if thresholds is None else as_numbers(thresholds, "thresholds")
    if not values:
        raise SynbenchError("thresholds: expected at least one value in [0, 1), got none")
    for value in values:
        if not 0 <= value < 1:
            raise SynbenchError(f"thresholds: expected accuracies in [0, 1), got {value:g}")
    return values
