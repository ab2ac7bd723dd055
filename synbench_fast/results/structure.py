"""What a result says of the structure score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FamilyScore", "StructureScore", "are_images"]


@dataclass(frozen=True, kw_only=True)
class FamilyScore:
    """One family: `score` is (accuracy - 1/K) / (1 - 1/K), the accuracy that of K classes on left-out images.

    pair_accuracy is the mean over all pairs of classes, worst_pair the smallest of them.
    """

    family: str
    level: float
    classes: int
    score: float
    stderr: float
    accuracy: float
    pair_accuracy: float
    worst_pair: float


@dataclass(frozen=True, kw_only=True)
class StructureScore:
    """Mean of the families' scores, with its standard error and 95 % interval, and the images that it took."""

    score: float
    stderr: float
    ci95_low: float
    ci95_high: float
    images: int
    seconds: float
    families: list[FamilyScore]

    def summary(self) -> str:
        """One line: the score, its error, and the profile over families."""
        profile = ", ".join(f"{one.family} {one.score:.2f}" for one in self.families)
        return f"structure: {self.score:.4f} ± {self.stderr:.4f} ({profile}; {self.images} images)"


def are_images(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape have a structure score: `STRUCTURE.refusal` without its import of torch."""
    sides = len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 8 and max(shape) <= 4096
    return sides and math.prod(shape) <= 2**22
