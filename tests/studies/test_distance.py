"""Transport distance between labelled sets: against exact transport, closed forms, and a plain loop over classes."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from checks import refused
from sklearn.datasets import load_digits
from torch import Tensor

from synbench_fast.studies.inheritance import distance as module
from synbench_fast.studies.inheritance.distance import Distance, dataset_distance
from synbench_fast.studies.inheritance.ground_cost import (
    class_gaussians,
    label_distances,
    squared_distances,
)

ot = pytest.importorskip("ot")

Labelled = tuple[Tensor, Tensor]


def labelled(
    count: int = 90,
    width: int = 6,
    classes: int = 3,
    *,
    seed: int = 0,
    shift: float = 0.0,
    spread: float = 1.0,
) -> Labelled:
    """Classes with means of their own, the same for every seed."""
    fixed = torch.Generator().manual_seed(99)
    means = 2 * torch.randn(classes, width, generator=fixed, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.randn(count, width, generator=draws, dtype=torch.float64)
    return means[labels] + spread * noise + shift, labels


def root(matrix: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)  # singular, as some are meant to be
        return scipy.linalg.sqrtm(matrix).real


def loop_of_roots(a: Labelled, b: Labelled) -> np.ndarray:
    """W2^2 between all classes from covariances and matrix square roots, one pair at a time."""

    def gaussians(pair: Labelled) -> list[tuple[np.ndarray, np.ndarray]]:
        x, labels = (one.numpy() for one in pair)
        parts = [x[labels == one] for one in np.unique(labels)]
        zero = np.zeros((x.shape[1], x.shape[1]))
        return [(p.mean(0), np.atleast_2d(np.cov(p.T)) if len(p) > 1 else zero) for p in parts]

    found = []
    for mean, covariance in gaussians(a):
        own = root(covariance)
        row = []
        for other, second in gaussians(b):
            traces = np.trace(covariance) + np.trace(second) - 2 * np.trace(root(own @ second @ own))
            row.append(np.square(mean - other).sum() + traces)
        found.append(row)
    return np.array(found)


def tables(a: Labelled, b: Labelled) -> Tensor:
    return label_distances(class_gaussians(*a), class_gaussians(*b))


def brute_cost(a: Labelled, b: Labelled, feature: float = 1.0, label: float = 1.0) -> Tensor:
    """The ground cost from its definition, sample by sample."""
    table = torch.from_numpy(loop_of_roots(a, b))
    places = [torch.unique(one[1], return_inverse=True)[1] for one in (a, b)]
    apart = (a[0][:, None] - b[0][None]).square().sum(-1)
    return (feature * apart + label * table[places[0]][:, places[1]]) / 2


def near(value: float, expected: float, relative: float) -> None:
    assert abs(value - expected) <= relative * abs(expected), (value, expected)


# Classes


@pytest.mark.parametrize("count", [400, 60, 30])
def test_class_terms_agree_with_a_loop_of_matrix_roots(count: int) -> None:
    """More samples than features in every class; fewer needs roots of singular matrices, which carry 1e-8."""
    a, b = labelled(count, 8, 4), labelled(count, 8, 3, seed=1, spread=1.7)
    found, expected = tables(a, b).numpy(), loop_of_roots(a, b)
    if count == 30:  # 7 or 8 samples a class: singular covariances
        scale = expected.max()
        assert np.abs(found - expected).max() < 1e-6 * scale
        expected = bures_by_singular_values(a, b)
    assert np.abs(found - expected).max() < 1e-8


def bures_by_singular_values(a: Labelled, b: Labelled) -> np.ndarray:
    """One pair at a time: the sum of the singular values of the product of centred samples."""
    parts = [[x[labels == one].numpy() for one in labels.unique()] for x, labels in (a, b)]
    found = np.zeros((len(parts[0]), len(parts[1])))
    for i, p in enumerate(parts[0]):
        for j, q in enumerate(parts[1]):
            c, d = ((one - one.mean(0)) / math.sqrt(max(len(one) - 1, 1)) for one in (p, q))
            found[i, j] = np.square(p.mean(0) - q.mean(0)).sum() + np.square(c).sum() + np.square(d).sum()
            found[i, j] -= 2 * np.linalg.svd(c @ d.T, compute_uv=False).sum()
    return found


def test_class_terms_of_a_set_with_itself_are_symmetric_and_those_of_two() -> None:
    group = class_gaussians(*labelled(200, 5, 4))
    same = label_distances(group, group)
    other = label_distances(group, class_gaussians(*labelled(200, 5, 4)))
    assert torch.equal(same, same.T)
    assert torch.equal(same.diagonal(), torch.zeros(4, dtype=torch.float64))
    assert (same - other).abs().max() < 1e-10


def test_class_terms_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = labelled(80, 5, 4), labelled(70, 5, 3, seed=1)
    whole = tables(a, b)
    monkeypatch.setattr("synbench_fast.studies.inheritance.ground_cost._CHUNK", 60)
    # The products of other shapes may be summed in another order: 5 terms, each within 2^-53.
    assert (tables(a, b) - whole).abs().max() <= 1e-13 * whole.max()


def test_ill_conditioned_products_keep_their_small_singular_values() -> None:
    """Spreads over eight decades: roots of eigenvalues alone would lose the smallest."""
    a, b = labelled(300, 6, 2), labelled(300, 6, 2, seed=1)
    steep = 10.0 ** -torch.arange(0, 12, 2, dtype=torch.float64)
    a, b = ((x * steep, labels) for x, labels in (a, b))
    assert np.abs(tables(a, b).numpy() - bures_by_singular_values(a, b)).max() < 1e-12


def test_gaussians_with_commuting_covariances() -> None:
    """W2^2 = |difference of means|^2 + sum (sd - sd')^2, exactly, for samples with diagonal covariance."""
    corners = torch.tensor([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)], dtype=torch.float64)
    unit = corners * math.sqrt(3 / 4)  # covariance I with divisor n - 1
    first = unit * torch.tensor([2.0, 5.0])
    second = unit * torch.tensor([3.0, 1.0]) + torch.tensor([1.0, -2.0])
    labels = torch.zeros(4, dtype=torch.int64)
    assert tables((first, labels), (second, labels)).item() == pytest.approx(1 + 4 + 1 + 16, rel=1e-12)


