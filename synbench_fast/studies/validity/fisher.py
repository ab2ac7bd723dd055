"""Transferability scores by linear discriminants: SFDA, PED, and the terms of NCTI and ETran.

All of them have Gaussian classes with one covariance, W = sum_k pi_k C_k of the classes' shares and covariances,
shrunk towards a multiple of the identity: W_a = (1 - a) W + a tr(W)/F I. The probabilities are

    p_k(x) = softmax_k (x' W_a^-1 m_k - m_k' W_a^-1 m_k / 2 + ln pi_k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_fast.studies.validity.transferability import checked, class_means

__all__ = ["COMBINED", "combine", "etran_terms", "ncti_terms", "ped", "sfda"]

_SLOPE = 5.0  # of SFDA's and ETran's shrinkage
_LEAST = 1e-10  # shrinkage
_COMPONENTS, _LEADING = 64, 32  # principal components of NCTI, and those that decide its shrinkage
_LOWEST = 0.005  # share of the samples whose energy ETran takes
_REACH, _STEP, _STEPS, _STOP = (
    0.6,
    0.1,
    6,
    0.5,
)  # of PED: radii of the classes, time step, most steps, least motion


def _within(z: Tensor, member: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means [K, F], shares [K] and W of samples less their mean."""
    means, sizes = class_means(z, member, classes)
    apart = z - means[member]
    return means, sizes / len(z), apart.T @ apart / len(z)


def _shrunk(covariance: Tensor, shrinkage: float, floor: float = 0.0) -> Tensor:
    """(1 - a) S + a tr(S)/F I; `floor` is the least tr(S)/F."""
    width = len(covariance)
    level = max(float(covariance.trace()) / width, floor)
    return (1 - shrinkage) * covariance + shrinkage * level * torch.eye(width, dtype=covariance.dtype)


def _probabilities(z: Tensor, means: Tensor, shares: Tensor, covariance: Tensor) -> Tensor:
    """p_k(x) [N, K]; directions without variance within the classes count nothing."""
    directions = means @ torch.linalg.pinv(covariance, hermitian=True, rtol=1e-14)
    found: Tensor = (z @ directions.T - (directions * means).sum(1) / 2 + shares.log()).softmax(1)
    return found


def _own(z: Tensor, member: Tensor, classes: int, shrinkage: float | None) -> tuple[Tensor, float]:
    """Probabilities [N, K] of the discriminant, and its shrinkage, by default exp(-5 l) with l the largest eigenvalue of W."""
    means, shares, within = _within(z, member, classes)
    if shrinkage is None:
        shrinkage = max(math.exp(-_SLOPE * float(torch.linalg.eigvalsh(within)[-1])), _LEAST)
    floor = _LEAST * float(z.square().sum()) / z.numel()  # where the classes do not vary
    return _probabilities(z, means, shares, _shrunk(within, shrinkage, floor)), shrinkage


def sfda(features: Tensor, y: Tensor) -> float:
    """Mean probability of the samples' own classes under a discriminant that is fitted twice, in (0, 1].

    The first has the shrinkage a = exp(-5 l), l the largest eigenvalue of W. With q the softmax of its probabilities,
    each sample is then mixed with the mean of the other classes' means, x <- q_y x + (1 - q_y) mean_{k != y} m_k, and a
    second discriminant of the same shrinkage is fitted to these. The result depends on the unit of the features.

    Args:
        features: [N, F]; y: classes, int64 [N].

    Source: SFDA (Shao et al., ECCV 2022, arXiv 2207.03036), as in the authors' code, which leaves out the logarithm.
    """
    z, member, classes = checked(features, y)
    probabilities, shrinkage = _own(z, member, classes, None)
    mine = probabilities.softmax(1).gather(1, member[:, None])
    means, _ = class_means(z, member, classes)
    others = (means.sum(0) - means) / (classes - 1)
    mixed = mine * z + (1 - mine) * others[member]
    again, _ = _own(mixed - mixed.mean(0), member, classes, shrinkage)
    return float(again.gather(1, member[:, None]).mean())


