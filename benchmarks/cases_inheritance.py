"""Cases of the distance between data sets: against the library's transport, and against a loop over classes."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import Case
from torch import Tensor

from synbench_fast.studies.inheritance.distance import Distance, dataset_distance
from synbench_fast.studies.inheritance.ground_cost import (
    class_gaussians,
    label_distances,
    squared_distances,
)

Labelled = tuple[Tensor, Tensor]
TOLERANCE = 1e-3


def labelled(count: int, width: int, classes: int, seed: int) -> Labelled:
    """Variances that fall like 1 / k, class means a third of a deviation apart; the second set is shifted."""
    deviations = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    fixed, draws = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    means = 0.3 * torch.randn(classes, width, generator=fixed, dtype=torch.float64)
    labels = torch.arange(count) % classes
    noise = torch.randn(count, width, generator=draws, dtype=torch.float64)
    return (means[labels] + noise + 0.3 * seed) * deviations, labels


def costs(a: Labelled, b: Labelled) -> list[Tensor]:
    """Ground costs a-b, a-a, b-b."""
    sets = [(x, class_gaussians(x, labels)) for x, labels in (a, b)]
    found = []
    for i, j in ((0, 1), (0, 0), (1, 1)):
        (x, first), (y, second) = sets[i], sets[j]
        table = label_distances(first, second)
        found.append((squared_distances(x, y) + table[first.member][:, second.member]) / 2)
    return found


def by_pot(ready: list[Tensor], epsilon: float) -> float:
    """Three calls of POT's stabilised Sinkhorn from nothing, to the same residual."""
    import ot

    values = []
    for cost in ready:
        n, m = cost.shape
        a, b = (torch.full((size,), 1 / size, dtype=cost.dtype) for size in (n, m))
        _, log = ot.bregman.sinkhorn_stabilized(
            a, b, cost, epsilon, numItermax=10_000, tau=1e100, stopThr=TOLERANCE / math.sqrt(m),
            print_period=50, log=True, warn=False,
        )  # fmt: skip
        weights = epsilon * (math.log(n) + math.log(m))
        values.append(float(log["alpha"].mean() + log["beta"].mean()) + weights)
    return values[0] - (values[1] + values[2]) / 2


def by_epsilon_scaling(ready: list[Tensor], epsilon: float) -> float:
    """Three calls of POT's Sinkhorn with falling epsilon, each to the library's own stopping rule."""
    import ot

    values = []
    for cost in ready:
        n, m = cost.shape
        a, b = (torch.full((size,), 1 / size, dtype=cost.dtype) for size in (n, m))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numerical errors on the way, from which it recovers
            _, log = ot.bregman.sinkhorn_epsilon_scaling(a, b, cost, epsilon, log=True, warn=False)
        weights = epsilon * (math.log(n) + math.log(m))
        values.append(float(log["alpha"].mean() + log["beta"].mean()) + weights)
    return values[0] - (values[1] + values[2]) / 2


def by_geomloss(ready: list[Tensor], epsilon: float) -> float:
    """The debiased divergence of geomloss, which follows a schedule and has no test of convergence.

    Its default ratio of 0.5 leaves errors of several per cent on small sets.
    """
    from geomloss import SamplesLoss

    between, first, second = ready
    n, m = between.shape
    table = {(0, 1): between, (1, 0): between.T, (0, 0): first, (1, 1): second}
    places = [torch.arange(n)[:, None].double(), torch.arange(n, n + m)[:, None].double()]
    weights = [torch.full((size,), 1 / size, dtype=between.dtype) for size in (n, m)]
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=math.sqrt(epsilon), diameter=math.sqrt(float(between.max())),
        backend="tensorized", scaling=0.9,
        cost=lambda x, y: table[int(x[0, 0, 0] >= n), int(y[0, 0, 0] >= n)][None],
    )  # fmt: skip
    return float(loss(weights[0], places[0], weights[1], places[1]))


def apart(count: int, width: int, classes: int, seed: int) -> Labelled:
    """Classes thirty deviations apart, the same for every seed, of equal sizes for seed 0 and by chance for others.

    Samples must move between classes that share next to no mass.
    """
    fixed, draws = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(classes, width, generator=fixed, dtype=torch.float64)
    labels = torch.arange(count) % classes
    if seed:
        labels = torch.randint(0, classes, (count,), generator=draws)
    return means[labels] + 0.1 * torch.randn(count, width, generator=draws, dtype=torch.float64), labels


