"""The optimiser and schedule of fine-tuning: the published benchmark's, unless told otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from synbench_fast.checks import check_integer
from synbench_fast.errors import SynbenchError

__all__ = ["Training", "steps_of"]


@dataclass(frozen=True)
class Training:
    """How every method trains; the defaults are the published benchmark's.

    Args:
        epochs: over the data set that is fine-tuned on.
        batch_size: of a step.
        lr: learning rate of SGD after the warm-up.
        momentum: of SGD.
        weight_decay: of SGD, towards 0.
        warmup: steps of a linear warm-up, at most a tenth of all steps; then a cosine to 0.
        mixed_precision: bfloat16 where autocast puts it, on a GPU; no effect on a CPU. Without it products of float32
            are not rounded to TF32 either.
    """

    epochs: int = 10
    batch_size: int = 256
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: int = 196
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup", 0)):
            check_integer(name, getattr(self, name), least, f"an integer of at least {least}")
        for name, low, high in (
            ("lr", 0.0, math.inf),
            ("momentum", -1e-300, 1.0),
            ("weight_decay", -1e-300, math.inf),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low < value < high:
                expected = (
                    "above 0" if name == "lr" else "in [0, 1)" if name == "momentum" else "of at least 0"
                )
                raise SynbenchError(f"{name}: expected a number {expected}, got {value!r}")


def steps_of(training: Training, samples: int) -> int:
    """Optimiser steps of a whole fine-tuning on that many samples; the last batch of an epoch may be smaller."""
    return training.epochs * -(-samples // training.batch_size)
