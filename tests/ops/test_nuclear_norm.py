"""nuclear_norm: sums of singular values, from well-conditioned blocks to the edge of what float64 holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from checks import refused
from conftest import TOLERANCE
from torch import Tensor

from synbench_fast import _core
from synbench_fast.ops.nuclear_norm import nuclear_norm


def products(rows: int, columns: int, spread: float, size: float = 1.0) -> Tensor:
    """[2, rows, 3, columns], columns of falling length."""
    draws = torch.randn(2, rows, 3, columns, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return size * draws * torch.logspace(0, -math.log10(spread), columns, dtype=torch.float64)


def whole(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full((x.shape[0],), x.shape[1]), torch.full((x.shape[2],), x.shape[3])


@pytest.mark.parametrize("spread", [1.0, 1e6, 1e14])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 5), (3, 3), (8, 8), (9, 7), (49, 64), (130, 72)])
def test_nuclear_norms_are_sums_of_singular_values(shape: tuple[int, int], spread: float) -> None:
    x = products(*shape, spread)
    expected = torch.linalg.svdvals(x.transpose(1, 2)).sum(-1)
    torch.testing.assert_close(nuclear_norm(x, *whole(x)), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [0.0, 1e-290, 1e-160, 1e160, 1e290])
def test_nuclear_norms_of_any_size(size: float) -> None:
    x, one = products(6, 5, 10.0, size), products(6, 5, 10.0)
    expected = size * nuclear_norm(one, *whole(one))
    torch.testing.assert_close(nuclear_norm(x, *whole(x)), expected, rtol=1e-14, atol=0)


def test_nuclear_norms_of_leading_blocks() -> None:
    x = products(12, 9, 100.0)
    rows, columns = torch.tensor([12, 5]), torch.tensor([9, 0, 3])
    found = nuclear_norm(x, rows, columns)
    for a, r in enumerate(rows.tolist()):
        for b, s in enumerate(columns.tolist()):
            expected = torch.linalg.svdvals(x[a, :r, b, :s]).sum()
            torch.testing.assert_close(found[a, b], expected, rtol=1e-13, atol=0)


def test_nuclear_norms_do_not_depend_on_threads() -> None:
    x, before = products(40, 40, 1e3), torch.get_num_threads()
    try:
        found = [torch.set_num_threads(count) or nuclear_norm(x, *whole(x)) for count in (1, 2)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("shape", [(20, 15), (7, 5), (5, 7), (1, 3)])
@pytest.mark.parametrize("spread", [1.0, 1e6, 1e14])
@pytest.mark.parametrize(("backend", "tolerance"), [("cpp", TOLERANCE["nuclear_norm"]), ("blas", 1e-10)])
def test_backends_agree_with_the_specification(
    shape: tuple[int, int], spread: float, backend: str, tolerance: float
) -> None:
    x = products(*shape, spread)
    found, expected = (nuclear_norm(x, *whole(x), backend=one) for one in (backend, "torch"))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def test_binding_checks_its_arrays() -> None:
    x = products(4, 3, 1.0)
    rows, columns = (one.numpy() for one in whole(x))
    for arrays, words in (
        ((x.float().numpy(), rows, columns), "products: expected C-contiguous float64"),
        ((x.numpy(), rows + 1, columns), "rows: expected 0 to 4, got 5"),
        ((x.numpy(), rows, columns - 4), "columns: expected 0 to 3, got -1"),
        ((x.numpy(), rows[:1], columns), "rows: expected C-contiguous int64"),
    ):
        with pytest.raises(ValueError, match=words):
            _core.nuclear_norm(*arrays, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": torch.ones(2, 4, 3)}, "products: expected float64 [A, R, B, S], got float32 [2, 4, 3]"),
        ({"products": products(4, 3, 1.0).float()}, "products: expected float64 [A, R, B, S], got float32"),
        ({"rows": torch.ones(3)}, "rows: expected [2], got [3]"),
        ({"columns": torch.ones(2)}, "columns: expected [3], got [2]"),
        ({"rows": torch.ones(2, device="meta")}, "rows: expected device cpu of products, got meta"),
        ({"rows": torch.tensor([5, 4])}, "rows: expected 0 to 4, got 5"),
        ({"threads": -1}, "threads: expected 0 (torch's number) or more, got -1"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    x = products(4, 3, 1.0)
    rows, columns = whole(x)
    with refused(message):
        nuclear_norm(**{"products": x, "rows": rows, "columns": columns, **change})
