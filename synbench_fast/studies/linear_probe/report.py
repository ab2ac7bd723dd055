"""What a linear probe reports, as a versioned JSON document and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from synbench_fast.results.records import EncoderRecord, Environment
from synbench_fast.studies.base import Report, Table

__all__ = [
    "LINEAR_PROBE_SCHEMA",
    "Z95",
    "AttackRecord",
    "Attacked",
    "Calibration",
    "Corrupted",
    "Corruptions",
    "DataRecord",
    "FewShot",
    "Foreign",
    "LinearProbePoint",
    "LinearProbeReport",
    "Measure",
    "Share",
    "share",
]

LINEAR_PROBE_SCHEMA = "synbench-fast/linear-probe"
LINEAR_PROBE_SCHEMA_VERSION = 1

Z95 = 1.959963984540054  # 97.5 % quantile of N(0, 1)


@dataclass(frozen=True, kw_only=True)
class Share:
    """`count` of `total`, with Wilson's 95 % interval."""

    count: int
    total: int
    value: float
    ci95_low: float
    ci95_high: float


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number with its 95 % interval."""

    value: float
    ci95_low: float
    ci95_high: float


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Mean test accuracy of ordinary probes trained on `shots` samples of each class, drawn `repeats` times."""

    shots: int
    repeats: int
    accuracy: Measure


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Expected calibration error of the ordinary probe: as it is, and less its bias."""

    plain: float
    error: Measure


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """How often a test sample of other data is further from the training features than one of this data's (AUROC)."""

    data: str
    samples: int
    mahalanobis: Measure
    knn: Measure


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """Accuracy of the ordinary probe on test images under one corruption, of severity 1 to 5."""

    corruption: str
    severity: int
    accuracy: Share


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Accuracies under common corruptions with the `constants` of that published set, and the mean of all."""

    constants: str
    cells: list[Corrupted]
    mean: Measure


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data and their split; `sha256` covers x and y of both parts as the encoder's shape has them."""

    name: str
    classes: list[str]
    train: int
    test: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """The attack behind every attacked accuracy; budgets are l2 or largest changes of inputs in [0, 1]."""

    library: str
    method: str
    steps: int
    targets: int


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Share of the test part that is right and stays so under attacks of this norm ("l2", "linf")."""

    norm: str
    budget: float
    accuracy: Share


@dataclass(frozen=True, kw_only=True)
class LinearProbePoint:
    """One linear probe: trained for radius eps * half_distance in the space of the standardised features.

    `certified` counts test samples that no perturbation of that norm in feature space can turn.
    """

    eps: float
    radius: float
    clean: Share
    certified: Share
    attacked: list[Attacked]
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool

    def shares(self) -> list[tuple[str, Share]]:
        """Every measured share with its name."""
        attacked = [(f"{one.norm} {one.budget:.3g}", one.accuracy) for one in self.attacked]
        return [("clean", self.clean), ("certified", self.certified), *attacked]


@dataclass(frozen=True, kw_only=True, repr=False)
class LinearProbeReport(Report):
    """Linear probes of one encoder on one data set, one per eps; see docs/linear-probe.md.

    `half_distance` is half the smallest distance of two class means of the standardised training features,
    the radius of eps = 1. `command` repeats the run; empty where no shell line can.
    """

    schema: str = LINEAR_PROBE_SCHEMA
    schema_version: int = LINEAR_PROBE_SCHEMA_VERSION
    encoder: EncoderRecord
    data: DataRecord
    standardise: str
    regularisation: float
    half_distance: float
    seed: int
    test_fraction: float
    attack: AttackRecord | None
    probes: list[LinearProbePoint]
    few_shot: list[FewShot]
    calibration: Calibration | None
    foreign: Foreign | None
    corruptions: Corruptions | None
    seconds: dict[str, float]
    environment: Environment
    warnings: list[str]
    command: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per probe and quantity: "clean", "certified", or the norm and budget of an attack.

        Then one per corruption and severity, and one for each of `measures`, without eps, radius, count and total.
        """
        made: list[tuple[float | None, float | None, str, int | None, int | None, Share | Measure]] = [
            (one.eps, one.radius, name, value.count, value.total, value)
            for one in self.probes
            for name, value in one.shares()
        ]
        made += [
            (
                None,
                None,
                f"{one.corruption} {one.severity}",
                one.accuracy.count,
                one.accuracy.total,
                one.accuracy,
            )
            for one in (self.corruptions.cells if self.corruptions is not None else ())
        ]
        made += [(None, None, name, None, None, value) for name, value in self.measures()]
        return [
            {
                "encoder": self.encoder.spec,
                "data": self.data.name,
                "eps": eps,
                "radius": radius,
                "quantity": name,
                "count": count,
                "total": total,
                "accuracy": value.value,
                "ci95_low": value.ci95_low,
                "ci95_high": value.ci95_high,
            }
            for eps, radius, name, count, total, value in made
        ]

    def measures(self) -> list[tuple[str, Measure]]:
        """What was asked for beside the probes, by name: few-shot accuracies, calibration error, AUROCs, corruptions."""
        found = [(f"accuracy of {one.shots} per class", one.accuracy) for one in self.few_shot]
        if self.calibration is not None:
            found.append(("calibration error", self.calibration.error))
        if self.foreign is not None:
            found.append((f"AUROC against {self.foreign.data}, Mahalanobis", self.foreign.mahalanobis))
            found.append((f"AUROC against {self.foreign.data}, neighbours", self.foreign.knn))
        if self.corruptions is not None:
            found.append(("mean corruption accuracy", self.corruptions.mean))
        return found

    def tables(self) -> Iterator[Table | str]:
        """Per cent with the 95 % interval, a row per probe."""
        yield Table(
            ["eps", "radius", *(name for name, _ in self.probes[0].shares())],
            [
                [f"{one.eps:g}", f"{one.radius:.3g}", *(percent(value) for _, value in one.shares())]
                for one in self.probes
            ],
            left=0,
        )
        yield (
            f"{self.encoder.spec}, F = {self.encoder.feature_dim}, on {self.data.name}: {self.data.train} to train, "
            f"{self.data.test} to test, {len(self.data.classes)} classes; per cent, 95 % intervals"
        )
        if found := self.measures():
            yield Table(
                ["ordinary probe, or its features", "per cent"], [[name, percent(one)] for name, one in found]
            )
        if self.corruptions is not None:
            by_name: dict[str, list[str]] = {}
            for cell in self.corruptions.cells:
                by_name.setdefault(cell.corruption, []).append(percent(cell.accuracy))
            yield Table(
                [self.corruptions.constants, *(f"severity {k}" for k in range(1, 6))],
                [[name, *cells] for name, cells in by_name.items()],
            )


def share(count: int, total: int) -> Share:
    """`count` of `total` with Wilson's interval (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    p, square = count / total, Z95**2 / total
    middle = p + square / 2
    half = Z95 * math.sqrt(p * (1 - p) / total + square / (4 * total))
    return Share(
        count=count,
        total=total,
        value=p,
        ci95_low=0.0 if count == 0 else (middle - half) / (1 + square),
        ci95_high=1.0 if count == total else (middle + half) / (1 + square),
    )


def percent(one: Share | Measure) -> str:
    """`91.2 (88.4-93.4)`."""
    return f"{100 * one.value:.1f} ({100 * one.ci95_low:.1f}-{100 * one.ci95_high:.1f})"
