"""Which encoder to take, in sentences: on which number, how sure, what certainty would cost, and which number disagrees.

All comparisons of one number hold together with 95 %. Those of scores are `compare_scores`', which knows what the samples that
encoders share do to their differences. Other numbers are taken as independent, with Sidak's bound over the pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError
from synbench_fast.printable import distinct, printable
from synbench_fast.report.ranking import PAIRS_LIMIT, reach
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SuiteResult

__all__ = ["PIXELS", "Measure", "Verdict", "judge", "verdict"]

PIXELS = 0.025  # structure scores of pixels, random projections and histograms of colours reach this, see docs/structure.md
MOST_TIMES = 100  # further images than this many times those that were drawn are not worth proposing
LISTED = 3  # encoders that a sentence names


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of M encoders, NaN where it is not known; `images` and `seconds` are what it took for one of them.

    `reach` [M, M] is half the width of the interval of each difference, all of them true together with 95 %.
    """

    name: str
    values: Sequence[float]
    reach: NDArray[np.float64]
    images: float = math.nan
    seconds: float = math.nan
    least: float = -math.inf  # below it the number is no evidence


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a measure says: the place of the largest value, and of those that cannot be told apart from it."""

    best: int
    tied: list[int]
    nearest: int | None  # the second best, where that is one of `tied`
    times: float  # how many times the images would separate these two, if their difference is the true one


def judge(measure: Measure) -> Verdict | None:
    """The verdict of one measure; None with fewer than two known values."""
    known = _known(measure)
    if len(known) < 2:
        return None
    best, *others = sorted(known, key=lambda i: -measure.values[i])
    gaps = {i: measure.values[best] - measure.values[i] for i in others}
    tied = [i for i in others if gaps[i] <= measure.reach[best, i]]
    times = math.inf
    if tied and gaps[tied[0]] > 0:
        times = float(measure.reach[best, tied[0]] / gaps[tied[0]]) ** 2
    return Verdict(best=best, tied=tied, nearest=tied[0] if tied else None, times=times)


def _known(measure: Measure) -> list[int]:
    """The places that have both a value and an error."""
    return [i for i, value in enumerate(measure.values) if np.isfinite([value, measure.reach[i, i]]).all()]


def _independent(stderr: Sequence[float]) -> NDArray[np.float64]:
    """`Measure.reach` of independent values with these standard errors."""
    errors = np.array(stderr, dtype=float)
    count = int(np.isfinite(errors).sum())
    quantile = reach(max(1, count * (count - 1) // 2))
    return np.asarray(quantile * np.sqrt(errors[:, None] ** 2 + errors**2))


def _paired(results: Sequence[Result], eps: float, threshold: float, unpaired: bool) -> NDArray[np.float64]:
    """`Measure.reach` of scores, from `compare` where it can compare them and they are few."""
    from synbench_fast.stats.compare import compare_scores

    found = _independent([one.score(eps, threshold).stderr for one in results])
    if len(results) > PAIRS_LIMIT:
        return found
    try:
        differences = compare_scores(*results, eps=eps, thresholds=threshold, unpaired=unpaired).differences
    except SynbenchError:  # other samples, or the estimator paper
        return found
    for (i, j), one in zip(combinations(range(len(results)), 2), differences, strict=True):
        found[i, j] = found[j, i] = (one.ci95_high - one.ci95_low) / 2
    return found


def verdict(
    results: Sequence[Result | SuiteResult],
    *,
    eps: Sequence[float] | None = None,
    thresholds: Sequence[float] | None = None,
    unpaired: bool = False,
) -> list[str]:
    """Sentences about results of one run: the structure score decides where there is one, else the first score.

    An empty list for fewer than two results. The other arguments are those of `compare`; of several thresholds the lowest
    counts.
    """
    if len(results) < 2:
        return []
    firsts = [one.results[0] if isinstance(one, SuiteResult) else one for one in results]
    names = distinct([printable(one.encoder.title) for one in firsts])
    measures = _measures(results, eps, thresholds, unpaired)
    found = [(one, judge(one)) for one in measures]
    decisive = next(((one, verdict) for one, verdict in found if verdict is not None), None)
    if decisive is None:
        return []
    measure, chosen = decisive
    taken = {chosen.best, *chosen.tied}
    known = _known(measure)
    # Of equal independent errors the difference reaches sqrt(2) as far as either interval.
    lows = [measure.values[i] - float(measure.reach[i, i]) / math.sqrt(2) for i in known]
    if max(lows) <= measure.least:
        lines = [
            f"verdict: none, because no {measure.name} is clearly above the {measure.least:g} that pixels reach"
        ]
        taken = set()
    else:
        lines = _sentences(measure, chosen, names)
    undecided = [one for one, _ in takewhile(lambda pair: pair[1] is None, found)]  # that come before
    for one in (*undecided, measure):
        absent = [name for name, value in zip(names, one.values, strict=True) if not math.isfinite(value)]
        if absent:
            lines.append(f"not compared, because there is no {one.name}: {_list(absent)}")
    doubtful = [names[i] for i, value in enumerate(measure.values) if math.isfinite(value) and i not in known]
    if doubtful:
        lines.append(f"not compared, because there is no error of the {measure.name}: {_list(doubtful)}")
    if len({one.task.shape for one in firsts}) > 1:
        lines.append("input shapes differ: give all encoders one --input-shape to compare them")
    return [*lines, *_others(found, measure, taken, names)]


def _sentences(measure: Measure, chosen: Verdict, names: Sequence[str]) -> list[str]:
    best = names[chosen.best]
    if not chosen.tied:
        return [f"verdict: take {best}: its {measure.name} is the largest, with 95 % confidence"]
    listed = _list([best, *(names[i] for i in chosen.tied)], "or")
    lines = [
        f"verdict: take {listed}: their {_plural(measure.name)} cannot be told apart with 95 % confidence"
    ]
    assert chosen.nearest is not None
    pair = f"{best} and {names[chosen.nearest]}"
    if chosen.times > MOST_TIMES:
        lines.append(f"more images would hardly separate {pair}")
    elif math.isfinite(measure.images):
        seconds = "" if math.isnan(measure.seconds) else f" ({_duration(measure.seconds * chosen.times)})"
        lines.append(
            f"if the difference is real, about {_rounded(measure.images * chosen.times)} images each{seconds} would separate "
            f"{pair}"
        )
    return lines


def _others(
    found: Sequence[tuple[Measure, Verdict | None]], decisive: Measure, taken: set[int], names: Sequence[str]
) -> list[str]:
    """Which other numbers put an encoder first that is not to be taken, beyond their errors."""
    by_best: dict[int, list[str]] = {}
    for measure, verdict in found:
        if measure is decisive or verdict is None or taken & {verdict.best, *verdict.tied}:
            continue
        if taken or not verdict.tied:
            by_best.setdefault(verdict.best, []).append(measure.name)
    return [
        f"{'but ' if taken else ''}{_list(numbers)} put{'s' if len(numbers) == 1 else ''} {names[best]} first"
        for best, numbers in by_best.items()
    ]


def _measures(
    results: Sequence[Result | SuiteResult],
    eps: Sequence[float] | None,
    thresholds: Sequence[float] | None,
    unpaired: bool,
) -> list[Measure]:
    suites = [one for one in results if isinstance(one, SuiteResult)]
    firsts = [one.results[0] if isinstance(one, SuiteResult) else one for one in results]
    structures = [one.structure for one in firsts]
    known = [one for one in structures if one is not None]
    found = []
    if known:
        found.append(
            Measure(
                name="structure score",
                values=[math.nan if one is None else one.score for one in structures],
                reach=_independent([math.nan if one is None else one.stderr for one in structures]),
                images=fmean(one.images for one in known),
                seconds=fmean(one.seconds for one in known),
                least=PIXELS,
            )
        )
    if suites and suites[0].families:
        means = [one.family_mean for one in suites]
        found.append(
            Measure(
                name="mean of the families",
                values=[mean for mean, _ in means],
                reach=_independent([error for _, error in means]),
            )
        )
    budgets, levels = (
        [one for one in wanted or getattr(firsts[0], name) if all(one in getattr(r, name) for r in firsts)]
        for name, wanted in (("eps", eps), ("thresholds", thresholds))
    )
    images = fmean(one.cost.images for one in firsts)
    for budget in budgets if levels else ():
        at = budget, min(levels)
        if suites:
            both = [one.score(*at) for one in suites]
            values, within = [one.mean for one in both], _independent([one.mean_stderr for one in both])
        else:
            values, within = (
                [one.score(*at).score for one in firsts],
                _paired(firsts, *at, unpaired),
            )
        name = f"{'mean' if suites else 'score'} eps={budget:g}"
        found.append(Measure(name=name, values=values, reach=within, images=images))
    if not suites:
        areas = [one.robust_area for one in firsts]
        found.append(
            Measure(
                name="robust area",
                values=[one.value for one in areas],
                reach=_independent([one.stderr for one in areas]),
            )
        )
    return found


def _plural(name: str) -> str:
    """`scores eps=0`, `means of the families`: the first noun takes the s."""
    return re.sub(r"\b(score|mean|area)\b", r"\1s", name, count=1)


def _list(words: Sequence[str], joint: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; of many the first ones and how many more."""
    shown = [*words[:LISTED], f"{len(words) - LISTED} more"] if len(words) > LISTED + 1 else list(words)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {joint} {shown[-1]}"


def _rounded(count: float) -> str:
    """Two digits, thousands apart."""
    digits = 1 - math.floor(math.log10(count))
    return f"{int(round(count, digits)):,}".replace(",", " ")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