def ped(features: Tensor, y: Tensor, reference: Tensor | None = None) -> float:
    """SFDA of features whose classes have pushed each other away (potential energy decline).

    Features are divided by the deviations of `reference` and less its mean. A class is a ball of radius
    r_k = 0.6 (sum of its variances)^(1/2). In a step of time t = 0.1 two classes that overlap,
    F = r_i + r_j - |m_i - m_j| > 0, move apart by F t^2 / 2 each, with all their samples. There are at most 6 steps, and
    the first that moves less than half as much as the first one is left out.

    Args:
        features: [N, F]; y: classes, int64 [N].
        reference: features [M, F] of other data, by default `features` themselves. The authors take ImageNet's
            validation images.

    Source: PED (Li et al., ICCV 2023, arXiv 2308.15074).
    """
    z, member, classes = checked(features, y)
    base = features.double() if reference is None else reference.double()
    scale = base.std(0, correction=0).clamp_min(1e-3)
    x = z / scale
    first = 0.0
    for _ in range(_STEPS):
        means, sizes = class_means(x, member, classes)
        squares = torch.zeros_like(means).index_add_(0, member, (x - means[member]).square())
        radius = _REACH * (squares / sizes[:, None]).sum(1).sqrt()
        apart = means[:, None] - means
        distance = apart.norm(dim=2)
        overlap = (radius[:, None] + radius - distance).clamp_min(0).fill_diagonal_(0)
        push = torch.where(distance > 0, overlap * _STEP**2 / 2 / distance.clamp_min(1e-300), 0.0)
        moved = (push[:, :, None] * apart).sum(1)
        motion = float(moved.abs().sum())
        first = first or motion
        if motion <= _STOP * first:
            break
        x = x + moved[member]
    return sfda(x * scale, y)


def ncti_terms(features: Tensor, y: Tensor) -> tuple[float, float, float]:
    """The three terms of NCTI, on at most 64 principal components Z.

    With a = exp(-v), v the variance of the first 32 components, and a = 0 where that is at most 1e-10: the nuclear norm
    of Z in the K - 1 discriminant directions, of unit variance within the classes; the mean probability of the own
    class; the logarithm of the sum over classes of the nuclear norm of their samples' probabilities.

    Args:
        features: [N, F]; y: classes, int64 [N].

    Source: NCTI (Wang et al., ICCV 2023), as in the authors' code, which has these by scikit-learn's discriminants.
    """
    z, member, classes = checked(features, y)
    axes = torch.linalg.svd(z, full_matrices=False).Vh[:_COMPONENTS]
    z = z @ axes.T
    shrinkage = math.exp(-float(z.var(0)[:_LEADING].sum()))
    means, shares, within = _within(z, member, classes)
    if shrinkage <= _LEAST:
        shrinkage = 0.0
    within = _shrunk(within, shrinkage)
    between = _shrunk(z.T @ z / len(z), shrinkage) - within
    values, vectors = torch.linalg.eigh(within)
    kept = values > 1e-12 * values[-1]
    white = vectors[:, kept] / values[kept].sqrt()
    best = torch.linalg.eigh(white.T @ between @ white).eigenvectors.flip(1)[:, : classes - 1]
    probabilities = _probabilities(z, means, shares, within)
    norms = sum(float(torch.linalg.matrix_norm(probabilities[member == k], "nuc")) for k in range(classes))
    own = float(probabilities.gather(1, member[:, None]).mean())
    return float(torch.linalg.matrix_norm(z @ white @ best, "nuc")), own, math.log(norms)


def etran_terms(features: Tensor, y: Tensor) -> tuple[float, float]:
    """The two terms of ETran for classification.

    The energy, logsumexp of a sample's features, as a mean over the 0.5 % of the samples (one at least) where it is
    lowest; and the mean probability of the own class under the discriminant of `sfda`'s first fit.

    Args:
        features: [N, F], as they are; y: classes, int64 [N].

    Source: ETran (Gholami et al., ICCV 2023, arXiv 2308.02027). In the authors' code the discriminant's eigenvectors are
    those of a triangle of a matrix that is not symmetric, which leaves classes of the covariance I.
    """
    z, member, classes = checked(features, y)
    energies = features.double().logsumexp(1).sort().values
    probabilities, _ = _own(z, member, classes, None)
    lowest = float(energies[: max(1, int(_LOWEST * len(energies)))].mean())
    return lowest, float(probabilities.gather(1, member[:, None]).mean())


# The weights of the terms, each of which is scaled to [0, 1] over the encoders that are compared.
COMBINED = {"ncti": (ncti_terms, (1.0, 1.0, -1.0)), "etran": (etran_terms, (0.15, 0.85))}


def combine(terms: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """For each encoder the weighted sum of its terms, (t - min) / (max - min) over the encoders; a constant one is 0."""
    table = torch.tensor(terms, dtype=torch.float64)
    low, high = table.amin(0), table.amax(0)
    scaled = torch.where(high > low, (table - low) / (high - low), 0.0)
    return [float(one) for one in scaled @ torch.tensor(weights, dtype=torch.float64)]
