"""Inheritance of robustness from cells that others measured: what goes with the change over encoders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.codec import nan_field
from synbench_fast.studies.base import Report, Table, finite
from synbench_fast.studies.inheritance.cells import PRETRAINING
from synbench_fast.studies.published.tables import csv_rows
from synbench_fast.studies.validity.correlation import COEFFICIENTS, FEWEST, Bootstrap

__all__ = ["CovariateCorrelation", "PublishedInheritance", "PublishedSummary", "inherit_published"]

PUBLISHED_INHERITANCE_SCHEMA = "synbench-fast/published-inheritance"
PUBLISHED_INHERITANCE_SCHEMA_VERSION = 1
_CELLS = ("encoder", "fine_tuned_on", "evaluated_on", "before", "after")
_PRIOR, _TARGETS = "before", ("change", "after")


@dataclass(frozen=True, kw_only=True)
class PublishedSummary:
    """An encoder and method, in the units of the table: means over data sets i of the means over the others j != i.

    `change` is the mRI of `inherit`; `covariates` are those of the other table, None where it has none.
    """

    encoder: str
    method: str
    before: float
    after: float
    change: float
    covariates: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class CovariateCorrelation:
    """A coefficient over the encoders of a method that have the covariate; `target` is "change" or "after".

    The covariate "before" is the accuracy before fine-tuning. It is a part of the change, so that errors of its
    measurement alone make their coefficient negative.
    """

    covariate: str
    target: str
    method: str
    encoders: int
    value: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedInheritance(Report):
    """What goes with published changes of accuracy; intervals are 95 %, BCa over encoders."""

    schema: str = PUBLISHED_INHERITANCE_SCHEMA
    schema_version: int = PUBLISHED_INHERITANCE_SCHEMA_VERSION
    cells: str
    summaries: list[PublishedSummary]
    coefficient: str
    correlations: list[CovariateCorrelation]
    resamples: int
    seed: int
    warnings: list[str]

    def correlation(
        self, covariate: str, target: str = "change", method: str | None = None
    ) -> CovariateCorrelation:
        """One coefficient; `method` may be left out where there is one."""
        found = [
            one
            for one in self.correlations
            if (one.covariate, one.target) == (covariate, target) and method in (None, one.method)
        ]
        if len(found) != 1:
            names = list(dict.fromkeys(one.covariate for one in self.correlations))
            raise SynbenchError(
                f"covariate: expected one of {', '.join(names)}, got {len(found)} coefficients for {covariate!r}, "
                f"{target!r}, {method!r}{suggest(covariate, names)}"
            )
        return found[0]

    def rows(self) -> list[dict[str, Any]]:
        """One row per covariate, target and method."""
        return [
            {name: finite(value) for name, value in vars(one).items()} | {"coefficient": self.coefficient}
            for one in self.correlations
        ]

    def tables(self) -> Iterator[Table | str]:
        """The encoders, then the coefficients."""
        names = list(self.summaries[0].covariates)
        yield Table(
            ["encoder", "method", "before", "after", "change", *names],
            [
                [
                    one.encoder,
                    one.method or "-",
                    *(f"{value:.4g}" for value in (one.before, one.after)),
                    f"{one.change:+.4g}",
                    *("-" if (value := one.covariates[name]) is None else f"{value:.4g}" for name in names),
                ]
                for one in self.summaries
            ],
            left=2,
        )
        yield ""
        yield Table(
            ["covariate", "target", "method", "encoders", self.coefficient],
            [
                [one.covariate, one.target, one.method or "-", str(one.encoders), _interval(one)]
                for one in self.correlations
            ],
            left=3,
        )
        yield f"95 % BCa intervals of {self.resamples} resamples of the encoders; seed {self.seed}"


def _interval(one: CovariateCorrelation) -> str:
    if not math.isfinite(one.value):
        return "-"
    ends = f"{one.ci95_low:+.2f} to {one.ci95_high:+.2f}" if math.isfinite(one.ci95_low) else "no interval"
    return f"{one.value:+.2f} ({ends})"


def inherit_published(
    cells: str | Path,
    covariates: str | Path | None = None,
    *,
    coefficient: str = "spearman",
    resamples: int = 2000,
    seed: int = 0,
) -> PublishedInheritance:
    """Correlate changes of accuracy under fine-tuning that others measured with covariates of the encoders.

    Args:
        cells: CSV file with the columns encoder, fine_tuned_on, evaluated_on, before, after and, if wanted, method; others
            are not read, so that `inherit.csv` of `inherit` is such a file. A row is the accuracy on one data set before
            and after fine-tuning on another; rows about the data set itself and about "pre-training" are left out, and
            repeats (seeds) are averaged. Every encoder needs the same pairs of data sets.
        covariates: CSV file with the column encoder and columns of numbers, such as the size of the pre-training data.
        coefficient: "spearman", "pearson" or "kendall".
        resamples, seed: of the bootstrap over encoders.

    Raises:
        SynbenchError: one line that names the file, and where it can the line.
    """
    if coefficient not in COEFFICIENTS:
        raise SynbenchError(
            f"coefficient: expected one of {', '.join(COEFFICIENTS)}, got {coefficient!r}"
            f"{suggest(str(coefficient), COEFFICIENTS)}"
        )
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 100:
        raise SynbenchError(f"resamples: expected at least 100, got {resamples!r}")
    warnings: list[str] = []
    measured = _measured(str(cells), warnings)
    names, known = ([], {}) if covariates is None else _covariates(str(covariates))
    encoders = {encoder for encoder, _ in measured}
    for encoder in dict.fromkeys(encoder for encoder, _ in measured):
        if covariates is not None and encoder not in known:
            near = suggest(encoder, known)
            warnings.append(f"{encoder}: no row in {covariates}{near}")
    warnings += [f"{one}: a row in {covariates}, none in {cells}" for one in known if one not in encoders]
    summaries = [
        PublishedSummary(
            encoder=encoder,
            method=method,
            before=before,
            after=after,
            change=after - before,
            covariates={name: known.get(encoder, {}).get(name) for name in names},
        )
        for (encoder, method), (before, after) in measured.items()
    ]
    found = [
        _correlation(name, target, method, summaries, coefficient, resamples, seed)
        for method in dict.fromkeys(one.method for one in summaries)
        for name in (_PRIOR, *names)
        for target in _TARGETS
    ]
    return PublishedInheritance(
        cells=str(cells),
        summaries=summaries,
        coefficient=coefficient,
        correlations=found,
        resamples=resamples,
        seed=seed,
        warnings=warnings,
    )


def _measured(path: str, warnings: list[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """(encoder, method) -> mean accuracy on the other data sets before and after."""
    header, rows = csv_rows(path)
    for name in _CELLS:
        if name not in header:
            raise SynbenchError(
                f"{path}: expected the columns {', '.join(_CELLS)}, got none called {name}{suggest(name, header)}"
            )
    pairs: dict[tuple[str, str], dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for row in rows:
        before, after = row.number("before"), row.number("after")
        if before is None or after is None:  # a fine-tuning that failed
            continue
        tuned, evaluated = row.word("fine_tuned_on"), row.word("evaluated_on")
        key = (row.word("encoder"), row.cells.get("method", "").strip())
        if evaluated not in (tuned, PRETRAINING):
            pairs.setdefault(key, {}).setdefault((tuned, evaluated), []).append((before, after))
    if not pairs:
        raise SynbenchError(
            f"{path}: expected accuracies on data sets other than that fine-tuned on, got none"
        )
    wanted = set().union(*pairs.values())
    found = {}
    for key, cells in pairs.items():
        missing = sorted(wanted - set(cells))
        if missing:
            warnings.append(
                f"{' '.join(key).strip()}: left out, {len(missing)} of {len(wanted)} pairs of data sets have no "
                f"accuracies, such as {missing[0][0]} to {missing[0][1]}"
            )
            continue
        found[key] = (_mean(cells, 0), _mean(cells, 1))
    if not found:
        raise SynbenchError(
            f"{path}: expected an encoder with all {len(wanted)} pairs of data sets, got none"
        )
    return found


def _mean(cells: dict[tuple[str, str], list[tuple[float, float]]], which: int) -> float:
    """Over repeats, then over the other data sets, then over those fine-tuned on."""
    tuned: dict[str, list[float]] = {}
    for (name, _), values in cells.items():
        tuned.setdefault(name, []).append(statistics.fmean(one[which] for one in values))
    return statistics.fmean(statistics.fmean(one) for one in tuned.values())


def _covariates(path: str) -> tuple[list[str], dict[str, dict[str, float | None]]]:
    """Names of the covariates, and the values by encoder."""
    header, rows = csv_rows(path)
    if "encoder" not in header or len(header) < 2:
        raise SynbenchError(
            f"{path}: expected the column encoder and columns of numbers, got {', '.join(header)}"
        )
    names = [one for one in header if one != "encoder"]
    for taken in ("before", "after", "change"):
        if taken in names:
            raise SynbenchError(f"{path}: expected covariates, got a column {taken}, which the cells have")
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        encoder = row.word("encoder")
        if encoder in found:
            raise SynbenchError(f"{row.place}: expected every encoder once, got {encoder!r} twice")
        found[encoder] = {name: row.number(name) for name in names}
    return names, found


def _correlation(
    covariate: str,
    target: str,
    method: str,
    summaries: Sequence[PublishedSummary],
    coefficient: str,
    resamples: int,
    seed: int,
) -> CovariateCorrelation:
    pairs = [
        (value, getattr(one, target))
        for one in summaries
        if one.method == method
        and (value := one.before if covariate == _PRIOR else one.covariates[covariate]) is not None
    ]
    value = low = high = math.nan
    if len(pairs) >= FEWEST:
        x, y = np.array(pairs, dtype=np.float64).T
        ((one,), _) = Bootstrap(len(pairs), resamples=resamples, seed=seed).many(x[None], y, coefficient)
        value, low, high = one.value, one.ci95_low, one.ci95_high
    return CovariateCorrelation(
        covariate=covariate,
        target=target,
        method=method,
        encoders=len(pairs),
        value=value,
        ci95_low=low,
        ci95_high=high,
    )
