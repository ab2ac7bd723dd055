"""robust_solve against closed forms, the published script's outputs, a generic optimiser and invariances."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.dispatch import available
from synbench_fast.ops.robust_solve import RobustSolution, robust_solve

GOLDEN = Path(__file__).parents[1] / "golden"
EPS = torch.tensor([0.0, 0.05, 0.2, 0.5, 0.9], dtype=torch.float64)


@pytest.fixture(params=available("robust_solve", "cpu"))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def problem(size: int, seed: int, power: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A mean [F] and a covariance [F, F] with eigenvalues i^-power in a random basis."""
    g = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
    d = torch.arange(1, size + 1, dtype=torch.float64) ** -power
    m = basis @ (torch.randn(size, generator=g, dtype=torch.float64) * d.sqrt())
    return m / math.sqrt(size), basis @ torch.diag(d) @ basis.T


def plugin(m: torch.Tensor, covariance: torch.Tensor, eps: object = EPS, **options: object) -> RobustSolution:
    return robust_solve(m, covariance, eps, moments="known", dof=100, **options)  # type: ignore[arg-type]


def consistent(m: torch.Tensor, covariance: torch.Tensor, dof: int, **options: object) -> RobustSolution:
    return robust_solve(m, covariance, EPS, dof=dof, c0=1 / (dof + 2), **options)  # type: ignore[arg-type]


