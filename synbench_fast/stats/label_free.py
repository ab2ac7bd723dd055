"""Metrics of features that need no labels, each from its paper's formula, with errors by a jackknife over groups.

Z [N, F] are the features of N samples, lambda_1 >= ... the eigenvalues of their covariance (centred, divided by N), and
sigma_k the singular values of Z as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError

__all__ = [
    "METRICS",
    "Metric",
    "alpha_req",
    "effective_rank",
    "isotropy",
    "label_free",
    "lidar",
    "nesum",
    "rankme",
    "twonn",
    "uniformity",
]

GROUPS = 10  # of the jackknife
_LOWEST, _HIGHEST = 11, 100  # eigenvalues that alpha-ReQ is fitted to, counted from 1
_FEWEST = 3  # of them
_KEPT = 0.9  # share of the ratios that TwoNN is fitted to
_DELTA = 1e-4  # of LiDAR
_RANK = 1e-12  # of the largest eigenvalue: what rounding leaves of 0


@dataclass(frozen=True)
class Metric:
    """A value and its standard error; NaN where it is not defined."""

    value: float
    stderr: float


def _matrix(features: Tensor) -> Tensor:
    if features.ndim != 2 or not features.shape[0] or not features.shape[1]:
        raise SynbenchError(f"features: expected features [N, F], got {list(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise SynbenchError("features: expected finite features, got others")
    return features.double()


def _eigenvalues(z: Tensor) -> Tensor:
    """Of the covariance, the largest first, min(N, F) of them; rounding is made 0."""
    centred = z - z.mean(0)
    gram = centred @ centred.T if len(z) < z.shape[1] else centred.T @ centred
    found: Tensor = torch.linalg.eigvalsh(gram / len(z)).flip(0).clamp_min(0)
    return torch.where(found > _RANK * found[0], found, 0.0)


def _exponential_entropy(weights: Tensor) -> float:
    """exp(-sum_k p_k ln p_k), p = weights / their sum, 0 ln 0 = 0; NaN where all are 0."""
    total = float(weights.sum())
    return math.exp(float(torch.special.entr(weights / total).sum())) if total > 0 else math.nan


def rankme(features: Tensor) -> float:
    """Effective rank of features [N, F], without labels:

        exp(-sum_k p_k ln p_k),   p_k = sigma_k / sum sigma,

    sigma the singular values of the features as they are, neither centred nor scaled; from 1 to min(N, F), 1 for
    features of rank 1. SynbenchError if all features are 0.

    Source: RankMe (Garrido, Balestriero, Najman and LeCun, arXiv 2210.02885), which adds eps = 1e-7 to every p_k, in
    front of the logarithm too. Here eps = 0 and 0 ln 0 = 0, the effective rank of Roy and Vetterli (EUSIPCO 2007).
    It is not the other quantity of that name, with p_k = sigma_k^2 / sum sigma^2: the exponential of the von Neumann
    entropy of the second moments, which is smaller. `effective_rank` is that of the centred features.
    """
    sigma = torch.linalg.svdvals(_matrix(features))
    if float(sigma.sum()) == 0:
        raise SynbenchError("features: expected some that are not 0, got zeros only")
    return _exponential_entropy(sigma)


def effective_rank(features: Tensor) -> float:
    """exp(-sum_k p_k ln p_k) with p_k = lambda_k / sum lambda; NaN for constant features.

    The second definition that goes by RankMe's name: of variances in place of singular values, and centred.
    """
    return _exponential_entropy(_eigenvalues(_matrix(features)))


def alpha_req(features: Tensor) -> float:
    """alpha of lambda_i ~ i^-alpha: minus the slope of ln lambda_i over ln i, i = 11 to 100, with weights 1 / i.

    Positive eigenvalues alone; NaN for fewer than 3 of them in that range.

    Source: alpha-ReQ (Agrawal, Mondal, Ghosh and Richards, NeurIPS 2022), range and weights as in the authors' code. The
    paper expects the best features near 1.
    """
    found = _eigenvalues(_matrix(features))
    found = found[found > 0][:_HIGHEST][_LOWEST - 1 :]
    if len(found) < _FEWEST:
        return math.nan
    i = torch.arange(_LOWEST, _LOWEST + len(found), dtype=torch.float64)
    x, y, weights = i.log(), found.log(), 1 / i
    weights = weights / weights.sum()
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    return -float((weights * x * y).sum() / (weights * x * x).sum())


def nesum(features: Tensor) -> float:
    """sum_k lambda_k / lambda_1, from 1 to min(N, F); NaN for constant features.

    Source: NESum (He and Ozay, "Exploring the gap between collapsed and whitened features in self-supervised learning",
    ICML 2022).
    """
    found = _eigenvalues(_matrix(features))
    return float(found.sum() / found[0]) if float(found[0]) > 0 else math.nan


def isotropy(features: Tensor) -> float:
    """(P - 1) / (F - 1) with the participation ratio P = (sum lambda)^2 / sum lambda^2; NaN for F = 1 or constants.

    0 where one direction has all variance, 1 where all directions have the same.

    Source: IsoScore (Rudman, Gillman, Rayne and Eickhoff, Findings of ACL 2022), whose five steps come to this.
    """
    z = _matrix(features)
    found, width = _eigenvalues(z), z.shape[1]
    squares = float((found * found).sum())
    if width == 1 or squares == 0:
        return math.nan
    return (float(found.sum()) ** 2 / squares - 1) / (width - 1)


def uniformity(features: Tensor) -> float:
    """ln of the mean over pairs i < j of exp(-2 |u_i - u_j|^2), u the features scaled to length 1; at most 0.

    Rows of zeros are left out; NaN for fewer than 2 others. Lower is more uniform.

    Source: Wang and Isola, arXiv 2005.10242, with t = 2.
    """
    z = _matrix(features)
    length = z.norm(dim=1)
    u = z[length > 0] / length[length > 0, None]
    if len(u) < 2:
        return math.nan
    exponents = -2 * torch.pdist(u).square()
    return float(torch.logsumexp(exponents, 0)) - math.log(len(exponents))


def twonn(features: Tensor) -> float:
    """Intrinsic dimension from the ratio mu = r_2 / r_1 of the distances to the two nearest other samples.

    The slope d through the origin of -ln(1 - i / n) over ln mu_(i), i = 1 to 0.9 n, the largest tenth left out; mu_(i)
    ascending. Of equal samples one is kept. NaN for fewer than 3.

    Source: Facco, d'Errico, Rodriguez and Laio, Scientific Reports 7, 2017, 12140.
    """
    return _dimension(_ratios(_matrix(features))[0])


def _ratios(z: Tensor) -> tuple[Tensor, Tensor]:
    """ln mu of different samples, and which rows of z they are."""
    # By differences: the expansion of the square loses digits far from the origin.
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    first = ~torch.tril(distances == 0, diagonal=-1).any(1)
    if int(first.sum()) < 3:
        return z.new_empty(0), first.nonzero()[:0, 0]
    distances = distances[first][:, first].fill_diagonal_(math.inf)
    nearest = torch.topk(distances, 2, dim=1, largest=False).values
    return (nearest[:, 1] / nearest[:, 0]).log(), first.nonzero()[:, 0]


def _dimension(ratios: Tensor) -> float:
    count = len(ratios)
    kept = int(count * _KEPT)
    x = ratios.sort().values[:kept]
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=torch.float64) / max(count, 1))
    squares = float((x * x).sum())
    return float((x * y).sum()) / squares if squares > 0 else math.nan


def lidar(features: Tensor, labels: Tensor) -> float:
    """Effective rank of what tells pictures apart, relative to what their views share:

        exp(-sum_k p_k ln p_k),   p = lambda / sum lambda,   lambda the eigenvalues of W^-1/2 B W^-1/2,
        B = mean over pictures of (m_c - m)(m_c - m)',   W = mean over pictures and views of (z - m_c)(z - m_c)' + 1e-4 I,

    m_c the mean over the views of picture c and m that of the m_c; at most the number of pictures less 1. It depends on
    the unit of the features through 1e-4, as published. NaN where all pictures have the same mean.

    Args:
        features: [N, F]; labels: the picture of each, int64 [N].

    Source: LiDAR (Thilak et al., arXiv 2312.04000), which adds a small eps to every p_k; here it is 0.
    """
    z = _matrix(features)
    classes, member = torch.unique(labels, return_inverse=True)
    if labels.shape != (len(z),) or len(classes) < 2:
        raise SynbenchError(
            f"labels: expected those of {len(z)} samples of at least 2 pictures, got {len(classes)}"
        )
    counts = torch.bincount(member).double()
    means = torch.zeros(len(classes), z.shape[1], dtype=torch.float64).index_add_(0, member, z)
    means /= counts[:, None]
    # Every picture has the same weight, whatever the number of its views.
    within = (z - means[member]) / (counts[member] * len(classes)).sqrt()[:, None]
    between = (means - means.mean(0)) / math.sqrt(len(classes))
    # The eigenvalues that are not 0 are those of between W^-1 between'; (A'A + d I)^-1 by whichever of both sides is less.
    if len(z) < z.shape[1]:
        inner = within @ within.T + _DELTA * torch.eye(len(z), dtype=torch.float64)
        across = within @ between.T
        small = (between @ between.T - across.T @ torch.linalg.solve(inner, across)) / _DELTA
    else:
        outer = within.T @ within + _DELTA * torch.eye(z.shape[1], dtype=torch.float64)
        small = between @ torch.linalg.solve(outer, between.T)
    found = torch.linalg.eigvalsh((small + small.T) / 2).clamp_min(0)
    return _exponential_entropy(torch.where(found > _RANK * found.max(), found, 0.0))


METRICS: dict[str, Callable[[Tensor], float]] = {
    "rankme": rankme,
    "effective_rank": effective_rank,
    "alpha_req": alpha_req,
    "nesum": nesum,
    "isotropy": isotropy,
    "uniformity": uniformity,
    "twonn": twonn,
}


def label_free(
    features: Tensor, *, pictures: Tensor | None = None, group: Tensor | None = None
) -> dict[str, Metric]:
    """Every metric of METRICS, and with `pictures` LiDAR, each with its standard error.

    Errors are those of the jackknife over 10 groups of samples (delete-a-group, Kott 2001):

        stderr^2 = (G - 1) / G sum_g (value without group g - their mean)^2,

    so that they say what other samples would do to the value at this N, not how it grows with N. They are known to
    about a quarter of themselves. Of TwoNN the ratios of all samples are left out in groups, since without a sample
    its neighbours have others. A metric that is undefined has neither value nor error.

    Args:
        features: [N, F].
        pictures: which picture every sample shows, int64 [N], for LiDAR.
        group: of the jackknife, int64 [N] from 0 to 9; None for every tenth sample.
    """
    z = _matrix(features)
    member = torch.arange(len(z)) % GROUPS if group is None else group
    if not bool(z.any()):
        raise SynbenchError("features: expected some that are not 0, got zeros only")

    def values(kept: Tensor) -> list[float]:
        chosen = z[kept]
        found = [one(chosen) for name, one in METRICS.items() if name != "twonn"]
        found.append(_dimension(ratios[kept[rows]]))
        if pictures is not None:
            found.append(lidar(chosen, pictures[kept]))
        return found

    ratios, rows = _ratios(z)
    names = [*(name for name in METRICS if name != "twonn"), "twonn"] + ["lidar"] * (pictures is not None)
    whole = values(torch.ones(len(z), dtype=torch.bool))
    groups = [member != one for one in torch.unique(member).tolist()]
    without = [values(kept) for kept in groups] if len(groups) > 1 else []
    return {
        name: _estimate(value, [one[place] for one in without])
        for place, (name, value) in enumerate(zip(names, whole, strict=True))
    }


def _estimate(value: float, without: Sequence[float]) -> Metric:
    count = len(without)
    if not math.isfinite(value) or not count or not all(math.isfinite(one) for one in without):
        return Metric(value, math.nan)
    mean = math.fsum(without) / count
    return Metric(value, math.sqrt((count - 1) / count * math.fsum((one - mean) ** 2 for one in without)))
