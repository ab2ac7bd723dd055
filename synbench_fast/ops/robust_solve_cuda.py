"""robust_solve on an NVIDIA GPU: one scale and all budgets, enqueued without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.kernels import launch
from synbench_fast.ops.robust_solve import Enqueued, RobustSolution, Solve
from synbench_fast.ops.robust_solve_solution import Sums, check_rank, solution
from synbench_fast.ops.sampling_covariance import Moments

__all__ = ["Launched", "robust_solve_cuda", "start"]

# As in csrc/robust_solve_cuda.cu.
HEADER = (
    "status", "largest", "threshold", "rank", "smallest", "a2", "a2d", "trace", "trace_square", "sweeps",
)  # fmt: skip
TAYLOR = 4
PER_BUDGET = 3 + 2 * TAYLOR
PANEL = 8
SUM_ARRAYS = 3
NOT_CONVERGED, ROTATIONS_FULL, NOT_FINITE = 1, 2, 3
MOST_SWEEPS = 60  # of each eigenvalue that is split off

TRIDIAGONALISE_THREADS = 512
SOLVE_THREADS = 128
WEIGHTS_THREADS = 128
GRID_CAPACITY = 4201  # half octaves from the smallest to the largest double, and one


@dataclass(frozen=True)
class Launched:
    """What the kernels write, on the device; valid once the stream gets there.

    out: [HEADER + PER_BUDGET E] scalars, then rows per budget, all in units of the largest eigenvalue except `largest`
        and `threshold`.
    weights: [E, F], or [0, F].
    """

    out: Tensor
    weights: Tensor
    budgets: int

    def header(self, name: str) -> Tensor:
        return self.out[HEADER.index(name)]

    @property
    def signal(self) -> Tensor:
        """[E] m'w of known moments."""
        first = len(HEADER) + 3 * self.budgets
        return self.out[first : first + self.budgets]

    @property
    def mean_norm(self) -> Tensor:
        """[] norm of the kept part of m, in feature units."""
        return (self.header("a2") * self.header("largest")).sqrt()

    def sums(self, call: Solve) -> Sums:
        """What the device has found, on the CPU. Waits."""
        out = self.out.cpu()
        header = dict(zip(HEADER, out[: len(HEADER)].tolist(), strict=True))
        table = out[len(HEADER) :].reshape(PER_BUDGET, self.budgets)
        if header["status"] == NOT_FINITE:
            raise SynbenchError("covariance: expected finite numbers near those of its diagonal, got others")
        if header["status"] == NOT_CONVERGED:
            raise SynbenchError(
                "robust_solve: expected the eigenvalue iteration to converge, got no convergence"
            )
        rank, largest = int(header["rank"]), header["largest"]
        check_rank(rank, call, header["threshold"], largest)
        moments = Moments(*(header[name] for name in ("a2", "a2d", "trace", "trace_square")))
        ridge, kappa, variance, *taylor = table.clone()
        span = (header["smallest"] * largest, largest)
        return Sums(rank, span, moments, ridge, kappa, taylor[:TAYLOR], taylor[TAYLOR:], variance)

    def rotations_full(self) -> bool:
        """Whether there were more rotations than there was room for, so that the weights are missing. Waits."""
        return bool(self.header("status") == ROTATIONS_FULL)


def robust_solve_cuda(call: Solve, rotations: int | None = None) -> Enqueued:
    """rotations: room for rotations, needed where eigenvalues are dropped and weights wanted; None for 2 F^2, enough for
    about half of the eigenvalues.
    """
    room = 2 * len(call.m) ** 2 if rotations is None else rotations
    launched = start(call, room)

    def finish() -> RobustSolution:
        return solution(launched.sums(call), call, launched.weights)

    def again() -> Enqueued | None:
        if not call.weights or not launched.rotations_full():
            return None
        return robust_solve_cuda(call, 8 * max(1, room))

    return Enqueued(launched.weights, launched.signal, launched.mean_norm, finish, again)


def start(call: Solve, room: int) -> Launched:
    """Enqueue the kernels. Only the upper half of the covariance is read.

    Memory on the device: an F x F matrix and about 400 F numbers; for the weights four more matrices, of rotations.
    """
    m, covariance, eps = (one.contiguous() for one in (call.m, call.covariance, call.eps))
    n, budgets, device = len(m), len(eps), m.device
    capacity = room if call.weights else 0
    sweep_capacity = min(capacity, MOST_SWEEPS * n)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=device)

    matrix, tau = empty(n + 1, n + 1), empty(n)
    tridiagonal, units = empty(3, n), empty(2)
    launch(
        "tridiagonalise_kernel", (1,), TRIDIAGONALISE_THREADS, device,
        (m, covariance, n, matrix, tau, empty(2, PANEL, n + 1), tridiagonal, units),
    )  # fmt: skip
    out = empty(len(HEADER) + PER_BUDGET * budgets)
    turns = empty(capacity, 2)
    sweeps = torch.empty(sweep_capacity, 3, dtype=torch.int64, device=device)
    launch(
        "robust_solve_kernel", (1,), SOLVE_THREADS, device,
        (
            tridiagonal, units, n, eps, budgets, int(call.known), float(call.dof), float(call.c0), float(call.least),
            empty(SUM_ARRAYS, n, SOLVE_THREADS), empty(GRID_CAPACITY), GRID_CAPACITY,
            turns, capacity, sweeps, sweep_capacity, out,
        ),
    )  # fmt: skip
    w = empty(budgets if call.weights else 0, n)
    if call.weights:
        per_block = WEIGHTS_THREADS // 32
        launch(
            "robust_solve_weights_kernel", (-(-budgets // per_block),), WEIGHTS_THREADS, device,
            (tridiagonal, matrix, tau, n, budgets, out, turns, sweeps, torch.empty_like(w), w),
        )  # fmt: skip
    return Launched(out, w, budgets)
