"""The margins behind an estimate of t: how much each sample moved it, and whether they are Gaussian.

With u_i = (x_i - c)'w of the samples that gave w, their means u_1, u_0 per class and their pooled deviation s,

    z_i = (u_i - mean of its class) / s, with the sign of its class: positive on the right side
    influence of sample i on t = z_i / (2 N_k) - t (z_i^2 - 1) / (2 N),    k its class

which is the derivative of (u_1 - u_0)/(2 s) in the weight of the sample. In the samples that gave w, u varies less
than in others, but by nearly one factor, which standardising takes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.ops.feature_stats import CHUNK_BYTES, GPU_CHUNK_BYTES

__all__ = [
    "GROUP",
    "Gaussianity",
    "counted",
    "counted_covariance",
    "gaussianity",
    "grouped",
    "influence",
    "standard_margins",
]

GROUP = 64  # consecutive samples whose influences are kept as one sum


def standard_margins(x: Tensor, y: Tensor, weights: Tensor, center: Tensor) -> Tensor:
    """z [N, E] float64 on the device of x, from features x [N, F], labels y [N], weights [E, F], center [F].

    0 where the margins do not vary.
    """
    margins = torch.empty(len(x), len(weights), dtype=torch.float64, device=x.device)
    rows = max(1, (CHUNK_BYTES if x.device.type == "cpu" else GPU_CHUNK_BYTES) // (8 * x.shape[1]))
    for start in range(0, len(x), rows):  # no copy of all features in float64
        margins[start : start + rows] = (x[start : start + rows].double() - center) @ weights.T
    sign = 2.0 * (y != 0).double()[:, None] - 1.0
    one = (sign > 0).double()
    ones = one.sum()
    mean_1, mean_0 = (margins * one).sum(0) / ones, (margins * (1 - one)).sum(0) / (len(y) - ones)
    centred = sign * (margins - torch.where(sign > 0, mean_1, mean_0))
    deviation = centred.square().mean(0).sqrt()
    return torch.where(deviation > 0, centred / deviation, 0.0)


def influence(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Influence of each sample on t [E]: [N, E]; its square sums up to the variance of t at fixed classifiers."""
    one = (y != 0)[:, None]
    ones = int(one.sum())
    per_class = torch.where(one, 1.0 / ones, 1.0 / (len(y) - ones))
    return z * per_class / 2 - t * (z.square() - 1) / (2 * len(y))


def grouped(values: Tensor, start: int = 0) -> Tensor:
    """[E, G] sums of values [N, E] over the groups of GROUP consecutive samples, numbered from `start` on.

    A group begins with a multiple of GROUP; the first and the last may be smaller.
    """
    before = start % GROUP
    after = -(before + len(values)) % GROUP
    padded = torch.nn.functional.pad(values, (0, 0, before, after))
    return padded.reshape(-1, GROUP, values.shape[1]).sum(1).T


def counted(z: Tensor, y: Tensor, t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy and bound [E] of the classifiers with signal-to-noise t and shift k, z in place of the Gaussian.

    Sample i is on the right side if z_i > -(t -+ k), - for class 1; see `gaussian` for the formulas that this
    replaces: a = mean of 1[correct], b = mean of max(0, z + t -+ k) / (t a). The bound is infinite for t = 0.
    """
    reach = z + torch.where((y != 0)[:, None], t - k, t + k)
    accuracy = (reach > 0).double().mean(0)
    positive = reach.clamp_min(0).mean(0)
    bound = torch.where((t > 0) & (accuracy > 0), positive / (t * accuracy), torch.inf)
    return accuracy, bound


def counted_covariance(z: Tensor, y: Tensor, t: Tensor, k: Tensor) -> Tensor:
    """[E, 2, 2] sampling covariance of what `counted` counts, at fixed classifiers: accuracy a and ratio R = a b.

    With reach_i = z_i + t -+ k: a is the mean of 1[reach > 0], R that of max(0, reach) over the half-distance
    t of the class means. Sample i moves a by (1[reach_i > 0] - a)/N: class means and deviation cancel, because
    a counts samples on the right side of the boundary, whatever the units. It moves R by
    (max(0, reach_i) - mean)/(N t) - R z_i/(2 N_k t) - (q_1 - q_0) (dc_i + dk_i)/t, where q_k is the share of all
    samples that are in class k and right, dc_i = +- z_i/(2 N_k) the midpoint's and dk_i = -k dt_i/t the shift's
    move; for equal priors q_1 - q_0 is noise and k is 0.
    """
    one = (y != 0)[:, None]
    reach = z + torch.where(one, t - k, t + k)
    ones = int(one.sum())
    per_class = torch.where(one, 1.0 / ones, 1.0 / (len(y) - ones)) / 2
    right, positive = (reach > 0).double(), reach.clamp_min(0)
    safe = torch.where(t > 0, t, 1.0)
    ratio = positive.mean(0) / safe
    by_accuracy = (right - right.mean(0)) / len(y)
    by_ratio = (positive - positive.mean(0)) / (len(y) * safe) - ratio * z * per_class / safe
    side = torch.where(one, 1.0, -1.0)
    shift = torch.where(k == 0, 0.0, -k / safe * influence(z, y, t))
    by_ratio -= (right * side).mean(0) * (side * z * per_class + shift) / safe
    moved = torch.stack([by_accuracy, by_ratio], 2)  # [N, E, 2]
    return torch.einsum("nei,nej->eij", moved, moved)


@dataclass(frozen=True)
class Gaussianity:
    """How far counting the margins is from taking them as Gaussian, over the scales of one budget."""

    p_value: float  # chance of deviations like these from Gaussian margins
    largest: float  # counted minus Gaussian accuracy where they differ most
    scale: int  # index of that scale


def gaussianity(
    counted_accuracy: Tensor, t: Tensor, k: Tensor, prior: float, count: Tensor
) -> Gaussianity | None:
    """Of counted accuracies [S] against those of Gaussian margins with t, k [S], from `count` [S] samples.

    None without a scale that can tell: five samples are to be expected on either side. The difference at one
    scale has the variance of a count less what standardising takes out,

        N Var = sum_k tau_k (p_k (1 - p_k) - phi_k^2) - (sum_k tau_k phi_k (t -+ k))^2 / 2,  p_k = Phi(-(t -+ k)),

    and the sum of squares over the scales is chi-squared with as many degrees of freedom.
    """
    expected = gaussian.accuracy(t, k, prior)
    able = torch.minimum(expected, 1 - expected) * count >= 5
    variance, by_deviation = torch.zeros_like(t), torch.zeros_like(t)
    for share, reach in ((prior, t - k), (1 - prior, t + k)):
        wrong = torch.special.ndtr(-reach)
        density = torch.exp(-0.5 * reach.square()) / math.sqrt(2 * math.pi)
        variance += share * (wrong * (1 - wrong) - density.square())
        by_deviation += share * density * reach
    variance = (variance - by_deviation.square() / 2) / count
    able &= variance > 0
    if not bool(able.any()):
        return None
    difference = torch.where(able, counted_accuracy - expected, 0.0)
    statistic = (difference.square() / variance)[able].sum()
    p_value = torch.special.gammaincc(able.sum().double() / 2, statistic / 2)
    worst = int(difference.abs().argmax())
    return Gaussianity(float(p_value), float(difference[worst]), worst)
