"""Optimal-transport distance between labelled data sets, debiased and with its convergence measured.

    S(a, b) = T(a, b) - T(a, a) / 2 - T(b, b) / 2
    T(a, b) = min over plans p of  <p, d> + epsilon KL(p | a x b),   epsilon = regularisation * mean of d over a x b

with uniform weights on the samples and the ground cost d of `ground_cost`. With exact=True the distance is the
unregularised minimum of <p, d>, which needs no debiasing.

T(a, b) is POT's stabilised Sinkhorn iteration (Schmitzer, SIAM J. Sci. Comput. 41 (2019), A1443), started from the
potentials of the two self terms; these come from the symmetric iteration of Feydy et al. (AISTATS 2019), whose
averaged steps converge in tens of iterations where alternating ones need thousands. All in float64, on the device
of the features. Source of the distance: Alvarez-Melis and Fusi, NeurIPS 2020.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.inheritance.ground_cost import (
    ClassGaussians,
    check_labelled,
    class_gaussians,
    label_distances,
    squared_distances,
)

__all__ = ["UNCONVERGED", "Distance", "dataset_distance", "subsample"]

UNCONVERGED = ("raise", "warn")
_LARGEST = 5000  # samples of each set unless asked otherwise: 200 MB per cost matrix
_SELF_TOLERANCE = 1e-9
_SELF_ITERATIONS = 500
_ROWS = 256
_CHECK_EVERY = 50  # iterations: a check costs as much as twenty of them
# Scalings start at 1/n. Moving them into the kernel makes the library lose one update, so only overflow asks for it.
_LARGEST_SCALING = 1e100
_EXACT_ITERATIONS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A distance between two labelled data sets.

    value: in squared units of the features. residual: the largest sum over the samples of the absolute difference
    between the plan's marginal and the weights, of the transports solved; the weights sum to 1. iterations: of the
    transport between the sets. converged: whether the residual is within the tolerance. samples: of each set in the
    transport. seconds: wall time. epsilon: regularisation in the units of the cost, 0 if exact. scale: mean of the
    ground cost over all pairs of a sample of each set.
    """

    value: float
    residual: float
    iterations: int
    converged: bool
    samples: tuple[int, int]
    seconds: float
    epsilon: float
    scale: float


@dataclass(frozen=True)
class _Transport:
    value: float
    residual: float
    iterations: int


