"""What else an ordinary linear probe or frozen features are asked for: few labels, calibration, foreign inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.inheritance.intervals import t_quantile
from synbench_fast.studies.linear_probe.report import Z95, Measure
from synbench_fast.studies.linear_probe.solver import fit

__all__ = ["Parts", "auroc", "calibration", "few_shot", "knn_distance", "mahalanobis"]

_BINS = 15
_RESAMPLES = 1000
_NEIGHBOURS = 10


@dataclass(frozen=True)
class Parts:
    """Standardised features, float64 [N, F] and [M, F], and classes of the training and of the test part."""

    train: Tensor
    train_y: Tensor
    test: Tensor
    test_y: Tensor
    classes: int


def few_shot(parts: Parts, shots: int, *, repeats: int, regularisation: float, seed: int) -> Measure:
    """Accuracy of the ordinary probe trained on `shots` samples of each class, mean over draws of them.

    The variance of the mean is that over the R draws, divided by R, plus that over the M test samples of their share of
    right answers, divided by M; the interval is 95 % by Student's t with R - 1 degrees of freedom.

    Raises:
        SynbenchError: a class with fewer training samples.
    """
    counts = torch.bincount(parts.train_y, minlength=parts.classes)
    if int(counts.min()) < shots:
        raise SynbenchError(
            f"shots: expected at most {int(counts.min())}, the training samples of the smallest class, got {shots}"
        )
    random = np.random.default_rng([seed, shots])
    of_class = [np.flatnonzero((parts.train_y == k).numpy()) for k in range(parts.classes)]
    right = []
    for _ in range(repeats):
        rows = torch.from_numpy(np.concatenate([random.permutation(one)[:shots] for one in of_class]))
        made = fit(
            parts.train[rows], parts.train_y[rows], parts.classes, radius=0.0, regularisation=regularisation
        )
        right.append((made.logits(parts.test).argmax(1) == parts.test_y).double())
    table = torch.stack(right)  # [R, M]
    draws, samples = table.mean(1), table.mean(0)
    variance = float(draws.var()) / repeats + float(samples.var()) / len(samples)
    half = t_quantile(repeats - 1) * math.sqrt(variance)
    value = float(draws.mean())
    return Measure(value=value, ci95_low=max(0.0, value - half), ci95_high=min(1.0, value + half))


def calibration(probabilities: Tensor, y: Tensor, *, seed: int) -> tuple[float, Measure]:
    """Expected calibration error of the likeliest class, as it is and less its bias, with a 95 % interval.

    With 15 bins of equal width of the confidence c, of n_b samples with accuracy a_b,

        ECE = sum_b n_b / n |a_b - c_b|.

    A perfectly calibrated probe has an ECE above 0, because a_b varies. The bias is the mean of the ECE over
    a_b ~ N(a_b, a_b (1 - a_b) / n_b), a folded normal in each bin, less the ECE; the value less its bias is at least 0.
    The interval is the basic bootstrap of 1 000 resamples. It begins at 0 also where the ECE is below the 95 % quantile
    of 1 000 draws of right answers with the probabilities c, because the bootstrap misses 0 too often.

    Args:
        probabilities: [M, K]; y: classes, int64 [M].

    Source: ECE (Guo et al., ICML 2017); bias (Kumar, Liang and Ma, NeurIPS 2019, arXiv 1909.10155); draws (Broecker and
    Smith, Weather and Forecasting 22, 2007, 651).
    """
    confidence, answer = probabilities.double().max(1)
    c, right = confidence.numpy(), (answer == y).double().numpy()
    place = np.clip(np.ceil(c * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    plain, debiased = _errors(place, c, right)
    random = np.random.default_rng([seed, 1])
    made = []
    for _ in range(_RESAMPLES):
        rows = random.integers(0, len(c), len(c))
        made.append(_errors(place[rows], c[rows], right[rows])[1])
    low, high = np.quantile(np.array(made) - plain, [0.025, 0.975])
    drawn = [_errors(place, c, (random.random(len(c)) < c).astype(np.float64))[0] for _ in range(_RESAMPLES)]
    value = max(0.0, debiased)
    bounds = min(value, max(0.0, debiased - float(high))), max(value, debiased - float(low))
    low = 0.0 if plain <= np.quantile(drawn, 0.95) else bounds[0]
    return plain, Measure(value=value, ci95_low=float(low), ci95_high=min(1.0, bounds[1]))


def _errors(place: NDArray[Any], c: NDArray[Any], right: NDArray[Any]) -> tuple[float, float]:
    """The ECE, and the ECE less its bias."""
    count = np.bincount(place, minlength=_BINS)
    used = count > 0
    n = count[used]
    accuracy = np.bincount(place, right, _BINS)[used] / n
    gap = accuracy - np.bincount(place, c, _BINS)[used] / n
    spread = np.sqrt(accuracy * (1 - accuracy) / n)
    folded = np.abs(gap)
    varies = spread > 0
    s, g = spread[varies], gap[varies]
    erf = np.array([math.erf(one) for one in g / (s * math.sqrt(2))])
    folded[varies] = s * math.sqrt(2 / math.pi) * np.exp(-(g**2) / (2 * s**2)) + g * erf
    share = n / len(c)
    plain = float(share @ np.abs(gap))
    return plain, 2 * plain - float(share @ folded)


def mahalanobis(parts: Parts, z: Tensor) -> Tensor:
    """Smallest squared Mahalanobis distance of z [n, F] to a class mean, with the covariance within the classes.

    The covariance is shrunk by a thousandth towards a multiple of the identity, so that few samples are enough.

    Source: Lee et al., NeurIPS 2018, arXiv 1807.03888.
    """
    means = torch.stack([parts.train[parts.train_y == k].mean(0) for k in range(parts.classes)])
    apart = parts.train - means[parts.train_y]
    covariance = apart.T @ apart / len(apart)
    level = 1e-3 * covariance.trace() / len(covariance)
    if not float(level) > 0:
        raise SynbenchError("features: expected some that vary within the classes, got constants")
    values, vectors = torch.linalg.eigh(
        0.999 * covariance + level * torch.eye(len(covariance), dtype=z.dtype)
    )
    white = vectors / values.sqrt()
    return torch.cdist(z @ white, means @ white).square().amin(1)


def knn_distance(parts: Parts, z: Tensor) -> Tensor:
    """Distance of z [n, F] to its 10th nearest training sample, both divided by their norms.

    Source: Sun et al., ICML 2022, arXiv 2204.06507.
    """
    train, other = (one / one.norm(dim=1, keepdim=True).clamp_min(1e-12) for one in (parts.train, z))
    nearest = min(_NEIGHBOURS, len(train))
    return torch.cat(
        [torch.cdist(one, train).kthvalue(nearest, 1).values for one in torch.split(other, 1024)]
    )


def auroc(inside: Tensor, outside: Tensor) -> Measure:
    """Probability that a foreign sample scores above one of the data's own, ties half, with a 95 % interval.

    The variance is that of DeLong, from the shares of the other side that each sample is above, and the interval is
    symmetric in the logarithm of the odds. Where all samples are on their side the interval is that of one pair
    in min(m, n) on the wrong one (the rule of three).

    Args:
        inside: scores [m] of the data's own samples; outside: scores [n] of foreign ones.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988, 837.
    """
    own, foreign = inside.double().sort().values, outside.double().sort().values

    def above(x: Tensor, other: Tensor) -> Tensor:
        """Share of `other`, sorted, that each x is above."""
        both = torch.searchsorted(other, x, right=True) + torch.searchsorted(other, x)
        return both.double() / (2 * len(other))

    of_foreign, of_own = above(foreign, own), 1 - above(own, foreign)
    value = float(of_foreign.mean())
    variance = float(of_foreign.var() / len(foreign) + of_own.var() / len(own))
    if variance == 0:
        margin = 3.0 / min(len(own), len(foreign))
        return Measure(value=value, ci95_low=max(0.0, value - margin), ci95_high=min(1.0, value + margin))
    odds, error = math.log(value / (1 - value)), math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(odds + side * Z95 * error))) for side in (-1, 1))
    return Measure(value=value, ci95_low=low, ci95_high=high)
