"""robust_solve by the compiled core."""

from __future__ import annotations

import torch

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import array
from synbench_fast.ops.robust_solve import Enqueued, Solve
from synbench_fast.ops.robust_solve_solution import Sums, check_rank, solution
from synbench_fast.ops.sampling_covariance import Moments

__all__ = ["robust_solve_cpp"]


def robust_solve_cpp(call: Solve) -> Enqueued:
    from synbench_fast import _core

    try:
        found = _core.robust_solve(
            array(call.m),
            array(call.covariance),
            array(call.eps),
            call.known,
            float(call.dof),
            call.c0,
            call.least,
            call.weights,
            call.threads or torch.get_num_threads(),
        )
    except ValueError as error:  # a matrix that is no covariance, by hundreds of orders of magnitude
        raise SynbenchError(str(error)) from None
    rank, largest = found["rank"], found["largest"]
    check_rank(rank, call, found["threshold"], largest)
    f, df = (torch.from_numpy(one).view(-1, len(call.eps)) for one in (found["f"], found["df"]))
    sums = Sums(
        rank,
        (found["smallest"] * largest, largest),
        Moments(found["a2"], found["a2d"], found["trace"], found["trace_square"]),
        torch.from_numpy(found["ridge"]),
        torch.from_numpy(found["kappa"]),
        list(f),
        list(df),
        torch.from_numpy(found["variance"]),
    )
    return Enqueued.done(solution(sums, call, torch.from_numpy(found["weights"])))
