"""K classes from one set of samples: every pair and all together, by the estimators of two classes.

All pairs share the class means and one covariance, pooled over the K classes. Without a ridge, `discriminant` counts how many
left-out samples are nearer to their own class than to another one (pairs) and nearest of all (K classes). The classifier of N
samples is worse than that of the population; as in `consistent`, only that difference is computed for Gaussian features,
from the unbiased estimate G of the Gram matrix of the class means (`gaussian_classes`):

    counted     count
    gaussian    P(G)
    consistent  count + P(G) - T(G)      P: of the population, T: of left-out samples under classifiers of N samples

P and T are not linear in G, so that noise in G would bias them. Two steps take it out. First, the separations f of the pairs
are drawn towards their mean until they are spread as the true ones are: their variance less what sampling adds to it. Second,
the noise that is left, that of the mean of f with standard error h, moves all pairs alike: P is taken as
2 P(f) - (P(f + h) + P(f - h))/2, and its standard error is |P(f + h) - P(f - h)|/2; likewise T.

Where a normal interval does not hold, errors and intervals are withheld (`_doubts`): margins that are not Gaussian (the count
exceeds T by 2 of its errors) where P - T matters (`_Kind.doubt`); an accuracy of which more would be computed than counted
(P - T is above T less that of guessing); no signal (the mean of f is below 2 h); a class with fewer than FEWEST samples;
rho below LEAST_RHO; some pairs without a signal (f below 2 of its errors) among others that have one (the mean of f above
4 errors), which the drawing towards the mean takes for farther apart. `counted` needs none of them. The last three limits
come from simulations of single cases in which intervals held in 60 to 90 % of runs.

The error of a count, beyond what follows from G, is that of what is left of the indicators "is right" after their regression on
the margins, class by class. It and the error of G are independent for Gaussian features, and are added in quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.results.multiclass import MulticlassResult, PairAccuracy
from synbench_fast.results.records import CONFIDENCE_95, NON_GAUSSIAN, WITHHELD
from synbench_fast.stats.discriminant import (
    LeftOut,
    class_centred,
    class_sums,
    counted,
    in_deviations,
    left_out_distances,
)
from synbench_fast.stats.estimators import BUILT_IN, Estimator
from synbench_fast.stats.gaussian_classes import (
    Design,
    Simulated,
    pair_population,
    pair_slope,
    pair_trained,
    separations,
    simulated,
)

__all__ = ["multiclass"]

Array = NDArray[np.float64]

SEPARATED = 1e-4  # deviations; class means that are as far apart where nothing varies separate the classes without error
FEWEST = 5  # samples of a class for an interval
LEAST_RHO = 0.3  # 1 - F/(N - K): with less, the noise of the covariance is larger than the errors know
DOUBT = 1 / 3  # standard errors that a correction may be wrong by
FAR = 5.0  # deviations beyond which a margin moves the regression no further


@dataclass(frozen=True)
class _Value:
    """An estimate, its standard error, and how far its 95 % interval reaches to either side."""

    value: float
    stderr: float
    below: float
    above: float

    @classmethod
    def of(cls, at: Sequence[float] | Array) -> _Value:
        """Of an accuracy at `_Model.shifts`: the value without the bias from the noise of the shift, and its error."""
        here, above, below, far_above, far_below = map(float, at)
        value = 2 * here - (above + below) / 2
        return cls(value, abs(above - below) / 2, here - far_below, far_above - here)


@dataclass(frozen=True)
class _Model:
    """What Gaussian classes with the estimated means say.

    f: [K, K] separations as estimated. spread: the same, spread as the true ones are. gram: the Gram matrix of those.
    shift_stderr: of a shift of all f that stands for the noise that is left.
    """

    design: Design
    f: Array
    spread: Array
    gram: Array
    shift_stderr: float

    @classmethod
    def of(cls, whitened: Array, design: Design) -> _Model:
        gram, k = design.gram(whitened), design.classes
        off, centre = ~np.eye(k, dtype=bool), np.eye(k) - 1 / k
        f = separations(gram)
        mean = float(f[off].mean())
        signal = np.full_like(f, max(mean, 0))
        even = np.full_like(f, 1 / (k * (k - 1) / 2))
        common = design.variance_of_sum(even, 2 * max(mean, 0) * centre)  # of means that are all as far apart
        noise = float(design.variance(signal)[off].mean()) - common
        variance = float(f[off].var())
        kept = math.sqrt(max(0.0, 1 - noise / variance)) if variance > 0 else 0.0
        drawn = kept * gram + (1 - kept) * 2 * mean * centre
        spread = mean + kept * (f - mean)
        # Near 0 the slope has no limit: it is taken at half the error of f, as in `consistent`.
        slope = pair_slope(np.maximum(spread, 0.5 * np.sqrt(design.variance(signal))))
        slope = kept * slope + (1 - kept) * slope[off].mean()
        total = slope[off].sum() / 2  # 0 where the classes are so far apart that no shift changes an accuracy
        error = design.variance_of_sum(slope, _positive(drawn)) ** 0.5 / total if total > 0 else 0.0
        return cls(design, f, spread, drawn, float(error))

    @property
    def shifts(self) -> tuple[float, ...]:
        """Shifts of all f at which `_Value.of` takes an accuracy."""
        one = self.shift_stderr
        return (0.0, one, -one, CONFIDENCE_95 * one, -CONFIDENCE_95 * one)

    def pairs(self, accuracy: Callable[[Array, Design], Array]) -> _Value:
        """Mean over pairs of an accuracy that is a function of f."""
        off = ~np.eye(self.design.classes, dtype=bool)
        return _Value.of(
            [float(accuracy(self.spread + shift, self.design)[off].mean()) for shift in self.shifts]
        )

    def all_classes(self) -> Simulated:
        """Accuracies over all K classes at the shifts."""
        centre = np.eye(self.design.classes) - 1 / self.design.classes
        return simulated([self.gram + 2 * shift * centre for shift in self.shifts], self.design)


def _positive(gram: Array) -> Array:
    """The nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(gram)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def multiclass(x: Tensor, labels: Tensor, names: list[int], estimator: Estimator) -> MulticlassResult:
    """Accuracies of K classes, see the module.

    Args:
        x: floating [N, F] features.
        labels: int64 [N] places of the labels in `names`.
        names: the K labels.
        estimator: one that speaks of K classes.

    Raises:
        SynbenchError: another estimator, fewer than 2 samples of a class, too few samples for F, features that are
            constant within every class.
    """
    if not estimator.multiclass:
        known = [name for name, one in BUILT_IN.items() if one.multiclass]
        raise SynbenchError(
            f"estimator: expected one of {known} for {len(names)} classes, got {estimator.name!r}"
        )
    count = torch.bincount(labels, minlength=len(names))
    if int(count.min()) < 2:
        raise SynbenchError(
            f"train_y: expected at least 2 samples of each class, got 1 of class {names[int(count.argmin())]}"
        )
    live = in_deviations(x)
    live = live - live.mean(
        0
    )  # an offset common to all samples costs digits that the spectrum takes for directions
    least = live.shape[1] + len(names) + 2
    if len(x) < least:
        raise SynbenchError(
            f"samples: expected at least F + K + 2 = {least} samples for the features that vary and the classes, "
            f"got {len(x)}; twice as many are better"
        )
    left = left_out_distances(live, labels, [0.0])
    rank = left.means.shape[2]
    if rank == 0:
        raise SynbenchError(
            "features: expected at least one that varies within the classes, got constants only"
        )
    if left.gap > SEPARATED:
        raise SynbenchError(
            "features: expected classes whose means differ where the features vary within the classes, got classes that are "
            "apart along a direction in which no class varies; leave out the features that repeat the labels"
        )
    design = Design(count.double().cpu().numpy(), rank)
    return _result(left, _Model.of(left.means[0].cpu().numpy(), design), names, estimator, x.shape[1])


