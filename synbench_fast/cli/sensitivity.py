"""The command that shows how scores and ranking move: sensitivity."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import (
    BatchSize,
    Center,
    Checkpoint,
    Device,
    Estimator,
    Format,
    InputShape,
    Integral,
    Mean,
    OpsBackend,
    Pool,
    Preset,
    Prior,
    Quiet,
    RandomInit,
    Samples,
    Scales,
    Seed,
    Std,
    Threads,
    Traceback,
    TrustRemoteCode,
    encoder_options,
    score_options,
)
from synbench_fast.errors import SynbenchError
from synbench_fast.printable import named_cells
from synbench_fast.runtime.messages import fail, print_trace, reason, say

if TYPE_CHECKING:
    from synbench_fast.studies.sensitivity import Sensitivity

__all__ = ["sensitivity_command"]

# As in sensitivity/request.py, which imports torch: mistakes are to be named without that wait.
_FACTORS = ("seed", "samples", "scales", "thresholds", "dtype", "preprocessing")
_SHOWN = 4  # encoders side by side in 100 columns


def sensitivity_command(
    encoders: Annotated[
        list[str] | None, typer.Argument(metavar="ENCODER...", help="Encoders, as for run.")
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR,...",
            help="What to vary: seed, samples, scales, thresholds, dtype, preprocessing; default all.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="R", help="How many: SEED, SEED + 1, ...")] = "5",
    eps: Annotated[
        str, typer.Option(metavar="E,...", help="Budgets in [0, 1); tables show the first.")
    ] = "0,0.2",
    thresholds: Annotated[
        str | None,
        typer.Option(metavar="A,...", help="Threshold accuracies; the lowest is the base's, all are levels."),
    ] = None,
    estimator: Estimator = "consistent",
    scales: Scales = None,
    samples: Samples = None,
    preset: Preset = "standard",
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="auto|float32|bfloat16|...", help="Of the base; auto is float32.")
    ] = "auto",
    backend: OpsBackend = "auto",
    batch_size: BatchSize = "auto",
    seed: Seed = "0",
    prior: Prior = "0.5",
    center: Center = "0.5",
    integral: Integral = "exact",
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    pool: Pool = None,
    checkpoint: Checkpoint = None,
    random_init: RandomInit = False,
    published_preprocessing: Annotated[
        bool, typer.Option("--published-preprocessing", help="The published constants in the base.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    threads: Threads = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Also write the document into DIR.")] = None,
    output: Format = "table",
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Vary seed, samples, scales, thresholds, dtype and preprocessing; show how scores and ranking move."""
    if not encoders:
        raise UsageError("ENCODER: expected at least one encoder such as timm:resnet50, got none")
    if checkpoint is not None and len(encoders) > 1:
        raise UsageError(f"--checkpoint: expected a single ENCODER to load it into, got {len(encoders)}")
    factors = None if vary is None else _factors(vary)
    runs = arguments.integer("--seeds", seeds, low=1)
    if runs < 2 and (factors is None or "seed" in factors):
        raise UsageError(f"--seeds: expected at least 2 to see their spread, got {seeds!r}")
    options = encoder_options(device, seed, input_shape, mean, std, pool, checkpoint, threads) | score_options(
        eps=eps, estimator=estimator, preset=preset, scales=scales, samples=samples, thresholds=thresholds,
        dtype=dtype, backend=backend, batch_size=batch_size, prior=prior, center=center, integral=integral,
    )  # fmt: skip
    flags = {
        "random_init": random_init,
        "published_preprocessing": published_preprocessing,
        "trust_remote_code": trust_remote_code,
    }
    options |= {name: True for name, given in flags.items() if given}
    if factors is not None and "thresholds" in factors and len(options.get("thresholds", (0, 1))) < 2:
        raise UsageError(f"--thresholds: expected at least two to vary them, got {thresholds!r}")
    kind = arguments.choice("--format", output, ("table", "json", "csv"))
    folder = None if out is None else arguments.folder("--out", out)
    raise typer.Exit(_vary_all(encoders, factors, runs, options, kind, folder, quiet, traceback))


def _factors(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    for one in found:
        arguments.choice("--vary", one, _FACTORS)
        if found.count(one) > 1:
            raise UsageError(f"--vary: expected every factor once, got {one!r} twice")
    return found


def _vary_all(
    encoders: list[str],
    factors: list[str] | None,
    seeds: int,
    options: dict[str, Any],
    kind: str,
    folder: Path | None,
    quiet: bool,
    trace: bool,
) -> int:
    """Every run of every encoder, then one document. The exit code: 1 if any run failed."""
    from synbench_fast.config import ScoreConfig
    from synbench_fast.report.progress import Reporter
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.studies.sensitivity import Failure, assemble, check_request, labels, vary_encoder

    request = check_request(encoders, factors, seeds, ScoreConfig(**options))
    code, runs, missing = 0, [], []
    reporter = Reporter(sys.stderr, quiet=quiet)
    with result_stream() as stream:
        for number, (spec, label) in enumerate(zip(encoders, labels(encoders), strict=True), 1):
            shown = label if len(encoders) == 1 else f"[{number}/{len(encoders)}] {label}"
            try:
                with reporter.encoder(shown) as advance:
                    one = vary_encoder(spec, request, label=label, progress=advance)
            except KeyboardInterrupt:
                say("interrupted: encoders that were finished are kept")
                code = 130
                break
            except Exception as error:
                text = reason(spec, error)
                code = fail(text, 1)
                missing.append(Failure(encoder=label, factor="base", level="base", reason=text))
                if trace and not isinstance(error, SynbenchError):
                    print_trace(error)
                continue
            for failure in one.failures:
                code = fail(f"{label}: {failure.factor} {failure.level}: {failure.reason}", 1)
            runs.append(one)
        if not runs:
            return code
        document = assemble(encoders, request, runs, missing)
        for varied in document.encoders:
            for warning in varied.warnings:
                say(f"warning: {varied.label}: {warning}")
        if kind == "json":
            stream.write(document.to_json() + "\n")
        elif kind == "csv":
            rows = document.rows()
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(named_cells(row) for row in rows)
        else:
            _print_tables(stream, document)
        stream.flush()
        if folder is not None:
            path = document.save(folder / document.file_name())
            if not quiet:
                say(f"wrote {path}")
    return code


def _print_tables(stream: TextIO, document: Sensitivity) -> None:
    """Scores at every level, the effect of every factor, the seeds, the ranking; all at the first budget."""
    from synbench_fast.printable import print_table

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
    from synbench_fast.printable import print_table
    from synbench_fast.results.records import with_error

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
