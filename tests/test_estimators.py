"""Both estimators through evaluate_features: stored outputs of the published script, NumPy, known populations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, classifiers, population, refused
from conftest import load_golden
from scipy.stats import norm
from synbench_fast.area_errors import area_covariance, area_terms, robust_area_stderr

import synbench_fast as sb
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.robust_solve import robust_solve
from synbench_fast.stats import gaussian
from synbench_fast.stats.estimators import consistent_point, paper_point
from synbench_fast.stats.point import CurvePoint

EPS = (0.0, 0.05, 0.2, 0.5, 0.9)
BOTH = ("paper", "consistent")


def drawn(
    n: int, f: int, t: float = 1.2, prior: float = 0.5, seed: int = 0, dtype: Any = np.float64
) -> tuple[Array, Array, Array]:
    """Features [2, n, f] of two halves, labels [2, n], and the population's (m, C) as [f + 1, f]."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((f, f)) / math.sqrt(f) + 0.5 * np.eye(f)
    covariance = mix @ mix.T
    m = mix @ rng.standard_normal(f)
    m *= t / math.sqrt(m @ np.linalg.solve(covariance, m))
    y = (rng.random((2, n)) < prior).astype(np.int64)
    y[:, :2] = 0, 1
    x = 3.0 + (2 * y[..., None] - 1) * m + rng.standard_normal((2, n, f)) @ mix.T
    return x.astype(dtype), y, np.concatenate([m[None], covariance])


def same(a: CurvePoint, b: CurvePoint, rtol: float = 0.0) -> None:
    for field in dataclasses.fields(CurvePoint):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol, err_msg=field.name)
        else:
            assert left == right, field.name


# The published protocol


def test_paper_reproduces_the_published_script(golden: dict[str, Array]) -> None:
    arrays = [golden[k] for k in ("train_X", "train_y", "test_X", "test_y")]
    point = sb.evaluate_features(*arrays, eps=golden["eps"], estimator="paper")
    np.testing.assert_array_equal(point.accuracy, golden["exact_acc"])
    np.testing.assert_allclose(point.bound, golden["exact_bounds"], rtol=0, atol=1e-6)
    # The script's own numbers carry the tolerance of its conic solver.
    for ours, exact, stored in (
        (point.bound, golden["exact_bounds"], golden["ref_scs_bounds"]),
        (point.accuracy, golden["exact_acc"], golden["ref_scs_acc"]),
    ):
        assert np.all(np.abs(ours - stored) <= 1.01 * np.abs(exact - stored).max() + 1e-9)
    assert point.rank == golden["exact_rank"]
    whole = sb.evaluate_features(*arrays, eps=golden["eps"], estimator="paper", group=len(golden["test_y"]))
    np.testing.assert_array_equal(whole.accuracy, golden["exact_acc_global"])
    np.testing.assert_allclose(whole.bound, golden["exact_bounds_global"], rtol=0, atol=1e-6)


def test_paper_reproduces_the_published_score() -> None:
    stored = load_golden("full_conv32_12scales")
    assert stored["exact_acc"].shape == (12, 5)
    points = [
        sb.evaluate_features(x[0], y[0], x[1], y[1], eps=stored["eps"], estimator="paper")
        for x, y in zip(stored["features"], stored["labels"], strict=True)
    ]
    accuracy, bound = np.stack([p.accuracy for p in points]), np.stack([p.bound for p in points])
    np.testing.assert_array_equal(accuracy, stored["exact_acc"])
    np.testing.assert_allclose(bound, stored["exact_bounds"], rtol=0, atol=1e-6)
    assert np.all(
        np.abs(bound - stored["ref_scs_bounds"])
        <= 1.01 * np.abs(stored["exact_bounds"] - stored["ref_scs_bounds"]).max() + 1e-9
    )
    raw = {"raw_accuracy": stored["raw_acc"], "raw_bound": stored["raw_bounds"]}
    for name, integral in (("score_exact_grid", "grid"), ("score_exact_integral", "exact")):
        score = np.stack(
            [
                sb.auc_ratio(
                    stored["scales"],
                    accuracy[:, e],
                    bound[:, e],
                    thresholds=stored["thresholds"],
                    integral=integral,
                    **raw,
                )
                for e in range(5)
            ]
        )
        np.testing.assert_allclose(score, stored[name], rtol=0, atol=1e-9)
        if integral == "grid":
            noise = 1.01 * np.abs(stored["score_exact_grid"] - stored["score_ref"]).max() + 1e-9
            assert np.all(np.abs(score - stored["score_ref"]) <= noise)
    # Without the stored raw curve, whose class distance was rounded to float32, the exact one is taken.
    exact_raw = sb.auc_ratio(stored["scales"], accuracy[:, 0], bound[:, 0], thresholds=stored["thresholds"])
    np.testing.assert_allclose(exact_raw, stored["score_exact_integral"][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "f"), [(63, 1), (200, 7), (1271, 63), (50, 60)])