def dataset_distance(
    a: tuple[Tensor, Tensor],
    b: tuple[Tensor, Tensor],
    *,
    feature_weight: float = 1.0,
    label_weight: float = 1.0,
    regularisation: float = 0.01,
    samples: int | None = None,
    seed: int = 0,
    exact: bool = False,
    tolerance: float = 1e-3,
    iterations: int = 10_000,
    unconverged: str = "raise",
    classes: Sequence[int] | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> Distance:
    """Distance between two sets of labelled samples; of a set to itself it is 0 up to rounding.

    Means and covariances of the classes come from all samples, the transport from `samples` of each set. Sets of
    equal size are subsampled by the same places, drawn from `seed`. A debiased distance may be negative by what is
    left of the residual, and the class term may cost it its lower bound of 0: it is not cut there.

    Args:
        a, b: features [N, ...] of any real dtype, flattened to [N, F], and integer labels [N]. F is the same in both.
        feature_weight, label_weight: of the two terms of the ground cost, at least 0 and not both 0.
        regularisation: epsilon in units of the mean ground cost between the sets.
        samples: of each set in the transport; None takes all, at most 5 000.
        seed: of the subsamples.
        exact: the linear programme instead of Sinkhorn: time grows with the cube of `samples`.
        tolerance: largest residual, in (0, 1).
        iterations: most Sinkhorn iterations of the transport between the sets.
        unconverged: "raise" a SynbenchError, or "warn" and return what there is, converged=False.
        classes: labels that each set must have, all and no others; None takes those that occur.
        names: of the sets in errors.

    Raises:
        SynbenchError: input of another form, NaN or infinity, other feature widths, more samples than a set has, a
            class without samples, POT missing, or a residual above the tolerance.
    """
    begun = time.perf_counter()
    _check_options(feature_weight, label_weight, regularisation, samples, tolerance, iterations, unconverged)
    (x, x_labels), (y, y_labels) = (check_labelled(n, one) for n, one in zip(names, (a, b), strict=True))
    if x.shape[1] != y.shape[1]:
        raise SynbenchError(
            f"{names[1]}: expected features of width {x.shape[1]} as {names[0]} has, got {y.shape[1]}"
        )
    _check_devices(names, x, y)
    ot = _library()
    groups = [
        class_gaussians(x, x_labels, classes, name=names[0]),
        class_gaussians(y, y_labels, classes, name=names[1]),
    ]
    places = [subsample(n, len(one), samples, seed) for n, one in zip(names, (x, y), strict=True)]
    sets = [
        (one[place.to(one.device)], group.member[place.to(one.device)], group)
        for one, place, group in zip((x, y), places, groups, strict=True)
    ]

    def cost(first: int, second: int) -> Tensor:
        return _cost(sets[first], sets[second], feature_weight, label_weight)

    between = cost(0, 1)
    scale = float(between.mean())
    found: list[_Transport]
    if exact:
        epsilon = 0.0
        found = [_exact(ot, between)]
        value = found[0].value
    elif scale == 0:  # all samples of both sets are one point
        epsilon, value, found = 0.0, 0.0, [_Transport(0.0, 0.0, 0)]
    else:
        epsilon = regularisation * scale
        selves, potentials = [], []
        for one in (0, 1):
            transport, potential = _self_transport(cost(one, one), epsilon)
            selves.append(transport)
            potentials.append(potential)
        cross = _cross_transport(ot, between, epsilon, potentials, tolerance, iterations)
        value = cross.value - (selves[0].value + selves[1].value) / 2
        found = [cross, *selves]
    residual = max(one.residual for one in found)
    converged = residual <= tolerance and math.isfinite(value)
    if not converged:
        line = (
            f"distance: expected a marginal residual of at most {tolerance:g}, got {residual:.3g} after "
            f"{found[0].iterations} iterations; raise iterations, regularisation or tolerance"
        )
        if unconverged == "raise":
            raise SynbenchError(line)
        warnings.warn(line, stacklevel=2)
    return Distance(
        value=value,
        residual=residual,
        iterations=found[0].iterations,
        converged=converged,
        samples=(len(places[0]), len(places[1])),
        seconds=time.perf_counter() - begun,
        epsilon=epsilon,
        scale=scale,
    )


def _check_options(
    feature_weight: float,
    label_weight: float,
    regularisation: float,
    samples: int | None,
    tolerance: float,
    iterations: int,
    unconverged: str,
) -> None:
    for name, value in (("feature_weight", feature_weight), ("label_weight", label_weight)):
        if not (math.isfinite(value) and value >= 0):
            raise SynbenchError(f"{name}: expected a finite number of at least 0, got {value}")
    if feature_weight == label_weight == 0:
        raise SynbenchError("label_weight: expected a number above 0 where feature_weight is 0, got 0")
    if not (math.isfinite(regularisation) and regularisation > 0):
        raise SynbenchError(f"regularisation: expected a finite number above 0, got {regularisation}")
    if not 0 < tolerance < 1:
        raise SynbenchError(f"tolerance: expected a number between 0 and 1, got {tolerance}")
    if iterations < 1:
        raise SynbenchError(f"iterations: expected at least 1, got {iterations}")
    if samples is not None and samples < 1:
        raise SynbenchError(f"samples: expected at least 1, got {samples}")
    if unconverged not in UNCONVERGED:
        raise SynbenchError(
            f"unconverged: expected one of {', '.join(UNCONVERGED)}, got {unconverged!r}"
            f"{suggest(unconverged, UNCONVERGED)}"
        )


def _check_devices(names: tuple[str, str], x: Tensor, y: Tensor) -> None:
    if x.device != y.device:
        raise SynbenchError(f"{names[1]}: expected features on {x.device} as {names[0]} has, got {y.device}")


def _library() -> Any:
    try:
        import ot
    except ImportError as error:
        raise SynbenchError(
            f"distance: expected POT, got {first_line(error)}; pip install 'synbench-fast[inherit]'"
        ) from None
    return ot


def subsample(name: str, count: int, samples: int | None, seed: int) -> Tensor:
    """Places of the samples of a set of `count`, ascending: the same ones for every set of this size."""
    wanted = min(count, _LARGEST) if samples is None else samples
    if wanted > count:
        raise SynbenchError(f"samples: expected at most {count}, the samples of {name}, got {wanted}")
    if wanted == count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted].sort().values


def _cost(
    first: tuple[Tensor, Tensor, ClassGaussians],
    second: tuple[Tensor, Tensor, ClassGaussians],
    feature_weight: float,
    label_weight: float,
) -> Tensor:
    """Ground cost [N, M]. A term of weight 0 is not computed."""
    (x, x_member, x_classes), (y, y_member, y_classes) = first, second
    table = x.new_zeros(len(x_classes.labels), len(y))
    if label_weight:
        table = (label_distances(x_classes, y_classes) * (label_weight / 2))[:, y_member]
    if not feature_weight:
        return table[x_member]
    found = squared_distances(x, y).mul_(feature_weight / 2)
    if label_weight:
        for start in range(0, len(x), _ROWS):  # no second matrix of this size
            found[start : start + _ROWS] += table[x_member[start : start + _ROWS]]
    return found


