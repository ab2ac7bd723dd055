"""What a comparison with published accuracies reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.codec import nan_field
from synbench_fast.results.records import Environment
from synbench_fast.studies.base import Report, Table, finite
from synbench_fast.studies.validity.correlation import FEWEST, Bootstrap, Estimate

__all__ = [
    "MatchedEncoder",
    "PublishedCorrelation",
    "PublishedPredictor",
    "PublishedReport",
    "PublishedTarget",
    "Unmatched",
]

PUBLISHED_SCHEMA = "synbench-fast/published"
PUBLISHED_SCHEMA_VERSION = 1
_SHOWN = 20  # unmatched names of tables in text; the document has all


@dataclass(frozen=True, kw_only=True)
class MatchedEncoder:
    """An encoder that at least one table has; `parameters` of the result or else of a table, None where neither has it."""

    spec: str
    weights_sha256: str
    parameters: float | None


@dataclass(frozen=True, kw_only=True)
class PublishedPredictor:
    """A number per encoder that may predict its accuracy; None where it is not known."""

    name: str
    values: list[float | None]


@dataclass(frozen=True, kw_only=True)
class PublishedTarget:
    """What a table says of the encoders: values, their standard errors and their names there; None where it has none.

    `matches` is "exact", or "without tag" where a name without a tag was taken for the only one of its architecture.
    """

    data: str
    metric: str
    file: str
    sha256: str
    values: list[float | None]
    errors: list[float | None]
    names: list[str | None]
    matches: list[str | None]


@dataclass(frozen=True, kw_only=True)
class PublishedCorrelation:
    """A coefficient over `encoders` that have both values, with its 95 % interval.

    `partial` is the partial coefficient given the number of parameters, NaN where that is not known for all of them.
    """

    predictor: str
    data: str
    metric: str
    encoders: int
    value: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()
    partial: float = nan_field()
    partial_ci95_low: float = nan_field()
    partial_ci95_high: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """A name without a counterpart: of an encoder, why `file` has none for it; of a row of `file`, `reason` is ""."""

    name: str
    file: str
    reason: str


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedReport(Report):
    """How scores go with accuracies that others measured.

    Attributes:
        predictors, targets: values in the order of `encoders`.
        unmatched_encoders, unmatched_rows: every name without a counterpart.
        coefficient: that of `correlations`.
        command: repeats the comparison from a shell, empty where none can.
    """

    schema: str = PUBLISHED_SCHEMA
    schema_version: int = PUBLISHED_SCHEMA_VERSION
    encoders: list[MatchedEncoder]
    predictors: list[PublishedPredictor]
    targets: list[PublishedTarget]
    coefficient: str
    correlations: list[PublishedCorrelation]
    unmatched_encoders: list[Unmatched]
    unmatched_rows: list[Unmatched]
    resamples: int
    seed: int
    seconds: float
    environment: Environment
    warnings: list[str]
    command: str

    def correlation(self, predictor: str, data: str, metric: str | None = None) -> PublishedCorrelation:
        """One coefficient with its interval; `metric` may be left out where the data set has one."""
        found = [
            one
            for one in self.correlations
            if (one.predictor, one.data) == (predictor, data) and metric in (None, one.metric)
        ]
        if len(found) != 1:
            names = list(dict.fromkeys(one.predictor for one in self.correlations))
            places = list(dict.fromkeys(f"{one.data} {one.metric}" for one in self.correlations))
            raise SynbenchError(
                f"predictor, data, metric: expected one coefficient of the report's ({', '.join(places)}; "
                f"{len(names)} predictors), got {len(found)} for {predictor!r}, {data!r}, {metric!r}"
                f"{suggest(predictor, names)}"
            )
        return found[0]

    def difference(self, first: str, second: str, data: str, metric: str | None = None) -> Estimate:
        """By how much predictor `first` correlates better than `second`, with a 95 % interval.

        Both over the encoders that have both predictors and the target, resampled together.
        """
        wanted = self.correlation(first, data, metric)
        self.correlation(second, data, metric)
        known = {one.name: one.values for one in self.predictors}
        target = next(one for one in self.targets if (one.data, one.metric) == (data, wanted.metric))
        columns = np.array([known[first], known[second], target.values], dtype=np.float64)
        columns = columns[:, np.isfinite(columns).all(0)]
        if columns.shape[1] < FEWEST:
            raise SynbenchError(
                f"encoders: expected at least {FEWEST} with both predictors, got {columns.shape[1]}"
            )
        bootstrap = Bootstrap(columns.shape[1], resamples=self.resamples, seed=self.seed)
        a, b, y = (bootstrap.prepare(one) for one in columns)
        return bootstrap.difference(a, b, y, self.coefficient)

    def rows(self) -> list[dict[str, Any]]:
        """One row per predictor and target; None where a value is not known."""
        return [
            {
                "predictor": one.predictor,
                "data": one.data,
                "metric": one.metric,
                "encoders": one.encoders,
                "coefficient": self.coefficient,
                **{
                    name: finite(getattr(one, name))
                    for name in (
                        "value", "ci95_low", "ci95_high", "partial", "partial_ci95_low", "partial_ci95_high",
                    )
                },
            }
            for one in self.correlations
        ]  # fmt: skip

    def tables(self) -> Iterator[Table | str]:
        """For each target the coefficients of the predictors and the partial ones, and the names that were left out.

        Scores are those at the first eps and the lowest threshold.
        """
        first = next((one.name for one in self.predictors if one.name.startswith("score ")), "")
        setting = first[first.find(" eps=") :] if first else ""
        for target in self.targets:
            found = [
                one for one in self.correlations if (one.data, one.metric) == (target.data, target.metric)
            ]
            yield Table(
                [f"{target.data} {target.metric}", "encoders", self.coefficient, "given parameters"],
                [
                    [
                        one.predictor.removesuffix(setting) if setting else one.predictor,
                        str(one.encoders),
                        _interval(one.value, one.ci95_low, one.ci95_high),
                        _interval(one.partial, one.partial_ci95_low, one.partial_ci95_high),
                    ]
                    for one in found
                    if " eps=" not in one.predictor or one.predictor.endswith(setting)
                ],
            )
            yield ""
        loose = sorted(
            {
                f"{one.spec} is {name}"
                for target in self.targets
                for one, name, how in zip(self.encoders, target.names, target.matches, strict=True)
                if how == "without tag"
            }
        )
        if loose:
            yield f"matched without a tag: {', '.join(loose)}"
        for one in self.unmatched_encoders:
            yield f"not compared: {one.name}: {one.reason}{f' ({one.file})' if one.file else ''}"
        for file in dict.fromkeys(one.file for one in self.unmatched_rows):
            names = [one.name for one in self.unmatched_rows if one.file == file]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            yield f"rows of {file} without an encoder: {', '.join(names[:_SHOWN])}{more}"
        yield (
            f"{len(self.encoders)} encoders; 95 % BCa intervals of {self.resamples} resamples of them"
            f"{f'; scores at{setting}' if setting else ''}; seed {self.seed}"
        )


def _interval(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:+.2f} ({f'{low:+.2f} to {high:+.2f}' if math.isfinite(low) else 'no interval'})"
