"""validate_published(): stored scores, or scores measured now, joined with tables of accuracies that others measured."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synbench_fast.config import ScoreConfig, described
from synbench_fast.engine import environment
from synbench_fast.engine.suite import score_suite
from synbench_fast.errors import SynbenchError
from synbench_fast.report.collection import load_results
from synbench_fast.results.files import read_bytes
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SuiteResult
from synbench_fast.studies.base import EncoderLike, Say, named_encoders
from synbench_fast.studies.published.matching import Known, Match, match_names
from synbench_fast.studies.published.options import Published
from synbench_fast.studies.published.predictors import Document, check_alike, first_result, predictors_of
from synbench_fast.studies.published.report import (
    MatchedEncoder,
    PublishedCorrelation,
    PublishedPredictor,
    PublishedReport,
    PublishedTarget,
    Unmatched,
)
from synbench_fast.studies.published.tables import Measurement, read_measurements
from synbench_fast.studies.validity.correlation import FEWEST, Bootstrap, Estimate
from synbench_fast.tasks.suites import load_suite

__all__ = ["validate_published"]

Array = NDArray[np.float64]


@described(Published.signature)
def validate_published(
    encoders: Sequence[EncoderLike | Result | SuiteResult] = (),
    targets: str | Path | Sequence[str | Path] = (),
    *,
    stored: str | Path | Sequence[str | Path] = (),
    config: ScoreConfig | None = None,
    progress: Say | None = None,
    **arguments: object,
) -> PublishedReport:
    """Correlate scores with accuracies that others measured, over all encoders that tables and scores have in common.

    Args:
        encoders: results that are there, and encoders as for `score`, which are scored now. Of these only the ones that
            a table may be about are scored.
        targets: CSV files, see `read_measurements`.
        stored: folders of results, such as those of a fleet. With encoders that are scored now the settings must agree.
        config: arguments of the scores that are made now.
        progress: called with a line at each step.
        arguments: options of `Published`, and fields of `ScoreConfig` in place of those of `config`.

    Returns:
        PublishedReport: for every predictor and target the coefficient with a 95 % BCa interval over encoders, the
        partial coefficient given the number of parameters, and all names without a counterpart.

    Raises:
        SynbenchError: one line that names the file, the encoder or the argument; fewer than 3 encoders in common.

    Source: docs/validity.md.
    """
    begun = time.perf_counter()
    study = Published.of(config, arguments)
    say = progress or (lambda line: None)
    tables = _tables(_paths("targets", targets), study)
    folders = _paths("stored", stored)
    documents, warnings = _documents(encoders, folders)
    wanted = [one for one in encoders if not isinstance(one, Result | SuiteResult)]
    named = named_encoders(wanted) if wanted else {}
    left_out = _check(documents, named, tables, study)
    suite = load_suite(study.tasks)
    for name in (one for one in named if one not in left_out):
        say(f"{name}: score")
        try:
            documents[name] = score_suite(named[name], tasks=suite, config=study.config)
        except SynbenchError as error:
            raise SynbenchError(str(error) if name in str(error) else f"{name}: {error}") from None
    warnings += check_alike(list(documents.values()))
    joined = _Joined(tables, [_known(one) for one in documents.values()], list(documents.values()))
    kept = [place for place in range(len(documents)) if joined.matched(place)]
    made = [target for table in tables for target in joined.targets(table, kept, warnings)]
    if not made:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in joined.unmatched_encoders()[:3])
        raise SynbenchError(
            f"targets: expected at least {FEWEST} encoders in common with a table, got fewer{reasons and f' ({reasons})'}"
        )
    matched = [joined.encoder(place) for place in kept]
    values = [predictors_of(joined.documents[place]) for place in kept]
    names = list(dict.fromkeys(name for one in values for name in one))
    predictors = [
        PublishedPredictor(name=name, values=[_or_none(one.get(name, math.nan)) for one in values])
        for name in names
    ]
    unknown = [one.spec for one in matched if one.parameters is None]
    if unknown:
        warnings.append(
            f"no coefficients given parameters where {', '.join(unknown)} takes part: unknown number"
        )
    return PublishedReport(
        encoders=matched,
        predictors=predictors,
        targets=made,
        coefficient=study.coefficient,
        correlations=[row for one in made for row in _correlations(one, predictors, matched, study)],
        unmatched_encoders=[
            *(Unmatched(name=name, file="", reason=reason) for name, reason in left_out.items()),
            *joined.unmatched_encoders(),
        ],
        unmatched_rows=joined.unmatched_rows(),
        resamples=study.resamples,
        seed=study.config.seed,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        warnings=warnings,
        command=_command(encoders, tables, folders, study),
    )


@dataclass
class _Table:
    """A file, its measurements by name of the encoder, and the names in order."""

    file: str
    sha256: str
    rows: dict[str, list[Measurement]] = field(default_factory=dict)

    @property
    def targets(self) -> list[tuple[str, str]]:
        """(data set, metric) in order."""
        return list(dict.fromkeys((one.data, one.metric) for rows in self.rows.values() for one in rows))


def _paths(name: str, given: str | Path | Sequence[str | Path]) -> list[Path]:
    several = [given] if isinstance(given, str | Path) else list(given)
    found = [Path(one) for one in several]
    for one in found:
        if found.count(one) > 1:
            raise SynbenchError(f"{name}: expected every path once, got {str(one)!r} twice")
    return found


def _tables(paths: Sequence[Path], study: Published) -> list[_Table]:
    if not paths:
        raise SynbenchError("targets: expected at least one CSV file of accuracies, got none")
    tables, homes = [], dict[tuple[str, str], str]()
    for path in paths:
        digest = hashlib.sha256(read_bytes(path, "CSV", regular=True)).hexdigest()
        table = _Table(str(path), digest)
        for one in read_measurements(path, study.metrics):
            table.rows.setdefault(one.encoder, []).append(one)
        for target in table.targets:
            if target in homes:
                raise SynbenchError(
                    f"targets: expected every data set and metric in one file, got {' '.join(target)} in "
                    f"{homes[target]} and {path}"
                )
            homes[target] = str(path)
        tables.append(table)
    return tables


def _documents(encoders: Sequence[object], folders: Sequence[Path]) -> tuple[dict[str, Document], list[str]]:
    """Results by encoder, and what was wrong with files of the folders."""
    given: list[Document] = [one for one in encoders if isinstance(one, Result | SuiteResult)]
    warnings = []
    for folder in folders:
        found = load_results(folder)
        given += [one.document for one in found.items]
        warnings += found.problems
    documents: dict[str, Document] = {}
    for one in given:
        name = first_result(one).encoder.title
        if name in documents:
            raise SynbenchError(f"results: expected one of every encoder, got several of {name}")
        documents[name] = one
    return documents, warnings


def _known(document: Document) -> Known:
    encoder = first_result(document).encoder
    # Those of `builtin:` are drawn at random too, and are always the same.
    foreign = "its weights are random" if encoder.random_init and encoder.source != "builtin" else ""
    if encoder.checkpoint is not None:
        foreign = f"its weights are those of the checkpoint {encoder.checkpoint}"
    return Known(encoder.spec, encoder.revision if encoder.source == "timm" else None, foreign)


def _check(
    documents: dict[str, Document], named: dict[str, EncoderLike], tables: Sequence[_Table], study: Published
) -> dict[str, str]:
    """Encoders that no table can be about, with the reason, before anything is computed.

    The tag of `timm:NAME` is known only once it is loaded, so that one with several rows is kept.
    """
    for name in named:
        if name in documents:
            raise SynbenchError(f"encoders: expected different ones, got {name!r} twice")
    random = "its weights are random" if study.config.random_init else ""
    known = [
        *map(_known, documents.values()),
        *(Known(name, foreign="" if name.startswith("builtin:") else random) for name in named),
    ]
    matches = [match_names(known, list(table.rows)) for table in tables]
    possible = [[one[place] for one in matches] for place in range(len(known))]
    left_out = {
        name: found[0].reason
        for name, found in zip([*documents, *named], possible, strict=True)
        if name in named and not any(one.row is not None or "without a tag" in one.reason for one in found)
    }
    if len(known) - len(left_out) < FEWEST:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise SynbenchError(
            f"encoders: expected at least {FEWEST} that a table of targets has, got {len(known) - len(left_out)}"
            f"{reasons and f' ({reasons})'}"
        )
    return left_out


class _Joined:
    """Encoders and the names that they have in every table."""

    def __init__(
        self, tables: Sequence[_Table], known: Sequence[Known], documents: Sequence[Document]
    ) -> None:
        self.documents, self._tables, self._known = documents, tables, known
        self._matches = {table.file: match_names(known, list(table.rows)) for table in tables}

    def matched(self, place: int) -> bool:
        return any(one[place].row is not None for one in self._matches.values())

    def encoder(self, place: int) -> MatchedEncoder:
        """Its number of parameters is the table's where the result has none."""
        record = first_result(self.documents[place]).encoder
        count = None if record.parameters is None else float(record.parameters)
        for table in self._tables:
            row = self._matches[table.file][place].row
            if count is None and row is not None:
                count = table.rows[row][0].parameters
        return MatchedEncoder(spec=record.title, weights_sha256=record.weights_sha256, parameters=count)

    def targets(self, table: _Table, kept: Sequence[int], warnings: list[str]) -> list[PublishedTarget]:
        """Those of a table that enough encoders have."""
        found = []
        for data, metric in table.targets:
            chosen = [self._chosen(table, place, data, metric, warnings) for place in kept]
            count = sum(one is not None for one, _ in chosen)
            if count < FEWEST:
                warnings.append(
                    f"{data} {metric}: left out, expected at least {FEWEST} encoders in common with {table.file}, "
                    f"got {count}"
                )
                continue
            found.append(
                PublishedTarget(
                    data=data,
                    metric=metric,
                    file=table.file,
                    sha256=table.sha256,
                    values=[None if one is None else one.value for one, _ in chosen],
                    errors=[None if one is None else one.error for one, _ in chosen],
                    names=[None if one is None else one.encoder for one, _ in chosen],
                    matches=[None if one is None else match.how for one, match in chosen],
                )
            )
        return found

    def _chosen(
        self, table: _Table, place: int, data: str, metric: str, warnings: list[str]
    ) -> tuple[Measurement | None, Match]:
        """The measurement of an encoder: of several image sizes the one that it reads."""
        match = self._matches[table.file][place]
        rows = [
            one
            for one in (table.rows[match.row] if match.row is not None else [])
            if (one.data, one.metric) == (data, metric)
        ]
        side = first_result(self.documents[place]).task.shape[-1]
        several = len({one.value for one in rows}) > 1
        fitting = [one for one in rows if one.size == side] if several else rows[:1]
        if several and len({one.value for one in fitting}) != 1:
            warnings.append(
                f"{match.row}: left out for {data} {metric}, {table.file} has {len(rows)} values, and not one for "
                f"images of side {side}"
            )
            return None, match
        return (fitting[0] if fitting else None), match

    def unmatched_encoders(self) -> list[Unmatched]:
        return [
            Unmatched(name=first_result(document).encoder.title, file=table.file, reason=match.reason)
            for table in self._tables
            for document, match in zip(self.documents, self._matches[table.file], strict=True)
            if match.row is None
        ]

    def unmatched_rows(self) -> list[Unmatched]:
        found = []
        for table in self._tables:
            taken = {one.row for one in self._matches[table.file]}
            found += [
                Unmatched(name=name, file=table.file, reason="") for name in table.rows if name not in taken
            ]
        return found


