from __future__ import annotations

import pytest
import torch
from conftest import TOLERANCE, close
from hypothesis import given, settings
from hypothesis import strategies as st

from synbench_fast.errors import SynbenchError
from synbench_fast.ops import feature_stats as module
from synbench_fast.ops.feature_stats import FeatureStats, feature_stats


def data(
    n: int, f: int, *, mean: float = 0.0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n * 7 + f)
    y = (torch.rand(n, generator=generator) < 0.4).to(torch.uint8)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64) + (2.0 * y - 1)[:, None] + mean
    return x.to(dtype), y


def same(a: FeatureStats, b: FeatureStats, tolerance: float) -> None:
    assert a.count.tolist() == b.count.tolist()
    close(a.mean, b.mean, tolerance)
    close(a.scatter, b.scatter, tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "f"), [(1, 1), (2, 63), (63, 1), (500, 257), (1271, 5), (9000, 3)])
def test_backends_agree(n: int, f: int, dtype: torch.dtype) -> None:
    x, y = data(n, f, dtype=dtype)
    same(
        feature_stats(x, y, backend="blas"), feature_stats(x, y, backend="torch"), TOLERANCE["feature_stats"]
    )


def test_against_numpy() -> None:
    import numpy as np

    x, y = data(400, 30)
    stats = feature_stats(x, y)
    for label in (0, 1):
        np.testing.assert_allclose(stats.mean[label], x[y == label].numpy().mean(0), rtol=1e-12)
    within = sum(np.cov(x[y == k].numpy().T, bias=True) * int((y == k).sum()) for k in (0, 1))
    np.testing.assert_allclose(stats.scatter, within, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(stats.covariance, within / 398, rtol=1e-10, atol=1e-10)
    close(stats.half_difference, (stats.mean[1] - stats.mean[0]) / 2, 0)
    close(stats.midpoint, (stats.mean[1] + stats.mean[0]) / 2, 0)
    zero, one = stats.count.tolist()
    assert stats.dof == 398
    assert stats.c0 == (1 / zero + 1 / one) / 4


def test_features_far_from_zero_keep_their_covariance() -> None:
    x, y = data(3000, 40)
    far = feature_stats(x + 1e3, y)
    close(far.scatter, feature_stats(x, y).scatter, 1e-12)
    single = (x + 1e3).float()  # rounding to float32 happens before, at 6e-5 per feature
    close(feature_stats(single, y).scatter, feature_stats(single.double(), y, backend="torch").scatter, 1e-12)


@pytest.mark.parametrize("order", ["mixed", "sorted", "rare"])
@pytest.mark.parametrize("backend", ["blas", "torch"])
def test_classes_far_apart_keep_their_covariance(backend: str, order: str) -> None:
    """The oracle takes the class means off before there is a distance to round."""
    x, y = data(1500, 40)
    if order == "sorted":
        y, places = y.sort()
        x = x[places]
    if order == "rare":
        y = (torch.arange(1500) >= 1490).to(torch.uint8)
    near = feature_stats(x, y, backend="torch")
    for distance in (1e3, 1e6, 1e9):
        step = distance * torch.linspace(-1, 1, 40, dtype=torch.float64)
        far = feature_stats(x + y[:, None] * step, y, backend=backend)
        close(far.scatter, near.scatter, 1e-14 * distance)
        close(far.scatter, far.scatter.T, 1e-14)


def test_a_feature_that_is_constant_within_its_class_has_no_scatter_at_all() -> None:
    x, y = data(700, 5)
    x[:, 2] = torch.where(y == 1, 1e30, -3e29)
    stats = feature_stats(x, y)
    assert stats.scatter[2].abs().max() == 0 and stats.scatter[:, 2].abs().max() == 0


def test_the_features_stay_as_they_are() -> None:
    x, y = data(300, 5)
    before = x.clone()
    feature_stats(x, y)
    assert torch.equal(x, before)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 9))
def test_merging_equals_one_pass(n: int, cut: int, f: int) -> None:
    x, y = data(n, f)
    cut = min(cut, n)
    same(feature_stats(x[:cut], y[:cut]).merge(feature_stats(x[cut:], y[cut:])), feature_stats(x, y), 1e-12)


def test_chunks_and_blocks_change_only_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(700, 90)
    whole = feature_stats(x, y)
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 90 * 300)
    monkeypatch.setattr(module, "BLOCK", 7)
    same(feature_stats(x, y), whole, 1e-12)


def test_a_missing_class_has_mean_zero() -> None:
    stats = feature_stats(torch.ones(4, 2) * 3, torch.ones(4, dtype=torch.long))
    assert stats.count.tolist() == [0, 4]
    assert stats.mean.tolist() == [[0, 0], [3, 3]]
    assert stats.scatter.abs().max() == 0


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(3), torch.ones(3, dtype=int), r"x: expected floating \[N, F\], got float32 \[3\]"),
        (
            torch.ones(3, 1, dtype=int),
            torch.ones(3, dtype=int),
            r"x: expected floating \[N, F\], got int64 \[3, 1\]",
        ),
        (torch.ones(3, 1), torch.ones(2, dtype=int), r"y: expected integer labels \[3\], got int64 \[2\]"),
        (torch.ones(3, 1), torch.ones(3), r"y: expected integer labels \[3\], got float32 \[3\]"),
        (
            torch.ones(3, 1),
            torch.ones(3, dtype=int, device="meta"),
            "y: expected device cpu of x, got meta",
        ),
        (torch.ones(3, 1), torch.tensor([0, 1, 2]), "y: expected labels 0 and 1, got values from 0 to 2"),
    ],
)
def test_errors(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(SynbenchError, match=message):
        feature_stats(x, y)


def test_merge_refuses_other_widths() -> None:
    a, b = (feature_stats(torch.ones(2, f), torch.tensor([0, 1])) for f in (3, 4))
    with pytest.raises(SynbenchError, match="other: expected F = 3 features, got F = 4"):
        a.merge(b)


def test_known_counts_are_taken_as_they_are() -> None:
    x, y = data(50, 4)
    counted = (int((y == 0).sum()), int((y == 1).sum()))
    known, found = feature_stats(x, y, count=counted), feature_stats(x, y)
    assert known.count.tolist() == found.count.tolist() == list(counted)
    assert torch.equal(known.scatter, found.scatter)


@pytest.mark.parametrize("backend", ["blas", "torch"])
def test_gradients_are_left_behind(backend: str) -> None:
    x, y = data(50, 4)
    stats = feature_stats(x.clone().requires_grad_(), y, backend=backend)
    assert not stats.mean.requires_grad and not stats.scatter.requires_grad
    assert torch.equal(stats.scatter, feature_stats(x, y, backend=backend).scatter)
