"""K Gaussian classes with one covariance: how often a linear classifier of the population, or of N samples, is right.

Everything follows from the Gram matrix of the class means in units of the covariance C, G = M C^-1 M', and from the design:
n_k samples of each class, R directions that vary, nu = N - K. With f_ij = (m_i - m_j)'C^-1 (m_i - m_j) / 4:

    pair, population       Phi(sqrt(f))
    pair, N samples        Phi(b / sqrt(v)) for a sample of class i that was left out of its class, n_i' = n_i - 1,
                           b = 2 f + R (1/n_j - 1/n_i') / 2
                           v = (4 f + R (1/n_i' + 1/n_j)) (1 + (1/n_i' + 1/n_j) / 4) / rho,   rho = 1 - R/nu
    K classes              by simulation in the plane of the means and, for the noise of the means, outside of it

The terms in R/n are the noise of the class means, 1/rho that of the covariance (as in `consistent`), and the last factor of
v that of the midpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "Design",
    "Simulated",
    "normal_cdf",
    "pair_population",
    "pair_slope",
    "pair_trained",
    "separations",
    "simulated",
]

Array = NDArray[np.float64]

MEANS = 640  # estimated class means that a simulation averages over, K of them in each classifier
DRAWS, LEAST_DRAWS = 60_000, 8_000  # samples of a simulation, at most and at least
WORK = 1e8  # coordinates times classes of all samples that it may take


@dataclass(frozen=True)
class Design:
    """How many samples there are: count float64 [K] by class, rank R; the covariance has N - K degrees of freedom."""

    count: Array
    rank: int

    @property
    def classes(self) -> int:
        return len(self.count)

    @property
    def freedom(self) -> int:
        return int(self.count.sum()) - len(self.count)

    @property
    def rho(self) -> float:
        """1 - R/nu: what is left of S^-1 on average is C^-1 / rho."""
        return 1 - self.rank / self.freedom

    @property
    def c0(self) -> Array:
        """[K, K] (1/n_i + 1/n_j) / 4: half the difference of two class means has this times C as its covariance."""
        return np.asarray((1 / self.count[:, None] + 1 / self.count) / 4)

    def gram(self, whitened: Array) -> Array:
        """G [K, K] estimated without bias from the class means [K, R] in units of the sample covariance; centred."""
        means = whitened - whitened.mean(0)
        middle = np.eye(self.classes) - 1 / self.classes
        noise = middle @ np.diag(self.rank / self.count) @ middle
        return np.asarray(self.rho * means @ means.T - noise)

    def variance(self, f: Array) -> Array:
        """[K, K] sampling variance of every f, estimated without bias at Gaussian features; see docs/method.md."""
        c0 = self.c0
        own = 4 * c0 * f + 2 * c0**2 * self.rank + 2 * f**2 / self.freedom
        return np.asarray(own / self.rho)

    def bounds(self, f: Array, errors: float) -> tuple[Array, Array]:
        """[K, K] the least and the greatest separation of which f is not more than so many of its own errors away."""
        square = errors**2 / self.rho
        curved = 1 - 2 * square / self.freedom
        middle = f + 2 * square * self.c0
        width = np.sqrt(np.maximum(middle**2 - curved * (f**2 - 2 * square * self.c0**2 * self.rank), 0))
        if curved <= 0:
            return (middle - width) / curved if curved else f - np.inf, np.full_like(f, np.inf)
        return (middle - width) / curved, (middle + width) / curved

    def variance_of_sum(self, weights: Array, gram: Array) -> float:
        """Sampling variance of the sum over pairs of weight times f, which share class means and covariance.

        Pairs a, b with the vectors e_a = (unit_i - unit_j)/2 have Cov(f_a, f_b) = (4 c M + 2 c^2 R + 2 M^2/nu) / rho with
        c = e_a' diag(1/n) e_b and M = e_a'G e_b; summed over all pairs these are traces of products of K x K matrices.
        weights: symmetric [K, K], the diagonal is not read.
        """
        weights = weights * ~np.eye(self.classes, dtype=bool)
        spread = (np.diag(weights.sum(1)) - weights) / 4  # the sum of weight e_a e_a'
        noise, signal = spread / self.count, spread @ gram
        linear, square = np.trace(noise @ signal), np.trace(noise @ noise)
        return float(
            (4 * linear + 2 * self.rank * square + 2 * np.trace(signal @ signal) / self.freedom) / self.rho
        )


def normal_cdf(x: Array) -> Array:
    """Phi of every element."""
    return np.asarray(torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(x))).numpy())


def separations(gram: Array) -> Array:
    """f [K, K], a quarter of the squared distances of the means whose Gram matrix is given."""
    own = np.diag(gram)
    return np.asarray((own[:, None] + own - 2 * gram) / 4)


def pair_population(f: Array, _: Design | None = None) -> Array:
    """[K, K] accuracy of the best linear classifier of each pair; 1/2 where f is not positive."""
    return normal_cdf(np.sqrt(np.maximum(f, 0)))


def pair_trained(f: Array, design: Design) -> Array:
    """[K, K] accuracy of the pair's classifier of N samples: row i, column j for left-out samples of class i."""
    f = np.maximum(f, 0)
    own, other = 1 / (design.count[:, None] - 1), 1 / design.count
    b = 2 * f + design.rank * (other - own) / 2
    v = (4 * f + design.rank * (own + other)) * (1 + (own + other) / 4) / design.rho
    return normal_cdf(b / np.sqrt(np.maximum(v, 1e-300)))


