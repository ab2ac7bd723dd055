"""What the pre-training demo measured: paired differences over seeds, their intervals, and the table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from synbench_fast.printable import print_table
from synbench_fast.runtime.optional import optional

__all__ = ["Arm", "Paired", "PretrainReport", "paired", "print_report"]


@dataclass(frozen=True)
class Arm:
    """One loss, by seed: test losses by group, accuracies by downstream task, scores by synthetic task.

    `score` and `score_worst` are mean and worst of the suite. `weights` are the group weights averaged over
    the second half of the steps.
    """

    name: str
    upstream: list[dict[str, float]]
    weights: list[dict[str, float]]
    downstream: list[dict[str, float]]
    synthetic: list[dict[str, float]]
    score: list[float]
    score_worst: list[float]

    def rows(self) -> dict[str, list[float]]:
        """Every quantity of the table, one value for each seed. Worst is taken within a seed."""
        found: dict[str, list[float]] = {}
        for label, values, worst in (
            ("upstream loss", self.upstream, max),
            ("accuracy", self.downstream, min),
        ):
            for task in values[0]:
                found[f"{label}, {task}"] = [one[task] for one in values]
            found[f"{label}, mean"] = [statistics.fmean(one.values()) for one in values]
            found[f"{label}, worst"] = [worst(one.values()) for one in values]
        for task in self.synthetic[0]:
            found[f"score, {task}"] = [one[task] for one in self.synthetic]
        return {**found, "score, mean": self.score, "score, worst": self.score_worst}


@dataclass(frozen=True)
class Paired:
    """Mean of both arms and of the difference within a seed, with its 95 % interval (Student's t)."""

    quantity: str
    first: float
    second: float
    difference: float
    ci95_low: float
    ci95_high: float


@dataclass(frozen=True)
class PretrainReport:
    """Both arms, what they were made with, the paired differences (second arm less first) and the seconds."""

    arms: list[Arm]
    seeds: list[int]
    steps: int
    features: int
    temperature: float
    reference: str
    seconds: float

    @property
    def differences(self) -> list[Paired]:
        first, second = (one.rows() for one in self.arms)
        return [paired(name, first[name], second[name]) for name in first]

    def to_json(self) -> str:
        """One line: the fields and the differences; what is not known, such as the interval of one seed, is null."""
        document: dict[str, Any] = {**asdict(self), "differences": [asdict(one) for one in self.differences]}
        return json.dumps(_known(document), allow_nan=False)


def _known(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def paired(quantity: str, first: Sequence[float], second: Sequence[float]) -> Paired:
    """Student's t over the differences of n seeds; the interval is NaN for a single one."""
    difference = [b - a for a, b in zip(first, second, strict=True)]
    middle, half = statistics.fmean(difference), math.nan
    if len(difference) > 1:
        quantile = float(optional("scipy.stats", "scipy", "demo").t.ppf(0.975, len(difference) - 1))
        half = quantile * statistics.stdev(difference) / math.sqrt(len(difference))
    return Paired(
        quantity, statistics.fmean(first), statistics.fmean(second), middle, middle - half, middle + half
    )


def print_report(stream: TextIO, report: PretrainReport) -> None:
    """The table, and one sentence on the worst downstream task."""
    names = [one.name for one in report.arms]
    rows = [
        [
            one.quantity,
            f"{one.first:.4f}",
            f"{one.second:.4f}",
            f"{one.difference:+.4f}",
            f"{one.ci95_low:+.4f} to {one.ci95_high:+.4f}" if math.isfinite(one.ci95_low) else "",
        ]
        for one in report.differences
    ]
    print_table(stream, ["quantity", *names, "difference", "95 % interval"], rows, left=1)
    stream.write("\n" + verdict(report) + "\n")
    stream.write(
        f"seeds {report.seeds[0]} to {report.seeds[-1]}, {report.steps} steps each, F = {report.features}, "
        f"T = {report.temperature:g}, reference {report.reference}; {report.seconds:.0f} s\n"
    )


def verdict(report: PretrainReport) -> str:
    """What the interval of the worst-case accuracy says, and which task is the worst."""
    one = next(row for row in report.differences if row.quantity == "accuracy, worst")
    seeds = "1 seed" if len(report.seeds) == 1 else f"{len(report.seeds)} seeds"
    if math.isnan(one.ci95_low):
        text = "there is no interval that would tell the worst downstream accuracy of mean from that of"
    elif one.ci95_low > 0:
        text = "the worst downstream accuracy is higher with"
    elif one.ci95_high < 0:
        text = "the worst downstream accuracy is lower with"
    else:
        text = "no difference of the worst downstream accuracy is seen with"
    worst = [min(values, key=lambda task: values[task]) for arm in report.arms for values in arm.downstream]
    counted = ", ".join(f"{task} ({worst.count(task)} of {len(worst)} runs)" for task in dict.fromkeys(worst))
    return f"Over {seeds} {text} {report.arms[1].name}; the worst task is {counted}."
