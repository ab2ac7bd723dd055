"""Curve and score from features that are already there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from synbench_fast.checks import as_numbers, check_eps, check_integer, check_plain, check_thresholds
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.score_auc import Integral, score_auc
from synbench_fast.ops.score_sweep import PUBLISHED_GROUP
from synbench_fast.results.multiclass import MulticlassResult
from synbench_fast.stats.estimators import Paper, Sample, find_estimator
from synbench_fast.stats.multiclass import multiclass
from synbench_fast.stats.point import CurvePoint
from synbench_fast.tasks.task import GaussianTask

__all__ = ["auc_ratio", "evaluate_features"]

DEFAULT_EPS = (0.0, 0.2)


def _as_tensor(value: Any, name: str) -> Tensor:
    """NumPy, Torch and CuPy arrays as tensors, without a copy where the library allows it.

    Arrays of another byte order are converted, and longdouble is rounded to float64.
    """
    value = check_plain(value, name)
    if isinstance(value, Tensor):
        return value.detach().resolve_neg()
    try:
        if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
            shared: Tensor = from_dlpack(value)
            return shared
        array = np.asarray(value)
        if array.dtype == object:
            raise TypeError("object array")
        if array.dtype.kind in "SU":
            raise TypeError("words, not numbers")
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # longdouble, which torch does not have
            with np.errstate(over="ignore"):  # the caller looks for infinities
                array = array.astype(np.float64)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.writeable or any(step < 0 for step in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise SynbenchError(
            f"{name}: expected a NumPy, Torch or CuPy array, got {type(value).__name__} ({first_line(error)})"
        ) from None


def _features(x: Any, y: Any, half: str) -> tuple[Tensor, Tensor]:
    features, labels = _as_tensor(x, f"{half}_x"), _as_tensor(y, f"{half}_y")
    if features.ndim != 2 or features.shape[1] == 0:
        raise SynbenchError(f"{half}_x: expected features [N, F], got {list(features.shape)}")
    if not features.is_floating_point():
        raise SynbenchError(
            f"{half}_x: expected floating-point features, got {str(features.dtype).removeprefix('torch.')}"
        )
    if labels.shape != features.shape[:1]:
        raise SynbenchError(f"{half}_y: expected {len(features)} labels, got {list(labels.shape)}")
    if labels.is_complex():
        raise SynbenchError(f"{half}_y: expected integer labels, got complex numbers")
    if not bool(torch.isfinite(features).all()):
        row, column = torch.nonzero(~torch.isfinite(features))[0].tolist()
        raise SynbenchError(
            f"{half}_x: expected finite features, got {float(features[row, column])} at [{row}, {column}]"
        )
    if features.dtype not in (torch.float32, torch.float64):
        features = features.float()
    return features, labels


def _named(labels: Tensor, half: str) -> tuple[Tensor, list[int]]:
    """Places of the labels [N] among their distinct values, int64 on the CPU, and those values in increasing order.

    Labels of which none is other than 0 and 1 have these two values, even where one of them has no samples.
    """
    values = (labels.double() if labels.is_floating_point() else labels).cpu().numpy()
    if values.dtype.kind == "f":
        wrong = values[values != np.floor(values)]  # NaN differs from itself
        wrong = np.concatenate([wrong, values[np.isinf(values)]])
        if len(wrong):
            raise SynbenchError(f"{half}_y: expected integer labels, got {wrong[0]}")
        wrong = values[np.abs(values) > 2**53]  # of larger numbers, several integers are one float
        if len(wrong):
            raise SynbenchError(
                f"{half}_y: expected floating-point labels of at most 2^53 in size, got {wrong[0]:g}"
            )
    names, places = np.unique(values, return_inverse=True)
    known = [int(one) for one in names]
    if set(known) <= {0, 1}:
        return labels.cpu().long(), [0, 1]
    if len(known) == 1:
        raise SynbenchError(f"{half}_y: expected at least 2 classes, got {known[0]} alone")
    return torch.from_numpy(places.reshape(-1).astype(np.int64)), known


@overload
def evaluate_features(
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    test_x: ArrayLike | Tensor | None = None,
    test_y: ArrayLike | Tensor | None = None,
    *,
    eps: Sequence[float] | float,
    estimator: str = "consistent",
    prior: float = 0.5,
    group: int = PUBLISHED_GROUP,
    backend: str = "auto",
) -> CurvePoint: ...


@overload
def evaluate_features(
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    test_x: ArrayLike | Tensor | None = None,
    test_y: ArrayLike | Tensor | None = None,
    *,
    eps: None = None,
    estimator: str = "consistent",
    prior: float = 0.5,
    group: int = PUBLISHED_GROUP,
    backend: str = "auto",
) -> CurvePoint | MulticlassResult: ...


def evaluate_features(
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    test_x: ArrayLike | Tensor | None = None,
    test_y: ArrayLike | Tensor | None = None,
    *,
    eps: Sequence[float] | float | None = None,
    estimator: str = "consistent",
    prior: float = 0.5,
    group: int = PUBLISHED_GROUP,
    backend: str = "auto",
) -> CurvePoint | MulticlassResult:
    """Accuracy, robust accuracy, bound and t of the eps-robust classifiers on features of ONE scale; or of K classes.

    With more than two labels the result is the accuracy over all K classes, the mean over their K (K - 1)/2 pairs and the
    worst pair, of linear discriminants with one covariance (`stats.multiclass`). It has no budgets, priors or test half.

    Everything runs where train_x is, without a copy of it. On a GPU it runs on torch's current stream; what
    CuPy still has to do to its arrays on CuPy's current stream comes first.

    Args:
        train_x: [N, F] floating features; NumPy, Torch or CuPy.
        train_y: [N] K distinct integers; of two labels the smaller one is class 0.
        test_x, test_y: the test half, needed by "paper"; the others read the train half only.
        eps: E budgets in [0, 1), relative to the half-distance of the class means; None for 0 and 0.2. Two classes only.
        estimator: "consistent", "gaussian", "counted" or "paper" (the published protocol, two classes only); see
            docs/method.md.
        prior: tau, the probability of class 1; the log-prior term enters for tau != 1/2. Classes weigh tau and 1 - tau in
            every estimate, whatever their share of the samples; "paper" counts all test samples alike.
        group: for "paper": the bound is averaged within runs of this many test samples, then over the runs,
            as the published script does with its batches; the number of samples gives the plain mean.
        backend: of every operation; "auto" picks the fastest for the device, "torch" is the float64
            specification.

    Returns:
        CurvePoint of float64 arrays [E] for two classes, MulticlassResult for more.

    Raises:
        SynbenchError: arrays that do not fit together or lie on different devices, a missing class or half,
            NaN or infinite features, features that are all constant, too few samples for "consistent".
    """
    budgets = check_eps(DEFAULT_EPS if eps is None else eps)
    chosen = find_estimator(estimator)
    weights = as_numbers(prior, "prior")
    if len(weights) != 1 or not 0 < weights[0] < 1:
        raise SynbenchError(f"prior: expected a value in (0, 1), got {prior}")
    (prior,), group = weights, check_integer("group", group, 1, "at least 1", 2**62)
    if isinstance(chosen, Paper):
        chosen = Paper(group)
    x, labels = _features(train_x, train_y, "train")
    places, names = _named(labels, "train")
    if len(names) > 2:
        for name, given in (("eps", eps), ("test_x", test_x), ("test_y", test_y)):
            if given is not None:
                raise SynbenchError(
                    f"{name}: expected none for {len(names)} classes, got one; budgets, priors and halves belong to two "
                    "classes, and K classes take train_x, train_y and the estimator alone"
                )
        if prior != 0.5:
            raise SynbenchError(f"prior: expected 0.5 for {len(names)} classes, got {prior:g}")
        return multiclass(x, places.to(x.device), names, chosen)
    y = places.to(x.device, torch.uint8)
    stats = feature_stats(x, y, backend=backend)
    test = None
    if chosen.halves == 2:
        if test_x is None or test_y is None:
            raise SynbenchError(
                f"test_x: expected a test half for the {chosen.name} estimator, got None; pass test_x and test_y"
            )
        held_x, held_labels = _features(test_x, test_y, "test")
        held, known = _named(held_labels, "test")
        if known != names:
            raise SynbenchError(f"test_y: expected the labels {names} of train_y, got {known}")
        test = Sample(held_x, held.to(held_x.device, torch.uint8))
        if test.x.shape[1] != x.shape[1]:
            raise SynbenchError(
                f"test_x: expected F = {x.shape[1]} features as in train_x, got {test.x.shape[1]}"
            )
        if test.x.device != x.device:
            raise SynbenchError(f"test_x: expected device {x.device} of train_x, got {test.x.device}")
    return chosen.point(stats, budgets, sample=Sample(x, y), test=test, prior=prior, backend=backend)


def _curve(prefix: str, accuracy: Any, bound: Any, scales: int) -> tuple[Tensor, Tensor]:
    """Accuracies and bounds [S], checked."""
    given = [_as_tensor(accuracy, f"{prefix}accuracy"), _as_tensor(bound, f"{prefix}bound")]
    a, b = (one.cpu().double() for one in given)
    if torch.bool in (given[0].dtype, given[1].dtype):
        raise SynbenchError(f"{prefix}accuracy: expected numbers, and of {prefix}bound, got bool")
    if a.shape != (scales,) or b.shape != (scales,):
        raise SynbenchError(
            f"{prefix}accuracy: expected [S] like scales [{scales}], got {list(a.shape)} and "
            f"{prefix}bound {list(b.shape)}"
        )
    for name, values, fine, expected in (
        ("accuracy", a, (a >= 0) & (a <= 1), "values in [0, 1]"),
        ("bound", b, b >= 0, "values of at least 0, infinite where there is no signal"),
    ):
        if not bool(fine.all()):
            raise SynbenchError(f"{prefix}{name}: expected {expected}, got {values[~fine][0].item():g}")
    return a, b


def auc_ratio(
    scales: ArrayLike,
    accuracy: ArrayLike,
    bound: ArrayLike,
    *,
    thresholds: Sequence[float] | float,
    integral: Integral = "exact",
    raw_accuracy: ArrayLike | None = None,
    raw_bound: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Score from the curve of one eps: area above each threshold against the raw data's (prior 1/2).

    Args:
        scales: [S] increasing positive scales s.
        accuracy, bound: [S] of the representation.
        thresholds: A accuracies a_t.
        integral: "exact", or "grid" for the published script's sum.
        raw_accuracy, raw_bound: [S] curve of the raw data to compare with, both or neither; default the exact
            Phi(s) and 1 + phi(s)/(s Phi(s)). (The published script's own raw curve carries the rounding of a
            float32 class distance, about 1e-6 relative, which moves its scores by some 1e-8.)

    Returns:
        float64 [A]; NaN where the raw data exceed the threshold at no scale.

    Raises:
        SynbenchError: lengths that do not agree, values out of range.
    """
    values = as_numbers(scales, "scales")
    exact = GaussianTask((1,), values).raw((0.0,))
    a, b = _curve("", accuracy, bound, len(values))
    if (raw_accuracy is None) != (raw_bound is None):
        raise SynbenchError("raw_bound: expected raw_accuracy and raw_bound together, got one of them")
    if raw_accuracy is None:
        raw_a, raw_b = exact[0][:, 0], exact[2][:, 0]
    else:
        raw_a, raw_b = _curve("raw_", raw_accuracy, raw_bound, len(values))
    wanted = torch.tensor(check_thresholds(thresholds), dtype=torch.float64)
    area = score_auc(a, b, wanted, integral=integral)
    ratio: NDArray[np.float64] = (area / score_auc(raw_a, raw_b, wanted, integral=integral)).numpy()
    return ratio
