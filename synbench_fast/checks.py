"""Checks of the arguments that several entry points share: a value that is right, or one line that says why not."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from synbench_fast import plugins
from synbench_fast.errors import SynbenchError, suggest

__all__ = [
    "ESTIMATORS",
    "THRESHOLDS",
    "as_numbers",
    "check_eps",
    "check_estimator",
    "check_integer",
    "check_seed",
    "check_thresholds",
    "plugin_estimator",
]

THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)  # the paper's

ESTIMATORS = ("consistent", "counted", "paper")


def check_estimator(estimator: str) -> str:
    """`estimator` if there is one of that name, of this package or of another (see `plugins`)."""
    if estimator in ESTIMATORS or plugin_estimator(estimator) is not None:
        return estimator
    known = [*ESTIMATORS, *plugins.names("estimators")]
    raise SynbenchError(
        f"estimator: expected one of {known}, got {estimator!r}{suggest(str(estimator), known)}"
    )


def plugin_estimator(name: str) -> plugins.Estimator | None:
    """The estimator of another package of this name; None for those of this package and where there is none."""
    if name in ESTIMATORS:
        return None
    found: plugins.Estimator | None = plugins.load(
        "estimators", name, lambda value: isinstance(value, plugins.Estimator), "a plugins.Estimator"
    )
    return found


def as_numbers(values: ArrayLike, name: str) -> tuple[float, ...]:
    """One number or several, also of NumPy or Torch, as floats; SynbenchError names the argument."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim > 1:
        raise SynbenchError(f"{name}: expected a number or a sequence of numbers, got {values!r}")
    return tuple(array.reshape(-1).tolist())


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


def check_integer(name: str, value: int, low: int, expected: str, high: float = math.inf) -> int:
    """`value`, also a NumPy integer, as int; SynbenchError unless low <= value < high."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= value < high:
        raise SynbenchError(f"{name}: expected {expected}, got {value!r}")
    return int(value)


def check_seed(seed: int) -> int:
    return check_integer("seed", seed, 0, "an integer in [0, 2^64)", 2**64)


def check_thresholds(thresholds: Sequence[float] | float | None) -> tuple[float, ...]:
    """Threshold accuracies as floats, the paper's by default; SynbenchError outside [0, 1)."""
    values = THRESHOLDS if thresholds is None else as_numbers(thresholds, "thresholds")
    if not values:
        raise SynbenchError("thresholds: expected at least one value in [0, 1), got none")
    for value in values:
        if not 0 <= value < 1:
            raise SynbenchError(f"thresholds: expected accuracies in [0, 1), got {value:g}")
    return values
