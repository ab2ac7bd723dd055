"""From cells to the numbers of each method: means over data sets within a seed, intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from synbench_fast.results.codec import nan_field
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell, FailedCell
from synbench_fast.studies.inheritance.intervals import Mean, mean_over_seeds

__all__ = ["MethodSummary", "change", "points", "share", "summarise"]


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One encoder and method, over data sets and seeds. Fractions; changes are after less before.

    Attributes:
        ri: data set i -> RI_i.
        mri: the mean of RI_i over i.
        difference: mri less that of the report's first method, seed by seed; None for that method.
        ood_before, ood_after: mean over i of the mean accuracy on the others.
        own_change: of accuracy on the data set itself that was fine-tuned on, mean over i.
        pretraining_change: mean over i.
        same, both_correct: agreement on the other data sets, mean over them and i.
        score_change: of the SynBench score, mean over i, of the seeds where every fine-tuning left one; None without.
        matrix: `[i][j]`, mean over seeds of the change of accuracy on j after fine-tuning on i, j also "pre-training";
            None where every fine-tuning on i failed.
        failed: fine-tunings that have no numbers. A mean over data sets is taken of seeds without a failure only, so
            that every value is over the same data sets: `mri.by_seed` has those seeds, and is empty if there is none.
    """

    encoder: str
    method: str
    ri: dict[str, Mean]
    mri: Mean
    difference: Mean | None
    ood_before: float = nan_field()
    ood_after: Mean
    own_change: Mean
    pretraining_before: float = nan_field()
    pretraining_change: Mean
    same: Mean
    both_correct: Mean
    score_before: float | None
    score_change: Mean | None
    matrix: dict[str, dict[str, float | None]]
    failed: int

    @property
    def score_text(self) -> str:
        """The SynBench score before, and its mean change; "-" without."""
        if self.score_before is None or self.score_change is None:
            return "-"
        return f"{self.score_before:.3f} {self.score_change.value:+.3f}"


def summarise(
    cells: Sequence[Cell], failed: Sequence[FailedCell] = (), methods: Sequence[str] | None = None
) -> list[MethodSummary]:
    """Summaries by encoder and method, `difference` to the first of `methods`.

    Encoders come in the order in which they first occur, and methods in that of `methods`; without it methods come
    in the order in which they first occur, those that only failed last. Every encoder and method has a cell, or a
    failed one, of the same data sets and seeds. Values are paired over seeds: a mean over data sets is taken within
    each seed, and the interval is that of the seeds' values.
    """
    groups: dict[tuple[str, str], tuple[list[Cell], list[FailedCell]]] = {}
    for one in cells:
        groups.setdefault((one.encoder, one.method), ([], []))[0].append(one)
    for lost in failed:
        groups.setdefault((lost.encoder, lost.method), ([], []))[1].append(lost)
    if methods is not None:
        encoders = list(dict.fromkeys(encoder for encoder, _ in groups))
        keys = [(encoder, method) for encoder in encoders for method in methods]
        groups = {key: groups[key] for key in keys if key in groups}
    sets = list(
        dict.fromkeys([*(one.fine_tuned_on for one in cells), *(one.fine_tuned_on for one in failed)])
    )
    made: list[MethodSummary] = []
    first: dict[str, dict[int, float]] = {}
    for (encoder, method), (measured, missing) in groups.items():
        incomplete = {one.seed for one in missing}
        runs: dict[int, list[Cell]] = {}
        for one in measured:
            if one.seed not in incomplete:
                runs.setdefault(one.seed, []).append(one)
        by_seed = {
            seed: _over_sets(run, lambda one: one.robustness_improvement) for seed, run in runs.items()
        }
        paired = first.setdefault(encoder, by_seed)
        scored = {
            seed: run
            for seed, run in runs.items()
            if all(one.score_before and one.score_after for one in run)
        }
        of_encoder = [one for one in cells if one.encoder == encoder]
        before = next((one.score_before for one in of_encoder), None)

        def over(value: Callable[[Cell], float], runs: dict[int, list[Cell]] = runs) -> Mean:
            return mean_over_seeds([_over_sets(run, value) for run in runs.values()])

        made.append(
            MethodSummary(
                encoder=encoder,
                method=method,
                ri={
                    name: mean_over_seeds(
                        [one.robustness_improvement for one in measured if one.fine_tuned_on == name]
                    )
                    for name in sets
                },
                mri=over(lambda one: one.robustness_improvement),
                difference=None
                if paired is by_seed
                else mean_over_seeds(
                    [value - paired[seed] for seed, value in by_seed.items() if seed in paired]
                ),
                ood_before=_ood_before(of_encoder),
                ood_after=over(lambda one: one.ood_after),
                own_change=over(
                    lambda one: one.accuracy_after[one.fine_tuned_on] - one.accuracy_before[one.fine_tuned_on]
                ),
                pretraining_before=of_encoder[0].pretraining_before if of_encoder else math.nan,
                pretraining_change=over(lambda one: one.pretraining_change),
                same=over(lambda one: _agreement(one, "same")),
                both_correct=over(lambda one: _agreement(one, "both_correct")),
                score_before=before.score if scored and before is not None else None,
                score_change=over(_score_change, scored) if scored else None,
                matrix={
                    name: _row([one for one in measured if one.fine_tuned_on == name], sets) for name in sets
                },
                failed=len(missing),
            )
        )
    return made


def _over_sets(run: Sequence[Cell], value: Callable[[Cell], float]) -> float:
    return statistics.fmean(value(one) for one in run)


def _ood_before(cells: Sequence[Cell]) -> float:
    """Mean over data sets i of the mean accuracy on the others, before; every cell of an encoder has them all."""
    if not cells:
        return math.nan
    accuracy = cells[0].accuracy_before
    return statistics.fmean(
        statistics.fmean(value for other, value in accuracy.items() if other != name) for name in accuracy
    )


def _score_change(cell: Cell) -> float:
    assert cell.score_before is not None and cell.score_after is not None
    return cell.score_after.score - cell.score_before.score


def _row(cells: Sequence[Cell], sets: Sequence[str]) -> dict[str, float | None]:
    """Mean over seeds of the change on every data set and on the pre-training data; None without a cell."""
    if not cells:
        return dict.fromkeys((*sets, PRETRAINING))
    changes: dict[str, float | None] = {
        name: statistics.fmean(one.accuracy_after[name] - one.accuracy_before[name] for one in cells)
        for name in cells[0].accuracy_before
    }
    return changes | {PRETRAINING: statistics.fmean(one.pretraining_change for one in cells)}


def _agreement(cell: Cell, name: str) -> float:
    return statistics.fmean(getattr(cell.agreement[other], name) for other in cell.others)


def points(mean: Mean) -> str:
    """A fraction in points with its interval; the mean alone of a single seed, and "failed" of none."""
    if not math.isfinite(mean.ci95_low):
        return change(mean.value)
    return f"{100 * mean.value:+.1f} ({100 * mean.ci95_low:+.1f} to {100 * mean.ci95_high:+.1f})"


def change(value: float | None) -> str:
    """A fraction in points."""
    return "failed" if value is None or math.isnan(value) else f"{100 * value:+.1f}"


def share(value: float) -> str:
    """A fraction in per cent."""
    return "failed" if math.isnan(value) else f"{100 * value:.1f} %"
