"""What follows from the runs of all encoders: changes with their errors, effects, spread over seeds, rankings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any

import torch

from synbench_fast.errors import SynbenchError
from synbench_fast.results.records import Result
from synbench_fast.stats.compare import RESOLUTION, compare_scores, correlation, difference_error
from synbench_fast.studies.sensitivity.levels import VariedRuns, base_samples
from synbench_fast.studies.sensitivity.options import SensitivityStudy
from synbench_fast.studies.sensitivity.records import (
    Effect,
    LevelRanking,
    LevelScore,
    MissingRun,
    SeedSpread,
    Swap,
    VariedEncoder,
)
from synbench_fast.studies.sensitivity.report import Sensitivity

__all__ = ["assemble", "chi_squared_quantile"]

_TAIL = 0.025


def assemble(
    encoders: Sequence[Any],
    options: SensitivityStudy,
    runs: Sequence[VariedRuns],
    missing: Sequence[MissingRun] = (),
) -> Sensitivity:
    """The document of the runs of at least one encoder; `missing` are those without a base score."""
    first = runs[0].base
    threshold = min(first.thresholds)
    levels = [row for one in runs for row in _level_scores(one, threshold, options.vary)]
    notes = []
    if "thresholds" not in options.vary and len(first.thresholds) == 1:
        notes.append("thresholds: not varied, the base has only one")
    if len(runs) < 2:
        notes.append("rankings: left out, they need at least two encoders")
    elif len({one.base.task.shape for one in runs}) > 1:
        notes.append("rankings: the encoders have different input shapes, so their tasks differ")
    if first.influence is None and {"samples", "dtype", "preprocessing"} & set(options.vary):
        notes.append(
            f"errors of changes: {first.estimator} stores no influences, so runs with the same samples are "
            "taken as independent"
        )
    order = list(dict.fromkeys((one.factor, one.level) for one in levels if one.factor != "base"))
    order.sort(key=lambda one: options.vary.index(one[0]))
    return Sensitivity(
        factors=list(options.vary),
        estimator=first.estimator,
        seed=first.seed,
        eps=first.eps,
        threshold=threshold,
        prior=first.task.prior,
        encoders=[_varied(one) for one in runs],
        levels=levels,
        effects=[
            effect
            for factor in options.vary
            for one in runs
            for eps in first.eps
            if (effect := _effect(factor, one.label, eps, levels)) is not None
        ],
        seeds=[_spread(one, eps, threshold) for one in runs for eps in first.eps]
        if "seed" in options.vary
        else [],
        rankings=_rankings(runs, levels, order, threshold) if len(runs) > 1 else [],
        failures=[*missing, *(failure for one in runs for failure in one.failures)],
        notes=notes,
        environment=first.environment,
        command=options.command(*encoders) if all(isinstance(one, str) for one in encoders) else "",
    )


def _varied(runs: VariedRuns) -> VariedEncoder:
    base = runs.base
    warnings = dict.fromkeys(base.warnings)
    for level, result in runs.results:
        warnings |= dict.fromkeys(
            f"{level.factor} {level.name}: {one}" for one in result.warnings if one not in warnings
        )
    return VariedEncoder(
        label=runs.label,
        encoder=base.encoder,
        scales=base.task.scales,
        samples=base_samples(base),
        center=base.task.center,
        dtype=base.cost.dtype,
        device=base.cost.device,
        images=base.cost.images + sum(one.cost.images for _, one in runs.results if one is not base),
        seconds=runs.seconds,
        warnings=list(warnings),
    )


def _level_scores(runs: VariedRuns, threshold: float, factors: Sequence[str]) -> list[LevelScore]:
    base, rows = runs.base, []

    def add(
        factor: str,
        level: str,
        setting: str,
        at: float,
        eps: float,
        result: Result,
        error: float,
        paired: bool,
    ) -> None:
        one = result.score(eps, at)
        change = one.score - base.score(eps, threshold).score
        rows.append(
            LevelScore(
                factor=factor,
                level=level,
                setting=setting,
                encoder=runs.label,
                eps=eps,
                threshold=at,
                score=one.score,
                stderr=one.stderr,
                change=change,
                change_stderr=error,
                z=0.0 if change == 0 else change / error if error > 0 else math.nan,
                paired=paired,
            )
        )

    for eps in base.eps:
        add("base", "base", "", threshold, eps, base, 0.0, True)
    for level, result in runs.results:
        for eps in base.eps:
            error, paired = _change_error(base, result, eps, threshold, level.same_samples)
            add(level.factor, level.name, level.setting, threshold, eps, result, error, paired)
    if "thresholds" in factors:
        for at in base.thresholds:
            for eps in base.eps:
                if at != threshold:
                    error, paired = _threshold_error(base, eps, threshold, at)
                    add("thresholds", f"{at:g}", f"above accuracy {at:g}", at, eps, base, error, paired)
    return rows


def _change_error(
    base: Result, other: Result, eps: float, threshold: float, same_samples: bool
) -> tuple[float, bool]:
    """Standard error of the change of a score from base to other, and whether it uses common samples."""
    if other is base:
        return 0.0, True
    first, second = base.score(eps, threshold), other.score(eps, threshold)
    apart = math.hypot(first.stderr, second.stderr)
    known = all(math.isfinite(one) for one in (first.score, second.score, apart))
    if not (known and same_samples and base.influence is not None and other.influence is not None):
        return apart, False
    # Another centre moves every sample by the same amount, and another average weighs the same scales otherwise: the
    # noise, which the influences are about, is the same. `compare` would refuse both, because they are other tasks.
    rho = float(correlation([base, other], eps, threshold)[0, 1])
    return float(difference_error(first.stderr, second.stderr, rho)), True


def _threshold_error(base: Result, eps: float, threshold: float, at: float) -> tuple[float, bool]:
    """The same between two thresholds of one run."""
    first, second = base.score(eps, threshold).stderr, base.score(eps, at).stderr
    if base.score_covariance is None:
        return math.hypot(first, second), False
    place = base.eps.index(eps) * len(base.thresholds)
    i, j = (place + base.thresholds.index(one) for one in (threshold, at))
    c = base.score_covariance
    variance = c[i][i] + c[j][j] - 2 * c[i][j]
    return max(math.sqrt(max(variance, 0.0)), RESOLUTION * math.hypot(first, second)), True


def _effect(factor: str, encoder: str, eps: float, levels: Sequence[LevelScore]) -> Effect | None:
    """None if no level of this factor has a score."""
    mine = [one for one in levels if (one.encoder, one.eps) == (encoder, eps)]
    base = next(one for one in mine if one.factor == "base")
    rows = [one for one in mine if one.factor == factor and math.isfinite(one.change)]
    if not rows:
        return None
    largest = max(rows, key=lambda one: abs(one.change))
    known = [one for one in rows if math.isfinite(one.z)]
    clearest = max(known, key=lambda one: abs(one.z), default=None)
    # Levels that are the base under another name cannot differ from it and do not count.
    tried = sum(one.change_stderr > 0 for one in known)
    critical = NormalDist().inv_cdf(1 - _TAIL / max(1, tried))
    return Effect(
        factor=factor,
        encoder=encoder,
        eps=eps,
        level=largest.level,
        change=largest.change,
        change_stderr=largest.change_stderr,
        base_stderrs=abs(largest.change) / base.stderr if base.stderr > 0 else math.nan,
        z_level="" if clearest is None else clearest.level,
        z=math.nan if clearest is None else clearest.z,
        critical_z=critical,
        more_than_noise=None if clearest is None else abs(clearest.z) > critical,
    )


def _spread(runs: VariedRuns, eps: float, threshold: float) -> SeedSpread:
    found = [runs.base, *(result for level, result in runs.results if level.factor == "seed")]
    scores = [one.score(eps, threshold) for one in found]
    count = len(scores)
    mean = sum(one.score for one in scores) / count
    deviation = stderr = ratio = low = high = math.nan
    if count > 1:
        deviation = math.sqrt(sum((one.score - mean) ** 2 for one in scores) / (count - 1))
        stderr = math.sqrt(sum(one.stderr**2 for one in scores) / count)
        ratio = deviation / stderr if stderr > 0 else math.nan
        low, high = (math.sqrt(chi_squared_quantile(p, count - 1) / (count - 1)) for p in (_TAIL, 1 - _TAIL))
    return SeedSpread(
        encoder=runs.label,
        eps=eps,
        seeds=[one.seed for one in found],
        mean=mean,
        deviation=deviation,
        stderr=stderr,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        consistent=low <= ratio <= high if math.isfinite(ratio) else None,
    )


def chi_squared_quantile(probability: float, freedom: int) -> float:
    """x with P(X <= x) = probability, X chi-squared with `freedom` degrees of freedom; by bisection."""
    shape = torch.tensor(freedom / 2, dtype=torch.float64)
    low, high = 0.0, freedom + 100 * math.sqrt(freedom)
    for _ in range(100):
        middle = 0.5 * (low + high)
        reached = torch.special.gammainc(shape, torch.tensor(middle / 2, dtype=torch.float64))
        low, high = (middle, high) if float(reached) < probability else (low, middle)
    return high


def _rankings(
    runs: Sequence[VariedRuns],
    levels: Sequence[LevelScore],
    order: Iterable[tuple[str, str]],
    threshold: float,
) -> list[LevelRanking]:
    found = []
    names = [one.label for one in runs]
    order = list(order)
    for eps in runs[0].base.eps:
        ties = _ties(runs, eps, threshold)
        scores = {
            (one.factor, one.level, one.encoder): one.score
            for one in levels
            if one.eps == eps and math.isfinite(one.score)
        }
        for factor, level in order:
            present = [
                name for name in names if ("base", "base", name) in scores and (factor, level, name) in scores
            ]
            pairs = list(combinations(present, 2))
            if not pairs:
                continue
            agreement, swaps = 0, []
            for a, b in pairs:
                before = scores["base", "base", a] - scores["base", "base", b]
                after = scores[factor, level, a] - scores[factor, level, b]
                if before == 0 or after == 0:
                    continue
                same = (before > 0) == (after > 0)
                agreement += 1 if same else -1
                if not same:
                    ahead, behind = (a, b) if after > 0 else (b, a)
                    swaps.append(Swap(ahead=ahead, behind=behind, base_tie=ties.get(frozenset((a, b)))))
            found.append(
                LevelRanking(
                    factor=factor,
                    level=level,
                    eps=eps,
                    encoders=present,
                    tau=agreement / len(pairs),
                    swaps=swaps,
                )
            )
    return found


def _ties(runs: Sequence[VariedRuns], eps: float, threshold: float) -> dict[frozenset[str], bool]:
    """Whether `compare` calls a pair of base scores a tie; nothing for what it cannot compare, or has no interval for."""
    bases = [one.base for one in runs]
    paired = len({one.task.shape for one in bases}) == 1 and all(one.influence is not None for one in bases)
    try:
        found = compare_scores(*bases, eps=eps, thresholds=threshold, unpaired=not paired).differences
    except SynbenchError:
        return {}
    pairs = combinations((one.label for one in runs), 2)
    return {frozenset(pair): one.tie for pair, one in zip(pairs, found, strict=True) if not one.withheld}
