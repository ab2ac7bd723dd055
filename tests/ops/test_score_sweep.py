from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TOLERANCE, close

from synbench_fast import _core
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.score_sweep import SweepTotals, score_sweep

FIELDS = SweepTotals.__dataclass_fields__


def problem(
    n: int, f: int, e: int, *, dtype: torch.dtype = torch.float32, mean: float = 0.0
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(n + f + e)
    y = (torch.rand(n, generator=generator) < 0.4).to(torch.uint8)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64) + 0.5 * (2.0 * y - 1)[:, None] + mean
    weights = torch.randn(e, f, generator=generator, dtype=torch.float64) + 0.3
    return {
        "x": x.to(dtype),
        "y": y,
        "weights": weights,
        "center": torch.full((f,), mean, dtype=torch.float64) + 0.01,
        "signal": weights.sum(1).abs() + 0.1,
        "robust_margin": 0.2 * weights.norm(dim=1),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "f", "e", "group"),
    [(1, 1, 1, 256), (63, 63, 5, 7), (513, 17, 16, 256), (300, 1271, 17, 100), (1000, 8, 33, 1)],
)
def test_backends_agree(n: int, f: int, e: int, group: int, dtype: torch.dtype) -> None:
    arguments = problem(n, f, e, dtype=dtype)
    expected = score_sweep(**arguments, offset=0.05, group=group, backend="torch")
    actual = score_sweep(**arguments, offset=0.05, group=group, backend="cpp")
    for name in FIELDS:
        close(getattr(actual, name), getattr(expected, name), TOLERANCE["score_sweep"])


def test_definition_on_a_hand_made_case() -> None:
    # One classifier, w = 1, c = 0, m'w = 2: margins are the features themselves.
    x = torch.tensor([[3.0], [0.5], [-1.0], [-4.0], [0.25], [0.0]])
    y = torch.tensor([1, 1, 1, 0, 0, 0])
    for backend in ("torch", "cpp"):
        one = score_sweep(
            x,
            y,
            torch.ones(1, 1),
            torch.zeros(1),
            signal=torch.tensor([2.0]),
            robust_margin=torch.tensor([1.0]),
            group=3,
            backend=backend,
        )
        assert one.count.tolist() == [3, 3]
        assert one.correct.tolist() == [4]  # 3, 0.5, -4 and the tie at 0, which is class 0
        assert one.robust_correct.tolist() == [2]
        close(one.bound, [(1.5 + 0.25 + 2.0 + 0.0) / 4], 1e-15)
        close(one.grouped_bound, [((1.5 + 0.25) / 2 + (2.0 + 0.0) / 2) / 2], 1e-15)
        close(one.margin_sum, [[-3.75], [2.5]], 1e-15)


def test_groups_without_a_correct_sample_are_left_out() -> None:
    x, y = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]]), torch.ones(4, dtype=torch.long)
    for backend in ("torch", "cpp"):
        one = score_sweep(
            x,
            y,
            torch.ones(1, 1),
            torch.zeros(1),
            signal=torch.ones(1),
            robust_margin=torch.zeros(1),
            group=2,
            backend=backend,
        )
        assert one.groups.tolist() == [1]
        assert one.grouped_bound.tolist() == [1.5]
        none = score_sweep(
            -x[:2],
            y[:2],
            torch.ones(1, 1),
            torch.zeros(1),
            signal=torch.ones(1),
            robust_margin=torch.zeros(1),
            backend=backend,
        )
        assert none.accuracy.tolist() == [0.0]
        assert none.bound.tolist() == none.grouped_bound.tolist() == [torch.inf]
        assert torch.isnan(none.bound_stderr).all()
        assert none.t.tolist() == [0.0]


def test_threads_change_no_bit() -> None:
    arguments = problem(5000, 33, 20)
    one = score_sweep(**arguments, threads=1, backend="cpp")
    for threads in (2, 3, 8):
        more = score_sweep(**arguments, threads=threads, backend="cpp")
        assert all(torch.equal(getattr(one, name), getattr(more, name)) for name in FIELDS)


def test_large_feature_means_cost_nothing() -> None:
    plain, shifted = (
        problem(2000, 20, 4, dtype=torch.float64),
        problem(2000, 20, 4, dtype=torch.float64, mean=1e6),
    )
    close(score_sweep(**shifted).margin_sum, score_sweep(**plain).margin_sum, 1e-9)


