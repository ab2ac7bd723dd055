"""nuclear_norm: sums of the singular values of many small matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import array, check_device, check_shape, kind, thread_count
from synbench_fast.ops.dispatch import Operation

__all__ = ["nuclear_norm", "nuclear_norm_blas", "nuclear_norm_cpp"]

# Squares of singular values carry the rounding of the largest; above this ratio their roots are good to 1e-10 of it.
_WELL_CONDITIONED = 1e-9

# products, rows, columns, threads
_backends = Operation[[Tensor, Tensor, Tensor, int], Tensor]("nuclear_norm")


def nuclear_norm(
    products: Tensor, rows: Tensor, columns: Tensor, *, threads: int = 0, backend: str = "auto"
) -> Tensor:
    """Sums of the singular values of the blocks products[a, :rows[a], b, :columns[b]].

        |X|_* = sum_i sigma_i(X) = tr (X'X)^1/2

    Args:
        products: float64 [A, R, B, S], finite, zero outside of these blocks.
        rows: int64 [A], from 0 to R.
        columns: int64 [B], from 0 to S.
        threads: 0 for torch's number of threads ("cpp" only). They do not change the result.
        backend: "auto", "cpp", "blas" (eigenvalues of the squares where they lose nothing, any device) or "torch"
            (float64 specification, any device).

    Returns:
        float64 [A, B], without gradients; to about 1e-14 of each sum, with "blas" to 1e-10.

    Raises:
        SynbenchError: shapes, dtypes or devices that do not fit, threads < 0.

    Source: csrc/nuclear_norm.hpp.
    """
    if products.ndim != 4 or products.dtype != torch.float64:
        raise SynbenchError(f"products: expected float64 [A, R, B, S], got {kind(products)}")
    check_shape((products.shape[0],), rows=rows)
    check_shape((products.shape[2],), columns=columns)
    check_device("products", products.device, rows=rows, columns=columns)
    run = _backends.on(products.device.type, backend)
    return run(products.detach(), rows.long(), columns.long(), thread_count(threads))


def nuclear_norm_cpp(products: Tensor, rows: Tensor, columns: Tensor, threads: int) -> Tensor:
    from synbench_fast import _core

    try:
        return torch.from_numpy(_core.nuclear_norm(array(products), array(rows), array(columns), threads))
    except ValueError as error:  # rows or columns that there are not
        raise SynbenchError(str(error)) from None


def nuclear_norm_blas(products: Tensor, rows: Tensor, columns: Tensor, threads: int) -> Tensor:
    """Roots of the eigenvalues of xx' where that loses nothing, else a decomposition of x."""
    del threads
    x = products.transpose(1, 2).flatten(0, 1)
    if x.shape[1] > x.shape[2]:
        x = x.mT
    squares = torch.linalg.eigvalsh(x @ x.mT)
    found: Tensor = squares.clamp_min(0).sqrt().sum(-1)
    rest = squares[:, 0] <= _WELL_CONDITIONED * squares[:, -1]
    if rest.any():
        found[rest] = torch.linalg.svdvals(x[rest]).sum(-1)
    return found.view(len(rows), len(columns))
