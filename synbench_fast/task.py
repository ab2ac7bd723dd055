"""The synthetic task: two Gaussians of known distance, and the exact optimum on the raw data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.checks import check_eps
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.sample_mixture import sample_mixture

__all__ = ["PUBLISHED_MEAN", "PUBLISHED_STD", "GaussianTask", "spread_scales"]

LARGEST_SCALE = 4.9  # the published grid is 0.1, 0.2, ..., 4.9
SCALE_STEP = 1e-4  # scales are told apart to this; their sample streams are numbered by it
PUBLISHED_MEAN = (0.485, 0.456, 0.406)  # what the published script subtracts for every model
PUBLISHED_STD = (0.229, 0.224, 0.225)


def spread_scales(count: int) -> tuple[float, ...]:
    """`count` equally spaced scales up to 4.9; 49 of them are the published grid.

    >>> spread_scales(7)
    (0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9)
    """
    if not 1 <= count <= LARGEST_SCALE / SCALE_STEP:
        raise SynbenchError(f"scales: expected 1 to {LARGEST_SCALE / SCALE_STEP:.0f} scales, got {count}")
    return tuple(round(LARGEST_SCALE * (i + 1) / count, 4) for i in range(count))


@dataclass(frozen=True)
class GaussianTask:
    """x | y ~ N(center + (2y - 1) s u, I), P(y = 1) = prior, for every scale s.

    u = ones(D)/sqrt(D) has unit length, so the raw classes are 2 s standard deviations apart. The noise has
    unit variance per input element, in the units of the input before normalisation (pixels in [0, 1]).

    Args:
        shape: of one sample, channels first: (3, 224, 224), (1, 16000), (10,).
        scales: increasing positive values s, at least 1e-4 apart; None for the published 0.1, 0.2, ..., 4.9.
        prior: tau = P(y = 1), in (0, 1).
        center: common mean of every input element.

    Raises:
        SynbenchError: any value outside these.

    Source: SynBench (Ko et al.), section on synthetic data.
    """

    shape: tuple[int, ...]
    scales: tuple[float, ...] | None = None
    prior: float = 0.5
    center: float = 0.5

    def __post_init__(self) -> None:
        shape = tuple(self.shape)
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise SynbenchError(f"shape: expected positive integers, got {self.shape!r}")
        scales = spread_scales(49) if self.scales is None else tuple(float(s) for s in self.scales)
        if not scales:
            raise SynbenchError("scales: expected at least 1 scale, got none")
        if not all(math.isfinite(s) and SCALE_STEP <= s <= 1e5 for s in scales):
            raise SynbenchError(f"scales: expected values in [0.0001, 100000], got {list(scales)}")
        ticks = [self._tick(s) for s in scales]
        if any(a >= b for a, b in pairwise(ticks)):
            raise SynbenchError(
                f"scales: expected increasing values at least 0.0001 apart, got {list(scales)}"
            )
        if not 0 < self.prior < 1:
            raise SynbenchError(f"prior: expected a value in (0, 1), got {self.prior}")
        if not math.isfinite(self.center):
            raise SynbenchError(f"center: expected a finite value, got {self.center}")
        object.__setattr__(self, "shape", shape)
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
        return sample_mixture(
            self.shape,
            start,
            count,
            scale=scale,
            seed=seed,
            stream=self.stream(scale, split),
            center=self.center,
            prior=self.prior,
            mean=mean,
            std=std,
            dtype=dtype,
            channels_last=channels_last,
            device=device,
            out=out,
            threads=threads,
            backend=backend,
        )

    def raw(self, eps: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Accuracy, robust accuracy and bound of the eps-robust Bayes classifier on the raw data.

        With covariance I the classifier is w = (1 - eps) s u, so t = s for every eps, t_rob = (1 - eps) s,
        and the log-prior term is k = (q/2) / ((1 - eps) s).

        Args:
            eps: E values in [0, 1).

        Returns:
            Three float64 tensors [S, E].

        Raises:
            SynbenchError: eps outside [0, 1).
        """
        scale = torch.tensor(self.scale_values, dtype=torch.float64)[:, None]
        shrink = 1 - torch.tensor(check_eps(eps), dtype=torch.float64)
        t_rob = scale * shrink
        t = scale.expand_as(t_rob)
        k = gaussian.threshold_shift(gaussian.log_prior_offset(self.prior), t_rob**2)
        return (
            gaussian.accuracy(t, k, self.prior),
            gaussian.accuracy(t_rob, k, self.prior),
            gaussian.bound(t, k, self.prior),
        )
