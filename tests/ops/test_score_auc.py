from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TOLERANCE, close, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from synbench_fast.engine.features import auc_ratio
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.score_auc import GRID, score_auc
from synbench_fast.tasks.task import GaussianTask

THRESHOLDS = torch.tensor([0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99], dtype=torch.float64)


def curve(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    accuracy = 0.5 + 0.5 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return accuracy, 1 + torch.rand(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("integral", ["exact", "grid"])
@pytest.mark.parametrize("shape", [(1,), (49,), (5, 12), (3, 2, 7), (130, 63)])
def test_backends_agree(shape: tuple[int, ...], integral: str) -> None:
    accuracy, bound = curve(*shape)
    expected = score_auc(accuracy, bound, THRESHOLDS, integral=integral, backend="torch")
    close(
        score_auc(accuracy, bound, THRESHOLDS, integral=integral, backend="cpp"),
        expected,
        TOLERANCE["score_auc"],
    )


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_exact_is_the_integral_of_the_curve(backend: str) -> None:
    accuracy, bound = curve(12)
    fine = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    height = (bound[:, None] * (accuracy[:, None] > fine)).mean(0)
    expected = [torch.trapezoid(height[fine >= a], fine[fine >= a]) for a in THRESHOLDS]
    close(score_auc(accuracy, bound, THRESHOLDS, backend=backend), torch.stack(expected), 1e-5)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_grid_is_strict_on_numpys_points(backend: str) -> None:
    grid = np.linspace(*GRID)
    for i in (0, 17, 50, 98, 99):
        at = torch.tensor([grid[i]])
        one = torch.ones(1, dtype=torch.float64)
        area = score_auc(at, one, torch.tensor([0.6], dtype=torch.float64), integral="grid", backend=backend)
        assert float(area) == i  # a point does not exceed itself


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_scales_without_signal_count_nothing(backend: str) -> None:
    accuracy = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
    bound = torch.tensor([torch.inf, torch.inf, 2.0], dtype=torch.float64)
    area = score_auc(accuracy, bound, torch.tensor([0.6]), backend=backend)
    close(area, [2.0 * 0.3 / 3], 1e-6)


@pytest.mark.parametrize("integral", ["exact", "grid"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_bound_that_is_no_number_shows(backend: str, integral: str) -> None:
    accuracy = torch.tensor([[0.9, 0.7], [0.5, 0.7]], dtype=torch.float64)
    bound = torch.tensor([torch.nan, 2.0], dtype=torch.float64).expand(2, 2)
    area = score_auc(accuracy, bound, torch.tensor([0.6]), integral=integral, backend=backend)
    assert area.isnan().tolist() == [[True], [False]]  # only where the scale counts


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_gradients_are_left_behind(backend: str) -> None:
    accuracy, bound = curve(3, 7)
    expected = score_auc(accuracy, bound, THRESHOLDS, backend=backend)
    tracked = [one.clone().requires_grad_() for one in (accuracy, bound, THRESHOLDS)]
    actual = score_auc(*tracked, backend=backend)
    assert torch.equal(actual, expected) and not actual.requires_grad


def test_scores_of_the_published_curve() -> None:
    stored = load_golden("full_conv32_12scales")
    for e in range(len(stored["eps"])):
        for name, integral in (("score_exact_grid", "grid"), ("score_exact_integral", "exact")):
            ratio = auc_ratio(
                stored["scales"],
                stored["exact_acc"][:, e],
                stored["exact_bounds"][:, e],
                thresholds=stored["thresholds"],
                integral=integral,
                raw_accuracy=stored["raw_acc"],
                raw_bound=stored["raw_bounds"],
            )
            np.testing.assert_allclose(ratio, stored[name][e], rtol=0, atol=1e-9)


def test_published_raw_curve_is_the_exact_one_but_for_float32() -> None:
    # The script computes the distance of the classes in float32; its raw accuracies are off by up to 2e-7.
    stored = load_golden("full_conv32_12scales")
    accuracy, _, bound = GaussianTask((1,), tuple(stored["scales"])).raw((0.0,))
    np.testing.assert_allclose(accuracy[:, 0], stored["raw_acc"], atol=2e-7)
    np.testing.assert_allclose(bound[:, 0], stored["raw_bounds"], atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 9)), min_size=1, max_size=20),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
)
def test_area_falls_with_the_threshold(points: list[tuple[float, float]], low: float, high: float) -> None:
    low, high = sorted((low, high))
    accuracy, bound = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    area = score_auc(accuracy, bound, torch.tensor([low, high], dtype=torch.float64))
    assert area[0] >= area[1] >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bound": torch.ones(3)},
            r"bound: expected the shape \[..., S\] of accuracy, got \[3\] for accuracy \[2\]",
        ),
        ({"bound": torch.ones(2, device="meta")}, "bound: expected device cpu of accuracy, got meta"),
        (
            {"accuracy": torch.ones(0), "bound": torch.ones(0)},
            "accuracy: expected at least one scale, got none",
        ),
        ({"thresholds": torch.tensor([1.5])}, r"thresholds: expected values in \[0, 1\], got \[1.5\]"),
        ({"integral": "exakt"}, "integral: expected 'exact' or 'grid', got 'exakt', did you mean exact?"),
        ({"backend": "cuda"}, r"backend: expected 'auto' or one of .* got 'cuda'"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    arguments = {"accuracy": torch.ones(2), "bound": torch.ones(2), "thresholds": THRESHOLDS} | change
    accuracy, bound, thresholds = (arguments.pop(name) for name in ("accuracy", "bound", "thresholds"))
    with pytest.raises(ValueError, match=message):
        score_auc(accuracy, bound, thresholds, **arguments)


def test_auc_ratio_of_the_raw_optimum_is_one() -> None:
    scales = torch.linspace(0.1, 4.9, 49, dtype=torch.float64)
    accuracy = torch.special.ndtr(scales)
    bound = 1 + torch.exp(-(scales**2) / 2) / (2 * torch.pi) ** 0.5 / (scales * accuracy)
    for integral in ("exact", "grid"):
        ratio = auc_ratio(scales, accuracy, bound, thresholds=THRESHOLDS.tolist(), integral=integral)
        np.testing.assert_allclose(ratio, 1, rtol=1e-12)


def test_auc_ratio_errors() -> None:
    with pytest.raises(
        SynbenchError, match=r"accuracy: expected \[S\] like scales \[2\], got \[3\] and bound \[2\]"
    ):
        auc_ratio([1, 2], [0.5, 0.6, 0.7], [1, 1], thresholds=[0.6])
    with pytest.raises(
        SynbenchError, match="raw_bound: expected raw_accuracy and raw_bound together, got one"
    ):
        auc_ratio([1, 2], [0.5, 0.6], [1, 1], thresholds=[0.6], raw_accuracy=[0.7, 0.8])
    with pytest.raises(
        SynbenchError, match=r"raw_accuracy: expected \[S\] like scales \[2\], got \[1\] and raw_bound \[1\]"
    ):
        auc_ratio([1, 2], [0.5, 0.6], [1, 1], thresholds=[0.6], raw_accuracy=[0.7], raw_bound=[1])
    with pytest.raises(SynbenchError, match=r"thresholds: expected accuracies in \[0, 1\), got 1.2"):
        auc_ratio([1, 2], [0.5, 0.6], [1, 1], thresholds=[1.2])
