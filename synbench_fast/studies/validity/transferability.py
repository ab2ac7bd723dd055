"""Transferability scores of features with labels, each from its paper's formula: larger means easier to classify."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError

__all__ = ["checked", "class_means", "gbc", "h_score", "transrate"]

_DISTORTION = 1e-4  # epsilon of TransRate
_COMPONENTS = 64  # principal components that GBC sees
_VARIANCE = 1e-4  # least variance of a feature within a class in GBC


def checked(features: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features in float64 less their mean, classes 0 ... K - 1 of the samples, and K."""
    if features.ndim != 2 or not features.shape[0] or not features.shape[1]:
        raise SynbenchError(f"features: expected features [N, F], got {list(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise SynbenchError("features: expected finite features, got others")
    if y.shape != (len(features),):
        raise SynbenchError(f"y: expected {len(features)} labels as there are features, got {list(y.shape)}")
    classes, member = torch.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise SynbenchError(f"y: expected at least 2 classes, got {len(classes)}")
    z = features.double()
    return z - z.mean(0), member, len(classes)


def class_means(z: Tensor, member: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Means [K, F] and numbers of samples [K]."""
    count = torch.bincount(member, minlength=classes).double()
    total = torch.zeros(classes, z.shape[1], dtype=torch.float64).index_add_(0, member, z)
    return total / count[:, None], count


def h_score(features: Tensor, y: Tensor) -> float:
    """tr(S_a^-1 (1 - a) B), B the covariance of the class means that the samples have, S_a the shrunk covariance.

        S_a = (1 - a) S + a tr(S)/F I,   a of Ledoit and Wolf (J. Multivariate Analysis 88, 2004, 365);

    S and B are divided by N. At most K - 1. Directions in which nothing varies count nothing.

    Args:
        features: [N, F]; y: classes, int64 [N].

    Source: H-score (Bao et al., ICIP 2019), shrunk as by Ibrahim, Ponomareva and Mazumder, arXiv 2110.06893.
    """
    z, member, classes = checked(features, y)
    count, width = z.shape
    means, sizes = class_means(z, member, classes)
    covariance = z.T @ z / count
    level = float(covariance.trace()) / width
    if level == 0:
        raise SynbenchError("features: expected some that vary, got constants only")
    squares = float((covariance * covariance).sum())
    # Of sklearn and the paper: mean over samples of |z z' - S|^2 / N, over |S - level I|^2.
    spread = (float(z.square().sum(1).square().sum()) / count - squares) / count
    distance = squares - width * level**2
    shrinkage = min(1.0, max(spread, 0.0) / distance) if distance > 0 else 1.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(width, dtype=torch.float64)
    between = means * (sizes / count).sqrt()[:, None]
    solved = torch.linalg.pinv(shrunk, hermitian=True) @ between.T
    return (1 - shrinkage) * float((between.T * solved).sum())


def _coding_rate(z: Tensor) -> float:
    """ln det(I + Z'Z / (n eps)) / 2, by whichever of Z'Z and Z Z' is smaller."""
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    identity = torch.eye(len(gram), dtype=torch.float64)
    return 0.5 * float(torch.linalg.slogdet(identity + gram / (len(z) * _DISTORTION)).logabsdet)


def transrate(features: Tensor, y: Tensor) -> float:
    """R(Z) - sum_c (n_c / n) R(Z_c) with R(Z) = ln det(I + Z'Z / (n eps)) / 2, eps = 1e-4, Z less its mean.

    An estimate of the mutual information of features and labels. It depends on the unit of the features.

    Args:
        features: [N, F]; y: classes, int64 [N].

    Source: TransRate (Huang et al., ICML 2022, arXiv 2106.09362). The authors' code gives every class the weight 1/K,
    which is the same where classes have the same size.
    """
    z, member, classes = checked(features, y)
    inside = sum(float((member == k).double().mean()) * _coding_rate(z[member == k]) for k in range(classes))
    return _coding_rate(z) - inside


def gbc(features: Tensor, y: Tensor) -> float:
    """-sum over ordered pairs of classes of exp(-D), D the Bhattacharyya distance of two spherical Gaussians:

        D = |m_i - m_j|^2 / (8 v) + F/2 ln(v / sqrt(v_i v_j)),   v = (v_i + v_j) / 2,

    of the first 64 principal components; v_i is the mean over them of the variances in class i, none below 1e-4. From
    -K (K - 1) for classes that are alike to 0 for classes far apart.

    In the authors' code the logarithm is not multiplied by F where the Gaussians are spherical; the formula here is that
    of the distance.

    Args:
        features: [N, F]; y: classes, int64 [N].

    Source: GBC (Pandy et al., CVPR 2022, arXiv 2111.12780).
    """
    z, member, classes = checked(features, y)
    if z.shape[1] > _COMPONENTS:
        basis = torch.linalg.svd(z, full_matrices=False).Vh[:_COMPONENTS]
        z = z @ basis.T
    means, sizes = class_means(z, member, classes)
    squares = torch.zeros(classes, z.shape[1], dtype=torch.float64).index_add_(
        0, member, (z - means[member]).square()
    )
    variance = (squares / sizes[:, None]).clamp_min(_VARIANCE).mean(1)
    both = (variance[:, None] + variance) / 2
    apart = (means[:, None] - means).square().sum(-1)
    distance = apart / (8 * both) + z.shape[1] / 2 * (both.log() - (variance[:, None] * variance).log() / 2)
    overlap = (-distance).exp().fill_diagonal_(0.0)
    return -float(overlap.sum())
