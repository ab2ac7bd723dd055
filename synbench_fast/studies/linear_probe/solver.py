"""The eps-robust linear probe: multinomial logistic regression against an l2 ball of radius r in feature space.

A perturbation d with |d| <= r changes the difference of two logits by (w_k - w_y)'d <= r |w_k - w_y|. The
cross-entropy of a sample z of class y is log(1 + sum_{k != y} exp(L_k - L_y)), which rises with every
difference; bounding each one for itself gives

    max over |d| <= r of loss(z + d) <= log(1 + sum_{k != y} exp(L_k(z) - L_y(z) + r |w_k - w_y|)).

For two classes there is one difference and the bound is the maximum itself, log(1 + exp(-(margin - r |w|))).
log-sum-exp rises in each argument and each argument is convex, so the objective

    mean_i bound_i + |W|^2 / (2 C N)

is convex. Intercepts are not regularised. With two classes W is the one vector w = w_1 - w_0, with more it is
[K, F]; both as in scikit-learn, whose C this is, so that r = 0 is ordinary logistic regression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from synbench_fast.errors import SynbenchError

__all__ = ["LinearClassifier", "Standardise", "fit", "margins", "mean_radius", "standardiser"]

GRADIENT_TOLERANCE = 1e-6
_GRADIENT_GOAL = 1e-8
_MOST_ITERATIONS = 5000
_SMOOTH = 1e-12  # squared; |w| is sqrt(|w|^2 + this), which has a derivative at w = 0 and is no smaller


@dataclass(frozen=True)
class Standardise:
    """z = (features - mean) * factor; `factor` is one number for all features or one for each."""

    mean: Tensor
    factor: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) * self.factor


@dataclass(frozen=True)
class LinearClassifier:
    """Logits weight z + bias, float64 [K, F] and [K], and how the optimiser left them."""

    weight: Tensor
    bias: Tensor
    objective: float
    gradient_norm: float
    iterations: int

    def logits(self, z: Tensor) -> Tensor:
        """Of standardised features z [n, F]: [n, K]."""
        return z @ self.weight.T + self.bias

    @property
    def converged(self) -> bool:
        return self.gradient_norm <= GRADIENT_TOLERANCE


def standardiser(features: Tensor, kind: str) -> Standardise:
    """From the train split: "common" divides by the root of the mean variance, "feature" each by its own.

    A common factor keeps a ball a ball. A feature that does not vary is left out by "feature".
    """
    x = features.double()
    mean, variance = x.mean(0), x.var(0, correction=0)
    largest = float(variance.max())
    if not largest > (8 * 2**-52 * float(x.abs().max())) ** 2:
        raise SynbenchError("features: expected some that vary over the train split, got constant ones")
    if kind == "common":
        return Standardise(mean, variance.mean().rsqrt())
    return Standardise(mean, torch.where(variance > 1e-12 * largest, variance.rsqrt(), 0.0))


def mean_radius(z: Tensor, y: Tensor, classes: int) -> float:
    """Half the smallest distance of two class means: the radius that eps = 1 stands for."""
    means = torch.stack([z[y == k].mean(0) for k in range(classes)])
    return float(functional.pdist(means).min()) / 2


def _distances(weight: Tensor) -> Tensor:
    """|w_i - w_j| [K, K], smoothed off the diagonal, exactly 0 on it."""
    gram = weight @ weight.T
    norms = gram.diagonal()
    squares = (norms[:, None] + norms[None, :] - 2 * gram).clamp_min(0) + _SMOOTH
    other = ~torch.eye(len(weight), dtype=torch.bool, device=weight.device)
    distances: Tensor = squares.sqrt() * other
    return distances


def margins(classifier: LinearClassifier, z: Tensor, y: Tensor, radius: float) -> Tensor:
    """min over k != y of L_y - L_k - r |w_y - w_k|: positive where no perturbation of norm r changes the answer."""
    logits = classifier.logits(z)
    exact = "donot_use_mm_for_euclid_dist"
    between = torch.cdist(classifier.weight, classifier.weight, compute_mode=exact)
    gap = logits.gather(1, y[:, None]) - logits - radius * between[y]
    smallest: Tensor = gap.scatter(1, y[:, None], torch.inf).amin(1)
    return smallest


def fit(z: Tensor, y: Tensor, classes: int, *, radius: float, regularisation: float) -> LinearClassifier:
    """Minimise the objective above by L-BFGS in float64 from 0; the same input gives the same weights.

    z [N, F] float64, y [N] int64, `regularisation` is C.
    """
    count, features = z.shape
    rows = 1 if classes == 2 else classes
    parameters = torch.zeros(rows * features + rows, dtype=torch.float64, device=z.device, requires_grad=True)

    def unpacked(flat: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = flat[: rows * features].view(rows, features), flat[rows * features :]
        if classes == 2:
            return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        return weight, bias

    def objective() -> Tensor:
        weight, bias = unpacked(parameters)
        logits = z @ weight.T + bias
        if radius > 0:
            logits = logits + radius * _distances(weight)[y]
        penalty = parameters[: rows * features].square().sum() / (2 * regularisation * count)
        return functional.cross_entropy(logits, y) + penalty

    def closure() -> float:
        parameters.grad = None
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    iterations = 0
    with torch.enable_grad():
        # A line search that fails leaves the memory of its direction behind; a fresh start goes on from there.
        previous = math.inf
        while iterations < _MOST_ITERATIONS:
            optimizer = torch.optim.LBFGS(
                [parameters],
                max_iter=_MOST_ITERATIONS - iterations,
                max_eval=2 * _MOST_ITERATIONS,
                tolerance_grad=_GRADIENT_GOAL,
                tolerance_change=0.0,
                history_size=50,
                line_search_fn="strong_wolfe",
            )
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            iterations += int(optimizer.state[parameters]["n_iter"])
            value = closure()
            assert parameters.grad is not None
            gradient = float(parameters.grad.abs().max())
            if gradient <= _GRADIENT_GOAL or value >= previous - 1e-14 * abs(value):
                break
            previous = value
    with torch.no_grad():
        weight, bias = unpacked(parameters)
        return LinearClassifier(weight.clone(), (bias - bias.mean()).clone(), value, gradient, iterations)
