"""The CUDA C++ kernels against the specification, on an emulated device: see cuda_emulator.hpp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checks import refused
from conftest import TOLERANCE, close
from cuda_cases import EPS, FIELDS, features, sample_moments
from emulation import BACKWARDS, FORWARDS, Emulator

from synbench_fast.ops import kernels, robust_solve_cuda
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.robust_solve import Enqueued, RobustSolution, Solve, robust_solve
from synbench_fast.ops.score_auc import score_auc
from synbench_fast.ops.score_sweep import score_sweep
from synbench_fast.stats.estimators import BUILT_IN, Estimator, Paper, Sample


def white(f: int) -> dict:
    """A multiple of the identity, and a mean along the first feature: T is diagonal without any rounding."""
    m = torch.zeros(f, dtype=torch.float64)
    m[0] = 3.0
    return {"m": m, "covariance": 4 * torch.eye(f, dtype=torch.float64), "eps": EPS, "dof": 98, "c0": 0.01}


def compare(arguments: dict, moments: str, tolerance: float = TOLERANCE["robust_solve"]) -> RobustSolution:
    actual = robust_solve(**arguments, moments=moments, backend="cuda")
    expected = robust_solve(**arguments, moments=moments, backend="torch")
    assert actual.rank == expected.rank
    for name in FIELDS:
        close(getattr(actual, name), getattr(expected, name), tolerance)
    close(actual.mean_norm, expected.mean_norm, tolerance)
    close(torch.tensor(actual.eigenvalue_range), torch.tensor(expected.eigenvalue_range), tolerance)
    return actual


@pytest.mark.parametrize("moments", ["known", "sampled"])
@pytest.mark.parametrize("f", [1, 2, 3, 8, 9, 10, 33, 63, 100])
def test_robust_solve(emulator: Emulator, f: int, moments: str) -> None:
    compare(sample_moments(3 * f + 20, f), moments)
    assert emulator.launched == [
        "tridiagonalise_kernel",
        "robust_solve_kernel",
        "robust_solve_weights_kernel",
    ]


@pytest.mark.parametrize("moments", ["known", "sampled"])
@pytest.mark.parametrize("f, dead", [(9, 1), (40, 7), (65, 60)])
def test_robust_solve_with_dead_features(emulator: Emulator, f: int, dead: int, moments: str) -> None:
    assert compare(sample_moments(2 * f + 9, f, dead=dead), moments).rank == f - dead


@pytest.mark.parametrize("n, f", [(20, 40), (33, 64), (12, 90)])
def test_robust_solve_of_fewer_samples_than_features(emulator: Emulator, n: int, f: int) -> None:
    assert compare(sample_moments(n, f), "known").rank == n - 2


def test_robust_solve_drops_many_eigenvalues_one_by_one(emulator: Emulator) -> None:
    solution = compare(sample_moments(400, 48, power=3.0), "known", 1e-7)
    assert 5 < solution.rank < 43


def test_robust_solve_makes_room_for_more_rotations(emulator: Emulator) -> None:
    arguments = sample_moments(400, 48, power=4.0)
    eps = torch.tensor(EPS, dtype=torch.float64)
    call = Solve(arguments["m"], arguments["covariance"], eps, "known", arguments["dof"], 0.0, None, True, 1)
    again: Enqueued | None = robust_solve_cuda.robust_solve_cuda(call, rotations=1)
    tries = 0
    while again is not None:
        enough, again, tries = again, again.again(), tries + 1
    assert tries > 1
    expected = robust_solve(**arguments, moments="known", backend="torch")
    close(enough.weights, expected.weights, 1e-7)
    close(enough.solution().t, expected.t, 1e-9)


def test_a_caller_who_waits_gets_weights_whatever_room_they_take(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = sample_moments(400, 48, power=4.0)
    rooms = cramp(monkeypatch)
    actual = robust_solve(**arguments, moments="known", backend="cuda")
    assert len(rooms) > 1
    close(actual.weights, robust_solve(**arguments, moments="known", backend="torch").weights, 1e-7)


def cramp(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Too little room for rotations at first; the list fills with what was asked for."""
    start, rooms = robust_solve_cuda.start, []

    def cramped(call: Solve, room: int) -> robust_solve_cuda.Launched:
        rooms.append(room)
        return start(call, min(room, 3 * 8 ** len(rooms)))

    monkeypatch.setattr(robust_solve_cuda, "start", cramped)
    return rooms


@pytest.mark.parametrize(
    "moments, arguments",
    [
        ("sampled", sample_moments(170, 75)),
        ("sampled", sample_moments(170, 75, dead=9)),
        ("known", sample_moments(170, 75)),
        ("known", sample_moments(40, 75)),
        ("known", sample_moments(400, 48, power=3.0)),
        ("known", white(1)),  # an eigenvalue that is known without a search
        ("sampled", white(40)),
    ],
)
def test_the_order_of_threads_changes_nothing(emulator: Emulator, moments: str, arguments: dict) -> None:
    results = []
    for order in (FORWARDS, BACKWARDS, 2, 3, 4):
        emulator.order = order
        results.append(robust_solve(**arguments, moments=moments, backend="cuda"))
    for other in results[1:]:
        for name in FIELDS:
            one, two = getattr(results[0], name), getattr(other, name)
            assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(two)), name


