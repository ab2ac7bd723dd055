"""What a reproduction reports: every number beside the published one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from synbench_fast.reproduction.tables import find_table
from synbench_fast.results.codec import nan_field
from synbench_fast.results.records import Environment
from synbench_fast.studies.base import Report, Table, finite, row_of

__all__ = ["REPRODUCTION_SCHEMA", "Comparison", "Reproduction"]

REPRODUCTION_SCHEMA = "synbench-fast/reproduction"
REPRODUCTION_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One number. `published` is None and `source` "" where the published one is not known.

    `difference` is ours less the published one, NaN without it; its 95 % interval is that of ours, less the same number.
    `stand_in` says that the encoder or the data are not the published ones, so that nothing is compared.
    """

    encoder: str
    quantity: str
    published: float | None
    source: str
    ours: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()
    difference: float = nan_field()
    stand_in: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Reproduction(Report):
    """A published table, measured again.

    Attributes:
        table, title, paper, protocol, unknown: as in `PublishedTable`.
        deviations: where this run leaves the protocol, one line each.
        failed: encoders that could not be measured, and why; they have no rows.
        command: repeats it; empty where no shell line can.
    """

    schema: str = REPRODUCTION_SCHEMA
    schema_version: int = REPRODUCTION_SCHEMA_VERSION
    table: str
    title: str
    paper: str
    protocol: str
    unknown: str
    encoders: list[str]
    comparisons: list[Comparison]
    deviations: list[str]
    failed: list[str]
    seconds: float
    environment: Environment
    warnings: list[str]
    command: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per number."""
        return [row_of(one) for one in self.comparisons]

    def tables(self) -> Iterator[Table | str]:
        """What was published, every number beside it, then what is not known and what differs here."""
        yield self.title
        yield f"{self.paper}; {self.protocol}"
        yield ""
        yield Table(
            ["encoder", "quantity", "published", "ours", "95 % interval", "difference"],
            [
                [
                    f"{one.encoder} (stand-in)" if one.stand_in else one.encoder,
                    one.quantity,
                    _shown(one.published) if one.stand_in or one.published is not None else "not known",
                    _shown(one.ours),
                    f"{one.ci95_low:.4g} to {one.ci95_high:.4g}" if finite(one.ci95_low) is not None else "-",
                    _shown(one.difference, sign="+"),
                ]
                for one in self.comparisons
            ],
            left=2,
        )
        for model in find_table(self.table).models:
            if model.spec in self.encoders:
                yield f"{model.spec}: {model.label}, {model.known_from}"
        for source in dict.fromkeys(one.source for one in self.comparisons if one.source):
            yield f"published: {source}"
        yield f"not known: {self.unknown}"
        yield from (f"differs: {one}" for one in self.deviations)


def _shown(value: float | None, sign: str = "") -> str:
    return "-" if value is None or finite(value) is None else f"{value:{sign}.4g}"
