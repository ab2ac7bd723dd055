"""What one scale of features gives: the point of the accuracy-robustness curve, with its errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.arguments import ESTIMATORS
from synbench_fast.errors import SynbenchError

__all__ = ["CurvePoint", "checked_point", "independent_covariance"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class CurvePoint:
    """One scale of features, all budgets at once; every array is float64 [E] in the order of `eps`.

    accuracy is the fraction of samples on the right side of the eps-robust linear classifier w; robust_accuracy is the
    fraction that stays there under every perturbation of norm eps |m|; bound = E[|margin| / |m'w| given correct]. For
    equal priors and Gaussian margins, accuracy = Phi(t), robust_accuracy = Phi(t_rob) and bound = 1 + phi(t)/(t Phi(t)),
    with t = m'w / sqrt(w'Cw) and t_rob the same under attack. Where the features separate the classes without error, t
    and t_rob are infinite, and the accuracies and the bound are 1.

    Attributes:
        stderr: standard error of t. NaN here and in the other errors where they are not known.
        ridge, kappa: ridge of the sample covariance, and the ridge of the population covariance that it stands for.
        count: samples that gave the point.
        feature_dim, rank: F, and how many directions of the features vary within the classes; the others were dropped.
        below_cut: features that vary, but too little beside the largest one to be seen in float64; they were lost.
        lost_separation: whether a dropped direction separates the classes without error, which `paper` does not see.
        independent: whether the budgets' errors are taken as independent because nothing is known of their covariance.
        covariance: [3 E, 3 E] sampling covariance of (accuracy, reach, robust accuracy) over the budgets, where
            reach = accuracy * bound; None where it is not known.
        correction: [3 E] what `consistent` added to the counts of left-out samples.
        optimism: [4, E] by how much the accuracy of fitted samples exceeds that of left-out ones, as counted and as
            expected of Gaussian margins; then the same of the robust accuracy.
        repeated: share of the samples whose margin equals that of another one, as with features that take few values.
        deviation_error: [E] relative standard error of the deviation of the margins, from their fourth moment.
        undecided: [3 E] part of the samples whose margins pile up within the noise of the boundary; 0 unless they do.
        drift: [3 E] accuracy, reach and robust accuracy from all samples minus the mean of those from either half. It is
            noise where width does not bias them, and minus the bias that is left where that falls as 1/N.
        influence: [2, E', G] what groups of 16 consecutive samples did to accuracy and reach of the first E' budgets.
        excess, excess_stderr: [E'] counted accuracy minus that of Gaussian margins with the same t, and its error.
        assumes_gaussian: whether `accuracy` is that of Gaussian margins, so that the excess is not in it.
    """

    eps: Array
    accuracy: Array
    robust_accuracy: Array
    bound: Array
    t: Array
    t_rob: Array
    stderr: Array
    accuracy_stderr: Array
    robust_accuracy_stderr: Array
    bound_stderr: Array
    ridge: Array
    kappa: Array
    count: int
    feature_dim: int
    rank: int
    estimator: str
    below_cut: int = 0
    lost_separation: bool = False
    independent: bool = False
    covariance: Array | None = None
    correction: Array | None = None
    optimism: Array | None = None
    deviation_error: Array | None = None
    undecided: Array | None = None
    repeated: float = 0.0
    drift: Array | None = None
    influence: Array | None = None
    excess: Array | None = None
    excess_stderr: Array | None = None
    assumes_gaussian: bool = False

    @property
    def counted_accuracy(self) -> Array:
        """What was counted: before a correction, and in place of margins that are taken as Gaussian."""
        if self.correction is not None:
            return np.asarray(self.accuracy - self.correction[: len(self.eps)])
        if self.assumes_gaussian and self.excess is not None:
            return np.asarray(self.accuracy[: len(self.excess)] + self.excess)
        return self.accuracy

    @property
    def reach(self) -> Array:
        """E[max(0, margin)] / m'w = accuracy * bound; infinite where t = 0."""
        known = np.full(len(self.eps), np.inf)
        np.multiply(self.accuracy, self.bound, out=known, where=self.accuracy > 0)
        return known


def independent_covariance(
    accuracy: Array, bound: Array, accuracy_stderr: Array, bound_stderr: Array, robust_stderr: Array
) -> Array:
    """[3 E, 3 E] covariance of accuracy, reach = accuracy * bound and robust accuracy, all that is known being their errors.

    Accuracy and bound are taken as independent, budgets of accuracy and reach, too; robust accuracies as fully
    correlated over the budgets, which can only overstate the error of their sum.
    """
    size = len(accuracy)
    covariance = np.zeros((3 * size, 3 * size))
    variance = np.square(accuracy_stderr)
    with np.errstate(invalid="ignore"):  # an infinite bound has no error
        of_reach = np.square(bound) * variance + np.square(accuracy * bound_stderr)
        mixed = bound * variance
    first, second = np.arange(size), np.arange(size, 2 * size)
    covariance[first, first], covariance[second, second] = variance, of_reach
    covariance[first, second] = covariance[second, first] = mixed
    covariance[2 * size :, 2 * size :] = np.outer(robust_stderr, robust_stderr)
    return covariance


_MEANS = ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "ridge", "kappa")
_ERRORS = ("stderr", "accuracy_stderr", "robust_accuracy_stderr", "bound_stderr")


def _impossible(key: str, values: Array) -> str:
    """What is expected in place of values that no estimate has; an unbiased one may leave [0, 1] by its noise."""
    if key in ("accuracy", "robust_accuracy") and (np.abs(values - 0.5) > 1).any():
        return "shares of samples"
    if key in ("bound", "t", "t_rob") and np.isnan(values).any():
        return "no NaN"
    if key in _ERRORS and (values < 0).any():
        return "no negative error"
    return ""


def checked_point(point: Any, name: str, eps: Sequence[float], count: int, features: int) -> CurvePoint:
    """What the estimator `name` gave, as float64 arrays [E], with what is known beside it in its place.

    Raises:
        SynbenchError: not a CurvePoint, arrays of another shape, an accuracy that is not finite.
    """
    if not isinstance(point, CurvePoint):
        raise SynbenchError(
            f"estimator {name}: expected a CurvePoint with {len(eps)} budgets, got {type(point).__name__}"
        )
    arrays: dict[str, Any] = {"eps": np.asarray(eps, dtype=np.float64)}
    for key in (*_MEANS, *_ERRORS):
        try:
            arrays[key] = np.asarray(getattr(point, key), dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):  # the last one of tensors
            arrays[key] = np.empty((0, 0))
        if arrays[key].shape != (len(eps),):
            raise SynbenchError(
                f"estimator {name}: {key}: expected {len(eps)} numbers, one for each budget, got shape "
                f"{list(np.shape(getattr(point, key)))}"
            )
        if key in ("accuracy", "robust_accuracy") and not np.isfinite(arrays[key]).all():
            raise SynbenchError(
                f"estimator {name}: {key}: expected finite values, got {arrays[key].tolist()}"
            )
        wrong = name not in ESTIMATORS and _impossible(key, arrays[key])
        if wrong:
            raise SynbenchError(f"estimator {name}: {key}: expected {wrong}, got {arrays[key].tolist()}")
    if point.covariance is None:
        names = ("accuracy", "bound", "accuracy_stderr", "bound_stderr", "robust_accuracy_stderr")
        arrays |= {"covariance": independent_covariance(*(arrays[one] for one in names)), "independent": True}
    return replace(point, estimator=name, count=count, feature_dim=features, **arrays)
