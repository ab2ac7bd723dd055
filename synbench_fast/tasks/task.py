"""The synthetic task: two Gaussians of known distance, and the exact optimum on the raw data."""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from synbench_fast.checks import as_float, as_numbers, check_eps
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.robust_spectrum import known_ratios
from synbench_fast.ops.sample_mixture import UnitPattern, sample_mixture, sample_shaped_mixture
from synbench_fast.scales import SCALE_STEP, spread_scales
from synbench_fast.stats import gaussian
from synbench_fast.tasks.covariances import check_covariance, root, spectrum
from synbench_fast.tasks.patterns import check_pattern, class_means

__all__ = ["PUBLISHED_MEAN", "PUBLISHED_STD", "GaussianTask"]

PUBLISHED_MEAN = (0.485, 0.456, 0.406)  # what the published script subtracts for every model
PUBLISHED_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class GaussianTask:
    """x | y ~ N(center + (2y - 1) |m| u, Sigma), P(y = 1) = prior, for every scale s.

    u is a unit vector and Sigma has the mean variance 1 per input element, in the units of the input before
    normalisation (pixels in [0, 1]). The scale is the signal-to-noise ratio of the raw data,

        |m| = s / sqrt(u' Sigma^-1 u),   so that   s^2 = m' Sigma^-1 m

    whatever u and Sigma are; for white noise |m| = s, and the raw classes are 2 s standard deviations apart.
    Tasks with the same pattern and covariance share their noise; that of all others is independent.

    Args:
        shape: of one sample, channels first: (3, 224, 224), (1, 16000), (10,).
        scales: increasing positive values s, at least 1e-4 apart; None for the published 0.1, 0.2, ..., 4.9.
        prior: tau = P(y = 1), in (0, 1).
        center: common mean of every input element.
        pattern: u by name, see `patterns`; "uniform" is ones(D)/sqrt(D), the published one.
        covariance: Sigma by name, see `covariances`; "white" is I, the published one.

    Raises:
        SynbenchError: any value outside these.

    Source: SynBench (Ko et al.), section on synthetic data; patterns and covariances: docs/tasks.md.
    """

    shape: tuple[int, ...]
    scales: tuple[float, ...] | None = None
    prior: float = 0.5
    center: float = 0.5
    pattern: str = "uniform"
    covariance: str = "white"

    def __post_init__(self) -> None:
        shape = tuple(self.shape) if isinstance(self.shape, Iterable) else ()
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise SynbenchError(f"shape: expected positive integers, got {self.shape!r}")
        if isinstance(self.scales, numbers.Real | str):
            raise SynbenchError(f"scales: expected a sequence of values, got {self.scales!r}")
        scales = spread_scales(49) if self.scales is None else as_numbers(self.scales, "scales")
        if not scales:
            raise SynbenchError("scales: expected at least 1 scale, got none")
        if not all(math.isfinite(s) and SCALE_STEP <= s <= 1e5 for s in scales):
            raise SynbenchError(f"scales: expected values in [0.0001, 100000], got {list(scales)}")
        ticks = [self._tick(s) for s in scales]
        if any(a >= b for a, b in pairwise(ticks)):
            raise SynbenchError(
                f"scales: expected increasing values at least 0.0001 apart, got {list(scales)}"
            )
        if not isinstance(self.prior, numbers.Real) or not 0 < self.prior < 1:
            raise SynbenchError(f"prior: expected a value in (0, 1), got {self.prior!r}")
        if not isinstance(self.center, numbers.Real) or not math.isfinite(as_float(self.center)):
            raise SynbenchError(f"center: expected a finite value, got {self.center!r}")
        pattern, covariance = check_pattern(self.pattern, shape), check_covariance(self.covariance, shape)
        if pattern.startswith("classes:") and covariance != "white":
            raise SynbenchError(
                f"covariance: expected white with pattern {pattern}: its classes are equidistant there, "
                f"got {covariance!r}"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "covariance", covariance)
        object.__setattr__(self, "scales", scales)

    @staticmethod
    def _tick(scale: float) -> int:
        return round(scale / SCALE_STEP)

    @property
    def scale_values(self) -> tuple[float, ...]:
        """The scales, never None."""
        assert self.scales is not None  # __post_init__ fills them in
        return self.scales

    @property
    def dim(self) -> int:
        """D, the number of elements of one sample."""
        return math.prod(self.shape)

    @property
    def noise_word(self) -> int:
        """The word of the random numbers' counter that belongs to the pattern and covariance; 0 as published."""
        if (self.pattern, self.covariance) == ("uniform", "white"):
            return 0
        digest = hashlib.sha256(f"{self.pattern} {self.covariance}".encode()).digest()
        return 2 + int.from_bytes(digest[:8], "big") % (2**32 - 2)  # 1 belongs to the patterns random:SEED

    @property
    def distance(self) -> float:
        """|m| at scale 1, half the distance of the class means: 1 for white noise."""
        return 1.0 if self.covariance == "white" else _distance(self.pattern, self.covariance, self.shape)

    def stream(self, scale: float, split: int) -> int:
        """Number of the random stream of one scale and split (0: train, 1: test).

        It depends on the value of the scale, not on its place in the list: a run with more scales draws the
        same samples where the scales agree.
        """
        return 2 * self._tick(scale) + split

    def sample(
        self,
        scale: float,
        start: int,
        count: int,
        *,
        split: int = 0,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        device: torch.device | str = "cpu",
        out: Tensor | None = None,
        threads: int = 0,
        backend: str = "auto",
    ) -> tuple[Tensor, Tensor]:
        """Samples start .. start + count - 1 of one scale and split: x [count, *shape], y uint8 [count].

        `mean` and `std` are per channel and normalise x as the encoder expects. See `ops.sample_mixture`.
        """
        common = dict[str, Any](
            seed=seed,
            stream=self.stream(scale, split),
            center=self.center,
            prior=self.prior,
            purpose=self.noise_word,
            mean=mean,
            std=std,
            dtype=dtype,
            channels_last=channels_last,
            device=device,
            out=out,
            threads=threads,
            backend=backend,
        )
        place = torch.device(device)
        if self.covariance == "white" and not self.pattern.startswith("classes:"):
            pattern = None if self.pattern == "uniform" else _unit_pattern(self.pattern, self.shape, place)
            return sample_mixture(self.shape, start, count, scale=scale, pattern=pattern, **common)
        direction, midpoint = _means_on(self.pattern, self.shape, place)
        return sample_shaped_mixture(
            self.shape,
            start,
            count,
            direction=direction,
            midpoint=midpoint,
            root=root(self.covariance, self.shape),
            scale=scale * self.distance,
            **common,
        )

    def raw(self, eps: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Accuracy, robust accuracy and bound of the eps-robust Bayes classifier on the raw data.

        With covariance I the classifier is w = (1 - eps) s u, so t = s for every eps, t_rob = (1 - eps) s,
        and the log-prior term is k = (q/2) / ((1 - eps) s). With any other it is the ridge classifier of
        docs/method.md, section 2, on the known spectrum. Its ridge depends on the directions of m alone, so
        t and t_rob are s times constants of eps; at eps = 0 both are s.

        Args:
            eps: E values in [0, 1).

        Returns:
            Three float64 tensors [S, E].

        Raises:
            SynbenchError: eps outside [0, 1).
        """
        scale = torch.tensor(self.scale_values, dtype=torch.float64)[:, None]
        shrink = 1 - torch.tensor(check_eps(eps), dtype=torch.float64)
        if self.covariance == "white":
            t_rob = scale * shrink
            t = scale.expand_as(t_rob)
        else:
            per_scale, robust_per_scale = _robust_ratios(
                self.pattern, self.covariance, self.shape, tuple(check_eps(eps))
            )
            t, t_rob = scale * per_scale, scale * robust_per_scale
        k = gaussian.threshold_shift(gaussian.log_prior_offset(self.prior), t_rob**2)
        return (
            gaussian.accuracy(t, k, self.prior),
            gaussian.accuracy(t_rob, k, self.prior),
            gaussian.bound(t, k, self.prior),
        )


@lru_cache(maxsize=8)
def _unit_pattern(name: str, shape: tuple[int, ...], device: torch.device) -> UnitPattern:
    return UnitPattern.of(class_means(name, shape).direction, shape, device)


@lru_cache(maxsize=8)
def _means_on(name: str, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor | None]:
    means = class_means(name, shape)
    midpoint = None if means.midpoint is None else means.midpoint.to(device)
    return means.direction.to(device), midpoint


@lru_cache(maxsize=64)
def _spectrum(pattern: str, covariance: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return spectrum(covariance, class_means(pattern, shape).direction)


@lru_cache(maxsize=64)
def _distance(pattern: str, covariance: str, shape: tuple[int, ...]) -> float:
    d, a2 = _spectrum(pattern, covariance, shape)
    return 1 / math.sqrt(float((a2 / d).sum()))


@lru_cache(maxsize=64)
def _robust_ratios(
    pattern: str, covariance: str, shape: tuple[int, ...], eps: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """t/s and t_rob/s of the eps-robust classifier, float64 [E] each."""
    d, a2 = _spectrum(pattern, covariance, shape)
    m2 = a2 * _distance(pattern, covariance, shape) ** 2
    return known_ratios(d, m2, torch.tensor(eps, dtype=torch.float64))
