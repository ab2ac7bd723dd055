"""A validation as text: the encoders, coefficients with intervals, and what is left on held-out encoders."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import TextIO

from synbench_fast.printable import named_cells, print_table
from synbench_fast.studies.validity.report import Correlation, Predictor, ValidityReport

__all__ = ["print_report", "write_csv"]


def print_report(stream: TextIO, report: ValidityReport, *, coefficient: str = "spearman") -> None:
    """Tables for a person. Scores are those at the first eps and the lowest threshold."""
    shown = report.headline()
    first = next(one for one in report.predictors if one.kind == "score")
    _encoders(stream, report, shown)
    places = [one.name for one in report.data]
    if len(places) > 1:
        places.append("overall")
    for place in places:
        stream.write("\n")
        found = {
            (one.predictor, one.target): one
            for one in report.correlations
            if one.data == place and one.coefficient == coefficient
        }
        columns = [f"{coefficient}, {place}", "sees", *(target.name for target in report.targets)]
        rows = [
            [_label(one), one.sees, *(_interval(found[one.name, target.name]) for target in report.targets)]
            for one in shown
        ]
        print_table(stream, columns, rows, left=2)
    if report.held_out:
        stream.write("\n")
        _held_out(stream, report)
    stream.write(
        f"{len(report.encoders)} encoders; 95 % BCa intervals of {report.resamples} resamples of them; "
        f"suite {report.suite}, scores at eps {first.eps:g} above accuracy {first.threshold:g}; seed {report.seed}\n"
    )


def _encoders(stream: TextIO, report: ValidityReport, shown: Sequence[Predictor]) -> None:
    scores = [one for one in shown if one.kind == "score"]
    leading = [one for one in scores if one.task in ("mean", "worst")] or scores[:1]
    if scores[0] not in leading:
        leading = [scores[0], *leading]
    pairs = [(target, place) for place in range(len(report.data)) for target in report.targets]
    columns = ["encoder", "F", *(_label(one) for one in leading)]
    columns += [f"{report.data[place].name} {target.name}" for target, place in pairs]
    rows = [
        [
            one.name,
            str(one.features),
            *(f"{score.values[0][index]:.3f}" for score in leading),
            *(f"{100 * target.values[place][index]:.1f}" for target, place in pairs),
        ]
        for index, one in enumerate(report.encoders)
    ]
    print_table(stream, columns, rows, left=1)


def _held_out(stream: TextIO, report: ValidityReport) -> None:
    families = list(dict.fromkeys(one.family for one in report.held_out))
    pairs = list(dict.fromkeys((one.chosen_on, one.tested_on) for one in report.held_out))
    for pair in pairs:
        found = {
            (one.family, one.target): one for one in report.held_out if (one.chosen_on, one.tested_on) == pair
        }
        columns = [f"held out, {pair[0]} to {pair[1]}", "of"]
        for target in report.targets:
            columns += [target.name, "encoders", "both", "sd"]
        rows = []
        for family in families:
            cells = [found[family, target.name] for target in report.targets]
            row = [family, str(cells[0].candidates)]
            for one in cells:
                row += [
                    f"{one.apparent:+.2f}",
                    f"{one.encoders:+.2f}",
                    f"{one.both:+.2f}",
                    f"{one.both_sd:.2f}",
                ]
            rows.append(row)
        print_table(stream, columns, rows, left=1)
        stream.write("\n")
    stream.write(
        f"held out: spearman, means over {report.splits} random halves of the encoders: the best of the candidates on "
        "the half and data that chose it; on the other half of the encoders; on these and the other data, with the "
        "deviation over halves\n"
    )


def write_csv(stream: TextIO, report: ValidityReport) -> None:
    """One row per predictor, target, data set and coefficient; an empty cell where a value is not finite."""
    rows = report.rows()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(named_cells(row) for row in rows)


def _label(one: Predictor) -> str:
    return f"score {one.task}" if one.kind == "score" else one.name


def _interval(one: Correlation) -> str:
    if not math.isfinite(one.value):
        return "undefined"
    ends = "no interval"
    if math.isfinite(one.ci95_low):
        ends = f"{one.ci95_low:+.2f} to {one.ci95_high:+.2f}"
    return f"{one.value:+.2f} ({ends})"
