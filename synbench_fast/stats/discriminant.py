"""K classes from one set of features: a regularised linear discriminant, and its accuracy on samples that it left out.

Features are divided by their deviations. With class means m_k, the pooled covariance
S = (1/nu) sum_i (x_i - m_k)(x_i - m_k)', nu = N - K, and a ridge g tr(S)/F,

    P = (S + g tr(S)/F I)^-1,    d_k(x) = (x - m_k)' P (x - m_k),    class of x = argmin_k d_k(x)

Left out of its class's mean and of the covariance, sample i of class k with n_k samples has the distances below, exactly
for the same ridge (Sherman and Morrison), where e = x_i - m_k and c = n_k / ((n_k - 1) nu):

    d_k = (n_k / (n_k - 1))^2 e'Pe / (1 - c e'Pe)
    d_j = (x_i - m_j)' P (x_i - m_j) + c ((x_i - m_j)' P e)^2 / (1 - c e'Pe)    for j != k

The ridge makes the classifier independent of how N compares with F, and its accuracy that of a classifier trained on
n_k samples per class: it grows with n_k and estimates nothing beyond them. Without a ridge the classifier is defined on
the directions that vary within the classes; `multiclass` estimates from it what more samples would reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError

__all__ = [
    "RIDGE",
    "ClassAccuracy",
    "LeftOut",
    "class_accuracy",
    "counted",
    "in_deviations",
    "left_out_distances",
    "worst_pair",
]

RIDGE = 0.3
ROUNDING = 1e-6  # of a float32 feature: one that varies less beside its size is taken for constant


@dataclass(frozen=True)
class LeftOut:
    """Distances of left-out samples.

    Attributes:
        distances: float64 [G, N, K] for every ridge; the smallest is the class.
        means: float64 [G, K, R] class means times P^(1/2), in the R directions that vary within the classes.
        labels: int64 [N].
        gap: the largest distance of two class means outside of these directions, in the units of the features.
    """

    distances: Tensor
    means: Tensor
    labels: Tensor
    gap: float

    @property
    def right(self) -> Tensor:
        """float64 [G, N]: 1 where the nearest class is the sample's own, its share where several are as near."""
        nearest = self.distances == self.distances.min(-1, keepdim=True).values
        own = nearest.gather(-1, self.labels[None, :, None].expand(len(nearest), -1, 1))[..., 0]
        return own.double() / nearest.sum(-1)


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of the discriminant on left-out samples of K classes.

    Attributes:
        accuracy, stderr: mean over the classes of the share of samples that are nearest to their own class, and its
            standard error for these classes.
        by_class: float64 [K] the share for each class.
        pairs: float64 [K, K], in row i and column j the share of samples of class i that are nearer to i than to j; NaN on
            the diagonal. The covariance is that of all classes.
        count: N.
        chance: 1 / K.
    """

    accuracy: float
    stderr: float
    by_class: NDArray[np.float64]
    pairs: NDArray[np.float64]
    count: int

    @property
    def chance(self) -> float:
        return 1 / len(self.by_class)

    @property
    def skill(self) -> float:
        """(accuracy - chance) / (1 - chance): 0 for guessing, 1 for no error."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    @property
    def skill_stderr(self) -> float:
        """Standard error of `skill`."""
        return self.stderr / (1 - self.chance)

    @property
    def pair_accuracy(self) -> float:
        """Mean accuracy over the K (K - 1) / 2 pairs of classes."""
        return float(np.nanmean(self.pairs))


def worst_pair(pairs: NDArray[np.float64]) -> tuple[int, int, float]:
    """The pair of classes that is told apart worst, and its accuracy, from `ClassAccuracy.pairs` or a mean of them.

    It is the smallest of many estimates, so it lies below the accuracy of that pair on other samples.
    """
    both = (pairs + pairs.T) / 2
    i, j = np.unravel_index(int(np.nanargmin(both)), both.shape)
    return min(int(i), int(j)), max(int(i), int(j)), float(both[i, j])


