"""What labels say of features: linear probes and the quantities that a score is compared with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def _halves(labels: Array, repeats: int, seed: int = 0) -> Iterator[tuple[Array, Array]]:
    """Stratified halves, each used once for training and once for testing; the same ones for every encoder."""
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        side = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            places = rng.permutation(np.flatnonzero(labels == label))
            side[places[: len(places) // 2]] = True
        for train in (side, ~side):
            yield np.flatnonzero(train), np.flatnonzero(~train)


def _prepared(train: Array, test: Array) -> tuple[Array, Array]:
    """Both standardised by the training half and turned into its row space, which no linear probe leaves."""
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation < 1e-8 * max(float(deviation.max()), 1e-30)] = np.inf
    train, test = (train - mean) / deviation, (test - mean) / deviation
    if train.shape[1] >= len(train):
        _, _, basis = np.linalg.svd(train, full_matrices=False)
        train, test = train @ basis.T, test @ basis.T
    return train, test


def discriminant(train: Array, labels: Array, test: Array, width: int) -> Array:
    """Labels for `test` by linear discriminant analysis with a shrunk pooled covariance.

    Sigma = (1 - s) S + s (tr S / width) I, S the covariance about the class means, s by Ledoit and Wolf (2004):
    min(1, (1/n^2) sum_i |r_i r_i' - S|^2 / |S - (tr S / width) I|^2). Unlike a shrinkage of single coordinates this
    does not depend on the basis, so the row space of `width` features is as good as all of them.
    """
    classes, member = np.unique(labels, return_inverse=True)
    means = np.stack([train[member == k].mean(0) for k in range(len(classes))])
    residual = train - means[member]
    n = len(train)
    covariance = residual.T @ residual / n
    level = np.trace(covariance) / width
    squared = float((covariance**2).sum())
    distance = squared - width * level**2
    spread = (float(((residual**2).sum(1) ** 2).sum()) / n - squared) / n
    share = min(1.0, spread / distance) if distance > 0 else 1.0
    shrunk = (1 - share) * covariance + max(share * level, 1e-12) * np.eye(len(covariance))
    weights = np.linalg.solve(shrunk, means.T)
    scores = test @ weights - 0.5 * (means.T * weights).sum(0) + np.log(np.bincount(member) / n)
    return classes[scores.argmax(1)]


def linear_accuracy(
    features: Array, labels: Array, *, repeats: int = 2, kind: str = "lda"
) -> tuple[float, float]:
    """Accuracy of a linear classifier over stratified halves, and its standard error.

    `lda`: `discriminant`. `logistic`: multinomial logistic regression with a ridge on standardised features,
    C = 1 / F. The error is that of a share among as many independent images as there are.
    """
    from sklearn.linear_model import LogisticRegression

    right = count = 0
    for train, test in _halves(labels, repeats):
        x, y = _prepared(features[train].astype(np.float64), features[test].astype(np.float64))
        if kind == "lda":
            found = discriminant(x, labels[train], y, features.shape[1])
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = (
                    LogisticRegression(C=1 / features.shape[1], max_iter=200).fit(x, labels[train]).predict(y)
                )
        right += int((found == labels[test]).sum())
        count += len(test)
    share = right / count
    return share, math.sqrt(share * (1 - share) / len(labels))


def neighbour_accuracy(features: Array, labels: Array, *, neighbours: int = 5, repeats: int = 2) -> float:
    """Accuracy of the majority of nearest neighbours (cosine of centred, standardised features) over halves."""
    right = count = 0
    for train, test in _halves(labels, repeats):
        x, y = _prepared(features[train], features[test])
        a, b = (torch.nn.functional.normalize(torch.from_numpy(one), dim=1) for one in (x, y))
        nearest = torch.from_numpy(labels[train])[(b @ a.T).topk(neighbours, dim=1).indices]
        right += int((nearest.mode(dim=1).values.numpy() == labels[test]).sum())
        count += len(test)
    return right / count


def logme(features: Array, labels: Array) -> float:
    """LogME (You et al. 2021): log evidence per sample of a Bayesian linear model, mean over one-against-all labels."""
    x = torch.from_numpy(np.asarray(features, np.float64))
    n, width = x.shape
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    squares = s**2
    total = 0.0
    classes = np.unique(labels)
    for label in classes:
        y = torch.from_numpy((labels == label).astype(np.float64))
        z = u.T @ y
        rest = float(y @ y - z @ z)
        alpha, beta = 1.0, 1.0
        for _ in range(11):
            shrunk = alpha + beta * squares
            gamma = float((beta * squares / shrunk).sum())
            weights = float(((beta * s * z / shrunk) ** 2).sum())
            residual = float(((alpha * z / shrunk) ** 2).sum()) + rest
            ratio = alpha / beta
            alpha, beta = gamma / (weights + 1e-12), (n - gamma) / (residual + 1e-12)
            if abs(alpha / beta - ratio) / ratio <= 1e-3:
                break
        shrunk = alpha + beta * squares
        weights = float(((beta * s * z / shrunk) ** 2).sum())
        residual = float(((alpha * z / shrunk) ** 2).sum()) + rest
        determinant = float(shrunk.log().sum()) + (width - len(s)) * math.log(alpha)
        total += 0.5 * (
            width * math.log(alpha) + n * math.log(beta) - determinant - beta * residual - alpha * weights
            - n * math.log(2 * math.pi)
        ) / n  # fmt: skip
    return total / len(classes)


def rank_me(features: Array) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values' shares."""
    s = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    p = s / s.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_req(features: Array) -> float | None:
    """alpha-ReQ (Agrawal et al. 2022): minus the slope of log eigenvalue of the covariance against log rank.

    Ranks from 4 to half of the width (at most 200), from 1 where there are fewer than 8; eigenvalues above 1e-10 of
    the largest. None where fewer than three are left.
    """
    centred = np.asarray(features - features.mean(0), np.float64)
    eigen = np.linalg.svd(centred, compute_uv=False) ** 2
    eigen = eigen[eigen > 1e-10 * eigen[0]]
    last = min(len(eigen), 200)
    first = 0
    if last >= 8:
        first, last = 3, min(last, max(features.shape[1] // 2, 8))
    if last - first < 3:
        return None
    ranks = np.arange(first, last) + 1
    return float(-np.polyfit(np.log(ranks), np.log(eigen[first:last]), 1)[0])


@torch.no_grad()
def features_of(encoder: Callable[[Tensor], Tensor], images: Tensor, batch: int = 64) -> Array:
    """Features [n, F] as float32."""
    made = [encoder(part).float() for part in images.split(batch)]
    return torch.cat(made).numpy()
