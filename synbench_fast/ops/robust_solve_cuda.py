"""robust_solve on an NVIDIA GPU: all scales of a batch and all budgets, enqueued without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.kernels import launch

__all__ = ["Launched", "start"]

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

    out: [S, HEADER + PER_BUDGET E] scalars of each scale, then per budget, all in units of the largest
        eigenvalue except `largest` and `threshold`.
    weights: [S, E, F], or [S, 0, F].
    """

    out: Tensor
    weights: Tensor
    budgets: int

    def _header(self, name: str) -> Tensor:
        return self.out[:, HEADER.index(name)]

    def _row(self, place: int) -> Tensor:
        first = len(HEADER) + place * self.budgets
        return self.out[:, first : first + self.budgets]

    @property
    def signal(self) -> Tensor:
        """[S, E] m'w of the plug-in."""
        return self._row(3).contiguous()

    @property
    def mean_norm(self) -> Tensor:
        """[S] norm of the kept part of m, in feature units."""
        return (self._header("a2") * self._header("largest")).sqrt()

    def found(self, scale: int) -> dict[str, float | Tensor]:
        """Scalars and [E] or [4, E] arrays of one scale, on the CPU: the names of the compiled core. Waits."""
        row = self.out[scale].cpu()
        header = dict(zip(HEADER, row[: len(HEADER)].tolist(), strict=True))
        table = row[len(HEADER) :].reshape(PER_BUDGET, self.budgets)
        if header["status"] == NOT_FINITE:
            raise SynbenchError("covariance: expected finite numbers near those of its diagonal, got others")
        if header["status"] == NOT_CONVERGED:
            raise SynbenchError(
                "robust_solve: expected the eigenvalue iteration to converge, got no convergence"
            )
        return {
            **header,
            "ridge": table[0].clone(),
            "kappa": table[1].clone(),
            "variance": table[2].clone(),
            "f": table[3 : 3 + TAYLOR].clone(),
            "df": table[3 + TAYLOR :].clone(),
        }

    def rotations_full(self) -> bool:
        """Whether a scale had more rotations than there was room for, so that its weights are missing. Waits."""
        return bool((self._header("status") == ROTATIONS_FULL).any())


def start(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor,
    *,
    plugin: bool,
    dof: int,
    c0: float,
    cut: float,
    weights: bool,
    rotations: int | None = None,
) -> Launched:
    """Enqueue `robust_solve` for a batch of scales.

    Args:
        m: float64 [S, F].
        covariance: float64 [S, F, F]; only the upper half is read.
        eps: float64 [E], in [0, 1).
        plugin, dof, c0, cut: as in `robust_solve`; dof and c0 hold for every scale.
        weights: also compute the classifiers.
        rotations: room for rotations per scale, needed where eigenvalues are dropped and weights wanted;
            None for 2 F^2, enough for about half of the eigenvalues.

    Memory on the device, per scale: an F x F matrix and about 400 F numbers; for the weights four more matrices, of
    rotations.
    """
    scales, n = m.shape
    budgets = len(eps)
    device = m.device
    capacity = (2 * n * n if rotations is None else rotations) if weights else 0
    sweep_capacity = min(capacity, MOST_SWEEPS * n)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=device)

    matrix, tau = empty(scales, n + 1, n + 1), empty(scales, n)
    tridiagonal, units = empty(scales, 3, n), empty(scales, 2)
    launch(
        "tridiagonalise_kernel", (scales,), TRIDIAGONALISE_THREADS, device,
        (m, covariance, n, matrix, tau, empty(scales, 2, PANEL, n + 1), tridiagonal, units),
    )  # fmt: skip
    out = empty(scales, len(HEADER) + PER_BUDGET * budgets)
    turns = empty(scales, capacity, 2)
    sweeps = torch.empty(scales, sweep_capacity, 3, dtype=torch.int64, device=device)
    launch(
        "robust_solve_kernel", (scales,), SOLVE_THREADS, device,
        (
            tridiagonal, units, n, eps, budgets, int(plugin), float(dof), float(c0), float(cut),
            empty(scales, SUM_ARRAYS, n, SOLVE_THREADS), empty(scales, GRID_CAPACITY), GRID_CAPACITY,
            turns, capacity, sweeps, sweep_capacity, out,
        ),
    )  # fmt: skip
    w = empty(scales, budgets if weights else 0, n)
    if weights:
        per_block = WEIGHTS_THREADS // 32
        launch(
            "robust_solve_weights_kernel", (-(-budgets // per_block), scales), WEIGHTS_THREADS, device,
            (
                tridiagonal, matrix, tau, n, budgets, out, turns, capacity, sweeps, sweep_capacity,
                torch.empty_like(w), w,
            ),
        )  # fmt: skip
    return Launched(out, w, budgets)
