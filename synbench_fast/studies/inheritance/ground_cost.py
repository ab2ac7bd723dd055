"""Ground cost between labelled samples: squared distance of features plus squared 2-Wasserstein distance of classes.

    d((x, y), (x', y')) = (feature_weight |x - x'|^2 + label_weight W2^2(y, y')) / 2
    W2^2(y, y') = |mu_y - mu_y'|^2 + tr S_y + tr S_y' - 2 tr (S_y^1/2 S_y' S_y^1/2)^1/2

where N(mu_y, S_y) has the mean and the covariance (divisor n - 1) of the features of class y in its own set: names
of classes play no part. Both terms are halved. With covariance factors S = R'R the last trace is the sum of the
singular values of R_y R_y'^T (`ops.nuclear_norm`), so no matrix root is taken and singular covariances need no shrinkage: a class of n
samples has a factor of rank at most n - 1, and a class of one sample is a point, with covariance 0.

Sources: Alvarez-Melis and Fusi, "Geometric dataset distances via optimal transport", NeurIPS 2020; W2 between
Gaussians: Dowson and Landau, J. Multivariate Anal. 12 (1982), 450.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.checks import check_plain
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.nuclear_norm import nuclear_norm

__all__ = [
    "ClassGaussians",
    "check_labelled",
    "class_gaussians",
    "label_distances",
    "squared_distances",
]

_CHUNK = 1 << 23  # numbers in one batch of products of factors: 64 MiB, twice that on a GPU
_SIZES = (1e-140, 1e140)  # of the largest feature: squares and their sums neither over- nor underflow


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """Gaussians of the C classes of one set with features of width F, float64.

    labels: [C] ascending. counts: [C] samples. means: [C, F]. factors: [C, R, F] with S_c = factors_c' factors_c,
    rows of zeros where a class needs fewer than R = max over c of min(n_c - 1, F).
    ranks: [C] rows of the factors that are used, min(n_c - 1, F). member: [N] place in `labels` of every sample's class.
    """

    labels: Tensor
    counts: Tensor
    means: Tensor
    factors: Tensor
    ranks: Tensor
    member: Tensor


def check_labelled(name: str, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Features as float64 [N, F], N samples of any shape flattened, and labels as int64 [N].

    Raises:
        SynbenchError: no pair of tensors, no samples, other shapes, labels that are no integers, NaN, infinity,
            tensors that `check_plain` refuses, or features too large or too small to be squared.
    """
    if not (
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(one, Tensor) for one in pair)
    ):
        raise SynbenchError(f"{name}: expected a pair of tensors (features, labels), got {_kind(pair)}")
    features, labels = (
        check_plain(one, f"{name}: {what}") for one, what in zip(pair, ("features", "labels"), strict=True)
    )
    if features.ndim < 2 or not features.numel():
        raise SynbenchError(
            f"{name}: expected features [N, F] of at least one sample, got shape {tuple(features.shape)}"
        )
    if features.dtype == torch.bool:
        raise SynbenchError(f"{name}: expected real features, got {features.dtype}")
    if labels.shape != features.shape[:1]:
        raise SynbenchError(
            f"{name}: expected labels of shape ({len(features)},), got shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise SynbenchError(f"{name}: expected integer labels, got {labels.dtype}")
    features = features.detach().to(torch.float64).flatten(1)
    finite = features.isfinite()
    if not finite.all():
        row, column = (int(one) for one in (~finite).nonzero()[0])
        raise SynbenchError(
            f"{name}: expected finite features, got {features[row, column].item()} in sample {row}, feature {column}"
        )
    size = float(features.abs().max())
    if size and not _SIZES[0] < size < _SIZES[1]:
        raise SynbenchError(
            f"{name}: expected features of a size from {_SIZES[0]:g} to {_SIZES[1]:g}, got {size:.3g}: their squares "
            "are no numbers"
        )
    return features, labels.detach().to(features.device, torch.int64)


def _kind(pair: object) -> str:
    if isinstance(pair, (tuple, list)):
        return f"{type(pair).__name__} of {', '.join(type(one).__name__ for one in pair) or 'nothing'}"
    return type(pair).__name__


def class_gaussians(
    features: Tensor, labels: Tensor, classes: Sequence[int] | None = None, *, name: str = "labels"
) -> ClassGaussians:
    """Mean and covariance factor of every class.

    Args:
        features: float64 [N, F].
        labels: int64 [N].
        classes: the labels that must all be there, and no other; None takes those that occur.
        name: of the set in errors.

    Raises:
        SynbenchError: a class without samples, or a label outside `classes`.
    """
    found, member, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if classes is not None:
        wanted, there = {int(one) for one in classes}, set(found.tolist())
        for missing in sorted(wanted - there):
            raise SynbenchError(f"{name}: expected at least one sample of every class, got none of {missing}")
        for other in sorted(there - wanted):
            raise SynbenchError(f"{name}: expected labels among the {len(wanted)} of classes, got {other}")
    width = features.shape[1]
    means = torch.zeros(len(found), width, dtype=features.dtype, device=features.device)
    means = means.index_add_(0, member, features) / counts[:, None]
    rank = min(int(counts.max()) - 1, width)
    factors = features.new_zeros(len(found), rank, width)
    parts = torch.split((features - means[member])[member.argsort(stable=True)], counts.tolist())
    for factor, part in zip(factors, parts, strict=True):
        # A reflection turns (1, ..., 1) into the first axis. What it leaves in the first row is the mean; the n - 1
        # other rows are the whole factor. A QR decomposition of the samples must keep all of its rows: where columns
        # are constant or equal, the variance of later columns is in the last of them.
        root = len(part) ** 0.5
        rows = part[1:] - (part[0] + part.sum(0) / root) / (1 + root)
        if len(rows) > width:
            rows = torch.linalg.qr(rows, mode="r").R
        factor[: len(rows)] = rows / max(len(part) - 1, 1) ** 0.5
    return ClassGaussians(found, counts, means, factors, (counts - 1).clamp_max(width), member)


def label_distances(first: ClassGaussians, second: ClassGaussians) -> Tensor:
    """W2^2 [A, B] between all classes of the first and all of the second set, float64, at least 0."""
    found = squared_distances(first.means, second.means)
    found += first.factors.square().sum((1, 2))[:, None]
    found += second.factors.square().sum((1, 2))
    (a, r, _), (b, s, _) = first.factors.shape, second.factors.shape
    if 0 in (r, s):  # all classes of a set are points
        return found
    same = first is second
    step = max(1, _CHUNK // (r * b * s))
    if same:
        step = min(step, max(1, a // 8))  # columns left of a chunk of rows are not computed
    for start in range(0, a, step):
        rows, columns = slice(start, start + step), slice(start if same else 0, b)
        one, other = first.factors[rows], second.factors[columns]
        products = (one.flatten(0, 1) @ other.flatten(0, 1).T).view(len(one), r, len(other), s)
        norms = nuclear_norm(products, first.ranks[rows], second.ranks[columns])
        found[rows, columns] = (found[rows, columns] - 2 * norms).clamp_min_(0)
    if same:
        found = found.triu(1)
        found = found + found.T
    return found


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 [N, M] of float64 x [N, F] and y [M, F], at least 0."""
    centre = (x.mean(0) + y.mean(0)) / 2  # what the sets have in common would cancel digits
    x, y = x - centre, y - centre
    found = torch.addmm(y.square().sum(1)[None], x, y.T, alpha=-2)
    return found.add_(x.square().sum(1)[:, None]).clamp_min_(0)