@pytest.mark.parametrize("prior", [0.5, 0.3, 0.9])
@pytest.mark.parametrize("group", [1, 3, 256, 5000])
def test_paper_is_its_definition(n: int, f: int, prior: float, group: int) -> None:
    """Every number of the point in plain NumPy, with the log-prior term and groups without a correct sample."""
    x, y, _ = drawn(n, f, t=0.5, prior=prior, seed=f)
    point = sb.evaluate_features(x[0], y[0], x[1], y[1], eps=EPS, estimator="paper", prior=prior, group=group)
    means = [x[0][y[0] == k].mean(0) for k in (0, 1)]
    centered = np.concatenate([x[0][y[0] == k] - means[k] for k in (0, 1)])
    m, c = (means[1] - means[0]) / 2, (means[1] + means[0]) / 2
    w, length = classifiers(m, centered.T @ centered / (n - 2), EPS, cut=1e-6)
    offset = math.log((1 - prior) / prior) / 2
    margin = (x[1] - c) @ w.T - offset  # [N, E]
    side = np.where(y[1] == 1, 1, -1)[:, None]
    correct = margin * side > 0
    robust = margin * side > np.asarray(EPS) * length * np.linalg.norm(w, axis=1)
    np.testing.assert_array_equal(point.accuracy, correct.mean(0))
    np.testing.assert_array_equal(point.robust_accuracy, (correct & robust).mean(0))
    bounds = np.where(correct, np.abs(margin) / (w @ m), np.nan)
    for e in range(len(EPS)):
        runs = [bounds[i : i + group, e] for i in range(0, n, group)]
        expected = np.mean([np.nanmean(run) for run in runs if not np.isnan(run).all()])
        assert point.bound[e] == pytest.approx(expected, rel=1e-9)
    u1, u0 = margin[y[1] == 1], margin[y[1] == 0]
    deviation = np.sqrt(((u1 - u1.mean(0)) ** 2).sum(0) + ((u0 - u0.mean(0)) ** 2).sum(0)) / math.sqrt(n - 2)
    t = (u1.mean(0) - u0.mean(0)) / 2 / deviation
    np.testing.assert_allclose(point.t, t, rtol=1e-9, atol=1e-12)
    reduction = np.asarray(EPS) * length * np.linalg.norm(w, axis=1) / deviation
    np.testing.assert_allclose(point.t_rob, t - reduction, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        point.accuracy_stderr, np.sqrt(point.accuracy * (1 - point.accuracy) / n), rtol=1e-12
    )
    assert (point.count, point.feature_dim, point.estimator) == (n, f, "paper")
    assert point.rank == min(f, n - 2)  # with more features than samples m is projected, and so is its length


def test_errors_of_the_published_protocol_are_the_spread_over_test_halves() -> None:
    """One training half, 400 test halves: they know a spread to 3.5 %."""
    (x, _), (y, _), moments = drawn(300, 5, t=1.4, seed=3)
    factor = np.linalg.cholesky(moments[1:])
    rng = np.random.default_rng(0)
    points = []
    for _ in range(400):
        test_y = np.arange(250) % 2
        test_x = 3.0 + (2 * test_y[:, None] - 1) * moments[0] + rng.standard_normal((250, 5)) @ factor.T
        points.append(sb.evaluate_features(x, y, test_x, test_y, eps=(0.0, 0.3), group=250))
    for name in ("t", "accuracy", "robust_accuracy", "bound"):
        spread = np.std([getattr(point, name) for point in points], axis=0, ddof=1)
        stderr = "stderr" if name == "t" else f"{name}_stderr"
        predicted = np.sqrt(np.mean([getattr(point, stderr) ** 2 for point in points], axis=0))
        np.testing.assert_allclose(predicted, spread, rtol=0.12, err_msg=name)