def _result(
    left: LeftOut, model: _Model, names: list[int], estimator: Estimator, feature_dim: int
) -> MulticlassResult:
    share, nearer = counted(left)
    design = model.design
    luck = _Luck.of(left, model)
    pairs = _pairs(estimator, nearer, luck.each, model)
    kinds = (
        _Kind.of_pairs(float(np.nanmean(nearer)), luck.pairs, model),
        _Kind.of_classes(float(share.mean()), luck.all_classes, model),
    )
    mean, every = (one.combined(estimator) for one in kinds)
    warnings = _doubts(model, kinds) if estimator.corrected else []
    kept = math.nan if warnings else 1.0  # times an error or a bound: withheld ones are NaN
    rows = [
        PairAccuracy(
            first=names[i],
            second=names[j],
            accuracy=float(pairs.value[i, j]),
            stderr=kept * float(pairs.stderr[i, j]),
        )
        for i, j in combinations(range(design.classes), 2)
    ]
    upper = np.triu_indices(design.classes, 1)
    return MulticlassResult(
        estimator=estimator.name,
        labels=names,
        samples=[int(one) for one in design.count],
        feature_dim=feature_dim,
        rank=design.rank,
        accuracy=every.value,
        stderr=kept * every.stderr,
        ci95_low=kept * max(0.0, every.value - every.below),
        ci95_high=kept * min(1.0, every.value + every.above),
        pair_accuracy=mean.value,
        pair_stderr=kept * mean.stderr,
        pair_ci95_low=kept * max(0.0, mean.value - mean.below),
        pair_ci95_high=kept * min(1.0, mean.value + mean.above),
        worst_pair=min(rows, key=lambda one: one.accuracy),
        worst_ci95_low=kept * float(pairs.low[upper].min()),
        worst_ci95_high=kept * float(pairs.high[upper].min()),
        pairs=rows,
        warnings=warnings,
    )