def test_totals_merge_at_group_boundaries() -> None:
    arguments = problem(1024, 9, 3)
    whole = score_sweep(**arguments)
    x, y = arguments.pop("x"), arguments.pop("y")
    halves = [score_sweep(x[part], y[part], **arguments) for part in (slice(0, 512), slice(512, None))]
    merged = halves[0].merge(halves[1])
    for name in FIELDS:
        close(getattr(merged, name), getattr(whole, name), 1e-13)


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_gradients_are_left_behind(backend: str) -> None:
    plain = problem(30, 4, 2, dtype=torch.float64)
    tracked = {name: value.clone().requires_grad_(value.is_floating_point()) for name, value in plain.items()}
    expected, actual = (score_sweep(**one, backend=backend) for one in (plain, tracked))
    assert torch.equal(actual.bound_sum, expected.bound_sum) and not actual.bound_sum.requires_grad


def test_a_margin_that_is_no_number_is_wrong_for_either_class() -> None:
    x, y = torch.tensor([[torch.nan], [torch.nan], [1.0]]), torch.tensor([0, 1, 1])
    for backend in ("cpp", "torch"):
        one = score_sweep(
            x, y, torch.ones(1, 1), torch.zeros(1), signal=torch.ones(1), robust_margin=torch.zeros(1), backend=backend
        )  # fmt: skip
        assert one.correct.tolist() == one.robust_correct.tolist() == [1]


def test_what_totals_give_is_where_their_sums_are() -> None:
    """As on a GPU: everything but `count` is there."""
    totals = score_sweep(**problem(30, 4, 2))
    there = SweepTotals(
        totals.count, *(getattr(totals, name).to("meta") for name in FIELDS if name != "count")
    )
    for name in (
        "accuracy",
        "robust_accuracy",
        "grouped_bound",
        "bound",
        "bound_stderr",
        "margin_deviation",
        "t",
    ):
        value = getattr(there, name)
        assert value.device.type == "meta" and value.shape == getattr(totals, name).shape, name


def test_t_and_errors_of_known_margins() -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(200_000) % 2
    x = torch.randn(200_000, 1, generator=generator, dtype=torch.float64) + 1.5 * (2.0 * y - 1)[:, None]
    one = score_sweep(
        x, y, torch.ones(1, 1), torch.zeros(1), signal=torch.tensor([1.5]), robust_margin=torch.tensor([0.5])
    )
    close(one.t, [1.5], 0.01)
    close(one.accuracy, torch.special.ndtr(torch.tensor([1.5])), 0.003)
    close(one.robust_accuracy, torch.special.ndtr(torch.tensor([1.0])), 0.004)
    density, distribution = 0.1295175956658917, 0.9331927987311419  # at 1.5
    expected = 1 + density / (1.5 * distribution)
    assert abs(float(one.bound) - expected) < 4 * float(one.bound_stderr)
    assert 0.0005 < float(one.bound_stderr) < 0.002


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.ones(3, 2, dtype=torch.int32)},
            r"x: expected float32 or float64 \[N, F\], got int32 \[3, 2\]",
        ),
        ({"x": torch.ones(0, 2)}, "x: expected at least one sample, got none"),
        ({"y": torch.ones(3)}, r"y: expected integer labels \[3\], got float32 \[3\]"),
        ({"weights": torch.ones(1, 3)}, r"weights: expected \[E, 2\], got \[1, 3\]"),
        ({"center": torch.ones(3)}, r"center: expected \[2\], got \[3\]"),
        ({"signal": torch.ones(2)}, r"signal: expected \[1\], got \[2\]"),
        ({"weights": torch.ones(1, 2, device="meta")}, "weights: expected device cpu of x, got meta"),
        ({"group": 0}, "group: expected at least 1, got 0"),
        ({"threads": -1}, r"threads: expected 0 \(torch's number\) or more, got -1"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments = {
        "x": torch.ones(3, 2),
        "y": torch.ones(3, dtype=torch.long),
        "weights": torch.ones(1, 2),
        "center": torch.zeros(2),
        "signal": torch.ones(1),
        "robust_margin": torch.zeros(1),
    } | change
    with pytest.raises(SynbenchError, match=message):
        score_sweep(**arguments)


def test_binding_refuses_what_it_would_have_to_convert() -> None:
    import numpy as np

    good = [np.zeros((4, 3)), np.zeros(4, np.uint8), np.zeros((2, 3)), np.zeros(3), np.ones(2), np.zeros(2)]
    names = ["x", "y", "weights", "center", "signal", "robust_margin"]
    _core.score_sweep(*good, 0.0, 256, 1)
    for i, name in enumerate(names):
        strided = np.zeros(tuple(2 * n for n in good[i].shape), good[i].dtype)[
            tuple(slice(None, None, 2) for _ in good[i].shape)
        ]
        with pytest.raises(ValueError, match=f"{name}: expected C-contiguous .* got non-contiguous"):
            _core.score_sweep(*good[:i], strided, *good[i + 1 :], 0.0, 256, 1)
        with pytest.raises(ValueError, match=f"{name}: expected C-contiguous .* got int32"):
            _core.score_sweep(*good[:i], good[i].astype(np.int32), *good[i + 1 :], 0.0, 256, 1)
