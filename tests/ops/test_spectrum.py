"""The compiled robust_solve on covariances that are hard for a tridiagonal reduction, against the specification."""

from __future__ import annotations

import pytest
import torch

from synbench_fast import _core
from synbench_fast.ops.robust_solve import RobustSolution, robust_solve

EPS = torch.tensor([0.0, 0.05, 0.3, 0.9, 0.999], dtype=torch.float64)


def rotation(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]


def spread(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compare(
    m: torch.Tensor, d: torch.Tensor, u: torch.Tensor, moments: str, tolerance: float
) -> RobustSolution:
    c = (u * d) @ u.T
    c = (c + c.T) / 2
    options = {"moments": moments, "dof": 3 * len(d), "c0": 1 / (3 * len(d)), "cut": 1e-9}
    expected = robust_solve(m, c, EPS, backend="torch", **options)  # type: ignore[arg-type]
    actual = robust_solve(m, c, EPS, backend="cpp", **options)  # type: ignore[arg-type]
    assert actual.rank == expected.rank
    for name in ("ridge", "kappa", "signal", "variance", "t", "t_rob", "weights"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), rtol=tolerance, atol=tolerance
        )
    return actual


@pytest.mark.parametrize("moments", ["known", "sampled"])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 63, 200])
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_power_laws(n: int, power: float, moments: str) -> None:
    d = torch.arange(1, n + 1, dtype=torch.float64) ** -power
    u = rotation(n)
    compare(u @ (spread(n) * d.sqrt()), d, u, moments, 1e-7)


@pytest.mark.parametrize("moments", ["known", "sampled"])
@pytest.mark.parametrize("kept", [1, 5, 60, 99])
def test_directions_without_variance_are_dropped(kept: int, moments: str) -> None:
    n = 100
    d = torch.cat(
        [
            torch.zeros(n - kept, dtype=torch.float64),
            0.5 + torch.rand(kept, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
        ]
    )
    u = rotation(n)
    out = compare(u @ spread(n), d, u, moments, 1e-7)
    assert out.rank == kept
    null = u[:, : n - kept]
    assert float((out.weights @ null).abs().max()) < 1e-6 * float(out.weights.abs().max())


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_small_eigenvalues_on_both_sides_of_the_cut(moments: str) -> None:
    d = torch.cat(
        [torch.logspace(-13, -5, 40, dtype=torch.float64), torch.linspace(0.1, 1, 50, dtype=torch.float64)]
    )
    u = rotation(90)
    m = u @ (spread(90) * d.sqrt())
    assert compare(m, d, u, moments, 1e-4).rank == int((d > 1e-9).sum())


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_repeated_eigenvalues(moments: str) -> None:
    d = torch.tensor([0.25] * 30 + [1.0] * 40 + [4.0] * 7, dtype=torch.float64)
    u = rotation(77)
    compare(u @ spread(77), d, u, moments, 1e-9)


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_mean_along_one_eigenvector_and_no_mean(moments: str) -> None:
    d = torch.linspace(0.1, 2, 65, dtype=torch.float64)
    u = rotation(65)
    compare(2 * u[:, 17], d, u, moments, 1e-9)
    nothing = compare(torch.zeros(65, dtype=torch.float64), d, u, moments, 1e-9)
    assert nothing.t.abs().max() == 0


@pytest.mark.parametrize("moments", ["known", "sampled"])
def test_diagonal_and_blockwise_covariances(moments: str) -> None:
    d = torch.linspace(0.1, 2, 66, dtype=torch.float64)
    compare(spread(66), d, torch.eye(66, dtype=torch.float64), moments, 1e-9)
    blocks = torch.block_diag(rotation(22), rotation(44))
    m = torch.cat(
        [torch.zeros(22, dtype=torch.float64), spread(44)]
    )  # the mean never reaches the first block
    compare(m, d, blocks, moments, 1e-9)


def test_threads_change_no_bit() -> None:
    n = 400
    u, d = rotation(n), torch.arange(1, n + 1, dtype=torch.float64) ** -0.5
    c = (u * d) @ u.T
    c, m = (c + c.T) / 2, u @ spread(n)
    one = robust_solve(m, c, EPS, moments="known", dof=n, threads=1, backend="cpp")
    for threads in (2, 3, 8):
        more = robust_solve(m, c, EPS, moments="known", dof=n, threads=threads, backend="cpp")
        assert torch.equal(one.weights, more.weights)
        assert torch.equal(one.ridge, more.ridge)


def test_binding_refuses_what_it_would_have_to_convert() -> None:
    m, c, eps = torch.ones(3).double().numpy(), torch.eye(3).double().numpy(), EPS.numpy()
    rest = (True, 10.0, 0.1, 1e-6, True, 1)
    with pytest.raises(ValueError, match=r"m: expected C-contiguous float64 \[3\], got float32 \[3\]"):
        _core.robust_solve(m.astype("float32"), c, eps, *rest)
    with pytest.raises(
        ValueError, match=r"covariance: expected C-contiguous float64 \[3, 3\], got non-contiguous"
    ):
        _core.robust_solve(m, torch.eye(6).double().numpy()[::2, ::2], eps, *rest)
    with pytest.raises(
        ValueError, match=r"covariance: expected C-contiguous float64 \[3, 3\], got float64 \[2, 3\]"
    ):
        _core.robust_solve(m, c[:2], eps, *rest)
    with pytest.raises(ValueError, match=r"eps: expected \[budgets\], got 2 axes"):
        _core.robust_solve(m, c, eps[None], *rest)
