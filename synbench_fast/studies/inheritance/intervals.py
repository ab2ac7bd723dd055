"""Means over training seeds with Student's t intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from synbench_fast.results.codec import nan_field

__all__ = ["Mean", "mean_over_seeds", "t_quantile"]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean over seeds and the ends of its 95 % interval, NaN for a single seed; all NaN without one."""

    value: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()
    by_seed: list[float]


def _central(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's t (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, freedom - 1, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        return 2 / math.pi * (angle + sine * total)
    term, total = 1.0, 0.0
    for k in range(0, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    return sine * total


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """t with P(|T| < t) = level for Student's t with `freedom` >= 1 degrees of freedom."""
    low, high = 0.0, 20.0
    while _central(high, freedom) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """mean +- t s / sqrt(n) with s the sample standard deviation over the n seeds; NaN without a seed."""
    if not values:
        return Mean(value=math.nan, ci95_low=math.nan, ci95_high=math.nan, by_seed=[])
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Mean(value=mean, ci95_low=math.nan, ci95_high=math.nan, by_seed=list(values))
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Mean(value=mean, ci95_low=mean - half, ci95_high=mean + half, by_seed=list(values))