def _softmin(cost: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """-epsilon log mean over j of exp((potential_j - cost_ij) / epsilon) [N]."""
    scores = (potential - cost).div_(epsilon)
    return (math.log(cost.shape[1]) - torch.logsumexp(scores, 1)).mul_(epsilon)


def _self_transport(cost: Tensor, epsilon: float) -> tuple[_Transport, Tensor]:
    """T(a, a) and its potential f: the plan is exp((f_i + f_j - d_ij) / epsilon) / n^2. Overwrites the cost.

    u <- sqrt(u / K u) from u = 1, f = epsilon log u. A sample is at cost 0 from itself, so no row of K underflows.
    """
    kernel = cost.div_(-epsilon).exp_().div_(len(cost))
    u = torch.ones(len(cost), dtype=cost.dtype, device=cost.device)
    done, residual = 0, math.inf
    while residual > _SELF_TOLERANCE and done < _SELF_ITERATIONS:
        mass = u * (kernel @ u)
        residual = float((mass - 1).abs().mean())
        u = u / mass.sqrt()
        done += 1
    potential = epsilon * u.log()
    return _Transport(2 * float(potential.mean()), residual, done), potential


def _cross_transport(
    ot: Any, cost: Tensor, epsilon: float, start: Sequence[Tensor], tolerance: float, iterations: int
) -> _Transport:
    """T(a, b) from the potentials of the self terms: of a set to itself they are the solution.

    Where that start leaves a row without mass, epsilon halves from the largest cost on instead.
    """
    g = start[1]
    f = _softmin(cost, g, epsilon)
    found = _sinkhorn(ot, cost, epsilon, f, g, tolerance, iterations)
    if found is None:
        level = max(float(cost.max()), epsilon)
        f, g = torch.zeros_like(f), torch.zeros_like(g)
        while level > epsilon:
            again = _sinkhorn(ot, cost, level, f, g, tolerance, 20)
            if again is None:
                break
            f, g = again[1], again[2]
            level = max(level / 2, epsilon)
        found = _sinkhorn(ot, cost, epsilon, f, g, tolerance, iterations)
    if found is None:
        return _Transport(math.nan, math.inf, iterations)
    done, f, g = found
    # The rows of the plan are exact after the last half step; the columns tell what is left.
    plan = (g - cost).add_(f[:, None]).div_(epsilon).exp_()
    columns, rows = plan.mean(0), plan.mean(1)
    residual = max(float((columns - 1).abs().mean()), float((rows - 1).abs().mean()))
    value = float(f.mean() + g.mean()) - epsilon * (float(rows.mean()) - 1)
    return _Transport(value, residual, done)


def _sinkhorn(
    ot: Any, cost: Tensor, epsilon: float, f: Tensor, g: Tensor, tolerance: float, iterations: int
) -> tuple[int, Tensor, Tensor] | None:
    """Iterations and potentials of the library's stabilised iteration from f, g; None if they are not finite.

    The library's plan has no weights beside the exponential: its potentials are lower by epsilon log n.
    """
    n, m = cost.shape
    weights = [torch.full((count,), 1 / count, dtype=cost.dtype, device=cost.device) for count in (n, m)]
    shift = [epsilon * math.log(count) for count in (n, m)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numerical trouble, which is judged by the potentials
        _, log = ot.bregman.sinkhorn_stabilized(
            *weights,
            cost,
            epsilon,
            numItermax=iterations,
            tau=_LARGEST_SCALING,
            stopThr=tolerance / math.sqrt(m),  # its norm is the Euclidean one
            warmstart=(f - shift[0], g - shift[1]),
            print_period=_CHECK_EVERY,
            log=True,
            warn=False,
        )
    f, g = log["alpha"] + shift[0], log["beta"] + shift[1]
    if not (f.isfinite().all() and g.isfinite().all()):
        return None
    return log["n_iter"] + 1, f, g


def _exact(ot: Any, cost: Tensor) -> _Transport:
    """The least <p, d> by the library's network simplex, on the CPU."""
    n, m = cost.shape
    weights = [torch.full((count,), 1 / count, dtype=cost.dtype) for count in (n, m)]
    on_cpu = cost.cpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own words come back below
        plan, log = ot.emd(*weights, on_cpu, numItermax=_EXACT_ITERATIONS, log=True)
    if log.get("warning"):
        raise SynbenchError(f"distance: expected an exact transport, got {log['warning']!r}")
    residual = max(
        float((plan.sum(axis) - weight).abs().sum()) for axis, weight in zip((1, 0), weights, strict=True)
    )
    return _Transport(float((plan * on_cpu).sum()), residual, 0)
