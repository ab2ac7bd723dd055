"""How many more samples each scale needs until every interval is as narrow as asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["further_samples"]

Array = NDArray[np.float64]

GRANULE = 64  # samples are asked for in multiples of this
GROWTH = (
    4.0  # a round at most multiplies a scale's samples by this: what they are planned from is an estimate
)
MARGIN = 0.97  # of the variance that is aimed at, so that fewer rounds end just above it
ROUNDS = 400


def further_samples(variance: Array, samples: Array, lost: Array, target: float, most: int) -> list[int]:
    """Samples to add at each scale, in one block, so that every variance sums up to at most `target`.

    A scale's share v falls as its effective number of samples grows, N less `lost` per block; the sum of the new
    samples is the smallest that reaches the target: n ~ sqrt(sum_q lambda_q v_q n_before) with a multiplier
    lambda_q >= 0 for each variance q.

    Args:
        variance: [S, Q] what each scale adds to the variance of each of Q scores; all finite.
        samples: [S] samples so far.
        lost: [S] of each block to the estimation of the classifier.
        target: of the variances.
        most: samples per scale that are not exceeded.

    Returns:
        S numbers; all 0 if the target is reached, or `most` is by every scale that matters.
    """
    total = variance.sum(0)
    if not (total > target).any():
        return [0] * len(samples)
    before = np.maximum(samples - lost, 1.0)
    wanted = _smallest(variance * before[:, None], before, MARGIN * target)
    further = []
    for n, now, effective, less in zip(wanted, samples, before, lost, strict=True):
        if n <= effective * 1.0001 or now >= most:
            further.append(0)
            continue
        least = max(2 * less, GRANULE)  # a block of about as many samples as features would be lost to itself
        count = max(least, min(n - effective + less, (GROWTH - 1) * now))
        rounded = int(np.ceil(count / GRANULE)) * GRANULE
        further.append(max(0, min(rounded, most - int(now))))
    return [n if n >= 2 * less else 0 for n, less in zip(further, lost, strict=True)]


def _smallest(per_sample: Array, least: Array, target: float) -> Array:
    """n [S] >= `least` of the smallest sum for which sum_s per_sample[s, q] / n[s] <= target for every q [Q]."""
    multiplier = np.ones(per_sample.shape[1])
    n = least
    for _ in range(ROUNDS):
        n = np.maximum(least, np.sqrt(per_sample @ multiplier))
        reached = (per_sample / n[:, None]).sum(0) / target
        if reached.max() <= 1.0 and (multiplier * (1 - reached)).max() <= 1e-3 * multiplier.max():
            break
        multiplier = multiplier * np.clip(reached, 0.25, 4.0)
    # What is left is made up for by a common factor.
    return np.asarray(n * max(1.0, float((per_sample / n[:, None]).sum(0).max() / target)))