def _doubts(model: _Model, kinds: tuple[_Kind, ...]) -> list[str]:
    """Why errors and intervals are withheld."""
    found, design = [], model.design
    if any(one.surplus > 2 and one.doubt > DOUBT for one in kinds):
        found.append(f"{WITHHELD}: {NON_GAUSSIAN}, and the correction of the counts may be wrong")
    if any(one.population.value - one.trained.value > one.trained.value - one.chance for one in kinds):
        found.append(f"{WITHHELD}: most of an accuracy would be computed, not counted, take more samples")
    off = ~np.eye(design.classes, dtype=bool)
    if design.count.min() < FEWEST:
        found.append(f"{WITHHELD}: a class has fewer than {FEWEST} samples")
    if design.rho < LEAST_RHO:
        found.append(f"{WITHHELD}: too few samples for as many features, take more samples")
    errors = np.sqrt(design.variance(np.maximum(model.f, 0)))[off]
    if (model.f[off] < 2 * errors).any() and model.f[off].mean() > 4 * errors.mean():
        found.append(f"{WITHHELD}: some classes are hardly told apart while others are, take more samples")
    if float(model.spread[off].mean()) < 2 * model.shift_stderr:
        found.append(f"{WITHHELD}: the classes are hardly told apart, take more samples")
    return found


@dataclass(frozen=True)
class _Kind:
    """One kind of accuracy: as counted, and as Gaussian classes have it.

    count, luck: the count, and its standard error beyond what the noise of G does to it. trained, population: T and P of the
    module. chance: the accuracy of guessing. noise: standard error of the simulation that gave T, P, and P - T.
    """

    count: float
    luck: float
    trained: _Value
    population: _Value
    chance: float
    noise: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of_pairs(cls, count: float, luck: float, model: _Model) -> _Kind:
        return cls(count, luck, model.pairs(pair_trained), model.pairs(pair_population), 0.5)

    @classmethod
    def of_classes(cls, count: float, luck: float, model: _Model) -> _Kind:
        found = model.all_classes()
        both = (found.trained[0], found.population[0])
        variances = [one * (1 - one) for one in both] + [found.apart[0]]
        noise = np.sqrt(np.array(variances) / found.draws).tolist()
        return cls(
            count,
            luck,
            _Value.of(found.trained),
            _Value.of(found.population),
            1 / model.design.classes,
            tuple(noise),
        )

    @property
    def surplus(self) -> float:
        """How much the count exceeds T, in errors of that difference."""
        return (self.count - self.trained.value) / math.hypot(self.luck, self.noise[0])

    @property
    def doubt(self) -> float:
        """How wrong P - T would be if it were as much too large as the error rate T, in standard errors of the estimate."""
        ratio = (1 - self.count) / (1 - self.trained.value) if self.trained.value < 1 else 1.0
        wrong = (1 - ratio) * (self.population.value - self.trained.value)
        return abs(wrong) / math.hypot(self.luck, self.population.stderr)

    def combined(self, estimator: Estimator) -> _Value:
        """The estimate: the luck of the count, the noise of the model and that of the simulation are independent."""
        model = self.population if estimator.corrected else self.trained
        if estimator.assumes_gaussian:
            value, own = model.value, self.noise[1]
        elif not estimator.corrected:
            value, own = self.count, self.luck
        else:
            value = self.count + self.population.value - self.trained.value
            own = math.hypot(self.luck, self.noise[2])
        far = CONFIDENCE_95 * own
        return _Value(
            min(max(value, 0.0), 1.0),
            math.hypot(own, model.stderr),
            math.hypot(far, model.below),
            math.hypot(far, model.above),
        )