def _correlations(
    target: PublishedTarget,
    predictors: Sequence[PublishedPredictor],
    encoders: Sequence[MatchedEncoder],
    study: Published,
) -> list[PublishedCorrelation]:
    """Predictors that the same encoders have are resampled together."""
    y = np.array(target.values, dtype=np.float64)
    parameters = np.array([one.parameters for one in encoders], dtype=np.float64)
    columns = np.array([one.values for one in predictors], dtype=np.float64)
    there = np.isfinite(columns) & np.isfinite(y)
    found: dict[int, tuple[int, Estimate, Estimate]] = {}
    unknown = Estimate(value=math.nan, ci95_low=math.nan, ci95_high=math.nan)
    for mask in np.unique(there, axis=0):
        rows = [int(one) for one in np.flatnonzero((there == mask).all(1))]
        count = int(mask.sum())
        if count < FEWEST:
            found |= dict.fromkeys(rows, (count, unknown, unknown))
            continue
        given = parameters[mask]
        # Logarithms change Pearson's coefficient alone.
        control = np.log(given) if bool((given > 0).all()) else None
        bootstrap = Bootstrap(count, resamples=study.resamples, seed=study.config.seed)
        plain, partial = bootstrap.many(columns[rows][:, mask], y[mask], study.coefficient, control)
        for row, one, other in zip(rows, plain, partial or [unknown] * len(rows), strict=True):
            found[row] = (count, one, other)
    return [
        PublishedCorrelation(
            predictor=predictor.name,
            data=target.data,
            metric=target.metric,
            encoders=count,
            value=one.value,
            ci95_low=one.ci95_low,
            ci95_high=one.ci95_high,
            partial=other.value,
            partial_ci95_low=other.ci95_low,
            partial_ci95_high=other.ci95_high,
        )
        for place, predictor in enumerate(predictors)
        for count, one, other in (found[place],)
    ]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _command(
    encoders: Sequence[object], tables: Sequence[_Table], folders: Sequence[Path], study: Published
) -> str:
    """The shell line that repeats the comparison; empty where none can."""
    names = [one for one in encoders if isinstance(one, str)]
    if len(names) < len(encoders) or not isinstance(study.tasks, str):
        return ""
    words = [*names, "--targets", ",".join(one.file for one in tables)]
    return study.command(*words, *(word for one in folders for word in ("--stored", str(one))))