def test_paper_without_any_signal_has_an_infinite_bound() -> None:
    """The published script divides 0 by 0 here."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((40, 5))
    x, y = np.concatenate([half, half]), np.repeat([0, 1], 40)
    point = sb.evaluate_features(x, y, x, y, eps=(0.0, 0.3), estimator="paper")
    assert np.all(point.bound == np.inf)
    assert np.all(point.t == 0)
    assert np.all(point.accuracy == 0.5)


def test_paper_with_all_test_samples_wrong() -> None:
    x, y, _ = drawn(400, 3, t=8.0)
    point = sb.evaluate_features(x[0], y[0], x[1], 1 - y[1], eps=0.0, estimator="paper")
    assert point.accuracy.tolist() == [0.0]
    assert point.bound.tolist() == [np.inf]
    assert point.t[0] < -4


def test_paper_survives_a_feature_that_is_constant() -> None:
    x, y, _ = drawn(300, 6)
    wide = np.insert(x, 2, 7.0, axis=2)
    a, b = (sb.evaluate_features(z[0], y[0], z[1], y[1], eps=EPS) for z in (x, wide))
    assert (a.rank, b.rank, b.feature_dim) == (6, 6, 7)
    for field in ("accuracy", "robust_accuracy", "bound", "t", "t_rob"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-9)


# The consistent estimator


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_consistent_finds_the_population(prior: float) -> None:
    """F/N = 0.1, 60 data sets: the means are within 3 of their standard errors of the known values."""
    _, _, moments = drawn(4, 40, seed=99)
    m, covariance = moments[0], moments[1:]
    factor = np.linalg.cholesky(covariance)
    y = (np.arange(400) < 400 * prior).astype(np.int64)
    points = []
    for seed in range(60):
        noise = np.random.default_rng(seed).standard_normal((400, 40))
        x = (2 * y[:, None] - 1) * m + noise @ factor.T
        points.append(sb.evaluate_features(x, y, eps=EPS, estimator="consistent", prior=prior))
    t, t_rob, deviation = population(m, covariance, EPS)
    np.testing.assert_allclose(
        deviation, t_rob, rtol=1e-10
    )  # so that the offset needs no estimate of its own
    for name, truth in (("t", t), ("t_rob", t_rob)):
        values = np.array([getattr(point, name) for point in points])
        spread = values.std(0, ddof=1)
        assert np.all(np.abs(values.mean(0) - truth) < 3 * spread / math.sqrt(len(values))), name
        assert np.all(spread < 0.15)
    for point in points:
        k = math.log((1 - prior) / prior) / 2 / point.t_rob
        for name, value in (("accuracy", point.t), ("robust_accuracy", point.t_rob)):
            expected = prior * norm.cdf(value - k) + (1 - prior) * norm.cdf(value + k)
            np.testing.assert_allclose(getattr(point, name), expected, rtol=1e-12)


def test_both_estimators_agree_where_samples_are_plenty() -> None:
    x, y, moments = drawn(40_000, 6, t=1.1, seed=2)
    eps = EPS[:4]
    one = sb.evaluate_features(x[0], y[0], eps=eps, estimator="consistent")
    two = sb.evaluate_features(x[0], y[0], x[1], y[1], eps=eps, estimator="paper")
    t, t_rob, _ = population(moments[0], moments[1:], eps)
    for name in ("accuracy", "robust_accuracy", "bound"):
        allowed = 4 * np.hypot(getattr(one, name + "_stderr"), getattr(two, name + "_stderr"))
        assert np.all(np.abs(getattr(one, name) - getattr(two, name)) < allowed), name
        assert np.all(allowed < 0.05)
    np.testing.assert_allclose(one.t, t, atol=0.03)
    np.testing.assert_allclose(two.t, t, atol=0.03)
    np.testing.assert_allclose(one.t_rob, t_rob, atol=0.03)
    np.testing.assert_allclose(two.t_rob, t_rob, atol=0.03)


def lost_signal(prior: float) -> CurvePoint:
    """A point whose estimate of the variance w'Cw is negative: pure noise that looks like less than nothing."""
    for seed in range(100):
        x, y, _ = drawn(60, 8, t=1e-6, prior=prior, seed=seed)
        point = sb.evaluate_features(x[0], y[0], eps=(0.0, 0.2), estimator="consistent", prior=prior)
        if np.all(point.t == 0):
            return point
    raise AssertionError("no data set without a detected signal")


@pytest.mark.parametrize("prior", [0.5, 0.3, 0.8])
def test_consistent_without_a_signal_has_no_nan(prior: float) -> None:
    """The best that is left is to name the commoner class."""
    point = lost_signal(prior)
    assert point.accuracy.tolist() == [max(prior, 1 - prior)] * 2
    assert point.robust_accuracy.tolist() == [max(prior, 1 - prior)] * 2
    assert np.all(point.bound == np.inf) and np.all(np.isnan(point.bound_stderr))
    assert np.all(np.isfinite(point.accuracy_stderr)) and np.all(np.isfinite(point.stderr))
    error = area_terms(point, torch.tensor([0.9], dtype=torch.float64), prior).stderr.numpy()
    assert np.all((error > 0) & (error < 1e-3))  # t might be above 0 for all that is known


# Properties of both


def evaluate(estimator: str, x: Any, y: Any, **options: Any) -> CurvePoint:
    return sb.evaluate_features(x[0], y[0], x[1], y[1], eps=EPS, estimator=estimator, **options)


