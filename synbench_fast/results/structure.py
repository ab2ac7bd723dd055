"""What a result says of the structure score."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FamilyScore", "StructureScore"]


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