def test_white_covariance_is_closed_form(backend: str) -> None:
    m = torch.tensor([0.3, -1.2, 0.4], dtype=torch.float64)
    out = plugin(m, 2.0 * torch.eye(3, dtype=torch.float64), backend=backend)
    ridge = 2.0 * EPS / (1.0 - EPS)
    norm = float(m.norm())
    torch.testing.assert_close(out.ridge, ridge, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(out.weights, m / (2.0 + ridge[:, None]), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(out.t, torch.full_like(EPS, norm / math.sqrt(2.0)), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(out.t_rob, (1.0 - EPS) * norm / math.sqrt(2.0), rtol=1e-13, atol=0.0)
    assert out.mean_norm == pytest.approx(norm, rel=1e-14)
    assert out.rank == 3
    assert bool(out.t_cov.isnan().all()) and bool(out.t_rob_cov.isnan().all())


@pytest.mark.parametrize(
    "name", ["k16_n512", "k64_n1024", "k64_prior03_n1024", "k192_n1024", "k192_n128_rankdef"]
)
def test_plugin_reproduces_the_published_protocol(name: str, backend: str) -> None:
    """Stored: classifiers scaled to m'W = 1, lam = 1/g, and |m| of the kept part of m, which sets r."""
    with np.load(GOLDEN / f"{name}.npz") as golden:
        x = torch.from_numpy(golden["train_X"]).double()
        y = torch.from_numpy(golden["train_y"])
        eps, weights, lam = (torch.from_numpy(golden[k]) for k in ("eps", "exact_W", "exact_lam"))
        rank, norm = int(golden["exact_rank"]), float(golden["exact_mu_norm"])
        smallest, largest = float(golden["exact_eig_min_kept"]), float(golden["exact_eig_max"])
    means = torch.stack([x[y == 0].mean(0), x[y == 1].mean(0)])
    centered = x - means[y.long()]
    m = (means[1] - means[0]) / 2
    out = robust_solve(
        m,
        centered.T @ centered / (len(x) - 2),
        eps,
        moments="known",
        dof=len(x) - 2,
        backend=backend,
    )
    assert out.rank == rank
    assert out.mean_norm == pytest.approx(norm, rel=1e-12)
    assert float(out.eigenvalue_range[0]) == pytest.approx(smallest, rel=1e-10)
    assert float(out.eigenvalue_range[-1]) == pytest.approx(largest, rel=1e-12)
    torch.testing.assert_close(out.ridge, 1.0 / lam, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(out.weights / (out.weights @ m)[:, None], weights, rtol=1e-7, atol=1e-9)


@given(
    size=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    power=st.floats(0.0, 6.0),
    eps=st.floats(0.0, 0.999),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_plugin_satisfies_the_kkt_conditions(size: int, seed: int, power: float, eps: float) -> None:
    """z = g w is feasible, tight when eps > 0, and C^-1 (m - z) is g^-1 times z: the Lagrange conditions."""
    m, c = problem(size, seed, power)
    for backend in available("robust_solve", "cpu"):
        out = plugin(m, c, [eps], cut=0.0, backend=backend)
        w, g = out.weights[0], float(out.ridge[0])
        z = g * w
        assert float(z.norm()) == pytest.approx(eps * float(m.norm()), rel=1e-9, abs=1e-150)
        torch.testing.assert_close(c @ w, m - z, rtol=1e-7, atol=1e-9 * float(m.norm()))
        norm = float((w @ c @ w).sqrt())
        assert float(out.signal[0]) == pytest.approx(float(m @ w), rel=1e-8)
        assert float(out.t[0]) == pytest.approx(float(m @ w) / norm, rel=1e-7)
        robust = (float(m @ w) - eps * float(m.norm()) * float(w.norm())) / norm
        assert float(out.t_rob[0]) == pytest.approx(robust, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("eps", [0.1, 0.5, 0.8])
def test_plugin_minimises_the_distance_over_the_ball(eps: float, backend: str) -> None:
    m, c = problem(5, 7)
    precision = torch.linalg.inv(c).numpy()
    mean, radius = m.numpy(), eps * float(m.norm())
    best = minimize(
        lambda z: (mean - z) @ precision @ (mean - z),
        np.zeros(5),
        jac=lambda z: -2.0 * precision @ (mean - z),
        constraints={"type": "ineq", "fun": lambda z: radius**2 - z @ z, "jac": lambda z: -2.0 * z},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert best.success
    out = plugin(m, c, [eps], backend=backend)
    np.testing.assert_allclose(float(out.ridge[0]) * out.weights[0].numpy(), best.x, atol=1e-6 * radius)
    assert float(out.t_rob[0]) ** 2 == pytest.approx(best.fun, rel=1e-9)


@pytest.mark.parametrize("moments", ["known", "sampled"])
@pytest.mark.parametrize("size", [1, 2, 63])
def test_rotation_label_and_scale_invariance(moments: str, size: int, backend: str) -> None:
    m, c = problem(size, 3)
    g = torch.Generator().manual_seed(5)
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
    factor = 1e3

    def solve(mean: torch.Tensor, covariance: torch.Tensor) -> RobustSolution:
        return robust_solve(mean, covariance, EPS, moments=moments, dof=300, c0=1 / 302, backend=backend)

    base = solve(m, c)
    moved = solve(-factor * (turn @ m), factor**2 * (turn @ c @ turn.T))
    for field in ("signal", "variance", "t", "t_rob", "t_cov", "t_rob_cov"):
        torch.testing.assert_close(
            getattr(moved, field), getattr(base, field), rtol=1e-8, atol=1e-10, equal_nan=True
        )
    torch.testing.assert_close(moved.ridge, factor**2 * base.ridge, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(moved.kappa, factor**2 * base.kappa, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(moved.weights, -(base.weights @ turn.T) / factor, rtol=1e-8, atol=1e-12)
    assert moved.mean_norm == pytest.approx(factor * base.mean_norm, rel=1e-10)


@pytest.mark.parametrize("factor", [1e-140, 1e-9, 1e130])
def test_consistent_does_not_depend_on_the_unit_of_the_features(factor: float, backend: str) -> None:
    m, c = problem(16, 3)
    base = consistent(m, c, 200, backend=backend)
    other = consistent(factor * m, factor**2 * c, 200, backend=backend)
    torch.testing.assert_close(other.t, base.t, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(other.t_cov, base.t_cov, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_ridge_rises_and_t_falls_with_eps(moments: str, backend: str) -> None:
    m, c = problem(40, 1)
    eps = torch.cat([torch.linspace(0, 0.99, 34), torch.tensor([0.999, 0.99999])]).double()
    out = robust_solve(4 * m, c, eps, moments=moments, dof=2000, c0=1 / 2002, backend=backend)
    assert bool((out.ridge.diff() > 0).all())
    assert bool((out.kappa.diff() > 0).all())
    assert bool((out.t.diff() < 0).all())
    assert bool((out.t_rob.diff() < 0).all())


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_order_and_repeats_of_eps_change_nothing(moments: str, backend: str) -> None:
    m, c = problem(40, 1)
    options = dict(moments=moments, dof=200, c0=1 / 202, backend=backend)
    one = robust_solve(4 * m, c, [0.0, 0.3, 0.7], **options)  # type: ignore[arg-type]
    two = robust_solve(4 * m, c, [0.7, 0.0, 0.3, 0.7], **options)  # type: ignore[arg-type]
    pick = torch.tensor([2, 0, 1, 2])
    for field in ("ridge", "t", "t_rob", "weights"):
        torch.testing.assert_close(getattr(two, field), getattr(one, field)[pick], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(two.t_cov, one.t_cov[pick][:, pick], rtol=1e-9, atol=0.0, equal_nan=True)


def test_consistent_with_many_samples_is_the_plugin(backend: str) -> None:
    m, c = problem(20, 2)
    expected = plugin(m, c, backend=backend)
    out = robust_solve(m, c, EPS, dof=10**12, c0=0.0, backend=backend)
    for field in ("ridge", "kappa", "signal", "variance", "t", "t_rob", "weights"):
        torch.testing.assert_close(getattr(out, field), getattr(expected, field), rtol=1e-9, atol=1e-12)


def test_consistent_solves_its_own_equations(backend: str) -> None:
    """The formulas of the docstring one by one, with derivatives in kappa by central differences."""
    m, c = problem(60, 4)
    m, nu, c0 = 5 * m, 238, 1 / 240
    out = consistent(m, c, nu, backend=backend)
    d, u = np.linalg.eigh(c.numpy())
    a2 = (u.T @ m.numpy()) ** 2

    def f_and_kappa(g: float) -> tuple[float, float]:
        df = (d / (d + g)).sum()
        rho = 1 - df / nu
        return float(rho * (a2 / (d + g)).sum() - c0 * df), float(g / rho)

    n = a2.sum() - c0 * d.sum()
    assert out.mean_norm == pytest.approx(math.sqrt(n), rel=1e-12)
    for i, eps in enumerate(EPS.tolist()):
        g = float(out.ridge[i])
        f, kappa = f_and_kappa(g)
        assert float(out.kappa[i]) == pytest.approx(kappa, rel=1e-12)
        assert float(out.signal[i]) == pytest.approx(f, rel=1e-12)
        if eps > 0:
            (f_low, k_low), (f_high, k_high) = f_and_kappa(g * (1 - 1e-5)), f_and_kappa(g * (1 + 1e-5))
            slope = (f_high - f_low) / (k_high - k_low)
            assert -(kappa**2) * slope == pytest.approx(eps**2 * n, rel=1e-8)
            assert float(out.variance[i]) == pytest.approx(f + kappa * slope, rel=1e-7)
        assert float(out.t[i]) == pytest.approx(f / math.sqrt(float(out.variance[i])), rel=1e-12)
        assert float(out.t_rob[i]) ** 2 == pytest.approx(float(out.variance[i]), rel=1e-12)
        ridge = c + g * torch.eye(60, dtype=torch.float64)
        torch.testing.assert_close(out.weights[i], torch.linalg.solve(ridge, m), rtol=1e-9, atol=1e-12)


def test_eps_zero_is_the_classical_mahalanobis_estimate(backend: str) -> None:
    """t^2 = (1 - F/nu) m'S^-1 m - c0 F, and the variance that the noncentral F distribution gives it.

    With nu Q = x'W^-1 x, W ~ Wishart(nu, I), x ~ N(delta, c0 I): Q is c0 chi2_F(|delta|^2/c0) over an
    independent chi2_(nu - F + 1)/nu. Var(c0 chi2_F(l)) = 2 c0^2 (F + 2 l).
    """
    size, nu = 1, 4000
    m, c = problem(size, 9)
    c0 = 1 / (nu + 2)
    out = robust_solve(3 * m, c, [0.0], dof=nu, c0=c0, backend=backend)
    square = float(9 * m @ torch.linalg.solve(c, m)) * (1 - size / nu) - c0 * size
    assert float(out.t[0]) == pytest.approx(math.sqrt(square), rel=1e-12)
    delta = square
    numerator = c0 * size + delta, 2 * c0**2 * (size + 2 * delta / c0)  # mean, variance
    freedom = nu - size + 1
    inverse = nu / (freedom - 2), 2 * nu**2 / ((freedom - 2) ** 2 * (freedom - 4))
    variance = numerator[1] * (inverse[0] ** 2 + inverse[1]) + numerator[0] ** 2 * inverse[1]
    variance *= (1 - size / nu) ** 2
    assert float(out.t_cov[0, 0]) == pytest.approx(variance / (4 * square), rel=5e-3)


def test_singular_directions_are_dropped(backend: str) -> None:
    """Dead features and duplicates change neither t nor its error, and get no weight / a shared weight."""
    m, c = problem(10, 6)
    base = consistent(4 * m, c, 100, backend=backend)
    embed = torch.zeros(13, 10, dtype=torch.float64)
    embed[:10] = torch.eye(10)
    embed[12, 0] = 1.0  # feature 12 repeats feature 0; 10 and 11 are dead
    out = consistent(embed @ (4 * m), embed @ c @ embed.T, 100, backend=backend)
    assert out.rank == 10
    assert bool((out.weights[:, 10:12].abs() < 1e-12).all())
    torch.testing.assert_close(out.weights[:, 12], out.weights[:, 0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(out.t[0], base.t[0], rtol=1e-9, atol=0.0)
    dead = consistent(embed[:12] @ (4 * m), embed[:12] @ c @ embed[:12].T, 100, backend=backend)
    torch.testing.assert_close(dead.t, base.t, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(dead.t_cov, base.t_cov, rtol=1e-8, atol=0.0)


def test_cut_is_absolute_for_the_plugin_and_relative_for_the_consistent_estimator(backend: str) -> None:
    c = torch.diag(torch.tensor([1e-3, 1.0, 100.0], dtype=torch.float64))
    m = torch.ones(3, dtype=torch.float64)
    assert plugin(m, c, cut=1e-3, backend=backend).rank == 2
    assert plugin(m, 1e-5 * c, backend=backend).rank == 2
    assert consistent(m, c, 50, cut=1e-3, backend=backend).rank == 2
    assert consistent(m, c, 50, cut=0.1, backend=backend).rank == 1
    assert consistent(m, 1e-20 * c, 50, backend=backend).rank == 3


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_no_mean_difference_is_no_signal(moments: str, backend: str) -> None:
    _, c = problem(8, 6)
    out = robust_solve(
        torch.zeros(8, dtype=torch.float64), c, EPS, moments=moments, dof=50, c0=1 / 52, backend=backend
    )
    zero = torch.zeros_like(EPS)
    torch.testing.assert_close(out.t, zero, rtol=0.0, atol=0.0)
    torch.testing.assert_close(out.t_rob, zero, rtol=0.0, atol=0.0)
    assert out.mean_norm == 0.0
    assert bool((out.weights == 0.0).all())
    if moments == "sampled":
        assert bool(out.t_cov.isfinite().all())
        assert bool((out.t_cov.diagonal() > 0.0).all())


def test_radius_is_zero_where_the_mean_is_below_its_noise(backend: str) -> None:
    """|m|^2 < c0 tr S, yet the precise direction has a signal: every eps gives the classifier of eps = 0."""
    c = torch.diag(torch.tensor([1e-4, 100.0], dtype=torch.float64))
    m = torch.tensor([0.02, 0.0], dtype=torch.float64)
    out = consistent(m, c, 98, backend=backend)
    assert out.mean_norm == 0.0
    assert bool((out.kappa == 0.0).all())
    assert float(out.t[0]) > 1.5
    torch.testing.assert_close(out.t, out.t[0].expand(5), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("eps", [[1e-170], [1e-9], [0.0, 1e-6], [1.0 - 1e-9]])
@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_extreme_eps(moments: str, eps: list[float], backend: str) -> None:
    m, c = problem(30, 8)
    options = dict(moments=moments, dof=300, c0=1 / 302, backend=backend)
    out = robust_solve(4 * m, c, eps, **options)  # type: ignore[arg-type]
    if eps[-1] < 0.5:
        expected = robust_solve(4 * m, c, [0.0], **options).t  # type: ignore[arg-type]
        torch.testing.assert_close(out.t, expected.expand(len(eps)), rtol=1e-8, atol=0.0)
    else:  # w is parallel to m: t = |m|^2 / sqrt(m'Cm)
        noise = 0.0 if moments == "known" else 1 / 302
        square = float(16 * m @ m) - noise * float(c.trace())
        trace_square = float((c @ c).trace()) - float(c.trace()) ** 2 / 300
        spread = float(16 * m @ c @ m) - noise * trace_square
        assert float(out.t[0]) == pytest.approx(square / math.sqrt(spread), rel=1e-5)


@pytest.mark.parametrize("backend", [name for name in available("robust_solve", "cpu") if name != "torch"])
def test_backends_agree_with_the_specification(backend: str) -> None:
    for size, seed, scale in ((1, 0, 3.0), (2, 1, 3.0), (63, 2, 5.0), (130, 3, 6.0), (63, 4, 0.3)):
        m, c = problem(size, seed)
        for moments in ("known", "sampled"):
            options = dict(moments=moments, dof=262, c0=1 / 264)
            expected = robust_solve(scale * m, c, EPS, backend="torch", **options)  # type: ignore[arg-type]
            out = robust_solve(scale * m, c, EPS, backend=backend, threads=1, **options)  # type: ignore[arg-type]
            assert out.rank == expected.rank
            for field in ("ridge", "kappa", "signal", "variance", "t", "t_rob", "weights"):
                torch.testing.assert_close(
                    getattr(out, field), getattr(expected, field), rtol=1e-8, atol=1e-11
                )
            for field in ("t_cov", "t_rob_cov"):
                torch.testing.assert_close(
                    getattr(out, field), getattr(expected, field), rtol=1e-5, atol=1e-9, equal_nan=True
                )


def test_float32_input_is_solved_in_float64(backend: str) -> None:
    m, c = problem(12, 1)
    m, c = m.float(), c.float()
    c = (c + c.T) / 2
    out = plugin(m, c, backend=backend)
    torch.testing.assert_close(
        out.weights, plugin(m.double(), c.double(), backend=backend).weights, rtol=0.0, atol=0.0
    )
    assert out.weights.dtype == torch.float64


def test_gradients_are_left_behind(backend: str) -> None:
    m, c = problem(6, 1)
    expected = plugin(m, c, backend=backend)
    actual = plugin(
        *(one.clone().requires_grad_() for one in (m, c)), EPS.clone().requires_grad_(), backend=backend
    )
    assert torch.equal(actual.weights, expected.weights) and not actual.t.requires_grad


M = torch.ones(3, dtype=torch.float64)
C = torch.eye(3, dtype=torch.float64)
NAN = torch.tensor([1.0, math.nan, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": [0.0, 1.2]}, r"eps: expected values in \[0, 1\), got 1.2"),
        ({"eps": [1.0]}, r"eps: expected values in \[0, 1\), got 1"),
        ({"eps": [-0.1]}, r"eps: expected values in \[0, 1\), got -0.1"),
        ({"eps": [math.nan]}, r"eps: expected values in \[0, 1\), got nan"),
        ({"eps": []}, r"eps: expected shape \[E\] with at least one value, got \[0\]"),
        ({"eps": torch.zeros(2, 2)}, r"eps: expected shape \[E\] with at least one value, got \[2, 2\]"),
        ({"m": C}, r"m: expected shape \[F\], got \[3, 3\]"),
        ({"m": M[:0]}, r"m: expected shape \[F\], got \[0\]"),
        ({"m": torch.ones(3, dtype=torch.int64)}, "m: expected a floating point tensor, got torch.int64"),
        ({"covariance": C[:2]}, r"covariance: expected shape \[3, 3\], got \[2, 3\]"),
        ({"covariance": C.bool()}, "covariance: expected a floating point tensor, got torch.bool"),
        ({"covariance": C.to("meta")}, "covariance: expected device cpu of m, got meta"),
        (
            {"covariance": C.triu() + C.new_ones(3, 3).triu()},
            "covariance: expected a symmetric matrix, got an ",
        ),
        ({"m": NAN}, "m: expected finite numbers, got NaN or infinity"),
        ({"covariance": torch.diag(NAN)}, "covariance: expected finite numbers, got NaN or infinity"),
        ({"moments": "unknown"}, "moments: .*, got 'unknown'; did you mean 'known'?"),
        ({"moments": "x"}, "moments: expected 'sampled' or 'known', got 'x'$"),
        ({"dof": 0}, "dof: expected an integer of at least 1, got 0"),
        ({"dof": 2.5}, "dof: expected an integer of at least 1, got 2.5"),
        ({"c0": -1.0}, "c0: expected a finite number of at least 0, got -1.0"),
        ({"c0": math.nan}, "c0: expected a finite number of at least 0, got nan"),
        ({"cut": -1.0}, "cut: expected a finite number of at least 0, got -1.0"),
        ({"threads": -1}, "threads: expected an integer of at least 0, got -1"),
        ({"backend": "cuda"}, "backend: expected 'auto' or one of .*, got 'cuda'"),
        ({"covariance": 0 * C}, "features: expected at least one that varies .*, got constants only"),
        (
            {"covariance": 1e-7 * C, "moments": "known"},
            "features: expected a direction of variance above the cut 1e-06, got at most 1e-07",
        ),
        (
            {"dof": 3},
            r"samples: expected more than F \+ 2 = 5 samples per scale, got 5; "
            "use at least 10",
        ),
    ],
)
def test_errors_are_one_line(arguments: dict[str, object], message: str) -> None:
    call = {"m": M, "covariance": C, "eps": [0.1], "dof": 100, **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        robust_solve(call.pop("m"), call.pop("covariance"), call.pop("eps"), **call)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SynbenchError) or "backend" in arguments


def test_sample_error_counts_live_features_only() -> None:
    """30 samples of 64 features of which 40 live: the rank is limited by the samples, the need by the 40."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(28, 64, generator=g, dtype=torch.float64)
    x[:, 40:] = 0.0
    with pytest.raises(SynbenchError, match=r"F \+ 2 = 42 samples .* got 30; use at least 84"):
        robust_solve(x[0], x.T @ x / 28, [0.0], dof=28, c0=1 / 30)