@pytest.mark.parametrize("estimator", BOTH)
def test_labels_are_symmetric(estimator: str) -> None:
    x, y, _ = drawn(500, 10, prior=0.3)
    same(evaluate(estimator, x, y, prior=0.3), evaluate(estimator, x, 1 - y, prior=0.7), 1e-10)


@pytest.mark.parametrize("estimator", BOTH)
def test_rotation_shift_and_scale_change_nothing(estimator: str) -> None:
    x, y, _ = drawn(500, 10)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))
    moved = 0.3 * (x @ rotation) - 12.0
    a, b = evaluate(estimator, x, y), evaluate(estimator, moved, y)
    for name in ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "stderr", "bound_stderr"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(b.ridge, 0.09 * a.ridge, rtol=1e-8)


@pytest.mark.parametrize("estimator", BOTH)
def test_without_a_budget_any_invertible_map_changes_nothing(estimator: str) -> None:
    x, y, _ = drawn(500, 10)
    shear = np.eye(10) + np.triu(np.random.default_rng(1).standard_normal((10, 10)), 1)
    a, b = evaluate(estimator, x, y), evaluate(estimator, x @ shear + 5.0, y)
    for name in ("accuracy", "bound", "t", "stderr"):
        assert getattr(a, name)[0] == pytest.approx(getattr(b, name)[0], rel=1e-9), name
    assert abs(a.t[3] - b.t[3]) > 1e-3  # with a budget it does


@pytest.mark.parametrize("estimator", BOTH)
def test_t_falls_with_the_budget(estimator: str) -> None:
    x, y, _ = drawn(2000, 12, t=1.5)
    eps = tuple(np.linspace(0, 0.99, 34))
    point = sb.evaluate_features(x[0], y[0], x[0], y[0], eps=eps, estimator=estimator)
    assert np.all(np.diff(point.t_rob) < 1e-12)
    assert np.all(np.diff(point.t) < 1e-9)
    assert np.all(np.diff(point.robust_accuracy) <= 0)


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


# What the standard errors are made of