def test_covariance_factors() -> None:
    x, labels = labelled(40, 12, 3)
    group = class_gaussians(x, labels)
    for place in range(3):
        own = x[labels == place]
        assert (group.means[place] - own.mean(0)).abs().max() < 1e-12
        assert (group.factors[place].T @ group.factors[place] - own.T.cov()).abs().max() < 1e-12
    assert group.counts.tolist() == [14, 13, 13]


def dead_columns(x: Tensor) -> Tensor:
    """The first half constant in every sample, one of them far from 0."""
    half = x.shape[1] // 2
    constants = torch.linspace(0, 1e4, max(half, 1), dtype=x.dtype).expand(len(x), -1)
    return torch.cat([constants, x[:, max(half, 1) :]], 1)


# What encoders do to features [N, F], F at least 2, so that columns depend on each other or do not vary.
COLUMNS: dict[str, Callable[[Tensor], Tensor]] = {
    "dead": dead_columns,
    "all dead but the last": lambda x: torch.cat([torch.zeros_like(x[:, 1:]), x[:, :1]], 1),
    "doubled": lambda x: torch.cat([x[:, :1], x[:, :1], x[:, 1:]], 1),
    "padded": lambda x: torch.cat([torch.zeros_like(x), x], 1),
    "collinear": lambda x: x[:, :1] * torch.linspace(1, 2, x.shape[1], dtype=x.dtype),
    "sums of others": lambda x: torch.cat([x[:, :1] + x[:, 1:2], x, x.sum(1, keepdim=True)], 1),
    "dead in one class": lambda x: torch.where(torch.arange(len(x))[:, None] < 5, x[:1] * (x == x), x),
    "one sample often": lambda x: x[torch.arange(len(x)) // 2 * 2],
    "saturated": lambda x: x.sign(),
}


def uneven(width: int, seed: int, change: Callable[[Tensor], Tensor]) -> Labelled:
    """Classes of 5, 1, 2 and 9 samples."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(17, width, generator=draws, dtype=torch.float64) + seed
    return change(x), torch.tensor([3] * 5 + [0] + [7] * 2 + [1] * 9)


@pytest.mark.parametrize("width", [2, 3, 8, 100])
@pytest.mark.parametrize("columns", COLUMNS)
def test_columns_that_depend_on_each_other_keep_all_variance(columns: str, width: int) -> None:
    """Against roots of the covariances, which carry the root of the rounding, and singular values of the samples."""
    a, b = uneven(width, 0, COLUMNS[columns]), uneven(width, 1, COLUMNS[columns])
    for first, second in ((a, b), (b, a), (a, uneven(a[0].shape[1], 2, lambda x: x))):
        found, size = tables(first, second).numpy(), bures_by_singular_values(first, second).max()
        assert np.abs(found - bures_by_singular_values(first, second)).max() < 1e-12 * size
        assert np.abs(found - loop_of_roots(first, second)).max() < 1e-6 * size
        transported = dataset_distance(first, second, exact=True)
        near(transported.value, ot.emd2([], [], brute_cost(first, second).numpy()), 1e-6)
    for one in (a, b):
        group = class_gaussians(*one)
        for place, factor in enumerate(group.factors):
            own = one[0][group.member == place]
            near(float(factor.square().sum()), float(own.var(0).sum()) if len(own) > 1 else 0.0, 1e-12)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("columns", COLUMNS)
def test_order_and_rotation_of_columns_do_not_matter(columns: str, exact: bool) -> None:
    a, b = uneven(6, 0, COLUMNS[columns]), uneven(6, 1, COLUMNS[columns])
    width = a[0].shape[1]
    options: dict[str, Any] = {"exact": exact, "tolerance": 1e-9}
    plain = dataset_distance(a, b, **options).value
    draws = torch.Generator().manual_seed(5)
    orders = [torch.eye(width).double()[torch.randperm(width, generator=draws)] for _ in range(2)]
    rotation = torch.linalg.qr(torch.randn(width, width, generator=draws, dtype=torch.float64)).Q
    for turn in (torch.eye(width).double().flip(0), *orders, rotation):
        turned = ((x - x.mean(0)) @ turn for x in (a[0], b[0]))
        shift = (a[0].mean(0) - b[0].mean(0)) @ turn
        x, y = turned
        near(dataset_distance((x + shift, a[1]), (y, b[1]), **options).value, plain, 1e-8)


def test_a_constant_column_before_the_only_one_that_varies() -> None:
    """One class at 0 and 2, the other at their mean: W2^2 is the variance 2, half of it the distance."""
    one = torch.tensor([0, 0])
    for x in ([[0.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [2.0, 0.0]], [[7.0, 0.0], [7.0, 2.0]]):
        features = torch.tensor(x)
        point = (features.mean(0, keepdim=True), one[:1])
        found = dataset_distance((features, one), point, exact=True, feature_weight=0.0)
        assert found.value == pytest.approx(1.0, rel=1e-14)


def test_few_digits_of_each_class_keep_their_variance() -> None:
    """Pixels that are 0 in all images come first and last in a row."""
    pixels, classes = (torch.from_numpy(one) for one in load_digits(return_X_y=True))
    places = [(classes == one).nonzero()[:, 0] for one in range(10)]
    sets = []
    for start in (0, 5):
        rows = torch.cat([one[start : start + 5] for one in places])
        sets.append((pixels[rows], classes[rows]))
    found = dataset_distance(*sets, exact=True, feature_weight=0.0)
    table = torch.from_numpy(bures_by_singular_values(*sets)) / 2
    near(found.value, ot.emd2([], [], table[sets[0][1]][:, sets[1][1]].numpy()), 1e-12)


# Faults of the published implementation, one test each


def test_fault_regularisation_is_relative_to_the_cost() -> None:
    """Features times s: distance times s^2, at every scale and to rounding for powers of two."""
    a, b = labelled(), labelled(seed=1, shift=0.5)
    plain = dataset_distance(a, b)
    for factor in (2.0**-20, 2.0**20):
        scaled = dataset_distance((a[0] * factor, a[1]), (b[0] * factor, b[1]))
        near(scaled.value, plain.value * factor**2, 1e-12)
        near(scaled.epsilon, plain.epsilon * factor**2, 1e-12)
        assert scaled.iterations == plain.iterations
    near(plain.epsilon, 0.01 * float(brute_cost(a, b).mean()), 1e-12)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("samples", [None, 40])
def test_fault_a_set_is_at_distance_0_from_itself(exact: bool, samples: int | None) -> None:
    a = labelled()
    copy = (a[0].clone(), a[1].clone())
    found = dataset_distance(a, copy, samples=samples, exact=exact)
    assert abs(found.value) < 1e-12 * found.scale
    assert found.samples == ((samples or 90),) * 2
    near(dataset_distance(a, a, samples=samples, seed=3).scale, found.scale, 0.5)


def test_fault_independent_subsamples_are_not_at_distance_0() -> None:
    """What common places avoid: halves of one set differ by far more than rounding."""
    x, labels = labelled(180)
    halves = dataset_distance((x[:90], labels[:90]), (x[90:], labels[90:]))
    assert halves.value > 1e-3 * halves.scale


def test_fault_an_unconverged_solver_is_loud() -> None:
    a, b = labelled(), labelled(seed=1, shift=0.5)
    few: dict[str, Any] = {"regularisation": 0.002, "iterations": 1, "tolerance": 1e-6}
    with refused("distance: expected a marginal residual of at most 1e-06, got 0.", "after 1 iterations"):
        dataset_distance(a, b, **few)
    with pytest.warns(UserWarning, match="expected a marginal residual of at most 1e-06, got 0.") as caught:
        found = dataset_distance(a, b, **few, unconverged="warn")
    assert len(caught) == 1
    assert not found.converged
    assert found.residual > 1e-6
    assert found.iterations == 1


@pytest.mark.parametrize("count", [1, 2])
def test_fault_tiny_classes_have_no_nan(count: int) -> None:
    """A class of one sample is a point; of two, a segment."""
    a, b = labelled(), labelled(seed=1)
    extra = torch.full((count, 6), 3.0, dtype=torch.float64) + torch.arange(count)[:, None]
    tiny = (torch.cat([a[0], extra]), torch.cat([a[1], torch.full((count,), 7)]))
    table = tables(tiny, b)
    assert np.abs(table.numpy() - bures_by_singular_values(tiny, b)).max() < 1e-10
    found = dataset_distance(tiny, b)
    assert found.converged
    assert math.isfinite(found.value)
    if count == 1:
        for place in range(3):
            own = b[0][b[1] == place]
            point = (own.mean(0) - 3).square().sum() + own.var(0).sum()
            near(table[3, place].item(), point.item(), 1e-12)


def test_both_terms_are_halved() -> None:
    """One sample in every class: W2^2 is |x - x'|^2, and the cost is (1 + 1) / 2 of it."""
    a, b = labelled(12), labelled(12, seed=1)
    a, b = ((x, torch.arange(12)) for x, _ in (a, b))
    apart = squared_distances(a[0], b[0])
    plan_cost = ot.emd2([], [], apart.numpy())
    near(dataset_distance(a, b, exact=True).value, plan_cost, 1e-12)
    near(dataset_distance(a, b, exact=True, label_weight=0.0).value, plan_cost / 2, 1e-12)
    near(dataset_distance(a, b, exact=True, feature_weight=0.0).value, plan_cost / 2, 1e-12)


def test_fault_an_error_of_the_solver_is_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = labelled(), labelled(seed=1)

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no transport")

    def nothing(cost: Tensor, potential: Tensor, epsilon: float) -> Tensor:
        return torch.full((len(cost),), math.nan, dtype=torch.float64)

    def stopped(p: Tensor, q: Tensor, cost: Tensor, **options: Any) -> Any:
        return torch.zeros_like(cost), {"warning": "numItermax reached"}

    monkeypatch.setattr(ot, "emd", stopped)
    with refused("distance: expected an exact transport, got 'numItermax reached'"):
        dataset_distance(a, b, exact=True)
    monkeypatch.setattr(module, "_softmin", nothing)
    with refused("distance: expected a marginal residual of at most 0.001, got nan"):
        dataset_distance(a, b)
    monkeypatch.setattr(module, "_softmin", broken)
    with pytest.raises(RuntimeError, match="no transport"):
        dataset_distance(a, b)


# The distance


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_exact_is_the_linear_programme_of_the_definition(weights: tuple[float, float]) -> None:
    a, b = labelled(61, 5), labelled(47, 5, 2, seed=1, shift=0.3)
    found = dataset_distance(a, b, exact=True, feature_weight=weights[0], label_weight=weights[1])
    near(found.value, ot.emd2([], [], brute_cost(a, b, *weights).numpy()), 1e-9)
    assert found.residual < 1e-12
    assert (found.epsilon, found.samples) == (0.0, (61, 47))


def entropic(cost: Tensor, epsilon: float) -> float:
    """T by plain alternating steps in the log domain, to rounding."""
    f, g = torch.zeros(cost.shape[0]).double(), torch.zeros(cost.shape[1]).double()
    n, m = cost.shape
    for _ in range(6000):
        f = -epsilon * (torch.logsumexp((g - cost) / epsilon, 1) - math.log(m))
        g = -epsilon * (torch.logsumexp((f[:, None] - cost) / epsilon, 0) - math.log(n))
    return float(f.mean() + g.mean())


@pytest.mark.parametrize("regularisation", [0.3, 0.03])
def test_debiased_value_is_that_of_plain_iterations(regularisation: float) -> None:
    a, b = labelled(50, 4), labelled(40, 4, seed=1, shift=0.4)
    found = dataset_distance(a, b, regularisation=regularisation, tolerance=1e-9)
    costs = [brute_cost(*pair) for pair in ((a, b), (a, a), (b, b))]
    ab, aa, bb = (entropic(one, found.epsilon) for one in costs)
    near(found.value, ab - (aa + bb) / 2, 1e-7)


def test_agrees_with_geomloss_run_long() -> None:
    geomloss = pytest.importorskip("geomloss")
    a, b = labelled(50, 4), labelled(50, 4, seed=1, shift=0.4)
    found = dataset_distance(a, b, regularisation=0.1, tolerance=1e-8, label_weight=0.0)
    loss = geomloss.SamplesLoss(
        "sinkhorn", p=2, blur=math.sqrt(found.epsilon), scaling=0.995, backend="tensorized"
    )
    near(found.value, float(loss(a[0], b[0])), 1e-4)


def test_small_regularisation_comes_near_the_exact_value() -> None:
    a, b = labelled(200, 8), labelled(200, 8, seed=1, shift=0.5)
    exact = dataset_distance(a, b, exact=True).value
    errors = [
        abs(dataset_distance(a, b, regularisation=one).value - exact) / exact for one in (0.1, 0.01, 0.001)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_gaussians_in_closed_form() -> None:
    """One class each: the halves of the feature and of the class term are both W2^2 / 2 as n grows."""
    scale = torch.tensor([1.0, 2.0], dtype=torch.float64)
    other = torch.tensor([2.0, 0.5], dtype=torch.float64)
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    closed = float(mean.square().sum() + (scale - other).square().sum())

    def error(count: int) -> float:
        draws = torch.randn(2, count, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        zeros = torch.zeros(count, dtype=torch.int64)
        value = dataset_distance(
            (draws[0] * scale, zeros), (draws[1] * other + mean, zeros), exact=True
        ).value
        return abs(value - closed) / closed

    few, many = error(60), error(1200)
    assert many < few
    assert many < 0.05


def test_order_and_names_of_classes_do_not_matter() -> None:
    a, b = labelled(), labelled(seed=1, shift=0.5)
    plain = dataset_distance(a, b)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    near(dataset_distance((a[0][order], a[1][order]), b).value, plain.value, 1e-6)
    renamed = torch.tensor([40, -3, 7])
    near(dataset_distance((a[0], renamed[a[1]]), b).value, plain.value, 1e-6)
    shuffled = dataset_distance(a, (a[0][order], renamed[a[1][order]]))
    assert abs(shuffled.value) < 1e-12 * shuffled.scale


def test_labels_matter() -> None:
    """The same samples under labels that say nothing are at a distance, with the class term only."""
    a = labelled(seed=1)
    mixed = (a[0], a[1][torch.randperm(90, generator=torch.Generator().manual_seed(0))])
    assert dataset_distance(a, mixed).value > 1.0
    without = dataset_distance(a, mixed, label_weight=0.0)
    assert abs(without.value) < 1e-12 * without.scale


def test_symmetry_and_common_shift() -> None:
    a, b = labelled(), labelled(70, seed=1, shift=0.5)
    plain = dataset_distance(a, b, tolerance=1e-7)
    near(dataset_distance(b, a, tolerance=1e-7).value, plain.value, 1e-6)
    moved = dataset_distance((a[0] + 1e4, a[1]), (b[0] + 1e4, b[1]), tolerance=1e-7)
    near(moved.value, plain.value, 1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_a_translation_adds_its_squared_length(exact: bool) -> None:
    """Half of it from the features, where it shifts every plan's cost alike."""
    a = labelled()
    shift = torch.tensor([3.0, 0, 0, -4.0, 0, 0], dtype=torch.float64)
    found = dataset_distance(a, (a[0] + shift, a[1]), exact=exact, label_weight=0.0)
    near(found.value, 12.5, 1e-12 if exact else 1e-3)


def test_far_sets_and_tiny_regularisation_stay_finite() -> None:
    """Costs of 1e8 and kernels that underflow in every row: the start from the self terms is of no use."""
    a, b = labelled(), labelled(seed=1, shift=2e3)
    found = dataset_distance(a, b, regularisation=1e-5)
    assert found.converged
    near(found.value, 2 * 6 * 2e3**2 / 2, 0.02)


def hard(kind: str, count: int) -> tuple[Labelled, Labelled]:
    """Sets between whose samples little mass is shared, or whose costs differ by decades."""
    draws = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    labels, other = torch.arange(count) % 5, torch.randint(0, 5, (count - 3,), generator=draws)
    means, width = 3 * normal(5, 4), 4
    if kind == "classes of other sizes":
        return (means[labels] + 0.1 * normal(count, width), labels), (
            means[other] + 0.1 * normal(count - 3, width),
            other,
        )
    if kind == "few points, many times":
        return (means[labels], labels), (means[other] + 1, other)
    if kind == "heavy tails":
        x = normal(2 * count - 3, width) / normal(2 * count - 3, 1).abs()
    elif kind == "products":
        x = (2 * normal(2 * count - 3, width)).exp()
    else:  # on a line
        x = normal(2 * count - 3, 1)
    return (x[:count], labels), (x[count:], other)


HARD = ["classes of other sizes", "few points, many times", "heavy tails", "products", "on a line"]


def by_library(cost: Tensor, epsilon: float) -> float:
    """T by POT's steps of Sinkhorn in logarithms."""
    n, m = cost.shape
    p, q = (torch.full((one,), 1 / one, dtype=torch.float64) for one in (n, m))
    _, log = ot.bregman.sinkhorn_log(
        p, q, cost, epsilon, numItermax=20_000, stopThr=1e-7, log=True, warn=False
    )
    assert log["err"][-1] <= 1e-5
    return epsilon * float(log["log_u"].mean() + log["log_v"].mean() + math.log(n * m))


@pytest.mark.parametrize("kind", HARD)
def test_hard_problems_have_the_library_s_value(kind: str) -> None:
    """The library takes up to 20 000 iterations for each value."""
    a, b = hard(kind, 24)
    found = dataset_distance(a, b, regularisation=0.01, tolerance=1e-9)
    values = [by_library(brute_cost(*pair), found.epsilon) for pair in ((a, b), (a, a), (b, b))]
    assert abs(found.value - values[0] + (values[1] + values[2]) / 2) < 1e-6 * found.scale


@pytest.mark.parametrize("kind", HARD)
def test_tiny_regularisation_converges_to_the_exact_value(kind: str) -> None:
    """The steps of Sinkhorn alone stop at residuals of 0.005 to 0.1 there, after 10 000 iterations."""
    a, b = hard(kind, 200)
    exact = dataset_distance(a, b, exact=True)
    for regularisation in (1e-3, 1e-4, 1e-5):
        found = dataset_distance(a, b, regularisation=regularisation, tolerance=1e-5)
        assert found.residual <= 1e-5
        # epsilon KL(p | a x b) is at most epsilon log n for each of the three plans
        assert abs(found.value - exact.value) <= 2 * found.epsilon * math.log(200)
        backwards = dataset_distance(b, a, regularisation=regularisation, tolerance=1e-5)
        near(backwards.value, found.value, 1e-4)


def test_constant_costs_and_constant_classes() -> None:
    """Every sample of a set at one point: the plan is that of the weights, and a class is a point."""
    labels = torch.arange(6) % 2
    a = (torch.zeros(6, 3).double(), labels)
    b = (torch.ones(4, 3).double(), labels[:4])
    for exact in (False, True):
        found = dataset_distance(a, b, exact=exact)
        near(found.value, 3.0, 1e-12)
        assert found.converged


def test_points() -> None:
    """One sample each, and all samples at one point."""
    one = torch.zeros(1, dtype=torch.int64)
    x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    near(dataset_distance((x, one), (y, one)).value, 25.0, 1e-12)
    found = dataset_distance((x, one), (x, one))
    assert (found.value, found.scale, found.converged) == (0.0, 0.0, True)


def test_images_and_other_dtypes() -> None:
    pixels = torch.randint(
        0, 256, (24, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    labels = (torch.arange(24) % 2).to(torch.int32)
    other = (pixels.flip(0).flatten(1).float(), labels.long())
    found = dataset_distance((pixels, labels), other)
    assert isinstance(found, Distance)
    near(found.value, dataset_distance((pixels.double(), labels), other).value, 1e-12)


def test_class_moments_come_from_all_samples() -> None:
    a, b = labelled(), labelled(seed=1)
    found = dataset_distance(a, b, samples=20, exact=True, feature_weight=0.0)
    places = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:20].sort().values
    table = torch.from_numpy(loop_of_roots(a, b)) / 2
    cost = table[a[1][places]][:, b[1][places]]
    near(found.value, ot.emd2([], [], cost.numpy()), 1e-9)


def test_no_warning_and_no_change_of_the_input() -> None:
    a, b = labelled(), labelled(seed=1)
    before = (a[0].clone(), a[1].clone())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset_distance(a, b)
    assert torch.equal(a[0], before[0])
    assert torch.equal(a[1], before[1])


# Mistakes

X, Y = labelled(12)


@pytest.mark.parametrize(
    ("a", "options", "message"),
    [
        (X, {}, "a: expected a pair of tensors (features, labels), got Tensor"),
        ((X,), {}, "a: expected a pair of tensors (features, labels), got tuple of Tensor"),
        ((X, [0]), {}, "a: expected a pair of tensors (features, labels), got tuple of Tensor, list"),
        ((X[:, 0], Y), {}, "a: expected features [N, F] of at least one sample, got shape (12,)"),
        ((X[:0], Y[:0]), {}, "a: expected features [N, F] of at least one sample, got shape (0, 6)"),
        (
            (X.to(torch.complex64), Y),
            {},
            "a: features: expected dense real numbers, got a tensor of complex64",
        ),
        ((X, Y[:-1]), {}, "a: expected labels of shape (12,), got shape (11,)"),
        ((X, Y.double()), {}, "a: expected integer labels, got torch.float64"),
        ((X * math.nan, Y), {}, "a: expected finite features, got nan in sample 0, feature 0"),
        ((X / 0, Y), {}, "inf in sample 0, feature 0"),
        ((X[:, :5], Y), {}, "b: expected features of width 5 as a has, got 6"),
        ((X, Y), {"samples": 13}, "samples: expected at most 12, the samples of a, got 13"),
        ((X, Y), {"samples": 0}, "samples: expected an integer of at least 1, got 0"),
        ((X, Y), {"classes": [0, 1, 2, 5]}, "a: expected at least one sample of every class, got none of 5"),
        ((X, Y), {"classes": [0, 2]}, "a: expected labels among the 2 of classes, got 1"),
        (
            (X, Y),
            {"feature_weight": -1.0},
            "feature_weight: expected a finite number of at least 0, got -1.0",
        ),
        ((X, Y), {"label_weight": math.inf}, "label_weight: expected a finite number of at least 0, got inf"),
        ((X, Y), {"feature_weight": 0, "label_weight": 0}, "label_weight: expected a number above 0"),
        ((X, Y), {"regularisation": 0.0}, "regularisation: expected a finite number above 0, got 0.0"),
        ((X, Y), {"tolerance": 1.0}, "tolerance: expected a number between 0 and 1, got 1.0"),
        ((X, Y), {"iterations": 0}, "iterations: expected an integer of at least 1, got 0"),
        ((X, Y), {"iterations": 0}, "iterations: expected an integer of at least 1, got 0"),
        (
            (X.to_sparse(), Y),
            {},
            "a: features: expected dense real numbers, got a tensor of layout sparse_coo",
        ),
        ((X, Y.to_sparse()), {}, "a: labels: expected dense real numbers, got a tensor of layout sparse_coo"),
        ((X.to("meta"), Y), {}, "a: features: expected dense real numbers, got a tensor of device meta"),
        ((X, Y.to("meta")), {}, "a: labels: expected dense real numbers, got a tensor of device meta"),
        (
            (X.to(torch.float8_e5m2), Y),
            {},
            "a: features: expected dense real numbers, got a tensor of float8",
        ),
        ((X, Y), {"classes": [0.5, 1, 2]}, "classes: expected a sequence of integer labels, got [0.5, 1, 2]"),
        ((X, Y), {"classes": 3}, "classes: expected a sequence of integer labels, got 3"),
        (
            (X, Y),
            {"feature_weight": 10**400},
            "feature_weight: expected a finite number of at least 0, got 1000",
        ),
        ((X * 1e150, Y), {}, "a: expected features of a size from 1e-140 to 1e+140, got 4.91e+150"),
        ((X * 1e-150, Y), {}, "a: expected features of a size from 1e-140 to 1e+140, got 4.91e-150"),
        ((X, Y), {"feature_weight": "1"}, "feature_weight: expected a finite number of at least 0, got '1'"),
        ((X, Y), {"label_weight": 1e308}, "label_weight: expected finite costs, got a mean of inf"),
        ((X, Y), {"regularisation": None}, "regularisation: expected a finite number above 0, got None"),
        ((X, Y), {"tolerance": "small"}, "tolerance: expected a number between 0 and 1, got 'small'"),
        ((X, Y), {"iterations": 1.5}, "iterations: expected an integer of at least 1, got 1.5"),
        ((X, Y), {"samples": "5"}, "samples: expected an integer of at least 1, got '5'"),
        ((X, Y), {"samples": True}, "samples: expected an integer of at least 1, got True"),
        ((X, Y), {"seed": 0.5}, "seed: expected an integer from 0 to 18446744073709551615, got 0.5"),
        ((X, Y), {"seed": -1}, "seed: expected an integer from 0 to 18446744073709551615, got -1"),
        ((X, Y), {"unconverged": None}, "unconverged: expected one of raise, warn, got None"),
        ((X, Y), {"unconverged": "rais"}, "expected one of raise, warn, got 'rais', did you mean raise?"),
    ],
)
def test_mistakes(a: Any, options: dict[str, Any], message: str) -> None:
    with refused(message):
        dataset_distance(a, (X, Y), **options)


@pytest.mark.parametrize("size", [1e-100, 1e-12, 1e-8, 1e-7, 1e30, 1e120])
@pytest.mark.parametrize("exact", [True, False])
def test_small_and_large_features(size: float, exact: bool) -> None:
    """The distance is in squared units of the features: the simplex takes tiny differences of costs for none."""
    (x, labels), (y, others) = labelled(30), labelled(30, seed=1, shift=0.5)
    right = dataset_distance((x, labels), (y, others), exact=exact).value
    found = dataset_distance((x * size, labels), (y * size, others), exact=exact).value
    near(found / size**2, right, 1e-9 * right)


def test_rounding_is_no_transport() -> None:
    """With costs of 1e16 epsilon nothing is left of the exponents of the plan."""
    a, b = labelled(), labelled(seed=1)
    for regularisation, tolerance in ((1e-16, 1e-3), (1e-7, 1e-9), (1e-320, 0.5)):
        with refused(
            "regularisation: expected at least",
            f"the tolerance of {tolerance:g}, got {regularisation:g}; exact",
        ):
            dataset_distance(a, b, regularisation=regularisation, tolerance=tolerance)


def test_names_in_errors() -> None:
    with refused("sketch: expected at least one sample of every class, got none of 2"):
        dataset_distance((X, Y), (X, Y % 2), classes=[0, 1, 2], names=("photos", "sketch"))


def test_other_devices() -> None:
    with refused("b: expected features on cpu as a has, got meta"):
        module._check_devices(("a", "b"), X, X.to("meta"))


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with refused("distance: expected POT, got", "pip install 'synbench-fast[inherit]'"):
        dataset_distance((X, Y), (X, Y), exact=True)
    assert dataset_distance((X, Y), (X + 1, Y)).converged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance: expected a number between 0 and 1, got 0.0"),
        ({"tolerance": -0.5}, "tolerance: expected a number between 0 and 1, got -0.5"),
        ({"regularisation": math.inf}, "regularisation: expected a finite number above 0, got inf"),
        ({"label_weight": -1e-9}, "label_weight: expected a finite number of at least 0, got -1e-09"),
        ({"feature_weight": math.nan}, "feature_weight: expected a finite number of at least 0, got nan"),
    ],
)
def test_limits_of_the_options(options: dict[str, Any], message: str) -> None:
    with refused(message):
        dataset_distance((X, Y), (X, Y), **options)


def test_the_least_that_is_allowed() -> None:
    """One sample, one iteration, one term: half the squared length of a shift by 1 in six features."""
    found = dataset_distance((X, Y), (X + 1, Y), samples=1, iterations=1, label_weight=0.0)
    assert found.samples == (1, 1) and found.value == pytest.approx(3.0, rel=1e-12)


def test_what_a_distance_tells_of_itself() -> None:
    a, b = labelled(40, seed=1), labelled(30, seed=2, shift=0.5)
    found = dataset_distance(a, b, regularisation=0.05, samples=25, seed=3)
    places = [module.subsample("a", n, 25, 3) for n in (40, 30)]
    assert [len(one) for one in places] == [25, 25] and found.samples == (25, 25)
    cost = brute_cost(a, b)[places[0]][:, places[1]]
    assert found.scale == pytest.approx(float(cost.mean()), rel=1e-9)
    assert found.epsilon == pytest.approx(0.05 * found.scale, rel=1e-12)
    assert found.converged and found.residual <= 1e-3 and found.seconds > 0
    exact = dataset_distance(a, b, exact=True)
    assert (exact.epsilon, exact.samples, exact.iterations) == (0.0, (40, 30), 0) and exact.residual < 1e-9


def test_at_most_5000_samples_are_transported_unless_asked() -> None:
    assert len(module.subsample("a", 5000, None, 0)) == 5000
    assert torch.equal(module.subsample("a", 5000, None, 0), torch.arange(5000))
    many = module.subsample("a", 7000, None, 0)
    assert len(many) == 5000 and bool((many.diff() > 0).all()) and int(many[-1]) > 5000
    assert len(module.subsample("a", 7000, 7000, 0)) == 7000
