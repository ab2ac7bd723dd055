"""Optimal-transport distance between labelled data sets, debiased and with its convergence measured.

    S(a, b) = T(a, b) - T(a, a) / 2 - T(b, b) / 2
    T(a, b) = min over plans p of  <p, d> + epsilon KL(p | a x b),   epsilon = regularisation * mean of d over a x b

with uniform weights on the samples and the ground cost d of `ground_cost`. With exact=True the distance is the
unregularised minimum of <p, d>, which needs no debiasing.

T(a, b) is the maximum over f [N] of mean f + mean g, with g [M] the best one for f:

    f_i = -epsilon log mean over j of exp((g_j - d_ij) / epsilon),  and g_j likewise

It is found by steps of Sinkhorn, which are these formulas in turn, and of Newton, whose linear systems are solved by
conjugate gradients (Kemertas, Farahmand and Jepson, "A truncated Newton method for optimal transport", ICLR 2025,
arXiv 2504.02067), while epsilon falls to its value (Schmitzer, SIAM J. Sci. Comput. 41 (2019), A1443). Steps of
Sinkhorn alone need thousands of iterations where groups of samples share little mass, and more the smaller epsilon.
T(a, a) comes from the symmetric iteration of Feydy et al. (AISTATS 2019), whose averaged steps converge in tens of
iterations. All in float64, on the device of the features. Exact transport is POT's. Source of the distance:
Alvarez-Melis and Fusi, NeurIPS 2020.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.studies.inheritance.ground_cost import (
    ClassGaussians,
    check_labelled,
    class_gaussians,
    label_distances,
    squared_distances,
)

__all__ = ["UNCONVERGED", "Distance", "dataset_distance", "subsample"]

UNCONVERGED = ("raise", "warn")
_MOST = 5000  # samples of each set unless asked otherwise: 200 MB per cost matrix
_SELF_TOLERANCE = 1e-9
_SELF_ITERATIONS = 500
_ROWS = 256
_NEAR = 0.01  # residual at which half the epsilon is in reach
_LARGEST_FACTOR = (
    100.0  # in logarithms. Entries below exp(-745) are 0 and may not count until they are made anew
)
_LONGEST_STEP = 20.0  # in logarithms of the factors
_LEAST_DIAGONAL = (
    1e-12  # of a row that has all its mass in one column, where rounding may leave less than nothing
)
_GRADIENTS = 300  # conjugate gradients of one Newton step
_ROUNDINGS = 4  # of the size of the cost, in the exponents of the plan
_EXACT_ITERATIONS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A distance between two labelled data sets.

    value: in squared units of the features. residual: the largest sum over the samples of the absolute difference
    between the plan's marginal and the weights, of the transports solved; the weights sum to 1. iterations: of the
    transport between the sets, each two products with an N x M matrix. converged: whether the residual is within the tolerance. samples: of each set in the
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
        iterations: most iterations of the transport between the sets, two products with an N x M matrix each.
        unconverged: "raise" a SynbenchError, or "warn" and return what there is, converged=False.
        classes: labels that each set must have, all and no others; None takes those that occur.
        names: of the sets in errors.

    Raises:
        SynbenchError: input of another form, NaN or infinity, other feature widths, more samples than a set has, a
            class without samples, a regularisation whose residual would be rounding, POT missing (exact only), or a
            residual above the tolerance.
    """
    begun = time.perf_counter()
    _check_options(
        feature_weight, label_weight, regularisation, samples, seed, tolerance, iterations, unconverged, classes
    )  # fmt: skip
    sets = _sets(a, b, names, classes, samples, seed)

    def cost(first: int, second: int) -> Tensor:
        return _cost(sets[first], sets[second], feature_weight, label_weight)

    between = cost(0, 1)
    scale = float(between.mean())
    if not math.isfinite(scale):
        raise SynbenchError(f"feature_weight, label_weight: expected finite costs, got a mean of {scale}")
    if exact:
        epsilon = 0.0
        found = [_exact(_library(), between)]
        value = found[0].value
    else:
        epsilon = regularisation * scale
        value, found = _debiased(cost, between, regularisation, scale, tolerance, iterations)
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
        samples=(len(sets[0][0]), len(sets[1][0])),
        seconds=time.perf_counter() - begun,
        epsilon=epsilon,
        scale=scale,
    )


_Set = tuple[Tensor, Tensor, ClassGaussians]  # features [N, F], class of each [N], and the classes