def rectified(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Standard deviation of max(0, N(mean, deviation^2)) by quadrature."""
    z = np.linspace(-9, 9, 20_001)
    weight = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    x = np.maximum(0, mean[..., None] + deviation[..., None] * z)
    first = (x * weight).sum(-1, keepdims=True)
    return np.sqrt(((x - first) ** 2 * weight).sum(-1))


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_covariance_of_the_scores_follows_that_of_t(prior: float) -> None:
    """Against Monte Carlo: areas of curves whose t and t_rob are drawn with the stated covariances."""
    points = []
    for s, t in enumerate((1.2, 1.9, 2.6)):
        x, y, _ = drawn(3000, 6, t=t, prior=prior, seed=s)
        points.append(sb.evaluate_features(x[0], y[0], eps=(0.0, 0.3), estimator="consistent", prior=prior))
    thresholds = torch.tensor([0.6, 0.75], dtype=torch.float64)
    terms = [area_terms(p, thresholds, prior) for p in points]
    found = area_covariance(points, [(one.by_t, one.by_t_rob) for one in terms])
    assert found is not None
    generator = np.random.default_rng(0)
    areas = np.zeros((20_000, 2, 2))
    offset = math.log((1 - prior) / prior) / 2
    for point in points:
        joint = np.block([[point.t_cov, point.cross_cov], [point.cross_cov.T, point.t_rob_cov]])
        values, vectors = np.linalg.eigh(
            joint
        )  # the pieces are estimated and need not be a covariance together
        root = vectors * np.sqrt(values.clip(0))
        draws = np.concatenate([point.t, point.t_rob]) + generator.standard_normal((20_000, 4)) @ root.T
        t, t_rob = torch.from_numpy(draws[:, :2]), torch.from_numpy(draws[:, 2:])
        a = gaussian.accuracy(t, offset / t_rob, prior)[..., None]
        b = gaussian.bound(t, offset / t_rob, prior)[..., None]
        areas += (b * (a - thresholds).clamp_min(0)).numpy()
    expected = np.cov(areas.reshape(20_000, 4).T)
    np.testing.assert_allclose(found, expected, rtol=0.08)
    paper = evaluate("paper", *drawn(60, 3)[:2])
    unknown = area_terms(paper, thresholds, prior)
    assert area_covariance([paper], [(unknown.by_t, unknown.by_t_rob)]) is None


@pytest.mark.parametrize("prior", [0.5, 0.3, 0.9])
def test_errors_propagate_those_of_t_and_t_rob(prior: float) -> None:
    """By finite differences: the log-prior term of the classifier is in units of t_rob, an estimate too."""
    x, y, _ = drawn(400, 5, t=1.0, prior=prior)
    point = sb.evaluate_features(x[0], y[0], eps=(0.0, 0.3), estimator="consistent", prior=prior)
    thresholds = torch.tensor([0.6, 0.7, 0.99], dtype=torch.float64)
    t, t_rob = torch.from_numpy(point.t), torch.from_numpy(point.t_rob)

    def shift(t_rob: torch.Tensor) -> torch.Tensor:
        return math.log((1 - prior) / prior) / 2 / t_rob

    def accuracy(t: torch.Tensor, t_rob: torch.Tensor) -> torch.Tensor:
        return gaussian.accuracy(t, shift(t_rob), prior)[:, None]

    def robust(t: torch.Tensor, t_rob: torch.Tensor) -> torch.Tensor:
        return gaussian.accuracy(t_rob, shift(t_rob), prior)[:, None]

    def bound(t: torch.Tensor, t_rob: torch.Tensor) -> torch.Tensor:
        return gaussian.bound(t, shift(t_rob), prior)[:, None]

    def term(t: torch.Tensor, t_rob: torch.Tensor) -> torch.Tensor:
        return bound(t, t_rob) * (accuracy(t, t_rob) - thresholds)

    assert point.t_cov is not None and point.t_rob_cov is not None and point.cross_cov is not None
    for function, found in (
        (accuracy, point.accuracy_stderr[:, None]),
        (robust, point.robust_accuracy_stderr[:, None]),
        (bound, point.bound_stderr[:, None]),
        (term, None),
    ):
        by_t = ((function(t + 1e-6, t_rob) - function(t - 1e-6, t_rob)) / 2e-6).numpy()
        by_t_rob = ((function(t, t_rob + 1e-6) - function(t, t_rob - 1e-6)) / 2e-6).numpy()
        variance = (
            by_t**2 * point.t_cov.diagonal()[:, None]
            + 2 * by_t * by_t_rob * point.cross_cov.diagonal()[:, None]
            + by_t_rob**2 * point.t_rob_cov.diagonal()[:, None]
        )
        if found is not None:
            np.testing.assert_allclose(found, np.sqrt(variance), rtol=2e-6, atol=1e-9)
            continue
        terms = area_terms(point, thresholds, prior)
        assert terms.by_t is not None and terms.by_t_rob is not None
        counts = term(t, t_rob).numpy() > 0
        expected = rectified(term(t, t_rob).numpy(), np.sqrt(variance))
        np.testing.assert_allclose(terms.stderr.numpy()[counts], expected[counts], rtol=1e-5)
        share = terms.stderr.numpy() / np.sqrt(variance)
        np.testing.assert_allclose(terms.by_t.numpy()[counts], (share * by_t)[counts], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(
            terms.by_t_rob.numpy()[counts], (share * by_t_rob)[counts], rtol=1e-5, atol=1e-8
        )
    np.testing.assert_allclose(point.stderr, np.sqrt(point.t_cov.diagonal()), rtol=1e-12)


@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_standard_errors_are_the_spread_over_data_sets(prior: float) -> None:
    """200 data sets know a spread to 5 %, the formulas are of leading order in 1/N."""
    _, _, moments = drawn(4, 20, t=1.4, seed=5)
    factor = np.linalg.cholesky(moments[1:])
    y = (np.arange(200) < 200 * prior).astype(np.int64)
    points = []
    for seed in range(200):
        noise = np.random.default_rng(1000 + seed).standard_normal((200, 20))
        x = (2 * y[:, None] - 1) * moments[0] + noise @ factor.T
        points.append(sb.evaluate_features(x, y, eps=(0.0, 0.2, 0.5), estimator="consistent", prior=prior))
    for name in ("accuracy", "robust_accuracy", "bound"):
        spread = np.std([getattr(point, name) for point in points], axis=0, ddof=1)
        predicted = np.sqrt(np.mean([getattr(point, f"{name}_stderr") ** 2 for point in points], axis=0))
        np.testing.assert_allclose(predicted, spread, rtol=0.25, err_msg=name)
    crosses = np.mean([point.cross_cov for point in points], axis=0)
    t, t_rob = (np.array([getattr(point, name) for point in points]) for name in ("t", "t_rob"))
    expected = (t - t.mean(0)).T @ (t_rob - t_rob.mean(0)) / 199
    np.testing.assert_allclose(crosses, expected, rtol=0.25)


def test_error_of_a_term_of_the_paper_adds_both_counts() -> None:
    x, y, _ = drawn(400, 5)
    point = evaluate("paper", x, y)
    thresholds = torch.tensor([0.6, 0.99], dtype=torch.float64)
    expected = np.sqrt(
        (point.bound * point.accuracy_stderr) ** 2 + ((point.accuracy - 0.6) * point.bound_stderr) ** 2
    )
    found = area_terms(point, thresholds, 0.5).stderr.numpy()
    value = point.bound * (point.accuracy - 0.6)
    np.testing.assert_allclose(found[:, 0], rectified(value, expected), rtol=1e-5)
    assert np.all(found[:, 1] < 1e-3 * found[:, 0])


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_error_of_the_area_propagates_the_covariance(prior: float) -> None:
    x, y, _ = drawn(400, 5, prior=prior)
    stats = feature_stats(torch.from_numpy(x[0]), torch.from_numpy(y[0]))
    point = consistent_point(stats, EPS, prior=prior)
    weight = np.array([0.1, 0.3, 0.2, 0.3, 0.1])
    t_rob = torch.from_numpy(point.t_rob)
    offset = math.log((1 - prior) / prior) / 2
    up, down = (gaussian.accuracy(t_rob + h, offset / (t_rob + h), prior).numpy() for h in (1e-6, -1e-6))
    gradient = weight * (up - down) / 2e-6
    assert point.t_rob_cov is not None
    expected = math.sqrt(gradient @ point.t_rob_cov @ gradient)
    assert robust_area_stderr(point, weight, prior) == pytest.approx(expected, rel=1e-6)
    paper = paper_point(stats, torch.from_numpy(x[1]), torch.from_numpy(y[1]), EPS, prior=prior)
    assert robust_area_stderr(paper, weight, prior) == pytest.approx(weight @ paper.robust_accuracy_stderr)


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
        ({"train_x": X[0].astype(np.clongdouble)}, ["train_x: expected a NumPy, Torch or CuPy array"]),
        ({"train_x": X[0] * np.longdouble("1e400")}, ["train_x: expected finite features, got"]),
        ({"train_x": "features.npy"}, ["train_x: expected a NumPy, Torch or CuPy array, got str"]),
        ({"train_x": None}, ["train_x: expected a NumPy, Torch or CuPy array, got NoneType"]),
        ({"train_x": [[1.0, 2.0], [3.0]]}, ["train_x: expected a NumPy, Torch or CuPy array, got list"]),
        ({"train_y": Y[0][:59]}, ["train_y: expected 60 labels, got [59]"]),
        ({"train_y": Y[0][:, None]}, ["train_y: expected 60 labels, got [60, 1]"]),
        ({"test_y": Y[0][:59]}, ["test_y: expected 60 labels, got [59]"]),
        ({"train_y": Y[0] + 1}, ["train_y: expected labels 0 and 1, got 2"]),
        ({"train_y": 2 * Y[0] - 1}, ["train_y: expected labels 0 and 1, got -1"]),
        ({"test_y": np.where(Y[1] == 1, np.nan, 0.0)}, ["test_y: expected labels 0 and 1, got nan"]),
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
        ({"estimator": "plugin"}, ["estimator: expected one of ['consistent', 'counted', 'paper'], got 'plugin'"]),
        ({"prior": 0.0}, ["prior: expected a value in (0, 1), got 0.0"]),
        ({"prior": 1.5}, ["prior: expected a value in (0, 1), got 1.5"]),
        ({"group": 0}, ["group: expected at least 1, got 0"]),
        (
            {"estimator": "consistent", "train_x": X[0][:6], "train_y": [0, 1, 0, 1, 0, 1]},
            ["samples: expected more than F + 2 = 6 samples per scale for the consistent estimator, got 6; use at least 12"],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict[str, Any], parts: list[str]) -> None:
    arguments = {"train_x": X[0], "train_y": Y[0], "test_x": X[1], "test_y": Y[1], "eps": 0.2, **changes}
    with refused(*parts):
        sb.evaluate_features(**arguments)


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


# The counted estimator


def cubes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed features: cubes of correlated Gaussians."""
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((16, 10)) / 4
    y = np.arange(n) % 2
    x = generator.standard_normal((n, 16)) + 0.35 * (2 * y[:, None] - 1)
    return (x @ mix) ** 3, y


def test_counting_needs_no_gaussian_margins() -> None:
    """Against the share of 200 000 other samples that the limiting classifiers get right."""
    x, y = cubes(200_000, 1)
    held_x, held_y = cubes(200_000, 2)
    truth = sb.evaluate_features(x, y, held_x, held_y, eps=(0.0, 0.3), estimator="paper")
    assumed = sb.evaluate_features(x, y, eps=(0.0, 0.3), estimator="consistent")
    found = sb.evaluate_features(x, y, eps=(0.0, 0.3), estimator="counted")
    assert np.all(np.abs(assumed.accuracy - truth.accuracy) > 0.008)
    assert np.all(np.abs(found.accuracy - truth.accuracy) < 0.004)
    assert np.all(np.abs(found.robust_accuracy - truth.robust_accuracy) < 0.01)
    np.testing.assert_allclose(found.bound, truth.bound, rtol=0.01)
    assert np.array_equal(found.t, assumed.t)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_errors_of_counts_are_the_spread_over_data_sets(prior: float) -> None:
    """200 data sets know a spread to 5 %."""
    _, _, moments = drawn(4, 12, t=1.1, seed=5)
    factor = np.linalg.cholesky(moments[1:])
    y = (np.arange(240) < 240 * prior).astype(np.int64)
    points = []
    for seed in range(200):
        noise = np.random.default_rng(1000 + seed).standard_normal((240, 12))
        x = (2 * y[:, None] - 1) * moments[0] + noise @ factor.T
        points.append(sb.evaluate_features(x, y, eps=(0.0, 0.3), estimator="counted", prior=prior))
    for name in ("accuracy", "robust_accuracy", "bound"):
        spread = np.std([getattr(point, name) for point in points], axis=0, ddof=1)
        predicted = np.sqrt(np.mean([getattr(point, f"{name}_stderr") ** 2 for point in points], axis=0))
        # Of t_rob the boundary is no count: the binomial error is more than what its margins have.
        most = 1.5 if name == "robust_accuracy" else 1.3
        assert np.all((predicted > 0.75 * spread) & (predicted < most * spread)), name
    thresholds = torch.tensor([0.6, 0.75], dtype=torch.float64)
    terms = [
        point.bound[:, None] * np.maximum(0, point.accuracy[:, None] - thresholds.numpy()) for point in points
    ]
    predicted = np.sqrt(
        np.mean([area_terms(p, thresholds, prior).stderr.numpy() ** 2 for p in points], axis=0)
    )
    spread = np.std(terms, axis=0, ddof=1)
    # With unequal priors the shift of the boundary takes back some of what the count adds: errors are too large.
    assert np.all((predicted > 0.75 * spread) & (predicted < (1.3 if prior == 0.5 else 2.0) * spread))


def test_counting_gaussian_features_agrees_with_the_closed_form() -> None:
    x, y, _ = drawn(40_000, 8, t=1.3)
    one, two = (sb.evaluate_features(x[0], y[0], eps=EPS, estimator=e) for e in ("consistent", "counted"))
    np.testing.assert_allclose(two.accuracy, one.accuracy, atol=0.006)
    np.testing.assert_allclose(two.bound, one.bound, rtol=0.01)
    assert two.estimator == "counted" and np.array_equal(one.counted_accuracy, two.accuracy)


def test_a_run_with_counted_margins() -> None:
    options: dict[str, Any] = {"input_shape": (16,), "scales": 5, "samples": 400, "eps": (0.0, 0.2)}
    counted = sb.score(lambda x: x[:, :8], **options, estimator="counted")
    assumed = sb.score(lambda x: x[:, :8], **options)
    assert counted.estimator == "counted" and counted.influence is None and counted.score_covariance is None
    for one, two in zip(counted.scores, assumed.scores, strict=True):
        assert abs(one.score - two.score) < 4 * one.stderr
        assert one.stderr > 0


@pytest.mark.parametrize("apart", [0.25, 0.1])
@pytest.mark.parametrize("prior", [0.5, 0.35])
def test_counted_is_its_definition(prior: float, apart: float) -> None:
    """Every number of the point from the margins of the classifiers, and slopes by finite differences."""
    rng = np.random.default_rng(8)
    n, eps = 150, (0.0, 0.3, 0.6)
    y = (np.arange(n) < n * prior).astype(np.int64)
    x = rng.standard_normal((n, 5)) @ np.diag([1.0, 0.8, 0.6, 0.4, 0.2]) + apart * (2 * y[:, None] - 1)
    stats = feature_stats(torch.from_numpy(x), torch.from_numpy(y))
    base = consistent_point(stats, eps, prior=prior)
    found = sb.evaluate_features(x, y, eps=eps, estimator="counted", prior=prior)
    solved = robust_solve(
        stats.half_difference, stats.covariance, eps, dof=stats.dof, c0=stats.c0, weights=True
    )
    margins = (x - stats.midpoint.numpy()) @ solved.weights.numpy().T
    side = np.where(y == 1, 1.0, -1.0)[:, None]
    means = [margins[y == k].mean(0) for k in (0, 1)]
    centred = side * (margins - np.where(y[:, None] == 1, means[1], means[0]))
    z = centred / np.sqrt((centred**2).mean(0))
    per_class = np.where(y == 1, 1 / y.sum(), 1 / (n - y.sum()))[:, None] / 2
    assert base.t_cov is not None and base.t_rob_cov is not None and found.counted_cov is not None

    def slope(function: Any, at: float) -> float:
        return float(function(at + 1e-6) - function(at - 1e-6)) / 2e-6

    for e in range(3):
        t, t_rob = float(base.t[e]), float(base.t_rob[e])
        offset = math.log((1 - prior) / prior) / 2
        k = offset / t_rob
        reach = z[:, e] + np.where(y == 1, t - k, t + k)
        right, positive = reach > 0, np.maximum(0, reach)
        a, ratio = right.mean(), positive.mean() / t
        moved = z[:, e] * per_class[:, 0] - t * (z[:, e] ** 2 - 1) / (2 * n)
        by_a = (right - a) / n
        by_ratio = (positive - positive.mean()) / (n * t) - ratio * z[:, e] * per_class[:, 0] / t
        more = (right & (y == 1)).mean() - (right & (y == 0)).mean()
        by_ratio -= more * (side[:, 0] * z[:, e] * per_class[:, 0] - k * moved / t) / t
        spread = np.cov(np.stack([by_a, by_ratio]), bias=True) * n + n * np.outer(
            [by_a.mean(), by_ratio.mean()], [by_a.mean(), by_ratio.mean()]
        )
        np.testing.assert_allclose(found.counted_cov[e], spread, rtol=1e-6, atol=1e-12)
        assert (found.accuracy[e], found.bound[e]) == pytest.approx((a, ratio / a))
        robust_reach = z[:, e] + np.where(y == 1, t_rob - k, t_rob + k)
        robust = (robust_reach > 0).mean()
        assert found.robust_accuracy[e] == pytest.approx(robust)

        def accuracy(t: float, k: float) -> float:
            return float(prior * norm.cdf(t - k) + (1 - prior) * norm.cdf(t + k))

        def bound(t: float, k: float) -> float:
            both = (p * (v * norm.cdf(v) + norm.pdf(v)) for p, v in ((prior, t - k), (1 - prior, t + k)))
            return float(sum(both)) / (t * accuracy(t, k))

        extra = max(0.0, base.t_cov[e, e] - (1 + t**2 / 2) / n)
        # The classifiers' part of the error moves t_rob in proportion to t, and k against it.
        of_accuracy = slope(lambda v, t=t, k=k: accuracy(v, k * t / v), t)
        of_bound = slope(lambda v, t=t, k=k: bound(v, k * t / v), t)
        assert found.accuracy_stderr[e] == pytest.approx(
            math.sqrt(spread[0, 0] + of_accuracy**2 * extra), rel=1e-6
        )
        gradient = np.array([-ratio / a**2, 1 / a])
        assert found.bound_stderr[e] == pytest.approx(
            math.sqrt(gradient @ spread @ gradient + of_bound**2 * extra), rel=1e-6
        )
        robust_extra = max(0.0, base.t_rob_cov[e, e] - stats.c0 - t_rob**2 / (2 * n))
        of_robust = slope(lambda v, k=k: accuracy(v, k), t_rob)
        assert found.robust_accuracy_stderr[e] == pytest.approx(
            math.sqrt(robust * (1 - robust) / n + of_robust**2 * robust_extra), rel=1e-6
        )
        assert extra > 0 and (e > 0 or robust_extra > 0) and (t > 1) == (apart > 0.2)
    for name in ("t", "t_rob", "stderr", "t_cov", "t_rob_cov", "ridge", "kappa"):
        np.testing.assert_array_equal(getattr(found, name), getattr(base, name))


def test_paper_with_margins_that_do_not_vary() -> None:
    """Two points as the test half: what an attack takes is in units of a deviation that there is not."""
    x, y, _ = drawn(200, 3, t=2.0)
    points = np.stack([x[0][y[0] == k].mean(0) for k in (0, 1)])
    labels = np.arange(10) % 2
    found = sb.evaluate_features(x[0], y[0], points[labels], labels, eps=(0.0, 0.3), estimator="paper")
    assert found.accuracy.tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(found.t_rob, found.t)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_counted_without_a_signal_has_no_nan(prior: float) -> None:
    for seed in range(100):
        x, y, _ = drawn(60, 8, t=1e-6, prior=prior, seed=seed)
        point = sb.evaluate_features(x[0], y[0], eps=(0.0, 0.2), estimator="counted", prior=prior)
        if np.all(point.t == 0):
            break
    else:
        raise AssertionError("no data set without a detected signal")
    assert np.all(point.bound == np.inf) and np.all(np.isnan(point.bound_stderr))
    assert np.all(np.isfinite(point.accuracy_stderr)) and np.all(np.isfinite(point.robust_accuracy_stderr))
