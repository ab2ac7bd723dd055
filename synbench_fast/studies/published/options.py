"""What a comparison with published accuracies is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.studies.base import Study, at_least, option
from synbench_fast.studies.validity.correlation import COEFFICIENTS
from synbench_fast.tasks.suites import Suite

__all__ = ["Published"]


def _metrics(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else ()
    if not found or not all(isinstance(one, str) and one for one in found):
        raise SynbenchError(f"{name}: expected names of metrics such as top1, got {value!r}")
    return found


def _coefficient(name: str, value: Any) -> str:
    if value not in COEFFICIENTS:
        raise SynbenchError(
            f"{name}: expected one of {', '.join(COEFFICIENTS)}, got {value!r}{suggest(str(value), COEFFICIENTS)}"
        )
    return str(value)


@dataclass(frozen=True, kw_only=True)
class Published(Study):
    """Options of `validate_published`.

    Attributes:
        tasks: a suite, see `load_suite`, for encoders that are scored now.
        metrics: those of the tables; None for the ordinary accuracy (top1, acc1, lp_acc1), of a plain table for all.
        coefficient: "spearman", "pearson" or "kendall".
        resamples: bootstrap resamples of the encoders, for the intervals.
    """

    verb: ClassVar[str] = "validate"
    reads: ClassVar[tuple[str, ...] | None] = (
        "eps", "thresholds", "estimator", "preset", "scales", "samples", "structure", "label_free", "seed", "device", "input_shape",
        "mean", "std", "pool", "random_init", "trust_remote_code", "threads",
    )  # fmt: skip
    defaults: ClassVar[dict[str, Any]] = {
        "thresholds": (0.6, 0.7, 0.8, 0.9),
        "preset": "quick",
        "structure": True,
    }

    tasks: str | Suite = "published"
    metrics: tuple[str, ...] | None = option(None, _metrics)
    coefficient: str = option("spearman", _coefficient)
    resamples: int = option(2000, at_least(100))
