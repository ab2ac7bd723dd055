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
    "class_sums",
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
        means: float64 [G, K, R] class means in coordinates in which P is the identity: of the R directions that vary
            within the classes, or for a single ridge above 0 of all.
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
    # A sum is finite only if every value is, and takes less time to find.
    if not (bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())):
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
    member = torch.nn.functional.one_hot(labels, classes).double()
    e = found.samples[0] - centres[labels]
    near = e @ e.T  # (x_i - m_y)'P e_j
    apart = (member - torch.nn.functional.one_hot(other, classes)) @ (centres @ e.T)  # (m_y - m_c)'P e_j
    far = near + apart  # (x_i - m_c)'P e_j
    moved = apart.mul_(near + far).div_(
        classes - n
    )  # near^2 - far^2 is a product; what follows works in place
    share = 2 * member.T / count[:, None]
    moved.addcmul_(near, share[labels]).addcmul_(far, share[other], value=-1)
    moved.mul_(weight).fill_diagonal_(0.0)
    moved.addmm_(moved @ (member / count), member.T, alpha=-1)  # less the mean over j of a class
    t = moved.sum(0)
    once, twice = (torch.mul(moved, one, out=far).sum(0) for one in (moved, moved.T))
    part = 2 * own_part * t + t.square() - once - twice
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
    return values - (class_sums(values, labels, len(count)) / count[:, None])[labels]


def class_sums(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[K, M] sums of values [N, M] over the samples of each class."""
    if values.is_cuda:  # where index_add_ adds in an order that changes from run to run
        return torch.nn.functional.one_hot(labels, classes).to(values).T @ values
    return values.new_zeros(classes, values.shape[1]).index_add_(0, labels, values)


def in_deviations(x: Tensor) -> Tensor:
    """Features [N, F'] in float64, each divided by its deviation over all samples, without those that are constant."""
    rounding = ROUNDING_64 if x.dtype == torch.float64 else ROUNDING
    low, high = _finite(x).aminmax(dim=0)
    # In units of the largest value: squares of any size would overflow or vanish.
    x = x.double() / torch.maximum(high.double(), -low.double()).clamp_min(torch.finfo(torch.float64).tiny)
    deviation = x.std(0)
    live = deviation > rounding
    return x / deviation if bool(live.all()) else x[:, live] / deviation[live]


def counted(found: LeftOut) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`by_class` [K] and `pairs` [K, K] of `ClassAccuracy` from the left-out distances of the first ridge."""
    right, labels, distance = found.right[0], found.labels, found.distances[0]
    count = torch.bincount(labels)[:, None]
    own = distance.gather(1, labels[:, None])
    nearer = (own < distance).double() + 0.5 * (own == distance).double()
    share = class_sums(right[:, None], labels, len(count)) / count
    pairs = class_sums(nearer, labels, len(count)) / count
    pairs.fill_diagonal_(math.nan)
    return share[:, 0].cpu().numpy(), pairs.cpu().numpy()


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
    means = _class_means(x, labels, count)
    centred = x - means[labels]
    scale = centred.square().sum() / (n - classes) / x.shape[1]  # tr(S)/F
    if not float(scale) > 0:
        zero = _squared(x, means)[None].expand(len(ridges), -1, -1)
        none = means.new_zeros(len(ridges), classes, 0)
        return LeftOut(zero, none, none.new_zeros(len(ridges), n, 0), labels, _largest_gap(means, none[0]))
    if len(ridges) == 1 and ridges[0] > 0:
        whitened, gap = [_by_cholesky(x, labels, count, float(ridges[0] * scale))], 0.0
    else:
        whitened, gap = _by_spectrum(x, means, centred, [one * scale for one in ridges])
    distances = torch.stack([_left_out(*one, labels, count) for one in whitened])
    samples, middles = torch.stack([one[0] for one in whitened]), torch.stack([one[1] for one in whitened])
    return LeftOut(distances, middles, samples, labels, gap)


def _left_out(turned: Tensor, centres: Tensor, rest: Tensor | float, labels: Tensor, count: Tensor) -> Tensor:
    """Left-out distances [N, K] from samples and class means in coordinates in which P is the identity.

    `rest` is what a squared distance has outside of these coordinates.
    """
    own = count[labels].double()
    share = own / ((own - 1) * (len(labels) - len(count)))
    e = turned - centres[labels]
    leverage = e.square().sum(1)  # e'Pe: e has no part outside of the coordinates
    cross = (turned * e).sum(1)[:, None] - e @ centres.T
    down = (1 - share * leverage).clamp_min(1e-12)
    out = _squared(turned, centres) + rest + (share / down)[:, None] * cross.square()
    out[torch.arange(len(labels), device=out.device), labels] = (own / (own - 1)).square() * leverage / down
    return out


def _by_cholesky(
    x: Tensor, labels: Tensor, count: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Arguments of `_left_out` for one ridge above 0 in the units of S: L^-1 x, where S + ridge I = L L'.

    It takes a small part of the time of the spectrum. With more features than samples x is turned into as many
    coordinates as there are samples first, which changes no inner product.
    """
    x = x - x.mean(0)  # so that an offset common to all samples costs no digits
    if x.shape[1] > len(x):
        x = torch.linalg.qr(x.T, mode="r").R.T
    means = _class_means(x, labels, count)
    centred = x - means[labels]
    covariance = centred.T @ centred / (len(x) - len(means))
    covariance.diagonal().add_(ridge)
    lower = torch.linalg.cholesky(covariance)
    both = torch.linalg.solve_triangular(lower, torch.cat([x, means]).T, upper=False).T
    return both[: len(x)], both[len(x) :], 0.0


def _by_spectrum(
    x: Tensor, means: Tensor, centred: Tensor, ridges: Sequence[Tensor]
) -> tuple[list[tuple[Tensor, Tensor, Tensor | float]], float]:
    """Arguments of `_left_out` for several ridges in the units of S, and `LeftOut.gap`."""
    variances, basis = _spectrum(centred, len(x) - len(means))
    # Coordinates along the directions that vary; what is left of a vector has P = 1 / ridge.
    samples, middles = x @ basis, means @ basis
    rest = (_squared(x, means) - _squared(samples, middles)).clamp_min(0)
    found: list[tuple[Tensor, Tensor, Tensor | float]] = []
    for ridge in ridges:
        root = (1 / (variances + ridge)).sqrt()
        found.append((samples * root, middles * root, rest / ridge if float(ridge) > 0 else 0.0))
    return found, _largest_gap(means, middles)


def _class_means(x: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """[K, F] from samples [N, F]."""
    return torch.nn.functional.one_hot(labels, len(count)).double().T @ x / count[:, None]


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