def _finite(x: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise SynbenchError("features: expected finite values, got NaN or infinity")
    return x


def class_accuracy(x: Tensor, labels: Tensor, ridge: float = RIDGE) -> ClassAccuracy:
    """Left-out accuracy of K classes from features x [N, F] and labels [N], see the module; errors as there.

    The standard error takes the classes as given and the samples as independent: sqrt(sum_k p_k (1 - p_k) / (n_k - 1)) / K,
    with each p_k at least one sample away from 0 and 1.
    """
    return counted(left_out_distances(in_deviations(x), labels, [ridge]))


def in_deviations(x: Tensor) -> Tensor:
    """Features [N, F'] in float64, each divided by its deviation over all samples, without those that are constant."""
    x = _finite(x.double())
    deviation = x.std(0)
    live = deviation > ROUNDING * x.abs().amax(0)
    return x[:, live] / deviation[live]


def counted(found: LeftOut) -> ClassAccuracy:
    """What the left-out distances of the first ridge say."""
    right, labels = found.right[0].cpu(), found.labels.cpu()
    count = torch.bincount(labels)
    share = torch.zeros(len(count), dtype=torch.float64).index_add_(0, labels, right) / count
    safe = share.clamp(0.5 / count, 1 - 0.5 / count)
    variance = (safe * (1 - safe) / (count - 1)).sum() / len(count) ** 2
    distance = found.distances[0].cpu()
    own = distance.gather(1, labels[:, None])
    nearer = (own < distance).double() + 0.5 * (own == distance).double()
    pairs = (
        torch.zeros(len(count), len(count), dtype=torch.float64).index_add_(0, labels, nearer)
        / count[:, None]
    )
    pairs.fill_diagonal_(math.nan)
    return ClassAccuracy(
        float(share.mean()), float(variance.sqrt()), share.numpy(), pairs.numpy(), len(labels)
    )


def left_out_distances(x: Tensor, labels: Tensor, ridges: Sequence[float]) -> LeftOut:
    """Left-out distances of K classes for several ridges.

    Args:
        x: features [N, F], any real dtype; computed in float64.
        labels: [N], integers 0 ... K - 1, each at least twice.
        ridges: G numbers g of at least 0, in units of the mean variance of a feature within the classes. Without a
            ridge only the directions that vary within the classes count.

    Raises:
        SynbenchError: a class with fewer than 2 samples, features that are not finite, a ridge below 0.
    """
    x, labels = _finite(x.double()), labels.long()
    if any(not 0 <= one < float("inf") for one in ridges):
        raise SynbenchError(f"ridges: expected numbers of at least 0, got {list(ridges)}")
    count = torch.bincount(labels)
    if len(count) < 2 or int(count.min()) < 2:
        raise SynbenchError("labels: expected at least 2 classes with at least 2 samples each")
    n, classes = len(x), len(count)
    member = torch.nn.functional.one_hot(labels, classes).double()
    means = member.T @ x / count[:, None]
    centred = x - means[labels]
    scale = centred.square().sum() / (n - classes) / x.shape[1]  # tr(S)/F
    if not float(scale) > 0:
        zero = _squared(x, means)[None].expand(len(ridges), -1, -1)
        none = means.new_zeros(len(ridges), classes, 0)
        return LeftOut(zero, none, labels, _largest_gap(means, none[0]))
    variances, basis = _spectrum(centred, n - classes)
    # Coordinates along the directions that vary; what is left of a vector has P = 1 / ridge.
    samples, middles = x @ basis, means @ basis
    rest = (_squared(x, means) - _squared(samples, middles)).clamp_min(0)
    own = count[labels].double()
    share = own / ((own - 1) * (n - classes))
    here = torch.arange(n, device=x.device)
    left, whitened = [], []
    for ridge in ridges:
        weight = 1 / (variances + ridge * scale)
        turned, centres = samples * weight.sqrt(), middles * weight.sqrt()
        distance = _squared(turned, centres)
        if ridge > 0:
            distance = distance + rest / (ridge * scale)
        e = turned - centres[labels]
        leverage = e.square().sum(1)  # e'Pe: e has no part outside of the directions that vary
        cross = (turned * e).sum(1)[:, None] - e @ centres.T
        down = (1 - share * leverage).clamp_min(1e-12)
        out = distance + (share / down)[:, None] * cross.square()
        out[here, labels] = (own / (own - 1)).square() * leverage / down
        left.append(out)
        whitened.append(centres)
    return LeftOut(torch.stack(left), torch.stack(whitened), labels, _largest_gap(means, middles))


def _largest_gap(means: Tensor, inside: Tensor) -> float:
    """Largest distance of two means [K, F] that is not in their coordinates `inside` [K, R]."""
    means, inside = means - means.mean(0), inside - inside.mean(0)
    return float((_squared(means, means) - _squared(inside, inside)).clamp_min(0).max().sqrt())


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """[N, K] squared distances."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def _spectrum(centred: Tensor, freedom: int) -> tuple[Tensor, Tensor]:
    """Variances [R] of the pooled covariance, and their directions [F, R], from the smaller of its two products."""
    n, width = centred.shape
    if width <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred / freedom)
        kept = values > values[-1] * width * torch.finfo(torch.float64).eps
        return values[kept], vectors[:, kept]
    values, vectors = torch.linalg.eigh(centred @ centred.T / freedom)
    kept = values > values[-1] * n * torch.finfo(torch.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    return values, centred.T @ vectors / (values * freedom).sqrt()
