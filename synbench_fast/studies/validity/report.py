"""What a validation reports: predictors, measured quantities and their correlations, as a document and as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.documents import Document, nan_field
from synbench_fast.results.records import Environment
from synbench_fast.studies.validity.correlation import Estimate

__all__ = [
    "VALIDITY_SCHEMA",
    "Correlation",
    "DataSummary",
    "EncoderSummary",
    "HeldOut",
    "Predictor",
    "Target",
    "ValidityReport",
]

VALIDITY_SCHEMA = "synbench-fast/validity"
VALIDITY_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EncoderSummary:
    """One encoder; `spec` and `weights_sha256` as in a result, `parameters` None where they cannot be counted."""

    name: str
    spec: str
    weights_sha256: str
    parameters: int | None
    features: int


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """One data set and the sizes of its parts; `sha256` as in a probe's document."""

    name: str
    classes: int
    train: int
    test: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A number per encoder that is to predict its quality.

    `sees`: "nothing" of the data, their "inputs", or "labels" too. `task`, `eps` and `threshold` belong to scores
    and areas, and are "" and None elsewhere. `values` [data sets][encoders]: equal rows where nothing is seen.
    """

    name: str
    kind: str
    sees: str
    task: str
    eps: float | None
    threshold: float | None
    values: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A measured quantity: "clean", "l2 R" or "linf R" accuracy of the linear probe; [data sets][encoders]."""

    name: str
    values: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """A coefficient with its 95 % interval, on one data set or "overall"; see docs/validity.md."""

    predictor: str
    target: str
    data: str
    coefficient: str
    value: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Spearman's coefficient of what one half of the encoders chose among the candidates of a family.

    `family`: a task, "any task", or a single predictor, of which nothing is chosen. Means over random halves:
    `apparent` on the half that chose and the data set `chosen_on`, `encoders` on the other half and the same data
    set, `both` on the other half and `tested_on`, with its standard deviation and 5 % and 95 % quantiles over the
    halves. With a single data set `both` is `encoders`. `choice` is the candidate chosen most often, in a share
    `choice_share` of the halves.
    """

    family: str
    candidates: int
    target: str
    chosen_on: str
    tested_on: str
    apparent: float
    encoders: float
    both: float
    both_sd: float
    both_low: float
    both_high: float
    choice: str
    choice_share: float


@dataclass(frozen=True, kw_only=True, repr=False)
class ValidityReport(Document):
    """Whether scores, and simpler predictors, order encoders as labelled data do."""

    schema: str = VALIDITY_SCHEMA
    schema_version: int = VALIDITY_SCHEMA_VERSION
    encoders: list[EncoderSummary]
    data: list[DataSummary]
    suite: str
    predictors: list[Predictor]
    targets: list[Target]
    correlations: list[Correlation]
    held_out: list[HeldOut]
    resamples: int
    splits: int
    seed: int
    seconds: float
    environment: Environment
    warnings: list[str]
    command: str

    def predictor(self, name: str) -> Predictor:
        """The predictor of this name."""
        known = {one.name: one for one in self.predictors}
        if name not in known:
            raise SynbenchError(
                f"predictor: expected one of the report's {len(known)}, got {name!r}{suggest(name, known)}"
            )
        return known[name]

    def correlation(
        self, predictor: str, target: str, *, data: str = "overall", coefficient: str = "spearman"
    ) -> Correlation:
        """One coefficient with its interval."""
        self.predictor(predictor)
        key = (predictor, target, data, coefficient)
        for one in self.correlations:
            if (one.predictor, one.target, one.data, one.coefficient) == key:
                return one
        raise SynbenchError(
            f"target, data, coefficient: expected ones of the report ({', '.join(t.name for t in self.targets)}; "
            f"{', '.join(d.name for d in self.data)}, overall; pearson, spearman, kendall), got "
            f"{target!r}, {data!r}, {coefficient!r}"
        )

    def difference(
        self,
        first: str,
        second: str,
        target: str,
        *,
        data: str = "overall",
        coefficient: str = "spearman",
    ) -> Estimate:
        """By how much predictor `first` correlates better with the target than `second`, with a 95 % interval.

        Both are of the same encoders, so their intervals may overlap where that of the difference leaves out 0.
        """
        from synbench_fast.studies.validity.analysis import difference

        return difference(self, first, second, target, data, coefficient)

    def subset(self, encoders: Sequence[str]) -> ValidityReport:
        """The report of these encoders alone, by name, from the values that this one holds."""
        from synbench_fast.studies.validity.analysis import subset

        return subset(self, encoders)

    def headline(self) -> list[Predictor]:
        """What tables show: baselines, and of the scores those at the first eps and lowest threshold."""
        scores = [one for one in self.predictors if one.kind == "score"]
        first = (scores[0].eps, min(one.threshold or 0.0 for one in scores)) if scores else None
        return [one for one in self.predictors if one.kind != "score" or (one.eps, one.threshold) == first]

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One row per predictor, target, data set and coefficient, for CSV; None where a value is not finite."""
        known = {one.name: one for one in self.predictors}
        rows: list[dict[str, str | int | float | None]] = []
        for one in self.correlations:
            predictor = known[one.predictor]
            rows.append(
                {
                    "predictor": one.predictor,
                    "kind": predictor.kind,
                    "sees": predictor.sees,
                    "task": predictor.task,
                    "eps": predictor.eps,
                    "threshold": predictor.threshold,
                    "target": one.target,
                    "data": one.data,
                    "encoders": len(self.encoders),
                    "coefficient": one.coefficient,
                    "value": _finite(one.value),
                    "ci95_low": _finite(one.ci95_low),
                    "ci95_high": _finite(one.ci95_high),
                }
            )
        return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
