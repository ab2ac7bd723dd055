"""Which stored result is better: differences of scores, structure scores by family, and the verdict, as text and as data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from synbench_fast.printable import distinct, named_cells, print_json, print_table, printable
from synbench_fast.report.verdict import verdict
from synbench_fast.results.records import Result, with_error
from synbench_fast.results.structure import StructureScore
from synbench_fast.stats.compare import Difference, Rank, compare_scores

__all__ = ["Comparison", "compare", "print_comparison", "print_comparisons"]

PAIRS_SHOWN = (
    4  # results of which a table shows every pair; of more it shows the pairs with the first in the ranking
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every pair at every budget and threshold asked for, the ranking that follows, and which encoder to take.

    notes: what makes the order doubtful whatever its errors: results whose scores are not those of a classifier.
    structure: the structure scores of the encoders that have one, by the names in `ranking`.
    verdict: sentences that say which encoder to take, by the structure score where there is one.
    """

    differences: list[Difference]
    ranking: list[Rank]
    paired: bool
    notes: list[str] = field(default_factory=list)
    structure: dict[str, StructureScore] = field(default_factory=dict)
    verdict: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        stream = io.StringIO()
        print_comparison(stream, self, "table")
        return stream.getvalue().rstrip("\n")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython and notebooks show for the last expression of a cell."""
        printer.text(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None for what is not known."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def compare(
    *results: Result,
    eps: Sequence[float] | float | None = None,
    thresholds: Sequence[float] | float | None = None,
    unpaired: bool = False,
) -> Comparison:
    """Differences of the scores of two or more results, and which encoder to take: no forward pass.

    Args:
        results: of one task, estimator and seed.
        eps: budgets to compare at, all of them in every result; default all that they share.
        thresholds: likewise; default the lowest one that they share.
        unpaired: take the results as independent. They may then differ in input shape and seed; that is the only
            way for different input shapes, and for the paper's estimator, whose results store no influences.

    Returns:
        Comparison; its differences run over eps, thresholds and pairs, its ranking over eps, thresholds and
        encoders, the highest score first. Its text ends with the verdict.

    Raises:
        SynbenchError: results that cannot be compared, with the reason; a budget or threshold that one lacks;
            a score that is not defined. One whose interval is withheld is not comparable, and says so in its verdict.
    """
    found = compare_scores(*results, eps=eps, thresholds=thresholds, unpaired=unpaired)
    names = distinct([one.encoder.spec for one in results])
    return Comparison(
        differences=found.differences,
        ranking=found.ranking,
        paired=not unpaired,
        notes=found.notes,
        structure={
            name: one.structure for name, one in zip(names, results, strict=True) if one.structure is not None
        },
        verdict=verdict(
            results,
            eps=list(dict.fromkeys(one.eps for one in found.differences)),
            thresholds=list(dict.fromkeys(one.threshold for one in found.differences)),
            unpaired=unpaired,
        ),
    )


def print_comparisons(
    stream: TextIO, found: Mapping[str, Comparison], kind: str, *, wide: bool = False
) -> None:
    """Comparisons by task, those of tables and rows each with its name."""
    if kind == "json":
        print_json(stream, {task: one.to_dict() for task, one in found.items()})
    elif kind == "csv":
        _write_rows(
            stream,
            [{"task": task, **row} for task, one in found.items() for row in one.to_dict()["differences"]],
        )
    else:
        for task, one in found.items():
            stream.write(f"task {printable(task)}\n")
            print_comparison(stream, one, kind, wide=wide)
            stream.write("\n")


def _write_rows(stream: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(named_cells(one) for one in rows)


def print_comparison(stream: TextIO, comparison: Comparison, kind: str, *, wide: bool = False) -> None:
    """Differences of pairs; of more than two encoders as a table also the ranking, which comes first."""
    if kind == "json":
        print_json(stream, comparison.to_dict())
        return
    if kind == "csv":
        _write_rows(stream, comparison.to_dict()["differences"])
        return
    if len({one.encoder for one in comparison.ranking}) > 2:
        print_table(
            stream,
            ["eps", "above", "rank", "encoder", "score"],
            [
                [
                    f"{one.eps:g}",
                    f"{one.threshold:g}",
                    f"{one.best_rank}"
                    if one.best_rank == one.worst_rank
                    else f"{one.best_rank}-{one.worst_rank}",
                    one.encoder,
                    with_error(one.score, one.stderr),
                ]
                for one in comparison.ranking
            ],
            left=4,
        )
        stream.write("\n")
    shown, left_out = _pairs(comparison)
    print_table(
        stream,
        ["eps", "above", "difference", "95 % interval", "p", "verdict"],
        [
            [
                f"{one.eps:g}",
                f"{one.threshold:g}",
                f"{one.first} - {one.second}",
                f"{one.difference:+.4f}"
                + ("" if one.withheld else f" ({one.ci95_low:+.4f} to {one.ci95_high:+.4f})"),
                "" if one.withheld else "<1e-15" if one.p_value < 1e-15 else f"{one.p_value:.2g}",
                one.verdict,
            ]
            for one in shown
        ],
        left=4,
        drop=() if wide else ("above", "p", "95 % interval", "eps"),
    )
    if left_out:
        stream.write(
            f"pairs without the first: {left_out} more, in --format csv and in Python's .differences\n"
        )
    _print_families(stream, comparison.structure, wide)
    for note in comparison.notes:
        stream.write(f"\nnote: {note}\n")
    for line in comparison.verdict:
        stream.write(line + "\n")


def _pairs(comparison: Comparison) -> tuple[list[Difference], int]:
    """The pairs that a table shows: of many results those with the first in the ranking; and how many are left out."""
    if len({one.encoder for one in comparison.ranking}) <= PAIRS_SHOWN:
        return comparison.differences, 0
    best: dict[tuple[float, float], str] = {}
    for one in comparison.ranking:
        best.setdefault((one.eps, one.threshold), one.encoder)
    shown = [one for one in comparison.differences if best[one.eps, one.threshold] in (one.first, one.second)]
    return shown, len(comparison.differences) - len(shown)


def _print_families(stream: TextIO, structure: Mapping[str, StructureScore], wide: bool) -> None:
    """Structure scores and those of their families, encoders side by side."""
    if len(structure) < 2:
        return
    families = list(dict.fromkeys(family.family for one in structure.values() for family in one.families))
    stream.write("\n")
    rows = []
    for name, one in sorted(structure.items(), key=lambda item: -item[1].score):
        scores = {family.family: f"{family.score:.3f}" for family in one.families}
        rows.append(
            [name, with_error(one.score, one.stderr), *(scores.get(family, "-") for family in families)]
        )
    print_table(
        stream, ["encoder", "structure", *families], rows, left=1, drop=() if wide else families[::-1]
    )
