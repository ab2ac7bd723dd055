"""evaluate_features and auc_ratio: arrays of every kind, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import drawn, evaluate, refused, same
from scipy.stats import norm

import synbench_fast as sb

BOTH = ("paper", "consistent")

# Arrays of every kind


class Shared:
    """What CuPy looks like from here: no NumPy array, but a DLPack exporter."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.exports = 0

    def __dlpack__(self, **options: Any) -> Any:
        self.exports += 1
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def spread(array: Any) -> Any:
    """The same values with a stride in every axis."""
    wide = np.full([2 * n for n in array.shape], 99, dtype=array.dtype)
    part = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    part[...] = array
    return part


def reversed_twice(array: Any) -> Any:
    return array[::-1].copy()[::-1]


FORMS = {
    "torch": torch.from_numpy,
    "fortran": np.asfortranarray,
    "strided": spread,
    "strided torch": lambda a: torch.from_numpy(spread(a)),
    "transposed torch": lambda a: torch.from_numpy(a.T.copy()).t(),
    "read-only": read_only,
    "reversed": reversed_twice,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "longdouble": lambda a: a.astype(np.longdouble),
    "dlpack": Shared,
    "dlpack torch": lambda a: Shared(torch.from_numpy(a)),
    "gradient": lambda a: (
        torch.from_numpy(a).requires_grad_() if a.dtype.kind == "f" else torch.from_numpy(a)
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=[name.replace(" ", "-") for name in FORMS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("estimator", BOTH)
def test_arrays_of_every_kind_are_equal(estimator: str, dtype: Any, form: Any) -> None:
    x, y, _ = drawn(300, 9, dtype=dtype)
    expected = evaluate(estimator, x.astype(np.float64), y)
    kinds = [[form(half) for half in both] for both in (x, y.astype(np.uint8))]
    before = [np.array(half) for half in x]
    same(evaluate(estimator, *kinds), expected, 1e-10)
    assert all(np.array_equal(a, b) for a, b in zip(before, x, strict=True))


def test_a_dlpack_exporter_is_asked_once() -> None:
    x, y, _ = drawn(300, 9)
    shared = Shared(x[0])
    sb.evaluate_features(shared, y[0], eps=0.0, estimator="consistent")  # type: ignore[arg-type]
    assert shared.exports == 1


@pytest.mark.parametrize(
    "labels",
    [
        lambda y: y.astype(bool),
        lambda y: y.astype(np.float32),
        lambda y: y.astype(np.int8),
        lambda y: torch.from_numpy(y).to(torch.int32),
        lambda y: y.tolist(),
    ],
    ids=["bool", "float", "int8", "int32", "list"],
)
@pytest.mark.parametrize("estimator", BOTH)
def test_labels_of_every_kind_are_equal(estimator: str, labels: Any) -> None:
    x, y, _ = drawn(300, 9)
    same(evaluate(estimator, x, [labels(half) for half in y]), evaluate(estimator, x, y))


@pytest.mark.parametrize(
    "labels", [[-(2**63), 2**63 - 1], [2**53, 2**53 + 1], [-(2.0**53), 2.0**53]], ids=str
)
def test_labels_are_told_apart_at_any_size(labels: list[float]) -> None:
    x, y = drawn(60, 4)[:2]
    named = np.array(labels)[y[0]]
    expected = sb.evaluate_features(x[0], (named > named.min()).astype(int), eps=0.0)
    assert sb.evaluate_features(x[0], named, eps=0.0).accuracy == expected.accuracy


@pytest.mark.parametrize("estimator", BOTH)
def test_bfloat16_features_are_read_as_float32(estimator: str) -> None:
    x, y, _ = drawn(300, 9)
    halves = [torch.from_numpy(half).bfloat16() for half in x]
    same(evaluate(estimator, halves, y), evaluate(estimator, [half.float() for half in halves], y))


@pytest.mark.parametrize("eps", [0.2, np.float32(0.2), torch.tensor(0.2), [0.2], np.array([0.2])])
def test_one_budget_in_every_form(eps: Any) -> None:
    x, y, _ = drawn(60, 3)
    point = sb.evaluate_features(x[0], y[0], eps=eps, estimator="consistent")
    np.testing.assert_allclose(point.eps, [0.2], rtol=1e-7)


# Mistakes

X, Y, _ = drawn(60, 4)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train_x": X[0][:, 0]}, ["train_x: expected features [N, F], got [60]"]),
        ({"train_x": X[0][:, :0]}, ["train_x: expected features [N, F], got [60, 0]"]),
        ({"train_x": X}, ["train_x: expected features [N, F], got [2, 60, 4]"]),
        ({"train_x": X[0].astype(np.int64)}, ["train_x: expected floating-point features, got int64"]),
        ({"train_x": X[0] + 0j}, ["train_x: expected dense real numbers, got ", "complex128"]),
        ({"test_x": X[1].astype(int)}, ["test_x: expected floating-point features, got int64"]),
        ({"train_x": X[0].astype(object)}, ["train_x: expected a NumPy, Torch or CuPy array, got ndarray"]),
        ({"train_x": X[0].astype(np.clongdouble)}, ["train_x: expected dense real numbers, got "]),
        ({"train_x": X[0] * np.longdouble("1e400")}, ["train_x: expected finite features, got"]),
        ({"train_x": "features.npy"}, ["train_x: expected a NumPy, Torch or CuPy array, got str"]),
        ({"train_x": None}, ["train_x: expected a NumPy, Torch or CuPy array, got NoneType"]),
        ({"train_x": [[1.0, 2.0], [3.0]]}, ["train_x: expected a NumPy, Torch or CuPy array, got list"]),
        ({"train_y": Y[0][:59]}, ["train_y: expected 60 labels, got [59]"]),
        ({"train_y": Y[0][:, None]}, ["train_y: expected 60 labels, got [60, 1]"]),
        ({"test_y": Y[0][:59]}, ["test_y: expected 60 labels, got [59]"]),
        ({"train_y": Y[0] / 2}, ["train_y: expected integer labels, got 0.5"]),
        ({"train_y": Y[0] * 0 + 7}, ["train_y: expected at least 2 classes, got 7 alone"]),
        ({"train_y": Y[0] + 1}, ["test_y: expected the labels [1, 2] of train_y, got [0, 1]"]),
        ({"test_y": np.where(Y[1] == 1, np.nan, 0.0)}, ["test_y: expected integer labels, got nan"]),
        ({"test_y": np.where(Y[1] == 1, np.inf, 0.0)}, ["test_y: expected integer labels, got inf"]),
        ({"train_y": np.where(Y[0] == 1, 1e300, 0.0)}, ["train_y: expected floating-point labels of at most 2^53 in size, got 1e+300"]),
        ({"train_y": np.where(Y[0] == 1, -(2.0**60), 0.0)}, ["train_y: expected floating-point labels of at most 2^53 in size, got -1.15292e+18"]),
        ({"train_y": [10**30, 0] * 30}, ["train_y: expected a NumPy, Torch or CuPy array, got list (TypeError: object array)"]),
        ({"train_y": ["cat", "dog"] * 30}, ["train_y: expected a NumPy, Torch or CuPy array, got list (TypeError: words, not numbers)"]),
        ({"train_y": [None, 0] * 30}, ["train_y: expected a NumPy, Torch or CuPy array, got list (TypeError: object array)"]),
        ({"train_x": X[0] * 1e200}, ["features: expected the largest between 1e-50 and 1e+50 in size, got larger ones; multiply"]),
        ({"train_x": X[0] * 1e-200}, ["features: expected the largest between 1e-50 and 1e+50 in size, got ", "e-200; multiply"]),
        ({"train_x": np.where(X[0] == X[0][7, 2], np.nan, X[0])}, ["train_x: expected finite features, got nan at [7, 2]"]),
        ({"test_x": np.where(X[1] == X[1][5, 0], -np.inf, X[1])}, ["test_x: expected finite features, got -inf at [5, 0]"]),
        ({"test_x": X[1][:, :3]}, ["test_x: expected F = 4 features as in train_x, got 3"]),
        ({"test_x": None}, ["test_x: expected a test half for the paper estimator, got None"]),
        ({"test_y": None}, ["test_x: expected a test half for the paper estimator, got None"]),
        ({"train_y": np.zeros(60)}, ["train labels: expected samples of both classes, got none of class 1"]),
        ({"train_y": np.ones(60)}, ["train labels: expected samples of both classes, got none of class 0"]),
        ({"test_y": np.zeros(60)}, ["test labels: expected samples of both classes, got none of class 1"]),
        ({"train_x": np.ones((60, 4))}, ["features: expected", "got constants only"]),
        ({"train_x": X[0] * 1e-6}, ["features: expected a direction of variance above the cut 1e-06"]),
        ({"train_x": X[0][:0], "train_y": Y[0][:0]}, ["train labels: expected samples of both classes"]),
        ({"train_x": X[0][:2], "train_y": [0, 1]}, ["train samples: expected at least 3, got 2"]),
        ({"eps": 1.0}, ["eps: expected values in [0, 1)", "got 1"]),
        ({"eps": (0.1, -0.2)}, ["eps: expected values in [0, 1)", "got -0.2"]),
        ({"eps": math.nan}, ["eps: expected values in [0, 1)", "got nan"]),
        ({"eps": ()}, ["eps: expected at least one value in [0, 1), got none"]),
        ({"eps": "a"}, ["eps: expected a number or a sequence of numbers, got 'a'"]),
        ({"eps": [[0.1]]}, ["eps: expected a number or a sequence of numbers, got [[0.1]]"]),
        ({"estimator": "papper"}, ["estimator: expected one of", "got 'papper', did you mean paper?"]),
        ({"estimator": "plugin"}, ["estimator: expected one of ['consistent', 'gaussian', 'counted', 'paper'], got 'plugin'"]),
        ({"prior": 0.0}, ["prior: expected a value in (0, 1), got 0.0"]),
        ({"prior": 1.5}, ["prior: expected a value in (0, 1), got 1.5"]),
        ({"group": 0}, ["group: expected at least 1, got 0"]),
        (
            {"estimator": "consistent", "train_x": X[0][:6], "train_y": [0, 1, 0, 1, 0, 1]},
            ["samples: expected more than F + 2 = 6 samples per scale, got 6; use at least 12"],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict[str, Any], parts: list[str]) -> None:
    arguments = {
        "train_x": X[0],
        "train_y": Y[0],
        "test_x": X[1],
        "test_y": Y[1],
        "eps": 0.2,
        "estimator": "paper",
    }
    with refused(*parts):
        sb.evaluate_features(**(arguments | changes))


def test_an_array_that_cannot_be_shared_is_named() -> None:
    class Broken(Shared):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("unsupported stride")

    with refused(
        "train_x: expected a NumPy, Torch or CuPy array, got Broken (BufferError: unsupported stride)"
    ):
        sb.evaluate_features(Broken(X[0]), Y[0], eps=0.0, estimator="consistent")  # type: ignore[arg-type]


GOOD: dict[str, Any] = {
    "scales": (0.5, 1.5),
    "accuracy": (0.6, 0.9),
    "bound": (2.0, 1.2),
    "thresholds": (0.6,),
}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"accuracy": (0.6,)}, ["accuracy: expected [S] like scales [2], got [1] and bound [2]"]),
        ({"bound": (0.6, 1, 2)}, ["accuracy: expected [S] like scales [2], got [2] and bound [3]"]),
        ({"bound": "high"}, ["bound: expected a NumPy, Torch or CuPy array, got str"]),
        ({"accuracy": (0.6, 1.2)}, ["accuracy: expected values in [0, 1], got 1.2"]),
        ({"accuracy": (0.6, math.nan)}, ["accuracy: expected values in [0, 1], got nan"]),
        ({"bound": (-1.0, 1.0)}, ["bound: expected values of at least 0", "got -1"]),
        ({"bound": (math.nan, 1.0)}, ["bound: expected values of at least 0", "got nan"]),
        ({"raw_bound": (2.0, 1.0)}, ["raw_bound: expected raw_accuracy and raw_bound together"]),
        ({"raw_accuracy": (0.6, 1.0)}, ["raw_bound: expected raw_accuracy and raw_bound together"]),
        ({"raw_accuracy": (0.6,), "raw_bound": (2.0, 1.0)}, ["raw_accuracy: expected [S] like scales [2]"]),
        ({"raw_accuracy": (0.6, 2.0), "raw_bound": (2.0, 1.0)}, ["raw_accuracy: expected values in [0, 1]"]),
        (
            {"raw_accuracy": (0.6, 0.7), "raw_bound": (2.0, -1.0)},
            ["raw_bound: expected values of at least 0"],
        ),
        ({"scales": (1.5, 0.5)}, ["scales: expected increasing values"]),
        ({"scales": (0.0, 0.5)}, ["scales: expected values in [0.0001, 100000]"]),
        ({"scales": ()}, ["scales: expected at least 1 scale, got none"]),
        ({"scales": [[0.5, 1.5]]}, ["scales: expected a number or a sequence of numbers"]),
        ({"thresholds": ()}, ["thresholds: expected at least one value in [0, 1), got none"]),
        ({"thresholds": (1.0,)}, ["thresholds: expected accuracies in [0, 1), got 1"]),
        ({"thresholds": (math.nan,)}, ["thresholds: expected accuracies in [0, 1), got nan"]),
        ({"integral": "gird"}, ["integral: expected 'exact' or 'grid', got 'gird', did you mean grid?"]),
    ],
)
def test_mistakes_in_the_curve_are_named(changes: dict[str, Any], parts: list[str]) -> None:
    with refused(*parts):
        sb.auc_ratio(**{**GOOD, **changes})


def test_auc_ratio_takes_arrays_as_they_are() -> None:
    """Read-only and reversed arrays, and a scale without a signal, which adds nothing."""
    expected = sb.auc_ratio(**GOOD)
    for form in (read_only, reversed_twice, torch.from_numpy, Shared):
        arrays = {k: form(np.array(GOOD[k])) for k in ("accuracy", "bound")}
        assert sb.auc_ratio(**{**GOOD, **arrays}).tolist() == expected.tolist()
    area = 1.2 * (0.9 - 0.6)
    s = np.array([0.5, 1.5])
    raw = ((1 + norm.pdf(s) / (s * norm.cdf(s))) * (norm.cdf(s) - 0.6)).sum()
    assert expected[0] == pytest.approx(area / raw, rel=1e-13)
    none = sb.auc_ratio(**{**GOOD, "accuracy": (0.5, 0.9), "bound": (math.inf, 1.2), "thresholds": 0.6})
    assert none.tolist() == expected.tolist()
    assert np.isnan(sb.auc_ratio(**{**GOOD, "thresholds": 0.95})[0])  # the raw data do not get there
