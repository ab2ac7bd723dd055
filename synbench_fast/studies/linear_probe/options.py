"""What a linear probe is asked for: how it is trained, and how it is attacked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from synbench_fast.checks import as_numbers, check_integer
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.base import Study, at_least, between, option

__all__ = ["LIBRARY", "STANDARDISE", "Attacks", "LinearProbe", "budgets"]

STANDARDISE = ("common", "feature")
LIBRARY = "adversarial-robustness-toolbox"


def budgets(name: str, values: Sequence[float] | float) -> tuple[float, ...]:
    found = as_numbers(values, name)
    for one in found:
        if not (0 <= one < math.inf):
            raise SynbenchError(f"{name}: expected finite budgets of at least 0, got {one:g}")
    return found


def _standardise(name: str, value: Any) -> str:
    if value not in STANDARDISE:
        raise SynbenchError(
            f"{name}: expected one of {list(STANDARDISE)}, got {value!r}{suggest(str(value), STANDARDISE)}"
        )
    return str(value)


def _shots(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    found = (value,) if isinstance(value, int) else tuple(value)
    return tuple(check_integer(name, one, 1, "at least 1") for one in found)


@dataclass(frozen=True, kw_only=True)
class Attacks(Study):
    """Options of every study that trains linear probes and attacks them through the encoder.

    Attributes:
        l2, linf: budgets of the attacks on inputs in [0, 1], before the encoder's normalisation.
        attack: False trains the probes and attacks nothing.
        steps: of AutoPGD, for each of the `wrong_classes` likeliest wrong classes.
        regularisation: C of |W|^2 / (2 C N) beside the mean loss.
        test_fraction: of every class, held out by the seed.
    """

    l2: tuple[float, ...] = option((0.5,), budgets)
    linf: tuple[float, ...] = option((8 / 255,), budgets)
    attack: bool = True
    steps: int = option(50, at_least(1))
    wrong_classes: int = option(9, at_least(1))
    regularisation: float = option(1.0, between(math.inf))
    test_fraction: float = option(0.25, between(1))

    def require_library(self) -> None:
        """SynbenchError if attacks are asked for and their library is missing."""
        if self.attack:
            optional("art", LIBRARY, "attack")

    @property
    def batch_size(self) -> int:
        """Inputs per forward pass: 128 where that is left to the study."""
        given = self.config.batch_size
        return 128 if isinstance(given, str) else given


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Attacks):
    """Options of `robust_linear_probe`.

    Attributes:
        standardise: "common" divides centred features by one number, so that the ball of the attack stays a ball;
            "feature" each by its own deviation.
        samples: at most that many are used, drawn by the seed; default all.
        shots: also train ordinary probes on that many samples of each class, `repeats` times.
        calibration: also measure the calibration error of the ordinary probe.
        foreign: other data, as `data`, which the features are asked to tell from the test part.
        corruptions: also measure the ordinary probe on test images under common corruptions.
    """

    verb: ClassVar[str] = "linear-probe"
    reads: ClassVar[tuple[str, ...] | None] = (
        "eps", "seed", "batch_size", "device", "input_shape", "mean", "std", "pool", "checkpoint", "random_init",
        "trust_remote_code", "threads",
    )  # fmt: skip
    defaults: ClassVar[dict[str, Any]] = {"batch_size": 128}

    standardise: str = option("common", _standardise)
    samples: int | None = option(None, at_least(1, none=True))
    shots: tuple[int, ...] | None = option(None, _shots)
    repeats: int = option(10, at_least(2))
    calibration: bool = False
    foreign: str | Path | tuple[Any, Any] | None = None
    corruptions: bool = False