@dataclass(frozen=True)
class _Luck:
    """Standard errors of counts beyond what the noise of G does to them.

    pairs: of the mean over pairs. all_classes: of the K classes. each: [K, K] of every pair.
    """

    pairs: float
    all_classes: float
    each: Array

    @classmethod
    def of(cls, left: LeftOut, model: _Model) -> _Luck:
        labels, distance = left.labels, left.distances[0]
        own = distance.gather(1, labels[:, None])
        design, k = model.design, model.design.classes
        f = torch.from_numpy(np.maximum(model.spread, 0)).to(distance)
        inverse = torch.from_numpy(1 / design.count).to(distance)
        deviation = ((4 * f + design.rank * (inverse[:, None] + inverse)) / design.rho).sqrt()[labels]
        margin = (distance - own) / 2 / deviation
        centre = 2 * f[labels] / deviation
        margin = torch.minimum(torch.maximum(margin, centre - FAR), centre + FAR)
        other = torch.ones_like(margin).scatter_(1, labels[:, None], 0.0)
        near = torch.exp(-centre.square() / 2) * other  # how many samples a shift of the margin decides
        count = torch.bincount(labels, minlength=k)
        nearer = ((distance > own).double() + 0.5 * (distance == own)) * other
        z = class_centred(margin * other, labels, count)
        weight = inverse[labels] / k

        def rest(right: Tensor, mover: Tensor) -> Tensor:
            """What is left of the indicators [N] after the regression on [N], times the weight of a sample in the mean."""
            right = class_centred(right[:, None], labels, count)[:, 0]
            slope = (weight * right * mover).sum() / (weight * mover.square()).sum().clamp_min(1e-300)
            return weight * (right - slope * mover)

        mover = (near * z).sum(1) / (k - 1)
        pairs = float(rest(nearer.sum(1) / (k - 1), mover).norm())
        every = float(rest(left.right[0], mover).norm())
        slope = near / math.sqrt(2 * math.pi)
        residual = (class_centred(nearer, labels, count) - slope * z) * other
        by_class = class_sums((residual * inverse[labels][:, None] / 2).square(), labels, k)
        # A count of all or none has an error, too: that of one sample.
        own_part = np.maximum(by_class.cpu().numpy(), 1 / (4 * design.count**2)[:, None])
        each = np.sqrt(own_part + own_part.T)
        least_all = math.sqrt(float(np.sum(1 / design.count**2))) / k / math.sqrt(2 * k)
        return cls(max(pairs, least_all / k), max(every, least_all), each)


@dataclass(frozen=True)
class _Pairs:
    """[K, K] of every pair: accuracy, standard error, and the bounds of which the smallest ones bound the smallest accuracy."""

    value: Array
    stderr: Array
    low: Array
    high: Array


def _pairs(estimator: Estimator, nearer: Array, luck: Array, model: _Model) -> _Pairs:
    """Every pair by itself; the bounds are those of `results.suite.combine` for the smallest of many.

    P bends where f is small, so that each bound takes P at its own end of the interval of f.
    """
    number = model.design.classes * (model.design.classes - 1) // 2
    normal = NormalDist()
    one_sided, simultaneous = normal.inv_cdf(1 - 0.025), normal.inv_cdf(1 - 0.025 / number)
    if estimator.assumes_gaussian:
        luck = np.zeros_like(luck)

    def trained(f: Array) -> Array:
        both = pair_trained(f, model.design)
        return np.asarray((both + both.T) / 2)

    count = (nearer + nearer.T) / 2
    moves, design = pair_population if estimator.corrected else trained, model.design
    here = moves(model.f)
    value = here
    if not estimator.assumes_gaussian:
        value = (count + here - trained(model.f)).clip(0, 1) if estimator.corrected else count
    low, high = design.bounds(model.f, one_sided)[0], design.bounds(model.f, simultaneous)[1]
    stderr = [np.asarray(moves(one) - here) for one in design.bounds(model.f, 1.0)]
    return _Pairs(
        value,
        np.hypot((stderr[1] - stderr[0]) / 2, luck),
        (value - np.hypot(moves(low) - here, one_sided * luck)).clip(0, 1),
        (value + np.hypot(moves(high) - here, simultaneous * luck)).clip(0, 1),
    )