def pair_slope(f: Array) -> Array:
    """[K, K] derivative of `pair_population` in a positive f."""
    return np.asarray(np.exp(-f / 2) / np.sqrt(8 * math.pi * f))


@dataclass(frozen=True)
class Simulated:
    """Accuracies over all K classes, each as likely, of several Gram matrices [G].

    population: of the nearest mean of the population. trained: of the nearest mean of N samples for one that was left out.
    draws: how many samples each is the mean of. apart: share of the draws [G] that only one of the two gets right.
    """

    population: Array
    trained: Array
    draws: int
    apart: Array


def simulated(grams: Sequence[Array], design: Design) -> Simulated:
    """Accuracies over all K classes, with the same noise for all Gram matrices and for both classifiers.

    The seed is fixed, so that differences of accuracies have little noise. Directions of negative eigenvalues, which an
    estimate may have, are left out.
    """
    k = design.classes
    inside = [_coordinates(gram, min(k - 1, design.rank)) for gram in grams]
    plane = inside[0].shape[1]
    width = plane + min(k, design.rank - plane)
    classifiers = max(8, MEANS // k)
    each = -(-int(min(DRAWS, max(LEAST_DRAWS, WORK / (k * width)))) // (classifiers * k))
    generator = np.random.Generator(np.random.Philox(0))
    right = np.zeros((2, len(grams)))
    apart = np.zeros(len(grams))
    own_scale = np.sqrt(design.count / (design.count - 1))  # its own class has one sample less
    for _ in range(classifiers):
        noise = _noise_of_means(generator, plane, design)
        for one in range(k):
            z = generator.standard_normal((each, width))
            for place, means in enumerate(inside):
                known = noise.copy()
                known[:, :plane] += means
                known[one] += (own_scale[one] - 1) * noise[one]
                x = z / math.sqrt(design.rho)
                x[:, :plane] += means[one]
                trained = _nearest(x, known) == one
                population = _nearest(means[one] + z[:, :plane], means) == one
                right[:, place] += population.sum(), trained.sum()
                apart[place] += (population != trained).sum()
    draws = classifiers * k * each
    return Simulated(right[0] / draws, right[1] / draws, draws, apart / draws)


def _coordinates(gram: Array, directions: int) -> Array:
    """[K, directions] of means that have this Gram matrix."""
    values, vectors = np.linalg.eigh(gram)
    return np.asarray(vectors[:, -directions:] * np.sqrt(np.maximum(values[-directions:], 0)))


def _nearest(x: Array, means: Array) -> NDArray[np.intp]:
    nearest: NDArray[np.intp] = (x @ means.T - np.square(means).sum(1) / 2).argmax(1)
    return nearest


def _noise_of_means(generator: np.random.Generator, inside: int, design: Design) -> Array:
    """Errors of the class means: in the plane of the means, and outside of it in coordinates of its own (Bartlett 1933)."""
    k, outside = design.classes, design.rank - inside
    if outside < k:
        rest = generator.standard_normal((k, outside))
    else:
        rest = np.tril(generator.standard_normal((k, k)), -1)
        rest[np.diag_indices(k)] = np.sqrt(generator.chisquare(outside - np.arange(k)))
    noise = np.hstack([generator.standard_normal((k, inside)), rest])
    return np.asarray(noise / np.sqrt(design.count)[:, None])
