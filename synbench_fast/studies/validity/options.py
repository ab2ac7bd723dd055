"""What a validation is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from synbench_fast.checks import as_numbers
from synbench_fast.errors import SynbenchError
from synbench_fast.studies.base import at_least, option
from synbench_fast.studies.linear_probe.options import Attacks, budgets
from synbench_fast.tasks.suites import Suite

__all__ = ["Validity"]


def _factor(name: str, value: Any) -> float:
    found = as_numbers(value, name)[0]
    if not 0 < found < math.inf:
        raise SynbenchError(f"{name}: expected a finite number above 0, got {value!r}")
    return found


@dataclass(frozen=True, kw_only=True)
class Validity(Attacks):
    """Options of `validate`; the linear probes' are those of `robust_linear_probe`, with weaker attacks.

    Attributes:
        tasks: a suite, see `load_suite`.
        data_samples: at most that many samples of each data set are used.
        neighbours: k of the nearest-neighbour baseline.
        zoo_epochs: factor on the epochs of the zoo's encoders.
        resamples: bootstrap resamples of the encoders, for the intervals.
        splits: random halves of the encoders, for choosing on one and testing on the other.
    """

    verb: ClassVar[str] = "validate"
    reads: ClassVar[tuple[str, ...] | None] = (
        "eps", "thresholds", "estimator", "preset", "scales", "samples", "structure", "seed", "batch_size", "device",
        "input_shape", "mean", "std", "pool", "random_init", "trust_remote_code", "threads",
    )  # fmt: skip
    defaults: ClassVar[dict[str, Any]] = {
        "thresholds": (0.6, 0.7, 0.8, 0.9),
        "preset": "quick",
        "structure": True,
        "batch_size": 128,
    }

    tasks: str | Suite = "full"
    l2: tuple[float, ...] = option((0.25,), budgets)
    steps: int = option(10, at_least(1))
    wrong_classes: int = option(3, at_least(1))
    data_samples: int | None = option(None, at_least(1, none=True))
    neighbours: int = option(5, at_least(1))
    zoo_epochs: float = option(1.0, _factor)
    resamples: int = option(2000, at_least(100))
    splits: int = option(200, at_least(1))