def _sets(
    a: tuple[Tensor, Tensor],
    b: tuple[Tensor, Tensor],
    names: tuple[str, str],
    classes: Sequence[int] | None,
    samples: int | None,
    seed: int,
) -> list[_Set]:
    """Both sets, checked: the samples that are transported, and the classes of all samples."""
    (x, x_labels), (y, y_labels) = (check_labelled(n, one) for n, one in zip(names, (a, b), strict=True))
    if x.shape[1] != y.shape[1]:
        raise SynbenchError(
            f"{names[1]}: expected features of width {x.shape[1]} as {names[0]} has, got {y.shape[1]}"
        )
    _check_devices(names, x, y)
    groups = [
        class_gaussians(x, x_labels, classes, name=names[0]),
        class_gaussians(y, y_labels, classes, name=names[1]),
    ]
    places = [subsample(n, len(one), samples, seed) for n, one in zip(names, (x, y), strict=True)]
    return [
        (one[place.to(one.device)], group.member[place.to(one.device)], group)
        for one, place, group in zip((x, y), places, groups, strict=True)
    ]


def _debiased(
    cost: Callable[[int, int], Tensor],
    between: Tensor,
    regularisation: float,
    scale: float,
    tolerance: float,
    iterations: int,
) -> tuple[float, list[_Transport]]:
    """S(a, b), and the transports that it is made of, that between the sets first; `between` has the mean `scale`."""
    if scale == 0:  # all samples of both sets are one point
        return 0.0, [_Transport(0.0, 0.0, 0)]
    least = _ROUNDINGS * torch.finfo(torch.float64).eps * float(between.max()) / (tolerance * scale)
    if regularisation < least:
        raise SynbenchError(
            f"regularisation: expected at least {least:.2g}, below which rounding is above the tolerance of "
            f"{tolerance:g}, got {regularisation:g}; exact=True has no regularisation"
        )
    epsilon = regularisation * scale
    selves, potentials = zip(*(_self_transport(cost(one, one), epsilon) for one in (0, 1)), strict=True)
    cross = _cross_transport(between, epsilon, potentials[1], tolerance, iterations)
    return cross.value - (selves[0].value + selves[1].value) / 2, [cross, *selves]


def _check_options(
    feature_weight: float,
    label_weight: float,
    regularisation: float,
    samples: int | None,
    seed: int,
    tolerance: float,
    iterations: int,
    unconverged: str,
    classes: Sequence[int] | None,
) -> None:
    for name, value in (("feature_weight", feature_weight), ("label_weight", label_weight)):
        if not (_number(value) and value >= 0):
            raise SynbenchError(f"{name}: expected a finite number of at least 0, got {value!r}")
    if feature_weight == label_weight == 0:
        raise SynbenchError("label_weight: expected a number above 0 where feature_weight is 0, got 0")
    if not (_number(regularisation) and regularisation > 0):
        raise SynbenchError(f"regularisation: expected a finite number above 0, got {regularisation!r}")
    if not (_number(tolerance) and 0 < tolerance < 1):
        raise SynbenchError(f"tolerance: expected a number between 0 and 1, got {tolerance!r}")
    if not (_integer(iterations) and iterations >= 1):
        raise SynbenchError(f"iterations: expected an integer of at least 1, got {iterations!r}")
    if samples is not None and not (_integer(samples) and samples >= 1):
        raise SynbenchError(f"samples: expected an integer of at least 1, got {samples!r}")
    if not (_integer(seed) and 0 <= seed < 2**64):
        raise SynbenchError(f"seed: expected an integer from 0 to {2**64 - 1}, got {seed!r}")
    if unconverged not in UNCONVERGED:
        raise SynbenchError(
            f"unconverged: expected one of {', '.join(UNCONVERGED)}, got {unconverged!r}"
            f"{suggest(str(unconverged), UNCONVERGED)}"
        )
    if classes is not None and not (isinstance(classes, Sequence) and all(_integer(one) for one in classes)):
        raise SynbenchError(f"classes: expected a sequence of integer labels, got {classes!r}")


def _number(value: object) -> bool:
    largest = sys.float_info.max
    return (
        isinstance(value, Real) and not isinstance(value, bool) and value <= largest and not value < -largest
    )


def _integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


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
    wanted = min(count, _MOST) if samples is None else samples
    if wanted > count:
        raise SynbenchError(f"samples: expected at most {count}, the samples of {name}, got {wanted}")
    if wanted == count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted].sort().values


def _cost(
    first: _Set,
    second: _Set,
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
    cost: Tensor, epsilon: float, start: Tensor, tolerance: float, iterations: int
) -> _Transport:
    """T(a, b) from the potential of b's self term, which is the solution where the sets are the same.

    Where that start is far off, epsilon falls from the largest difference of costs instead, and each solution starts
    the next: by a factor of 2, or of 8 while the plan is nearly a x b and one iteration is enough.
    """
    near = max(_NEAR, tolerance)
    f, g, residual, done = _ascend(cost, epsilon, start, tolerance, iterations, near)
    if residual > near and done < iterations:
        g = torch.zeros_like(g)
        doublings = math.ceil(math.log2(float(cost.max() - cost.min()) / epsilon))
        while doublings > 0 and done < iterations:
            f, g, _, count = _ascend(cost, epsilon * 2.0**doublings, g, _NEAR, iterations - done)
            doublings, done = doublings - (1 if count > 1 else 3), done + count
        f, g, residual, count = _ascend(cost, epsilon, g, tolerance, max(iterations - done, 1))
        done += count
    return _Transport(float(f.mean() + g.mean()), residual, done)