def test_robust_solve_says_what_the_compiled_core_says(emulator: Emulator) -> None:
    arguments = sample_moments(30, 12)
    few = {**arguments, "dof": 12}
    with refused("samples: expected more than F + 2 = 14", "got 14"):
        robust_solve(**few, moments="sampled", backend="cuda")
    with refused("features: expected a direction of variance above the cut"):
        robust_solve(
            **{**arguments, "covariance": 1e-9 * arguments["covariance"]}, moments="known", backend="cuda"
        )


@pytest.mark.parametrize("backend", ["cpp", "cuda"])
def test_no_covariance_is_no_answer(emulator: Emulator, backend: str) -> None:
    """Symmetric and finite, but so far from its diagonal that the reduction overflows."""
    covariance = 1e308 * (1 - torch.eye(4, dtype=torch.float64))
    with refused("covariance: expected finite numbers near those of its diagonal, got others"):
        robust_solve(
            torch.ones(4, dtype=torch.float64), covariance, [0.0], moments="known", dof=10, backend=backend
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "n, f, budgets, group",
    [(1, 1, 1, 1), (63, 5, 3, 7), (300, 64, 16, 256), (130, 65, 17, 16), (100, 130, 33, 1000)],
)
def test_score_sweep(
    emulator: Emulator, n: int, f: int, budgets: int, group: int, dtype: torch.dtype
) -> None:
    x, y = features(max(n, 2), f, dtype)
    x, y = x[:n].contiguous(), y[:n]
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(budgets, f, generator=generator, dtype=torch.float64)
    arguments = {
        "x": x,
        "y": y,
        "weights": weights,
        "center": x.double().mean(0),
        "signal": torch.rand(budgets, generator=generator, dtype=torch.float64) - 0.1,
        "robust_margin": torch.rand(budgets, generator=generator, dtype=torch.float64),
        "offset": 0.05,
        "group": group,
    }
    actual, expected = (score_sweep(**arguments, backend=backend) for backend in ("cuda", "torch"))
    for name in ("count", "correct", "robust_correct", "groups"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    for name in ("group_mean_sum", "bound_sum", "bound_square_sum", "margin_sum", "margin_square_sum"):
        close(getattr(actual, name), getattr(expected, name), TOLERANCE["score_sweep"])
    emulator.order = 5
    again = score_sweep(**arguments, backend="cuda")
    assert torch.equal(again.margin_sum, actual.margin_sum)


@pytest.mark.parametrize("integral", ["exact", "grid"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 49), (2, 5, 12)])
def test_score_auc(emulator: Emulator, shape: tuple[int, ...], integral: str) -> None:
    generator = torch.Generator().manual_seed(1)
    accuracy = 0.5 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
    bound = 1 + torch.rand(shape, generator=generator, dtype=torch.float64)
    bound.view(-1)[0] = torch.inf
    thresholds = torch.tensor([0.0, 0.6, 0.7, 0.99, 1.0], dtype=torch.float64)
    actual, expected = (
        score_auc(accuracy, bound, thresholds, integral=integral, backend=backend)
        for backend in ("cuda", "torch")
    )
    close(actual, expected, TOLERANCE["score_auc"])


@pytest.mark.parametrize("estimator", [BUILT_IN["gaussian"], Paper(64)], ids=lambda one: one.name)
def test_a_whole_scale(emulator: Emulator, estimator: Estimator) -> None:
    stats, test = feature_stats(*features(200, 24)), Sample(*features(150, 24))

    def point(backend: str):
        return estimator.point(stats, EPS, test=test, prior=0.4, backend=backend)

    actual, expected = point("cuda"), point("torch")
    assert "robust_solve_kernel" in emulator.launched
    for name in ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "stderr", "bound_stderr", "ridge"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-8, atol=1e-10)


def test_paper_retries_a_scale_that_ran_out_of_room(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = sample_moments(400, 48, power=4.0)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(arguments["covariance"] + 1e-12 * torch.eye(48))
    y = torch.arange(400) % 2
    x = (
        torch.randn(400, 48, generator=generator, dtype=torch.float64) @ root.T
        + (2 * y - 1)[:, None] * arguments["m"]
    )
    stats = feature_stats(x, y)
    expected = BUILT_IN["paper"].point(stats, EPS, test=Sample(x, y), backend="torch")
    rooms = cramp(monkeypatch)
    actual = BUILT_IN["paper"].point(stats, EPS, test=Sample(x, y), backend="cuda")
    assert len(rooms) > 1
    np.testing.assert_allclose(actual.bound, expected.bound, rtol=1e-6)


def test_launch_refuses_what_a_kernel_cannot_read(emulator: Emulator) -> None:
    x = torch.zeros(4, 6, dtype=torch.float64)
    with refused("score_auc_kernel: expected argument 1 contiguous on cpu", "strides [1, 6]"):
        kernels.launch("score_auc_kernel", (1,), 32, x.device, (x, x.T))
    with refused("score_auc_kernel: expected to run on cpu", "expected 8 arguments, got 1"):
        kernels.launch("score_auc_kernel", (1,), 32, x.device, (x,))
    with refused("unknown kernel nothing"):
        kernels.launch("nothing", (1,), 32, x.device, ())
