"""Tables and CSV of a sensitivity study."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import TextIO

from synbench_fast.printable import named_cells, print_table
from synbench_fast.results.records import with_error
from synbench_fast.studies.sensitivity.report import Sensitivity

__all__ = ["print_report", "write_csv"]

_SHOWN = 4  # encoders side by side in 100 columns


def write_csv(stream: TextIO, document: Sensitivity) -> None:
    """One row per encoder, factor, level and budget."""
    rows = document.rows()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(named_cells(row) for row in rows)


def print_report(stream: TextIO, document: Sensitivity) -> None:
    """Scores at every level, the effect of every factor, the seeds, the ranking; all at the first budget."""
    eps, names = document.eps[0], [one.label for one in document.encoders]
    short = {name: f"[{number}]" for number, name in enumerate(names, 1)}
    for one in document.encoders:
        stream.write(
            f"{short[one.label]} {one.label}: F = {one.encoder.feature_dim}, {len(one.scales)} scales x "
            f"{one.samples} samples, {one.dtype}\n"
        )
    stream.write(
        f"\nscore above accuracy {document.threshold:g} at eps {eps:g}, ± one standard error; "
        f"{document.estimator}, seed {document.seed}\n"
    )
    _print_scores(stream, document, eps, names, short)

    _print_effects(stream, document, eps, short)
    _print_spreads(stream, document, eps, short)
    _print_swaps(stream, document, eps, short)
    for note in document.notes:
        stream.write(f"{note}\n")
    for failure in document.failures:
        label = short.get(failure.encoder, failure.encoder)
        stream.write(f"failed: {label} {failure.factor} {failure.level}: {failure.reason}\n")


def _print_scores(
    stream: TextIO, document: Sensitivity, eps: float, names: Sequence[str], short: dict[str, str]
) -> None:
    """Levels down, encoders across, with tau of each level's ranking; further encoders in further tables."""
    cells = {
        (one.factor, one.level, one.encoder): with_error(one.score, one.stderr)
        for one in document.levels
        if one.eps == eps
    }
    failed = {(one.factor, one.level, one.encoder) for one in document.failures}
    levels = list(dict.fromkeys((factor, level) for factor, level, _ in [*cells, *failed]))
    places = {factor: place for place, factor in enumerate(("base", *document.factors))}
    levels.sort(key=lambda one: places[one[0]])
    taus = {(one.factor, one.level): f"{one.tau:+.2f}" for one in document.rankings if one.eps == eps}
    for start in range(0, len(names), _SHOWN):
        part = names[start : start + _SHOWN]
        if start:
            stream.write("\n")
        columns = ["factor", "level", *(["tau"] if taus else []), *(short[name] for name in part)]
        rows = []
        for factor, level in levels:
            row = [factor, "" if factor == "base" else level]
            if taus:
                row.append(taus.get((factor, level), ""))
            for name in part:
                key = (factor, level, name)
                row.append(cells.get(key, "failed" if key in failed else ""))
            rows.append(row)
        print_table(stream, columns, rows, left=2)


def _print_effects(stream: TextIO, document: Sensitivity, eps: float, short: dict[str, str]) -> None:
    if document.effects:
        stream.write(
            "\nchange from the base: the largest, and the largest in standard errors of the change\n"
        )
        print_table(
            stream,
            [
                "factor",
                "encoder",
                "largest",
                "error",
                "base errors",
                "at",
                "errors",
                "at",
                "limit",
                "verdict",
            ],
            [
                [
                    one.factor,
                    short[one.encoder],
                    _number(one.change, "+.4f"),
                    _number(one.change_stderr, ".4f"),
                    _number(one.base_stderrs, ".1f"),
                    one.level,
                    _number(abs(one.z), ".1f"),
                    one.z_level,
                    _number(one.critical_z, ".1f"),
                    one.verdict,
                ]
                for one in document.effects
                if one.eps == eps
            ],
            left=2,
        )


def _print_spreads(stream: TextIO, document: Sensitivity, eps: float, short: dict[str, str]) -> None:
    spreads = [one for one in document.seeds if one.eps == eps]
    if spreads:
        count = max(len(one.seeds) for one in spreads)
        stream.write(f"\ndeviation over {count} seeds against the reported standard error\n")
        print_table(
            stream,
            ["encoder", "mean", "deviation", "reported", "ratio", "95 % range if right", "consistent"],
            [
                [
                    short[one.encoder],
                    _number(one.mean, ".4f"),
                    _number(one.deviation, ".4f"),
                    _number(one.stderr, ".4f"),
                    _number(one.ratio, ".2f"),
                    f"{_number(one.ratio_low, '.2f')} to {_number(one.ratio_high, '.2f')}",
                    {True: "yes", False: "no", None: "unknown"}[one.consistent],
                ]
                for one in spreads
            ],
            left=1,
        )


def _print_swaps(stream: TextIO, document: Sensitivity, eps: float, short: dict[str, str]) -> None:
    rankings = [one for one in document.rankings if one.eps == eps]
    if not rankings:
        return
    swapped = [one for one in rankings if one.swaps]
    levels = "level" if len(rankings) == 1 else "levels"
    stream.write(f"\nranking: other than the base's at {len(swapped)} of {len(rankings)} {levels}\n")
    known = {True: "a tie in the base", False: "no tie in the base", None: "unknown in the base"}
    for one in swapped:
        parts = [
            f"{short[swap.ahead]} before {short[swap.behind]} ({known[swap.base_tie]})" for swap in one.swaps
        ]
        stream.write(f"  {one.factor} {one.level}: {', '.join(parts)}\n")


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
