"""What a validation reports: predictors, measured quantities and their correlations, as a document and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.records import Environment
from synbench_fast.studies.base import Report, Table, finite
from synbench_fast.studies.validity.coefficients import OVERALL, correlations, difference, held_out
from synbench_fast.studies.validity.correlation import FEWEST, Estimate
from synbench_fast.studies.validity.records import (
    Correlation,
    DataSummary,
    EncoderSummary,
    HeldOut,
    Predictor,
    Target,
)

__all__ = ["VALIDITY_SCHEMA", "ValidityReport"]

VALIDITY_SCHEMA = "synbench-fast/validity"
VALIDITY_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, repr=False)
class ValidityReport(Report):
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
        self, predictor: str, target: str, *, data: str = OVERALL, coefficient: str = "spearman"
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
        data: str = OVERALL,
        coefficient: str = "spearman",
    ) -> Estimate:
        """By how much predictor `first` correlates better with the target than `second`, with a 95 % interval.

        Both are of the same encoders, so their intervals may overlap where that of the difference leaves out 0.
        """
        self.correlation(first, target, data=data, coefficient=coefficient)  # refuses what the report has not
        names = [one.name for one in self.data]
        return difference(
            self.predictor(first),
            self.predictor(second),
            next(one for one in self.targets if one.name == target),
            0 if len(names) == 1 else [*names, OVERALL].index(data),
            coefficient,
            resamples=self.resamples,
            seed=self.seed,
        )

    def subset(self, encoders: Sequence[str]) -> ValidityReport:
        """The report of these encoders alone, by name, from the values that this one holds: nothing is measured again.

        Whether a coefficient hangs on which encoders were chosen is seen by leaving some out.
        """
        names, sets = [one.name for one in self.encoders], [one.name for one in self.data]
        for name in encoders:
            if name not in names:
                raise SynbenchError(
                    f"encoders: expected ones of the report ({', '.join(names)}), got {name!r}{suggest(name, names)}"
                )
        rows = [index for index, name in enumerate(names) if name in set(encoders)]
        if len(rows) < FEWEST:
            raise SynbenchError(f"encoders: expected at least {FEWEST} to correlate over, got {len(rows)}")

        def kept(values: Sequence[Sequence[float]]) -> list[list[float]]:
            return [[row[index] for index in rows] for row in values]

        predictors = [replace(one, values=kept(one.values)) for one in self.predictors]
        predictors = [one for one in predictors if any(len(set(row)) > 1 for row in one.values)]
        targets = [replace(one, values=kept(one.values)) for one in self.targets]
        targets = [one for one in targets if all(len(set(row)) > 1 for row in one.values)]
        if not targets or not any(one.kind == "score" for one in predictors):
            raise SynbenchError(
                "encoders: expected some whose scores and accuracies differ, got the same for all"
            )
        return replace(
            self,
            encoders=[self.encoders[index] for index in rows],
            predictors=predictors,
            targets=targets,
            correlations=correlations(predictors, targets, sets, self.resamples, self.seed),
            held_out=held_out(predictors, targets, sets, self.splits, self.seed),
            command="",
        )

    def headline(self) -> list[Predictor]:
        """What tables show: the structure score, baselines, and scores at the first eps and lowest threshold."""
        scores = [one for one in self.predictors if one.kind == "score"]
        first = (scores[0].eps, min(one.threshold or 0.0 for one in scores)) if scores else None
        return [one for one in self.predictors if one.kind != "score" or (one.eps, one.threshold) == first]

    def rows(self) -> list[dict[str, Any]]:
        """One row per predictor, target, data set and coefficient, for CSV; None where a value is not finite."""
        known = {one.name: one for one in self.predictors}
        return [
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
                "value": finite(one.value),
                "ci95_low": finite(one.ci95_low),
                "ci95_high": finite(one.ci95_high),
            }
            for one in self.correlations
            for predictor in (known[one.predictor],)
        ]

    def tables(self, *, coefficient: str = "spearman") -> Iterator[Table | str]:
        """The encoders, one coefficient with its intervals, and what is left of it on held-out encoders.

        Scores are those at the first eps and the lowest threshold.
        """
        shown = self.headline()
        first = next(one for one in self.predictors if one.kind == "score")
        yield self._encoders_table(shown)
        for place in [one.name for one in self.data] + [OVERALL] * (len(self.data) > 1):
            yield ""
            found = {
                (one.predictor, one.target): one
                for one in self.correlations
                if one.data == place and one.coefficient == coefficient
            }
            yield Table(
                [f"{coefficient}, {place}", "sees", *(target.name for target in self.targets)],
                [
                    [
                        _label(one),
                        one.sees,
                        *(_interval(found[one.name, target.name]) for target in self.targets),
                    ]
                    for one in shown
                ],
                left=2,
            )
        yield ""
        for leading in dict.fromkeys(one.kind for one in shown if one.kind != "baseline"):
            yield self._differences_table(shown, leading, coefficient)
            yield ""
        if self.held_out:
            yield from self._held_out_tables()
        yield (
            f"{len(self.encoders)} encoders; 95 % BCa intervals of {self.resamples} resamples of them; "
            f"suite {self.suite}, scores at eps {first.eps:g} above accuracy {first.threshold:g}; seed {self.seed}"
        )

    def _encoders_table(self, shown: Sequence[Predictor]) -> Table:
        scores = [one for one in shown if one.kind == "score"]
        leading = [one for one in scores if one.task in ("mean", "worst")] or scores[:1]
        if scores[0] not in leading:
            leading = [scores[0], *leading]
        leading = [one for one in shown if one.name == "structure"] + leading
        pairs = [(target, place) for place in range(len(self.data)) for target in self.targets]
        columns = ["encoder", "F", *(_label(one) for one in leading)]
        columns += [f"{self.data[place].name} {target.name}" for target, place in pairs]
        rows = [
            [
                one.name,
                str(one.features),
                *(f"{score.values[0][index]:.3f}" for score in leading),
                *(f"{100 * target.values[place][index]:.1f}" for target, place in pairs),
            ]
            for index, one in enumerate(self.encoders)
        ]
        return Table(columns, rows)

    def _differences_table(self, shown: Sequence[Predictor], kind: str, coefficient: str) -> Table:
        """By how much the first predictor of a kind correlates better than others, on the same encoders and resamples.

        The structure score is held against scores and baselines, a score against baselines.
        """
        first = next(one for one in shown if one.kind == kind)
        place = self.data[0].name if len(self.data) == 1 else OVERALL
        rows = []
        for one in shown:
            if one.kind in ("structure", kind):
                continue
            found = [
                self.difference(first.name, one.name, target.name, data=place, coefficient=coefficient)
                for target in self.targets
            ]
            rows.append([_label(one), one.sees, *(_interval(value) for value in found)])
        return Table(
            [f"{_label(first)} less, {place}", "sees", *(target.name for target in self.targets)],
            rows,
            left=2,
        )

    def _held_out_tables(self) -> Iterator[Table | str]:
        families = list(dict.fromkeys(one.family for one in self.held_out))
        for pair in dict.fromkeys((one.chosen_on, one.tested_on) for one in self.held_out):
            found = {
                (one.family, one.target): one
                for one in self.held_out
                if (one.chosen_on, one.tested_on) == pair
            }
            columns = [f"held out, {pair[0]} to {pair[1]}", "of"]
            for target in self.targets:
                columns += [target.name, "encoders", "both", "sd"]
            rows = []
            for family in families:
                cells = [found[family, target.name] for target in self.targets]
                row = [family, str(cells[0].candidates)]
                for one in cells:
                    row += [
                        *(f"{v:+.2f}" for v in (one.apparent, one.encoders, one.both)),
                        f"{one.both_sd:.2f}",
                    ]
                rows.append(row)
            yield Table(columns, rows)
            yield ""
        yield (
            f"held out: spearman, means over {self.splits} random halves of the encoders: the best of the candidates "
            "on the half and data that chose it; on the other half of the encoders; on these and the other data, with "
            "the deviation over halves"
        )


def _label(one: Predictor) -> str:
    return f"score {one.task}" if one.kind == "score" else one.name


def _interval(one: Correlation | Estimate) -> str:
    if not math.isfinite(one.value):
        return "undefined"
    ends = "no interval"
    if math.isfinite(one.ci95_low):
        ends = f"{one.ci95_low:+.2f} to {one.ci95_high:+.2f}"
    return f"{one.value:+.2f} ({ends})"
