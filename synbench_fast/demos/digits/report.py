"""What the demo measured, whether the scores ranked the encoders as real accuracy does, and its table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Repeats:
    """One quantity, measured once per training run."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """Sample standard deviation over training runs; NaN for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def text(self, digits: int, factor: float = 1.0) -> str:
        spread = f" ± {factor * self.sd:.{digits}f}" if len(self.values) > 1 else ""
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class DemoRow:
    """One encoder: its scores, which saw no data, beside its accuracy on held-out images.

    `score` and `score_stderr`, of the published task, are keyed by eps, `attacked` by l2 radius in pixel space; a
    standard error is that of one score from its synthetic sample, NaN where it is withheld. Accuracies are fractions in
    [0, 1].
    """

    name: str
    structure: Repeats
    structure_stderr: Repeats
    score: dict[float, Repeats]
    score_stderr: dict[float, Repeats]
    accuracy: Repeats
    attacked: dict[float, Repeats]


@dataclass(frozen=True)
class DemoReport:
    """Everything `synbench-fast demo` shows. `results` are the JSON files, by encoder, then training run."""

    rows: tuple[DemoRow, ...]
    agreement: tuple[str, ...]
    threshold: float
    train_images: int
    test_images: int
    plot: Path
    results: tuple[Path, ...]
    seconds: float

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.plot, *self.results)


def agreement(rows: Sequence[DemoRow]) -> tuple[str, ...]:
    """Whether the scores rank the encoders as real accuracies do: sentences from the means of `rows`.

    One sentence per eps and distinct ranking by real accuracy, attacked or not, and last the structure score, which is
    compared with the accuracy of the linear probe alone because it promises nothing about attacks. Two rankings agree
    on a pair of encoders when both prefer the same one or both have a tie. With several training runs each of them is
    compared as well.
    """
    clean = {"linear-probe accuracy": [row.accuracy for row in rows]}
    attacked = {
        f"attacked accuracy at r={radius:g}": [row.attacked[radius] for row in rows]
        for radius in rows[0].attacked
    }
    scores = {
        f"The published score at eps {eps:g}": ([row.score[eps] for row in rows], clean | attacked)
        for eps in rows[0].score
    }
    scores["The structure score"] = ([row.structure for row in rows], clean)
    names = [row.name for row in rows]
    sentences = []
    for label, (score, real) in scores.items():
        groups: dict[str, dict[str, list[Repeats]]] = {}
        for one, values in real.items():
            groups.setdefault(_ranking(names, _means(values)), {})[one] = values
        sentences += [_sentence(names, label, score, *group) for group in groups.items()]
    return tuple(sentences)


def _sentence(
    names: Sequence[str],
    score: str,
    scores: Sequence[Repeats],
    real_ranking: str,
    real: Mapping[str, Sequence[Repeats]],
) -> str:
    apart = _apart(_means(scores), _means(next(iter(real.values()))))
    *head, last = real
    labels = f"{', '.join(head)} and {last}" if head else last
    text = f"{score} ranks {_ranking(names, _means(scores))}; it "
    if apart:
        pairs = ", ".join(f"{names[i]}/{names[j]}" for i, j in apart)
        text += (
            f"DISAGREES with {labels} ({real_ranking}) on {pairs}, {len(apart)} of "
            f"{math.comb(len(names), 2)} pairs"
        )
    else:
        text += f"agrees with {labels}"
    runs = range(len(scores[0].values))
    if len(runs) > 1:
        alike = [
            not _apart([one.values[run] for one in scores], [one.values[run] for one in values])
            for values in real.values()
            for run in runs
        ]
        text += f"; within single runs {sum(alike)} of {len(alike)} such rankings agree"
    return text + "."


def _means(values: Sequence[Repeats]) -> list[float]:
    return [one.mean for one in values]


def _apart(first: Sequence[float], second: Sequence[float]) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, j in combinations(range(len(first)), 2)
        if _order(first[i], first[j]) != _order(second[i], second[j])
    ]


def _order(a: float, b: float) -> int:
    # Means of equal accuracies may differ by rounding; that is a tie.
    return 0 if math.isclose(a, b, rel_tol=0.0, abs_tol=1e-9) else (1 if a > b else -1)


def _ranking(names: Sequence[str], values: Sequence[float]) -> str:
    order = sorted(range(len(names)), key=lambda i: -values[i])
    text = names[order[0]]
    for before, after in pairwise(order):
        text += f" {'>' if _order(values[before], values[after]) else '='} {names[after]}"
    return text


def render(report: DemoReport, console: Console) -> None:
    """Print the table, the agreement sentences and the files written."""
    first = report.rows[0]
    runs = len(first.accuracy.values)
    table = Table(
        title="Scored without data, then checked on real images",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("encoder", no_wrap=True)
    table.add_column("structure\nscore", justify="right", no_wrap=True)
    for eps in first.score:
        table.add_column(f"published,\neps {eps:g}", justify="right", no_wrap=True)
    table.add_column("linear\nprobe %", justify="right", no_wrap=True)
    for radius in first.attacked:
        table.add_column(f"attack %,\nr = {radius:g}", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            escape(row.name),
            row.structure.text(2),
            *(one.text(2) for one in row.score.values()),
            row.accuracy.text(0, 100),
            *(one.text(0, 100) for one in row.attacked.values()),
        )
    console.print(table)
    errors = [value for row in report.rows for one in row.score_stderr.values() for value in one.values]
    known = [one for one in errors if not math.isnan(one)]
    withheld = (
        f" ({len(errors) - len(known)} of {len(errors)} are withheld)" if len(known) < len(errors) else ""
    )
    structure = max(value for row in report.rows for value in row.structure_stderr.values)
    about = (
        f"Published score above accuracy {report.threshold:g}; standard errors from the synthetic samples are at "
        f"most {structure:.3f} for structure and {max(known, default=math.nan):.3f} for published scores{withheld}. Accuracy on "
        f"{report.test_images} digits on photographs, held out from the {report.train_images} for training; attacks "
        "move the pixels, in [0, 1], by at most r in l2."
    )
    if runs > 1:
        about += f" ± is the standard deviation over {runs} training runs."
    files = f"{report.plot} and {len(report.results)} results in {report.results[0].parent}"
    for line in (about, *report.agreement, f"Wrote {files} in {report.seconds:.0f} s."):
        console.print()
        console.print(escape(line), highlight=False)
