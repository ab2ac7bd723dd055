"""Which row of a published table is about which encoder: names are compared, and a doubt is no match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synbench_fast.encoders.registry import SOURCES
from synbench_fast.errors import suggest

__all__ = ["Known", "Match", "match_names"]

EXACT, WITHOUT_TAG = "exact", "without tag"


@dataclass(frozen=True)
class Known:
    """What is known of an encoder: its spec, the tag of the weights that were loaded, and why no table is about it.

    `foreign` is "" for published weights; random weights, or those of a checkpoint, have no published accuracy.
    """

    spec: str
    tag: str | None = None
    foreign: str = ""


@dataclass(frozen=True)
class Match:
    """The name in the table that an encoder has, or None with the reason. `how` is "exact" or "without tag"."""

    row: str | None
    how: str = ""
    reason: str = ""


@dataclass(frozen=True)
class _Name:
    """A spec in parts; `source` is "" where a name has none. Only names of timm have tags."""

    source: str
    name: str
    tag: str

    @property
    def architecture(self) -> str:
        return self.name if not self.tag else self.name[: -len(self.tag) - 1]

    def same_source(self, other: _Name) -> bool:
        return not self.source or not other.source or self.source == other.source


def _parsed(text: str, tag: str | None = None) -> _Name:
    source, colon, name = text.partition(":")
    if not colon or source not in SOURCES:
        source, name = "", text
    for prefix in ("hf-hub:timm/", "hf_hub:timm/", "timm/"):
        if source in ("timm", "hf", "") and name.startswith(prefix):
            source, name = "timm", name.removeprefix(prefix)
    own = name.partition(".")[2] if source in ("timm", "") else ""
    if source == "timm" and not own and tag:
        name, own = f"{name}.{tag}", tag
    return _Name(source, name, own)


def match_names(encoders: Sequence[Known], rows: Sequence[str]) -> list[Match]:
    """For each encoder the name of `rows` that is about it.

    A spec matches the name that it is, with or without its source: `timm:resnet50.a1_in1k` is `resnet50.a1_in1k`, as is
    `hf:timm/resnet50.a1_in1k`. A name of timm without tag stands for any weights of its architecture and matches only
    where one name is left: of the table for an encoder without tag, and of the encoders for a row without.

    Args:
        encoders: different specs.
        rows: different names of one table.
    """
    parsed = [(row, _parsed(row)) for row in rows]
    mine = [_parsed(one.spec, one.tag) for one in encoders]
    return [
        Match(None, reason=one.foreign)
        if one.foreign
        else _match(one, name, parsed, [other for other in mine if other is not name])
        for one, name in zip(encoders, mine, strict=True)
    ]


def _match(encoder: Known, name: _Name, rows: Sequence[tuple[str, _Name]], others: Sequence[_Name]) -> Match:
    if encoder.spec in [row for row, _ in rows]:
        return Match(encoder.spec, EXACT)
    for row, other in rows:
        if other.name == name.name and other.same_source(name):
            if any(
                one.name == name.name and one.source != name.source and one.same_source(other)
                for one in others
            ):
                return Match(
                    None, reason=f"{row} in the table has no source and may be another encoder of the run"
                )
            return Match(row, EXACT)
    alike = [
        (row, other)
        for row, other in rows
        if other.architecture == name.architecture and other.same_source(name)
    ]
    if name.source not in ("timm", ""):
        alike = []
    if not name.tag and alike:
        if len(alike) == 1:
            return Match(alike[0][0], WITHOUT_TAG)
        return Match(None, reason=f"without a tag it may be any of {_listed([row for row, _ in alike])}")
    untagged = [row for row, other in alike if not other.tag]
    if untagged:
        if not any(one.architecture == name.architecture and one.same_source(name) for one in others):
            return Match(untagged[0], WITHOUT_TAG)
        return Match(
            None, reason=f"{untagged[0]} in the table has no tag and may be another encoder of the run"
        )
    near = suggest(name.name, [other.name for _, other in rows])
    tags = f"the table has {_listed([row for row, _ in alike])}" if alike else ""
    return Match(None, reason=tags or f"not in the table{near}")


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
