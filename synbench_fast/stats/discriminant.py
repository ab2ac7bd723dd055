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
    "class_centred",
    "counted",
    "in_deviations",
    "left_out_distances",
    "worst_pair",
]

RIDGE = 0.3
ROUNDING = 1e-6  # of a float32 feature: one that varies less beside its size is taken for constant
ROUNDING_64 = 2e-15  # of a float64 one


@dataclass(frozen=True)
class LeftOut:
    """Distances of left-out samples.

    Attributes:
        distances: float64 [G, N, K] for every ridge; the smallest is the class.
        means: float64 [G, K, R] class means times P^(1/2), in the R directions that vary within the classes.
        samples: float64 [G, N, R] the samples in the same coordinates.
        labels: int64 [N].
        gap: the largest distance of two class means outside of these directions, in the units of the features.
    """

    distances: Tensor
    means: Tensor
    samples: Tensor
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

    The standard error takes the classes as given and the samples as independent. Its square is

        sum_k p_k (1 - p_k) / (n_k - 1) / K^2 + max(0, `trained_variance`)

    with each p_k at least half a sample away from 0 and 1.
    """
    found = left_out_distances(in_deviations(x), labels, [ridge])
    share, pairs = counted(found)
    count = torch.bincount(found.labels).cpu().numpy()
    safe = share.clip(0.5 / count, 1 - 0.5 / count)
    variance = float((safe * (1 - safe) / (count - 1)).sum()) / len(count) ** 2
    variance += max(0.0, trained_variance(found))
    return ClassAccuracy(float(share.mean()), math.sqrt(variance), share, pairs, len(x))


def trained_variance(found: LeftOut) -> float:
    """What the samples add to the variance of the mean accuracy by training the classifiers of others; first ridge.

    Sample j moves the margin M_i of sample i, the least distance to another class c less that to its own class y, by

        J_ij = 2 (x_i - m_y)'P e_j [j in y] / n_y - 2 (x_i - m_c)'P e_j [j in c] / n_c
               - (((x_i - m_c)'P e_j)^2 - ((x_i - m_y)'P e_j)^2) / nu

    and with it the accuracy by t_j = sum_i w_i J_ij, w_i the density of M_i at 0 by a normal kernel over n_i K. With
    o_j = (right_j - p_y) / (n_j K), all of them less the mean of their class, the variance is

        sum_j [2 o_j t_j + t_j^2 - sum_i (w_i J_ij)^2 - sum_i w_i J_ij w_j J_ji].

    The third term takes off the noise of t_j, so that only pairs of samples count that j moves both. The last one takes off
    what 2 o_j t_j has twice: o_j holds w_j J_ji, too. The sum may be negative. Takes memory for a few matrices [N, N].
    """
    labels, distance, centres = found.labels, found.distances[0], found.means[0]
    count = torch.bincount(labels)
    each, classes, n = count[labels].double(), len(count), len(labels)
    own = distance.gather(1, labels[:, None])[:, 0]
    nearest, other = distance.scatter(1, labels[:, None], torch.inf).min(1)
    width = _kernel_width(nearest - own)
    if not width > 0 or centres.shape[1] == 0:
        return 0.0
    density = torch.exp(-((nearest - own) / width).square() / 2) / (width * math.sqrt(2 * math.pi))
    weight = (density / (each * classes))[:, None]
    right = found.right[0]
    own_part = class_centred(right[:, None], labels, count)[:, 0] / (each * classes)
    e = found.samples[0] - centres[labels]
    product, to_mean = found.samples[0] @ e.T, centres @ e.T
    near, far = product - to_mean[labels], product - to_mean[other]
    moved = (near.square() - far.square()) / (n - classes)
    moved += 2 * (near * (labels[:, None] == labels) - far * (other[:, None] == labels)) / each
    moved = weight * moved.fill_diagonal_(0.0)
    moved = class_centred(moved.T, labels, count).T
    t = moved.sum(0)
    part = 2 * own_part * t + t.square() - moved.square().sum(0) - (moved * moved.T).sum(0)
    return float((part * each / (each - 1)).sum())


def _kernel_width(values: Tensor) -> float:
    """Width of a normal kernel for the density of values [N] (Silverman 1986), from the smaller of two deviations."""
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    between = float(high - low) / 1.349
    deviation = float(values.std())
    narrow = min(between, deviation) if between > 0 else deviation
    return 1.06 * narrow * math.pow(len(values), -0.2)


def class_centred(values: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """[N, M] less the mean of their class."""
    sums = values.new_zeros(len(count), values.shape[1]).index_add_(0, labels, values)
    return values - (sums / count[:, None])[labels]


def in_deviations(x: Tensor) -> Tensor:
    """Features [N, F'] in float64, each divided by its deviation over all samples, without those that are constant."""
    rounding = ROUNDING_64 if x.dtype == torch.float64 else ROUNDING
    x = _finite(x.double())
    x = x / x.abs().amax(0).clamp_min(
        torch.finfo(x.dtype).tiny
    )  # squares of any size would overflow or vanish
    deviation = x.std(0)
    live = deviation > rounding * x.abs().amax(0)
    return x[:, live] / deviation[live]


def counted(found: LeftOut) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`by_class` [K] and `pairs` [K, K] of `ClassAccuracy` from the left-out distances of the first ridge."""
    right, labels, distance = found.right[0].cpu(), found.labels.cpu(), found.distances[0].cpu()
    count = torch.bincount(labels)
    share = torch.zeros(len(count), dtype=torch.float64).index_add_(0, labels, right) / count
    own = distance.gather(1, labels[:, None])
    nearer = (own < distance).double() + 0.5 * (own == distance).double()
    pairs = (
        torch.zeros(len(count), len(count), dtype=torch.float64).index_add_(0, labels, nearer)
        / count[:, None]
    )
    pairs.fill_diagonal_(math.nan)
    return share.numpy(), pairs.numpy()


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
        return LeftOut(zero, none, none.new_zeros(len(ridges), n, 0), labels, _largest_gap(means, none[0]))
    variances, basis = _spectrum(centred, n - classes)
    # Coordinates along the directions that vary; what is left of a vector has P = 1 / ridge.
    samples, middles = x @ basis, means @ basis
    rest = (_squared(x, means) - _squared(samples, middles)).clamp_min(0)
    own = count[labels].double()
    share = own / ((own - 1) * (n - classes))
    here = torch.arange(n, device=x.device)
    left, whitened_means, turned_samples = [], [], []
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
        whitened_means.append(centres)
        turned_samples.append(turned)
    distances, whitened, coordinates = (torch.stack(one) for one in (left, whitened_means, turned_samples))
    return LeftOut(distances, whitened, coordinates, labels, _largest_gap(means, middles))


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
