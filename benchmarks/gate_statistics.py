"""Is one commit slower than another? Paired times of several cases, with one bound on false alarms for all of them.

A block times both commits in the order A, B, B, A or B, A, A, B, drawn at random, and takes the shorter of each one's
two times, because what disturbs a run makes it longer. With both commits equally fast the logarithm of B's time over
A's is then symmetric about 0, whatever drifts. Hence the bounds are those of Wilcoxon's signed-rank test (exact;
Hollander and Wolfe, Nonparametric Statistical Methods, 3.3): they need no normality, and spikes move them little. With m cases each bound has level alpha / m (Bonferroni), so that with
probability 1 - alpha no case is called slower that is not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ORDERS = ("ABBA", "BAAB")


@dataclass(frozen=True)
class Verdict:
    """Time of B over that of A: the estimate, the simultaneous bounds, and whether it is above the margin."""

    case: str
    ratio: float
    low: float
    high: float
    regressed: bool


def log_ratio(order: str, seconds: Sequence[float]) -> float:
    """ln(B / A) of one block, each commit by its shorter time."""
    shorter = {arm: min(one for own, one in zip(order, seconds, strict=True) if own == arm) for arm in "AB"}
    return math.log(shorter["B"] / shorter["A"])


def needed_blocks(alpha: float, cases: int) -> int:
    """The fewest blocks with which a bound of level alpha / cases is finite: 2^-n <= alpha / cases."""
    return math.ceil(math.log2(cases / alpha))


def judge(blocks: dict[str, Sequence[float]], *, margin: float, alpha: float) -> list[Verdict]:
    """One verdict per case from its blocks' log ratios; `margin` is the ratio that is still allowed, above 1.

    Raises:
        ValueError: a case has fewer blocks than `needed_blocks`.
    """
    found = []
    for case, values in blocks.items():
        if len(values) < needed_blocks(alpha, len(blocks)):
            raise ValueError(
                f"{case}: expected at least {needed_blocks(alpha, len(blocks))} blocks, got {len(values)}"
            )
        averages = walsh(values)
        skip = critical(len(values), alpha / len(blocks))
        low, high = averages[skip - 1], averages[-skip]
        found.append(
            Verdict(
                case=case,
                ratio=math.exp(statistics.median(averages)),
                low=math.exp(low),
                high=math.exp(high),
                regressed=low > math.log(margin),
            )
        )
    return found


def walsh(values: Sequence[float]) -> list[float]:
    """The means of all pairs, each value with itself too, sorted; their median estimates the centre."""
    return sorted((values[i] + values[j]) / 2 for i in range(len(values)) for j in range(i + 1))


def critical(n: int, level: float) -> int:
    """The largest c with P(T < c) <= level for the signed-rank statistic T of n values without ties.

    The c-th smallest mean of pairs is then a lower bound of the centre at that level.
    """
    counts = [1] + [0] * (n * (n + 1) // 2)  # of the sets of ranks with each sum
    for rank in range(1, n + 1):
        for total in range(len(counts) - 1, rank - 1, -1):
            counts[total] += counts[total - rank]
    below, c = 0, 0
    while below + counts[c] <= level * 2**n:
        below += counts[c]
        c += 1
    return c
