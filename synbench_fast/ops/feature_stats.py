"""feature_stats: class means and within-class scatter of labelled features, in mergeable form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import check_device, check_labels, class_counts, kind
from synbench_fast.ops.dispatch import Operation

__all__ = ["FeatureStats", "feature_stats", "feature_stats_blas"]

CHUNK_BYTES = 1 << 23  # of features converted to float64 at a time; they stay in a processor's cache
GPU_CHUNK_BYTES = 1 << 28  # on a GPU few large products are faster
BLOCK = 192  # columns of the scatter computed together; blocks above the diagonal are mirrored


@dataclass(frozen=True)
class FeatureStats:
    """Moments of features with labels 0/1. Stats of disjoint sets of samples merge exactly.

    The scatter is pooled over the classes: the common covariance is all that the linear discriminant uses,
    and one F x F matrix is what bounds the memory of wide encoders.
    """

    count: Tensor  # int64 [2], on the CPU
    mean: Tensor  # float64 [2, F]; 0 for a class without samples
    scatter: Tensor  # float64 [F, F] = sum_k sum_{i: y_i = k} (x_i - mean_k)(x_i - mean_k)'

    def merge(self, other: FeatureStats) -> FeatureStats:
        """Stats of both sets together (Chan, Golub & LeVeque 1983)."""
        if self.mean.shape != other.mean.shape:
            raise SynbenchError(
                f"other: expected F = {self.mean.shape[1]} features, got F = {other.mean.shape[1]}"
            )
        count = self.count + other.count
        share = (other.count.double() / count.clamp_min(1)).to(self.mean.device)  # [2]
        delta = other.mean - self.mean  # [2, F]
        scatter = self.scatter + other.scatter
        weight = self.count.to(share) * share
        scatter = scatter + delta.T @ (weight[:, None] * delta)
        return FeatureStats(count, self.mean + share[:, None] * delta, scatter)

    @property
    def half_difference(self) -> Tensor:
        """m = (mean_1 - mean_0) / 2, float64 [F]."""
        return (self.mean[1] - self.mean[0]) / 2

    @property
    def midpoint(self) -> Tensor:
        """c = (mean_1 + mean_0) / 2, float64 [F]."""
        return (self.mean[1] + self.mean[0]) / 2

    @property
    def dof(self) -> int:
        """Degrees of freedom of `covariance`, N - 2."""
        return int(self.count.sum()) - 2

    @property
    def c0(self) -> float:
        """(1/N_1 + 1/N_0) / 4: the sampling covariance of m is c0 times the covariance of a feature."""
        zero, one = int(self.count[0]), int(self.count[1])
        return (1 / zero + 1 / one) / 4

    @property
    def covariance(self) -> Tensor:
        """Pooled within-class covariance, scatter / (N - 2), float64 [F, F]."""
        return self.scatter / self.dof


# x, y, samples of each class
_backends = Operation[[Tensor, Tensor, Tensor], FeatureStats]("feature_stats")


def feature_stats(
    x: Tensor, y: Tensor, *, count: tuple[int, int] | None = None, backend: str = "auto"
) -> FeatureStats:
    """Per-class count and mean and the pooled within-class scatter of features.

        mean_k = 1/N_k sum_{i: y_i = k} x_i,   scatter = sum_k sum_{i: y_i = k} (x_i - mean_k)(x_i - mean_k)'

    Features are shifted to about the mean of their class before they are multiplied, and everything is accumulated in
    float64, so features with class means of 1e6 deviations keep their covariance to about 1e-10 relative.

    Args:
        x: [N, F], any floating dtype; it is read in chunks, never copied whole.
        y: [N], integer or bool labels 0/1.
        count: how many labels are 0 and 1, from a caller who knows; then they are not checked, and nothing
            waits for a GPU.
        backend: "auto", "blas" (matrix products, any device) or "torch" (specification: one sum per class).

    Returns:
        FeatureStats, mean (in feature units) and scatter (squared) on the device of `x`, without gradients.

    Raises:
        SynbenchError: shapes, dtypes or devices that do not fit, a label other than 0 and 1 (unless `count` is
            given).

    Source: the usual moments; merging after Chan, Golub & LeVeque (1983).
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise SynbenchError(f"x: expected floating [N, F], got {kind(x)}")
    check_labels(y, len(x))
    check_device("x", x.device, y=y)
    if count is None and len(y) and (int(y.min()) < 0 or int(y.max()) > 1):
        raise SynbenchError(f"y: expected labels 0 and 1, got values from {int(y.min())} to {int(y.max())}")
    return _backends.on(x.device.type, backend)(x.detach(), y, class_counts(y, count))


def feature_stats_blas(x: Tensor, y: Tensor, count: Tensor) -> FeatureStats:
    n, f = x.shape
    cpu = x.device.type == "cpu"
    y = y.long()
    one_hot = torch.zeros(2, n, dtype=torch.float64, device=x.device)
    one_hot.scatter_(0, y[None], 1.0)
    rows = max(1, min(n, max(256, (CHUNK_BYTES if cpu else GPU_CHUNK_BYTES) // (8 * max(1, f)))))
    block = BLOCK if cpu else max(1, f)
    shift = _shifts(x, y, one_hot)
    sums = torch.zeros(2, f, dtype=torch.float64, device=x.device)
    scatter = torch.zeros(f, f, dtype=torch.float64, device=x.device)
    buffer = torch.empty(rows, f, dtype=torch.float64, device=x.device)
    for start in range(0, n, rows):
        part = buffer[: n - start]
        which = one_hot[:, start : start + rows]
        part.copy_(x[start : start + rows]).addmm_(which.T, shift, alpha=-1)
        sums.addmm_(which, part)
        for low in range(0, f, block):
            # The scatter is symmetric: block rows from the diagonal to the right are enough.
            scatter[low : low + block, low:].addmm_(part[:, low : low + block].T, part[:, low:])
    present = one_hot.sum(1)
    mean = sums / present.clamp_min(1)[:, None]
    scatter.addmm_(mean.T, sums, alpha=-1)
    for low in range(0, f, block):
        scatter[low + block :, low : low + block] = scatter[low : low + block, low + block :].T
    return FeatureStats(count, mean + torch.where(present > 0, 1.0, 0.0)[:, None] * shift, scatter)


def _shifts(x: Tensor, y: Tensor, one_hot: Tensor) -> Tensor:
    """A point near the samples of each class, float64 [2, F]: what is taken off before products are summed.

    With one point for both classes, the scatter of classes that are far apart would be a small difference of large
    sums. The mean over the first 256 rows is one pass over little; a class that they do not hold has its first row.
    """
    if len(x) == 0:
        return torch.zeros(2, x.shape[1], dtype=torch.float64, device=x.device)
    first = x[torch.stack([(1 - y).argmax(), y.argmax()])].double()
    some = one_hot[:, :256]
    found = some.sum(1)[:, None]
    # Relative to the first row, so that a feature that is constant within a class has exactly that value.
    step = some @ (x[:256].double() - some.T @ first) / found.clamp_min(1)
    return first + step
