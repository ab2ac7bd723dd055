"""Simple predictors of downstream quality, from the features of real data, to hold the score against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.validity.fisher import ped, sfda
from synbench_fast.studies.validity.leep import nleep
from synbench_fast.studies.validity.transferability import gbc, h_score, transrate

__all__ = ["TRANSFERABILITY", "knn_accuracy", "logme"]

# By their names: of features [N, F] and classes [N], larger where the classes are easier to tell apart.
TRANSFERABILITY = {
    "h_score": h_score, "transrate": transrate, "gbc": gbc, "nleep": nleep, "sfda": sfda, "ped": ped
}  # fmt: skip

_GRID = 241  # points of log10(alpha / beta) in _SPAN around the largest squared singular value
_SPAN = 12.0
_REFINEMENTS = 40


def _matrix(name: str, features: Tensor) -> Tensor:
    if features.ndim != 2 or not features.shape[0] or not features.shape[1]:
        raise SynbenchError(f"{name}: expected features [N, F], got {list(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise SynbenchError(f"{name}: expected finite features, got others")
    return features.double()


def knn_accuracy(train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor, *, k: int = 5) -> float:
    """Accuracy of a vote of the k nearest training features (Euclidean), each vote equal.

    Of classes with the same number of votes the one with the nearest neighbour wins.

    Args:
        train, test: features [N, F] and [M, F]; train_y, test_y: classes, int64 [N] and [M].

    Source: Cover and Hart, "Nearest neighbor pattern classification", IEEE Trans. Inf. Theory 13, 1967, 21.
    """
    a, b = _matrix("train", train), _matrix("test", test)
    if not 1 <= k <= len(a):
        raise SynbenchError(f"k: expected 1 to {len(a)} neighbours, got {k}")
    # Distances by differences, not by the expansion of the square, which loses digits far from the origin.
    distances = torch.cdist(b, a, compute_mode="donot_use_mm_for_euclid_dist")
    order = torch.sort(distances, dim=1, stable=True).indices[:, :k]
    votes = torch.nn.functional.one_hot(train_y[order], int(train_y.max()) + 1).double()
    nearer = torch.arange(k, 0, -1, dtype=torch.float64) / (2.0 * k)  # below 1: breaks ties and nothing else
    first = (votes * nearer[None, :, None]).amax(1)
    winner = (votes.sum(1) + first).argmax(1)
    return float((winner == test_y).double().mean())


def logme(features: Tensor, y: Tensor) -> float:
    """Largest log evidence per sample of a Bayesian linear regression on the one-hot labels, mean over classes.

    For one class with targets t in {0, 1}^N: t ~ N(F w, I/beta), w ~ N(0, I/alpha), and

        ln p(t | alpha, beta) = N/2 ln(beta/2 pi) + F/2 ln alpha - ln|A|/2 - beta/2 |F m - t|^2 - alpha/2 |m|^2,
        A = alpha I + beta F'F,   m = beta A^-1 F't.

    With r = alpha/beta and R(r) = |F m - t|^2 + r |m|^2, the best beta for a given r is N / R(r), which leaves

        -N/2 (ln(2 pi R(r)/N) + 1) + sum_i ln(r / (r + sigma_i^2)) / 2,

    a function of r alone: its maximum is found on a grid of 20 points per decade, 24 decades around the largest
    sigma^2, and refined by golden section. (The source iterates for alpha and beta, to the same optimum.)

    Args:
        features: [N, F], as they are; y: classes, int64 [N].

    Source: LogME (You, Liu, Wang and Long, arXiv 2102.11005).
    """
    f = _matrix("features", features)
    count = len(f)
    if y.shape != (count,):
        raise SynbenchError(f"y: expected {count} labels as there are features, got {list(y.shape)}")
    present = torch.unique(y)
    if len(present) < 2:
        raise SynbenchError(f"y: expected at least 2 classes, got {len(present)}")
    u, sigma, _ = torch.linalg.svd(f, full_matrices=False)
    if float(sigma[0]) == 0:
        raise SynbenchError("features: expected some that are not 0, got zeros only")
    square = sigma.square()
    targets = (y[:, None] == present[None, :]).double()
    inside = (u.T @ targets).square()  # [rank, classes]
    outside = (targets.square().sum(0) - inside.sum(0)).clamp_min(0.0)

    def evidence(log_r: Tensor) -> Tensor:
        """Per class, at log_r [P, classes] (natural logarithms): [P, classes]."""
        r = log_r.exp()[:, None, :]
        kept = r / (r + square[None, :, None])
        residual = outside + (kept * inside).sum(1)
        fit = -count / 2 * ((2 * math.pi * residual / count).log() + 1)
        found: Tensor = fit + kept.log().sum(1) / 2
        return found

    span = _SPAN * math.log(10)
    grid = math.log(float(square[0])) + torch.linspace(-span, span, _GRID, dtype=torch.float64)
    values = evidence(grid[:, None].expand(-1, len(present)))
    best = values.argmax(0)
    low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(_GRID - 1)]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(_REFINEMENTS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        at = evidence(torch.stack([left, right]))
        lower = at[0] >= at[1]
        low, high = torch.where(lower, low, left), torch.where(lower, right, high)
    peak = torch.maximum(evidence(((low + high) / 2)[None])[0], values.amax(0))
    return float(peak.mean()) / count