def _ascend(
    cost: Tensor, epsilon: float, g: Tensor, tolerance: float, iterations: int, near: float = math.inf
) -> tuple[Tensor, Tensor, float, int]:
    """f, g, residual and iterations: ascent of mean f + mean g, g always the best for its f, until the residual is
    within the tolerance or found above `near`.

    The plan is exp((f_i + g_j - d_ij) / epsilon), without its weights 1 / (N M). The means of its columns are 1.
    """
    f = _softmin(cost, g, epsilon)
    done = 0
    while True:
        g = _softmin(cost.T, f, epsilon)
        plan = (g - cost).add_(f[:, None]).div_(epsilon).exp_()
        rows = plan.mean(1)
        residual = _off(rows)
        done += 1
        if not tolerance < residual <= near or done >= iterations:
            return f, g, residual, done
        scaling, count = _scale(plan, rows, tolerance / 2, iterations - done)
        f, done = f + epsilon * scaling, done + count


def _off(rows: Tensor) -> float:
    return float((rows - 1).abs().mean())


def _scale(plan: Tensor, rows: Tensor, tolerance: float, iterations: int) -> tuple[Tensor, int]:
    """Logarithms [N] of the factors that bring the means of a plan's rows to 1, and iterations.

    Steps of Sinkhorn and of Newton take turns. The first bring single rows back from wherever they are, the others
    move groups of samples that share little mass, for which the first need thousands. A plan whose factors have
    become large is left to be made anew: entries that were 0 may count by now.
    """
    n, m = plan.shape
    u, done = torch.zeros_like(rows), 0

    def means(u: Tensor) -> tuple[Tensor, Tensor]:
        v = n / (u.exp() @ plan)
        return v, u.exp() * (plan @ v) / m

    while done < iterations and _off(rows) > tolerance and float(u.abs().max()) < _LARGEST_FACTOR:
        u = u - rows.log()
        v, rows = means(u)
        x, count = _newton(plan, u.exp(), v, rows, iterations - done)
        slope, done = float((1 - rows) @ x), done + count + 1
        while slope > 0:
            v, trial = means(u + x)
            done += 1
            if float((1 - trial) @ x) >= -slope / 2:  # not far beyond the highest point
                u, rows = u + x, trial
                break
            x = x / 2
    return u, done


def _newton(plan: Tensor, u: Tensor, v: Tensor, rows: Tensor, iterations: int) -> tuple[Tensor, int]:
    """Newton's step x [N], no entry above _LONGEST_STEP, and iterations.

    S x = 1 - rows,  S = diag(rows) - W W' / (N M),  W_ij = u_i plan_ij v_j,  by conjugate gradients with S's diagonal.
    """
    n, m = plan.shape
    diagonal = rows - u.square() * (plan.square() @ v.square()) / (n * m)
    diagonal.clamp_min_(_LEAST_DIAGONAL)
    rest, x, direction = 1 - rows, torch.zeros_like(rows), torch.zeros_like(rows)
    enough = min(0.3, _off(rows) ** 0.5) * float(rest.norm())
    size, done = 1.0, 0
    while done < min(iterations, _GRADIENTS) and float(rest.norm()) > enough:
        step = rest / diagonal
        size, before = float(rest @ step), size
        direction = step + direction * (size / before)
        image = rows * direction - u * (plan @ (v.square() * ((u * direction) @ plan))) / (n * m)
        curvature = float(direction @ image)
        done += 1
        if not curvature > 0:
            break
        x += direction * (size / curvature)
        rest = rest - image * (size / curvature)
    return (x - x.mean()).clamp_(-_LONGEST_STEP, _LONGEST_STEP), done


def _exact(ot: Any, cost: Tensor) -> _Transport:
    """The least <p, d> by the library's network simplex, on the CPU.

    The simplex takes differences of costs below about 1e-15 for none, so it gets costs that are at most 1.
    """
    n, m = cost.shape
    weights = [torch.full((count,), 1 / count, dtype=cost.dtype) for count in (n, m)]
    on_cpu = cost.cpu()
    largest = float(on_cpu.max()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own words come back below
        plan, log = ot.emd(*weights, on_cpu / largest, numItermax=_EXACT_ITERATIONS, log=True)
    if log.get("warning"):
        raise SynbenchError(f"distance: expected an exact transport, got {log['warning']!r}")
    residual = max(
        float((plan.sum(axis) - weight).abs().sum()) for axis, weight in zip((1, 0), weights, strict=True)
    )
    return _Transport(float((plan * on_cpu).sum()), residual, 0)
