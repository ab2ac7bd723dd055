"""What only a real GPU can show; the same comparisons run without one in test_cuda_kernels.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checks import refused
from conftest import TOLERANCE, close
from cuda_cases import EPS, FIELDS, features, sample_moments
from torch import nn

import synbench_fast as sb
from synbench_fast.ops import kernels
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.robust_solve import robust_solve
from synbench_fast.ops.score_auc import score_auc
from synbench_fast.ops.score_sweep import score_sweep
from synbench_fast.stats.discriminant import class_accuracy
from synbench_fast.tasks.families import FAMILIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("moments", ["known", "sampled"])
@pytest.mark.parametrize(
    "arguments",
    [
        sample_moments(40, 1),
        sample_moments(150, 63),
        sample_moments(700, 200, dead=20),
        sample_moments(1600, 768),
        sample_moments(300, 120, power=3.0),
    ],
    ids=["F=1", "F=63", "dead", "F=768", "steep"],
)
def test_robust_solve(arguments: dict, moments: str) -> None:
    expected = robust_solve(**arguments, moments=moments, backend="torch")
    there = {**arguments, "m": arguments["m"].to(GPU), "covariance": arguments["covariance"].to(GPU)}
    actual = robust_solve(**there, moments=moments, backend="cuda")
    again = robust_solve(**there, moments=moments, backend="cuda")
    assert actual.rank == expected.rank
    steep = arguments["covariance"].shape[0] == 120
    for name in FIELDS:
        close(
            getattr(actual, name).cpu(), getattr(expected, name), 1e-6 if steep else TOLERANCE["robust_solve"]
        )
        one, two = getattr(actual, name), getattr(again, name)
        assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(two)), name


def test_robust_solve_of_fewer_samples_than_features() -> None:
    arguments = sample_moments(300, 500)
    expected = robust_solve(**arguments, moments="known", backend="torch")
    there = {**arguments, "m": arguments["m"].to(GPU), "covariance": arguments["covariance"].to(GPU)}
    close(robust_solve(**there, moments="known", backend="cuda").t.cpu(), expected.t, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, f, budgets, group", [(63, 5, 3, 7), (1271, 130, 33, 256), (2048, 768, 16, 256)])
def test_score_sweep(n: int, f: int, budgets: int, group: int, dtype: torch.dtype) -> None:
    x, y = features(n, f, dtype)
    generator = torch.Generator().manual_seed(7)
    arguments = {
        "x": x,
        "y": y,
        "weights": torch.randn(budgets, f, generator=generator, dtype=torch.float64),
        "center": x.double().mean(0),
        "signal": torch.rand(budgets, generator=generator, dtype=torch.float64) + 0.1,
        "robust_margin": torch.rand(budgets, generator=generator, dtype=torch.float64),
    }
    there = {name: value.to(GPU) for name, value in arguments.items()}
    actual = score_sweep(**there, group=group, backend="cuda").cpu()
    expected = score_sweep(**arguments, group=group, backend="torch")
    assert torch.equal(actual.correct, expected.correct)
    for name in ("group_mean_sum", "bound_sum", "margin_sum", "margin_square_sum"):
        close(getattr(actual, name), getattr(expected, name), TOLERANCE["score_sweep"])


@pytest.mark.parametrize("integral", ["exact", "grid"])
def test_score_auc(integral: str) -> None:
    generator = torch.Generator().manual_seed(1)
    accuracy = 0.5 + 0.5 * torch.rand(100, 49, generator=generator, dtype=torch.float64)
    bound = 1 + torch.rand(100, 49, generator=generator, dtype=torch.float64)
    thresholds = torch.tensor([0.0, 0.6, 0.99, 1.0], dtype=torch.float64)
    actual = score_auc(accuracy.to(GPU), bound.to(GPU), thresholds, integral=integral, backend="cuda")
    close(actual.cpu(), score_auc(accuracy, bound, thresholds, integral=integral, backend="torch"), 1e-14)


def test_feature_stats_keep_the_covariance_of_features_far_from_zero() -> None:
    x, y = features(2048, 200)
    expected = feature_stats(x, y, backend="torch")
    actual = feature_stats(x.to(GPU), y.to(GPU))
    close(actual.scatter.cpu(), expected.scatter, TOLERANCE["feature_stats"])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 45, 70)])
def test_images_of_families_have_the_bits_of_the_cpu(name: str, shape: tuple[int, ...]) -> None:
    family = FAMILIES[name](classes=3)
    expected = family.draw(shape, 7, 2, 2**32 - 9, 9)
    assert torch.equal(family.draw(shape, 7, 2, 2**32 - 9, 9, device=GPU).cpu(), expected)


def test_k_classes_are_judged_where_their_features_are() -> None:
    labels = torch.arange(20).repeat_interleave(26)
    x = torch.randn(520, 300, generator=torch.Generator().manual_seed(1))
    x = x + torch.randn(20, 300, generator=torch.Generator().manual_seed(2))[labels]
    expected, actual, again = (class_accuracy(x.to(one), labels.to(one)) for one in ("cpu", GPU, GPU))
    assert (actual.accuracy, actual.stderr) == (again.accuracy, again.stderr)
    np.testing.assert_allclose(actual.by_class, expected.by_class, atol=1e-12)
    np.testing.assert_allclose(actual.stderr, expected.stderr, rtol=1e-8)


def test_the_structure_score_is_that_of_the_cpu() -> None:
    options = {"input_shape": (3, 32, 32), "preset": "quick"}
    here = sb.structure_score(Small(), **options, device="cpu")
    there = sb.structure_score(Small(), **options, device="cuda", dtype="fp32")
    assert abs(here.score - there.score) <= 0.2 * here.stderr  # an image or two between two classes


@pytest.mark.parametrize("estimator", ["paper", "consistent"])
def test_evaluate_features_of_every_library(estimator: str) -> None:
    train, test = features(400, 50), features(300, 50)
    expected = sb.evaluate_features(*train, *test, eps=EPS, estimator=estimator)
    cupy = pytest.importorskip("cupy")
    for convert in (lambda a: a.to(GPU), lambda a: cupy.asarray(a.numpy())):
        arrays = [convert(a) for a in (*train, *test)]
        actual = sb.evaluate_features(*arrays, eps=EPS, estimator=estimator)
        np.testing.assert_allclose(actual.t, expected.t, rtol=1e-8)
        np.testing.assert_allclose(actual.bound, expected.bound, rtol=1e-8)
    with cupy.cuda.Stream(non_blocking=True):  # the caller's stream still makes the features
        late = [cupy.asarray(a.numpy()) for a in (*train, *test)]
        late[0] = late[0] * 2 / 2
        actual = sb.evaluate_features(*late, eps=EPS, estimator=estimator)
    np.testing.assert_allclose(actual.t, expected.t, rtol=1e-6)


def test_features_on_two_devices_are_refused() -> None:
    train, test = features(400, 50), features(300, 50)
    with refused("test_x: expected device cuda:0 of train_x, got cpu"):
        sb.evaluate_features(train[0].to(GPU), train[1].to(GPU), *test, eps=EPS)


def test_both_ways_to_build_give_the_same_bits() -> None:
    pytest.importorskip("synbench_fast._cuda", reason="needs a build with nvcc")
    pytest.importorskip("cupy")
    accuracy = torch.rand(50, 49, dtype=torch.float64, device=GPU)
    bound = 1 + torch.rand(50, 49, dtype=torch.float64, device=GPU)
    thresholds = torch.tensor([0.1, 0.6], dtype=torch.float64)
    ahead = score_auc(accuracy, bound, thresholds, backend="cuda")
    own = kernels._launcher
    try:
        kernels._launcher = kernels._at_first_use
        at_first_use = score_auc(accuracy, bound, thresholds, backend="cuda")
        solved = robust_solve(
            **{
                k: v.to(GPU) if isinstance(v, torch.Tensor) else v for k, v in sample_moments(150, 63).items()
            },
            backend="cuda",
        )
        drawn = FAMILIES["texture"](classes=2).draw((3, 40, 40), 0, 1, 0, 3, device=GPU)
    finally:
        kernels._launcher = own
    assert torch.equal(drawn.cpu(), FAMILIES["texture"](classes=2).draw((3, 40, 40), 0, 1, 0, 3))
    assert torch.equal(ahead, at_first_use)
    close(
        solved.t.cpu(), robust_solve(**sample_moments(150, 63), backend="torch").t, TOLERANCE["robust_solve"]
    )


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(3, 24, 3, stride=2)
        self.second = nn.Linear(24 * 15 * 15, 48)
        for parameter in self.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.second(torch.relu(self.first(x)).flatten(1)))


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_float32_scores_are_those_of_the_cpu(estimator: str) -> None:
    options = {
        "input_shape": (3, 32, 32),
        "scales": 5,
        "samples": 600,
        "eps": (0.0, 0.2),
        "estimator": estimator,
    }
    here = sb.score(Small(), **options, device="cpu")
    there = sb.score(Small(), **options, device="cuda", dtype="fp32")
    for one, two in zip(here.scores, there.scores, strict=True):
        assert abs(one.score - two.score) <= 1e-4


def test_half_precision_stays_within_a_standard_error() -> None:
    options = {"input_shape": (3, 32, 32), "scales": 5, "samples": 600, "eps": (0.0, 0.2), "device": "cuda"}
    full = sb.score(Small(), **options, dtype="fp32")
    half = sb.score(Small(), **options, dtype="bf16")
    for one, two in zip(full.scores, half.scores, strict=True):
        assert abs(one.score - two.score) <= one.stderr
