"""Margins of samples that are left out, against classifiers that are fitted without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, refused

from synbench_fast.ops import leave_one_out as operation
from synbench_fast.ops.feature_stats import FeatureStats, feature_stats
from synbench_fast.ops.leave_one_out import LeaveOneOut, leave_one_out

BACKENDS = ("blas", "torch")
RIDGES = (0.0, 1e-3, 0.4, 30.0)


def drawn(n: int, f: int, ones: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) < ones).astype(np.int64)
    x = rng.standard_normal((n, f)) @ rng.standard_normal((f, f)) + 5.0 + y[:, None] * rng.standard_normal(f)
    return x, y


def of(x: Any, y: Any) -> FeatureStats:
    return feature_stats(torch.as_tensor(x), torch.as_tensor(y))


def found(x: Any, y: Any, ridges: Any = RIDGES, **options: Any) -> LeaveOneOut:
    ridge = torch.tensor(list(ridges), dtype=torch.float64)
    return leave_one_out(torch.as_tensor(x), torch.as_tensor(y), of(x, y), ridge, **options)


def refitted(x: Array, y: Array, ridges: Any) -> Array:
    """[N, E]: for each sample, moments of the others, w = (scatter/nu + g I)^-1 m and (x - c)'w on the sample's side.

    nu stays that of all N samples, so that a ridge g means the same.
    """
    nu, rows = len(x) - 2, []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        means = [x[rest & (y == k)].mean(0) for k in (0, 1)]
        centred = x[rest] - np.where(y[rest, None] == 1, means[1], means[0])
        m, c = (means[1] - means[0]) / 2, (means[1] + means[0]) / 2
        scatter = centred.T @ centred
        sign = 1 if y[i] == 1 else -1
        rows.append(
            [sign * (x[i] - c) @ np.linalg.solve(scatter / nu + g * np.eye(x.shape[1]), m) for g in ridges]
        )
    return np.array(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "f", "ones"), [(30, 5, 15), (40, 12, 9), (9, 3, 2), (60, 1, 30), (41, 20, 33)])
def test_margins_are_those_of_classifiers_fitted_without_the_sample(
    n: int, f: int, ones: int, backend: str
) -> None:
    x, y = drawn(n, f, ones, seed=f)
    margins = refitted(x, y, RIDGES)
    size = np.abs(margins).max(0)
    # Without ridges they lose digits to the condition of the covariance, as the oracle's own solve does.
    condition = np.linalg.cond(of(x, y).covariance.numpy())
    np.testing.assert_allclose(
        found(x, y, backend=backend).margin.numpy() / size,
        margins / size,
        atol=1e-12 + 1e-15 * condition,
        rtol=0,
    )


def test_one_sample_of_the_other_class_makes_no_difference_in_sign() -> None:
    """Exchanging the classes exchanges the signs of w and of the sides."""
    x, y = drawn(50, 6, 12)
    one, other = found(x, y), found(x, 1 - y)
    torch.testing.assert_close(one.margin, other.margin, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_comes_with_the_margins(backend: str) -> None:
    x, y = drawn(80, 6, 30)
    stats, out = of(x, y), found(x, y, backend=backend)
    m, c = stats.half_difference.numpy(), stats.midpoint.numpy()
    covariance, means = stats.covariance.numpy(), stats.mean.numpy()
    side = np.where(y == 1, 1.0, -1.0)
    for e, g in enumerate(RIDGES):
        inverse = np.linalg.inv(covariance + g * np.eye(6))
        w = inverse @ m
        centred = x - means[y]
        np.testing.assert_allclose(out.fitted[:, e].numpy(), side * ((x - c) @ w), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            out.leverage[:, e].numpy(), np.einsum("nf,fg,ng->n", centred, inverse, centred) / 78, rtol=1e-8
        )
        np.testing.assert_allclose(float(out.weight_norm[e]), np.linalg.norm(w), rtol=1e-9)
    assert float(out.noise_df[0]) == pytest.approx(6.0)  # without a ridge, all directions
    assert torch.all(out.noise_df.diff() < 0)


def test_noise_df_of_a_known_covariance() -> None:
    """tr C^2 (C + kappa I)^-2, kappa from the ridge by g = kappa (1 - df/nu); 40 sets of samples."""
    d, ridge = np.arange(1, 21) ** -1.0, 0.1
    rng = np.random.default_rng(0)
    estimates, kappas = [], []
    for _ in range(40):
        x = rng.standard_normal((200, 20)) * np.sqrt(d)
        y = np.arange(200) % 2
        out = found(x, y, (ridge,))
        estimates.append(float(out.noise_df[0]))
        values = torch.linalg.eigvalsh(of(x, y).covariance).numpy()
        kappas.append(ridge / (1 - (values / (values + ridge)).sum() / 198))
    truth = ((d / (d + np.mean(kappas))) ** 2).sum()
    assert np.mean(estimates) == pytest.approx(truth, rel=0.01)


def test_backends_agree_where_directions_are_missing() -> None:
    """A constant column, a doubled one, more features than samples; with ridges, so that w is one."""
    x, y = drawn(60, 7, 25)
    x = np.concatenate([x, x[:, :2], np.full((60, 1), 3.0), np.zeros((60, 1))], 1)
    one, other = (found(x, y, backend=backend) for backend in BACKENDS)
    for name in ("margin", "fitted", "leverage", "noise_df", "weight_norm"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)
    wide, labels = drawn(30, 50, 15)
    one, other = (found(wide, labels, RIDGES[2:], backend=backend) for backend in BACKENDS)
    torch.testing.assert_close(one.margin, other.margin, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_that_alone_makes_up_a_direction_has_a_finite_margin(backend: str) -> None:
    """Its leverage is 1 - 1/n, the formula 0/0: it is left with what the other directions say."""
    x, y = drawn(40, 3, 20)
    apart = np.zeros((40, 1))
    apart[7] = 1.0
    out = found(np.concatenate([x, apart], 1), y, backend=backend)
    without = found(x, y, backend=backend)
    assert bool(out.margin.isfinite().all()) and bool((out.leverage <= 1).all())
    assert float(out.leverage[7, 0]) == pytest.approx(1 - 1 / 20)
    rest = np.arange(40) != 7
    # For the others it is one more feature that they do not move, except that w at its sample moves m a little.
    difference = (out.margin - without.margin)[rest].abs().amax(0) / without.margin.abs().amax(0)
    assert bool((difference < 0.2).all())
    assert bool((out.margin[7].abs() <= 3 * without.margin.abs().amax(0)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_of_any_precision_are_read_in_float64(dtype: torch.dtype) -> None:
    x, y = drawn(50, 4, 20)
    low = torch.from_numpy(x).to(dtype)
    torch.testing.assert_close(found(low, y).margin, found(low.double(), y).margin, rtol=1e-12, atol=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(101, 4, 40)
    whole = found(x, y)
    monkeypatch.setattr(operation, "CHUNK_BYTES", 8 * 4 * 7)
    torch.testing.assert_close(found(x, y).margin, whole.margin, rtol=1e-12, atol=1e-12)


def test_a_covariance_takes_the_place_of_the_moments() -> None:
    x, y = drawn(50, 4, 20)
    stats = of(x, y)
    own = found(x, y, covariance=stats.covariance)
    torch.testing.assert_close(own.margin, found(x, y).margin, rtol=0, atol=0)
    other = found(x, y, covariance=2 * stats.covariance)
    torch.testing.assert_close(other.fitted[:, 0], own.fitted[:, 0] / 2, rtol=1e-9, atol=1e-9)


def test_mistakes_are_named() -> None:
    x, y = (torch.from_numpy(one) for one in drawn(20, 3, 8))
    stats, ridge = feature_stats(x, y), torch.ones(1, dtype=torch.float64)
    with refused("x: expected [N, 3] with labels [N], got [20, 2] and [20]"):
        leave_one_out(x[:, :2], y, stats, ridge)
    with refused("x: expected [N, 3] with labels [N], got [20, 3] and [19]"):
        leave_one_out(x, y[:-1], stats, ridge)
    with refused("x: expected [N, 3] with labels [N], got [20] and [20]"):
        leave_one_out(x[:, 0], y, stats, ridge)
    few = torch.zeros(20, dtype=torch.int64)
    few[3] = 1
    with refused("samples: expected at least 2 of each class to leave one out, got [19, 1]"):
        leave_one_out(x, few, feature_stats(x, few), ridge)
    with refused("backend: expected"):
        leave_one_out(x, y, stats, ridge, backend="none")