def transport(
    count: int, width: int, classes: int, library: Callable[[list[Tensor], float], float], name: str,
    target: float | None, regularisation: float = 0.01, draw: Callable[..., Labelled] = labelled,
) -> Case:  # fmt: skip
    """The distance from features and labels, against a library's divergence on ready-made costs."""
    a, b = draw(count, width, classes, 0), draw(count, width, classes, 1)
    ready = costs(a, b)
    epsilon = regularisation * float(ready[0].mean())

    def ours() -> Distance:
        return dataset_distance(a, b, samples=count, tolerance=TOLERANCE, regularisation=regularisation)

    def parity() -> tuple[float, float]:
        found = ours()
        return abs(found.value - library(ready, epsilon)) / found.value, 0.01

    def baseline() -> None:
        library(ready, epsilon)  # a number that is returned would be taken for seconds

    return Case(
        unit="pair of samples",
        work=count * count,
        parity=parity,
        ours=ours,
        baseline=baseline,
        baseline_name=name,
        target=target,
        kind="at_most",
        repeat=3,
        note=f"two sets of {count} x {width} features, {classes} classes, regularisation {regularisation:g}, "
        "float64; ours "
        "with class terms, costs and the check of convergence, the baseline on costs that are there",
    )


def class_terms(
    classes: int, width: int, each: int, pairs: int, loop_of: str = "roots", target: float | None = 10.0
) -> Case:
    """All pairs of classes against a loop over `pairs` of them, which is scaled up.

    The first class's own root is taken before the loop. In it "roots" takes the root of the second matrix, as the
    formula is written; "eigenvalues" asks for no more than the trace needs, in the library's fastest routine.
    """
    import numpy as np
    import scipy.linalg

    groups = [class_gaussians(*labelled(classes * each, width, classes, seed)) for seed in (0, 1)]
    shown = max(1, round(math.sqrt(pairs)))
    covariances = [[one.T.numpy() @ one.numpy() for one in group.factors[:shown]] for group in groups]
    roots = [scipy.linalg.sqrtm(one).real for one in covariances[0]]
    means = [group.means[:shown].numpy() for group in groups]

    def trace_of_root(matrix: Any) -> float:
        if loop_of == "roots":
            return float(np.trace(scipy.linalg.sqrtm(matrix).real))
        return float(np.sqrt(np.maximum(np.linalg.eigvalsh(matrix), 0)).sum())

    def loop() -> Any:
        found = np.empty((shown, shown))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # roots of singular matrices, which few samples give
            for i, root in enumerate(roots):
                for j, second in enumerate(covariances[1]):
                    apart = np.square(means[0][i] - means[1][j]).sum()
                    traces = np.trace(covariances[0][i]) + np.trace(second)
                    found[i, j] = apart + traces - 2 * trace_of_root(root @ second @ root)
        return found

    def baseline() -> float:
        begun = time.perf_counter()
        loop()
        return (time.perf_counter() - begun) * classes**2 / shown**2

    def parity() -> tuple[float, float]:
        found, expected = label_distances(*groups)[:shown, :shown].numpy(), loop()
        # Roots of singular covariances are good to the root of the rounding only.
        return float(np.abs(found - expected).max()) / expected.max(), 1e-10 if each > width else 1e-5

    name = "scipy.linalg.sqrtm" if loop_of == "roots" else "numpy.linalg.eigvalsh"
    return Case(
        unit="pair of classes",
        work=classes**2,
        parity=parity,
        ours=lambda: label_distances(*groups),
        baseline=baseline,
        baseline_name=f"a loop over class pairs with {name}",
        target=target,
        repeat=3,
        note=f"{classes} x {classes} classes of {each} samples, {width} features; the loop is timed on {shown**2} "
        "pairs and scaled to all",
    )


def cases() -> dict[str, Callable[[], Case]]:
    """By name, built lazily."""
    pot, geomloss = "three calls of POT's sinkhorn_stabilized", "geomloss SamplesLoss, tensorized"
    return {
        "dataset_distance[5000x192, 10 classes]": lambda: transport(5000, 192, 10, by_pot, pot, 1.2),
        "dataset_distance[5000x192, 100 classes]": lambda: transport(5000, 192, 100, by_pot, pot, None),
        "dataset_distance[5000x192, 10 classes, geomloss]": lambda: transport(
            5000, 192, 10, by_geomloss, geomloss, None
        ),
        "dataset_distance[400x8, 10 classes apart, regularisation 1e-4]": lambda: transport(
            400, 8, 10, by_epsilon_scaling, "three calls of POT's sinkhorn_epsilon_scaling", 5.0, 1e-4, apart
        ),
        "dataset_distance[5000x192, 10 classes, regularisation 0.002]": lambda: transport(
            5000, 192, 10, by_pot, pot, None, 0.002
        ),
        "label_distances[100x100, 50 samples each]": lambda: class_terms(100, 192, 50, 100),
        "label_distances[100x100, 400 samples each]": lambda: class_terms(100, 192, 400, 100),
        "label_distances[100x100, 400 samples each, eigenvalues]": lambda: class_terms(
            100, 192, 400, 400, "eigenvalues", None
        ),
        "label_distances[40x40, 150 samples each, 64 features, eigenvalues]": lambda: class_terms(
            40, 64, 150, 1600, "eigenvalues", None
        ),
        "label_distances[12x12, 1100 samples each, 512 features, eigenvalues]": lambda: class_terms(
            12, 512, 1100, 25, "eigenvalues", None
        ),
    }
